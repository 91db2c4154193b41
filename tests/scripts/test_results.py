import json
import math
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import results
import synthetic
from synthetic import NAMES

SCRIPTS = pathlib.Path(results.__file__).parent


def test_a_made_file_follows_the_schema(tmp_path):
    rows = {NAMES[0]: [1.0], NAMES[1]: ([1.0], {"error": "wrong result"})}
    results.load(synthetic.write(tmp_path / "made.json", rows))


def test_the_middle_repetition_stands_for_the_row():
    rows = synthetic.entries(NAMES[0], [3e-3, 1e-3, 2e-3])
    for entry, roof in zip(rows, (0.7, 0.8, 0.9)):
        entry["roof"] = roof
    made = synthetic.document({})
    made["benchmarks"] = rows + synthetic.entries(NAMES[1], [5e-3])
    result = results.result_of(made, "folder/made.json")
    assert [row.name for row in result.rows] == NAMES[:2]
    row = result.by_name[NAMES[0]]
    assert row.time == pytest.approx(2e-3)
    assert row.roof == 0.9
    assert row.ideal_seconds == pytest.approx(1.8e-3)
    assert row.seconds == pytest.approx([3e-3, 1e-3, 2e-3])
    assert row.counters["flops"] == synthetic.COUNTERS["flops"]
    assert "iterations" not in row.counters and "real_time" not in row.counters
    assert len(row.entries) == 3


def test_of_an_even_number_the_earlier_of_the_two_in_the_middle_stands_for_the_row():
    rows = synthetic.entries(NAMES[0], [4e-3, 2e-3, 3e-3, 1e-3])
    for entry, roof in zip(rows, (0.4, 0.2, 0.3, 0.1)):
        entry["roof"] = roof
    made = synthetic.document({})
    row, = results.result_of({**made, "benchmarks": rows}, "made.json").rows
    assert (row.time, row.roof) == (pytest.approx(2e-3), 0.2)


def test_the_parts_of_a_name():
    row = results.Row("mla_decode/absorbed/bf16/amx/DeepSeek-V3~mha/batch:1/ctx:16..133/threads:all")
    assert (row.op, row.algo, row.dtype, row.impl) == ("mla_decode", "absorbed", "bf16", "amx")
    assert row.model == "DeepSeek-V3~mha"
    assert row.keys == {"batch": "1", "ctx": "16..133", "threads": "all"}
    assert (row.base_model, row.counterfactual) == ("DeepSeek-V3", "mha")
    assert (row.number("batch"), row.number("ctx"), row.number("q")) == (1, None, None)


@pytest.mark.parametrize("name, variant", [
    ("mla_decode/absorbed/bf16/amx/DeepSeek-V3/ctx:1/threads:all", "absorbed"),
    ("attention_decode/flash/bf16/amx/DeepSeek-V3~mqa/ctx:1/threads:all", "mqa"),
    ("decoder_layer/composed/bf16/amx/DeepSeek-V3/attention:expanded/ffn:moe/threads:all", "expanded"),
    ("moe_experts/grouped/bf16/amx/DeepSeek-V3/tokens:1/threads:all", "moe"),
    ("dense_ffn/panels/bf16/amx/DeepSeek-V3~dense_total/tokens:1/threads:all", "dense_total"),
    ("an_op_of_tomorrow/its_algo/fp3/amx/DeepSeek-V9/skew:2/threads:all", ""),
])
def test_variants(name, variant):
    assert results.Row(name).variant == variant


def test_an_error_in_one_repetition_is_the_rows():
    made = synthetic.document({NAMES[0]: [1.0, 1.0]})
    made["benchmarks"][1:] = synthetic.entries(NAMES[0], [0.0], error="wrong result")
    row, = results.result_of(made, "made.json").rows
    assert row.error == "wrong result"
    assert np.isnan(row.time)


def paced(peaks, **counters):
    """Rows whose peaks of memory are these."""
    return synthetic.result({name: ([1.0], {"peak_gbs": peak, **counters}) for name, peak in zip(NAMES, peaks)})


