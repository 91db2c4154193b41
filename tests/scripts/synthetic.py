"""Made result files: what bench_mla would have written of times that a test chooses."""
import json
import os

import results

NAMES = [f"linear/panels/bf16/avx2/DeepSeek-V3/tokens:{tokens}/in_features:7168/out_features:2048/threads:all"
         for tokens in range(1, 21)]
CONTEXT = {
    "date": "2026-11-01T12:00:00+0000", "host_name": "host", "executable": "bench_mla", "num_cpus": 8,
    "mhz_per_cpu": 3000, "cpu_scaling_enabled": False, "caches": [], "load_avg": [0.1], "library_build_type": "release",
    "mmb.schema_version": "1", "mmb.alias": "none", "mmb.profile": "quick", "mmb.seed": "1",
    "mmb.argv": "bench_mla run", "mmb.cpu_model": "Abacus 9000", "mmb.cpu_vendor": "Abacus",
    "mmb.impl_used": "avx2", "mmb.threads_all": "8", "mmb.cores_allowed": "8", "mmb.arena_bytes": "1073741824",
    "mmb.skipped": "", "mmb.warnings": "",
    "mmb.models": "DeepSeek-V3: hidden_size 7168 num_hidden_layers 61", "mmb.build_git_dirty": "no",
    "mmb.build_compiler": "GCC 12.2.0", "mmb.load_before": "0.1", "mmb.canary_gbs_before": "100",
    "mmb.canary_gbs_after": "100", "mmb.canary_gflops_before": "500", "mmb.canary_gflops_after": "500",
}
COUNTERS = {
    "flops": 3e7, "bytes_weights": 3e7, "bytes_kv": 0, "bytes_activations": 4e4, "working_set_bytes": 1e9,
    "threads_used": 8, "gflops": 1, "gbs": 1, "intensity": 1, "roof": 0.5, "peak_gflops": 500, "peak_gbs": 100,
    "bound": 1, "err": 1e-3, "cold": 1, "exps": 0, "vs_best": 1,
}


def entries(name, seconds, **counters):
    """A row's repetitions. An `error` makes it one of an error."""
    error = counters.pop("error", None)
    outcome = {"label": "fma_f32", **COUNTERS, **counters}
    if error:
        outcome = {"error_occurred": True, "error_message": error}
    return [{"name": name, "family_index": 0, "per_family_instance_index": 0, "run_name": name, "run_type": "iteration",
             "repetitions": len(seconds), "repetition_index": i, "threads": 1, "iterations": 10,
             "real_time": 1e6 * time, "cpu_time": 1e6 * time, "time_unit": "us", **outcome}
            for i, time in enumerate(seconds)]


def document(rows, **context):
    """Of {name: seconds of the repetitions, or (seconds, counters)}; context keys without their mmb."""
    facts = {f"mmb.{key}": value for key, value in context.items()}
    benchmarks = []
    for name, row in rows.items():
        seconds, counters = row if isinstance(row, tuple) else (row, {})
        benchmarks += entries(name, seconds, **counters)
    return {"context": {**CONTEXT, **facts}, "benchmarks": benchmarks}


def result(rows, path="made.json", **context):
    return results.result_of(document(rows, **context), path)


def write(path, rows, **context):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document(rows, **context)))
    return path


# A program in bench_mla's place: notes in a log that it ran, and leaves a result of one row.
PROGRAM = """#!{python}
import json, pathlib, sys
with open({log!r}, "a") as log:
    print({word!r}, *sys.argv[1:-2], file=log)
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
out.parent.mkdir(parents=True, exist_ok=True)
out.write_text(json.dumps({document!r}))
sys.exit({status})
"""


def program(path, log, seconds, python, status=0, row=NAMES[0]):
    text = PROGRAM.format(python=python, log=str(log), word=path.name, status=status,
                          document=document({row: [seconds]}))
    path.write_text(text)
    os.chmod(path, 0o755)
    return path
