"""What the tests of scripts/ share. bench_mla, for those that run it, is $MMB_BENCH_MLA or the one in build/release."""
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))


@pytest.fixture(scope="session")
def bench_mla():
    path = pathlib.Path(os.environ.get("MMB_BENCH_MLA", ROOT / "build/release/bench_mla"))
    if not path.exists():
        pytest.skip(f"{path} is not built")
    return path


@pytest.fixture(scope="session")
def smoke_file(bench_mla, tmp_path_factory):
    """The result of one smoke run, three repetitions a row."""
    path = tmp_path_factory.mktemp("smoke") / "smoke.json"
    subprocess.run([bench_mla, "run", "--profile", "smoke", "--repetitions", "3", "--out", path], check=True,
                   capture_output=True, timeout=300)
    return path