def test_the_usual_pace_is_within_a_quarter_of_the_middle_peak_and_no_row_outruns_its_own():
    made = paced([100, 100, 100, 124, 126, 81, 79])
    assert [row.usual_pace for row in made.rows] == [True, True, True, True, False, True, False]
    made = synthetic.result({NAMES[0]: ([1.0], {"roof": 1.11}), NAMES[1]: ([1.0], {"roof": 1.09})})
    assert [row.usual_pace for row in made.rows] == [False, True]


def test_the_pace_goes_by_peaks_of_one_kind():
    rows = {NAMES[at]: ([1.0], {"peak_gbs": gbs, "peak_gflops": gflops, "bound": bound, "label": label})
            for at, (gbs, gflops, bound, label) in enumerate((
                (100, 1, 1, "fma_f32"), (100, 9, 1, "dot_int8"), (1, 500, 0, "fma_f32"), (1, 900, 0, "tile_bf16")))}
    rows[NAMES[4].replace("threads:all", "threads:1")] = [1.0], {"peak_gbs": 20}
    rows[NAMES[5]] = [1.0], {"error": "wrong"}
    assert all(row.usual_pace for row in synthetic.result(rows).rows)


def test_the_time_of_the_whole_model_is_of_rows_that_say_how_many_tokens():
    rate, keys = {"model_tokens_per_second": 4}, "batch:2/q:3/ctx:1/threads:all"
    step = f"decode_step/composed/bf16/avx2/DeepSeek-V3/{keys}"
    made = synthetic.result({step: ([1.0], rate), NAMES[0]: ([1.0], rate), NAMES[1]: [1.0]})
    assert [row.whole_seconds for row in made.rows] == [1.5, 1, 1]


def test_select():
    result = synthetic.result({NAMES[0]: [1.0], NAMES[1]: [2.0], NAMES[2]: ([1.0], {"error": "wrong"})})
    assert [row.name for row in result.select(op="linear")] == NAMES[:2]
    assert [row.name for row in result.select(op="linear", model="DeepSeek-V3", tokens=2)] == [NAMES[1]]
    assert result.select(op="linear", tokens=3) == []
    assert result.select(op="linear", tokens=None) == []
    assert len(result.select(op="linear", overlap=None)) == 2
    assert result.select(algo="rounded") == []


def test_the_name_of_a_result_is_its_alias_or_its_files():
    assert synthetic.result({}, "folder/laptop.json").name == "laptop"
    assert synthetic.result({}, "folder/laptop.json", alias="desk").name == "desk"


def spoiled(spoil):
    made = synthetic.document({NAMES[0]: [1.0], NAMES[1]: [1.0]})
    spoil(made["benchmarks"][1])
    return json.dumps(made)


CUT = json.dumps(synthetic.document({NAMES[0]: [1.0]}), indent=1)[:700]
BAD = {
    "empty": ("", "expected JSON, got an empty file"),
    "blank": (" \n", "expected JSON, got an empty file"),
    "cut": (CUT, r"line \d+: expected JSON: .*\(cut off\?\)"),
    "text": ("seconds: 4", "line 1: expected JSON: "),
    "nan": ('{"a": NaN}', "NaN is not a number of JSON"),
    "twice": ('{"a": 1, "a": 2}', "repeats a key"),
    "deep": ("[" * 100000, "brackets without end"),
    "list": ("[]", r"context\.mmb\.schema_version: expected the result of bench_mla run"),
    "foreign": ('{"context": {"date": "today"}}', r"context\.mmb\.schema_version: expected the result of"),
    "contextless": ('{"context": 3}', r"context\.mmb\.schema_version"),
    "no rows": (json.dumps(synthetic.document({})), "benchmarks: expected rows, got none"),
    "newer": (json.dumps(synthetic.document({NAMES[0]: [1.0]}, schema_version="2")),
              r'context\.mmb\.schema_version: expected "1", got "2"'),
    "type": (spoiled(lambda row: row.update(roof="high")), r'benchmarks\[1\]\.roof: expected number, got "high"'),
    "lacks": (spoiled(lambda row: row.pop("roof")), r"benchmarks\[1\]: expected roof"),
    "typo": (spoiled(lambda row: row.update(rooof=1)), r"benchmarks\[1\]: expected only fields that .*, got rooof"),
    "name": (spoiled(lambda row: row.update(name="x")), r'benchmarks\[1\]\.name: expected text like op/.*, got "x"'),
    "time": (spoiled(lambda row: row.update(real_time=0)),
             r"benchmarks\[1\]\.real_time: expected at least 1e-06, got 0"),
    "endless": (spoiled(lambda row: row.update(roof=math.inf)).replace("Infinity", "1e999"),
                r"benchmarks\[1\]\.roof: expected at most 1e\+30, got Infinity"),
    "digits": (spoiled(lambda row: row.update(real_time=10 ** 400)),
               r"benchmarks\[1\]\.real_time: expected at most 1e\+30, got 1000"),
    "again": (spoiled(lambda row: row.update(name=NAMES[0])),
              r"benchmarks\[1\]\.repetition_index: expected one that linear/\S+ does not have above, got 0"),
    "ruler": (spoiled(lambda row: row.update(peak_gbs=0)), r"benchmarks\[1\]\.peak_gbs: expected more than 0, got 0"),
    "slow": (spoiled(lambda row: row.update(peak_gflops=0)), r"benchmarks\[1\]\.peak_gflops: expected more than 0"),
    "canary": (json.dumps(synthetic.document({NAMES[0]: [1.0]}, canary_gbs_before="0")),
               r'context\.mmb\.canary_gbs_before: expected text like a number above 0, got "0"'),
    "account": (json.dumps(synthetic.document({NAMES[0]: [1.0]}, accounts="DeepSeek-V3: total_parameters e")),
                r"context\.mmb\.accounts: expected text like model: key number"),
    "space": (json.dumps(synthetic.document({NAMES[0]: [1.0]}, accounts="DeepSeek-V3: a\tb 1")),
              r"context\.mmb\.accounts: expected text like model: key number"),
    **{f"curve {curve}": (json.dumps(synthetic.document({NAMES[0]: [1.0]},
                                                        dense_equivalent_parameters_ideal=f"V3: {curve}")),
                          r"parameters_ideal: expected text like model: batch parameters")
       for curve in ("one 2", "0 2", "1 0", "1 -2")},
    "surrogate": (json.dumps(synthetic.document({NAMES[0]: [1.0]}, alias="\ud800")),
                  r'expected JSON, got half of a character after .*"mmb\.alias": "$'),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_one_sentence(tmp_path, kind):
    text, expected = BAD[kind]
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(results.Unusable) as error:
        results.load(path)
    assert re.search(expected, str(error.value))
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    for path, expected in ((tmp_path / "none.json", "No such file"), (tmp_path, "directory"),
                           (tmp_path / "bytes.json", "no text")):
        with pytest.raises(results.Unusable, match=expected):
            results.load(path)


def test_gains_are_those_of_the_verdict():
    result = results.load(SCRIPTS.parent / "bench/runs/xeon-2-cores.json")
    said = re.findall(r"^ +(\d+) tokens?,.* ([\d.]+)x faster \(ideal ([\d.]+)x\) than dense of equal total size",
                      result.context["mmb.verdict"].partition("Experts of one DeepSeek-V3 layer")[2], re.M)
    assert said
    for tokens, measured, ideal in said:
        experts, = result.select("moe_experts", model="DeepSeek-V3", tokens=tokens, threads="all")
        dense, = result.select("dense_ffn", model="DeepSeek-V3~dense_total", tokens=tokens, threads="all")
        gains = dense.time / experts.time, dense.ideal_seconds / experts.ideal_seconds
        assert gains == pytest.approx((float(measured), float(ideal)), rel=0.05)  # of two digits at the least


FULL = pathlib.Path("/dev/full")


@pytest.mark.parametrize("command", ["compare.py made.json made.json", "claims.py made.json", "plot.py made.json",
                                     "report.py made.json"])
@pytest.mark.skipif(not FULL.exists(), reason=f"no {FULL}")
def test_a_full_standard_output_is_one_sentence_and_status_2(tmp_path, command):
    synthetic.write(tmp_path / "made.json", {NAMES[0]: [1.0]})
    script, *files = command.split()
    with FULL.open("w") as full:
        ended = subprocess.run([sys.executable, SCRIPTS / script, *files], cwd=tmp_path, stdout=full,
                               stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 2
    assert re.fullmatch(rf"{re.escape(script)}: standard output: expected [^\n]+\n", ended.stderr), ended.stderr


@pytest.mark.parametrize("command", ["compare.py made.json made.json", "claims.py made.json"])
def test_who_reads_the_output_may_leave_early(tmp_path, command):
    synthetic.write(tmp_path / "made.json", {NAMES[0]: [1.0]})
    script, *files = command.split()
    with subprocess.Popen([sys.executable, SCRIPTS / script, *files], cwd=tmp_path, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as started:
        started.stdout.close()
        assert started.stderr.read() == ""
    assert started.returncode == 0


def test_what_a_terminal_cannot_show_is_escaped(tmp_path):
    synthetic.write(tmp_path / "made.json", {NAMES[0]: [1e-3]}, alias="B\xfcro \N{SNOWMAN}")
    ended = subprocess.run([sys.executable, SCRIPTS / "compare.py", "made.json", "made.json"], cwd=tmp_path,
                           capture_output=True, env={**os.environ, "PYTHONIOENCODING": "latin-1"})
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"B\xfcro \\u2603" in ended.stdout


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path):
    path = synthetic.write(tmp_path / "made.json", {NAMES[0]: [1.0]})
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert len(results.load(path).rows) == 1


def test_a_real_file(smoke_file):
    result = results.load(smoke_file)
    assert len(result.rows) > 10
    assert all(len(row.seconds) == 3 and row.time > 0 and row.error is None for row in result.rows)


@pytest.mark.parametrize("write, value, text", [
    (results.short_time, 2.5e-7, "250 ns"), (results.short_time, 1.234e-3, "1.23 ms"),
    (results.short_time, 12.0, "12.0 s"),
    (results.short_number, 999.6, "1.00k"), (results.short_number, 4.2e10, "42.0G"),
    (results.short_number, 0.5, "0.50"),
    (results.times, 0.00123, "0.00123x"), (results.times, 0.0999, "0.0999x"), (results.times, 0.104, "0.10x"),
    (results.times, 1.706, "1.71x"), (results.times, 71.06, "71.1x"), (results.percent, 0.944, "94%"),
])
def test_numbers_in_words(write, value, text):
    assert write(value) == text


@pytest.mark.parametrize("text, escaped", [
    ("a | b", r"a \| b"), ("~mha *and* `x` <b>", r"\~mha \*and\* \`x\` \<b\>"), ("two\nlines", "two lines"),
    ("mla_decode and _this_", r"mla_decode and \_this\_"), ("a\\b", r"a\\b"),
])
def test_a_text_stands_for_itself_in_markdown(text, escaped):
    assert results.markdown(text) == escaped


def test_every_script_says_what_it_needs_and_requirements_pin_it():
    pinned = set(re.findall(r"^([a-z0-9-]+)==", (SCRIPTS / "requirements.txt").read_text(), re.M))
    for script in SCRIPTS.glob("*.py"):
        text = script.read_text()
        if "__main__" not in text:
            continue
        header = re.search(r"^# /// script\n(?:# .*\n)+?# dependencies = (\[.*\])\n# ///$", text, re.M)
        assert header, f"{script.name} has no PEP 723 header"
        assert set(json.loads(header[1])) <= pinned, script.name


def test_a_python_without_the_libraries_goes_on_in_the_virtual_environment():
    if not (results.VENV / "bin/python").exists():
        pytest.skip("no build/venv")
    bare = [sys._base_executable, "-S"]  # no site's packages
    ended = subprocess.run([*bare, SCRIPTS / "compare.py", "--help"], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "usage: compare.py" in ended.stdout
