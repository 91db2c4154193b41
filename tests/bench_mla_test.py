#!/usr/bin/env python3
"""Drives bench_mla as its users do: bench_mla_test.py BENCH_MLA SCHEMA [unittest arguments]"""
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import unittest

BENCH, SCHEMA = map(os.path.abspath, sys.argv[1:3])


def run(*arguments, **options):
    return subprocess.run([BENCH, *arguments], capture_output=True, text=True, timeout=300, **options)


def interrupt(process, number):
    """Once it says that it listens."""
    while True:
        caught = re.search(r"SigCgt:\s*(\w+)", pathlib.Path(f"/proc/{process.pid}/status").read_text())
        if caught and int(caught[1], 16) >> (number - 1) & 1:
            return process.send_signal(number)
        time.sleep(0.01)


def refuse(constant):
    raise ValueError(f"{constant} is not JSON")


def load(path):
    """NaN, Infinity and repeated keys are errors."""

    def unique(pairs):
        keys = [key for key, _ in pairs]
        assert len(keys) == len(set(keys)), f"repeated key in {keys}"
        return dict(pairs)

    return json.loads(pathlib.Path(path).read_text(), parse_constant=refuse, object_pairs_hook=unique)


class BenchMla(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.file = os.path.join(cls.folder.name, "new folder", "smoke.json")
        cls.smoke = run("run", "--profile", "smoke", "--out", cls.file)
        cls.result = load(cls.file)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def test_smoke_profile_ends_well(self):
        self.assertEqual(self.smoke.returncode, 0, self.smoke.stderr)
        rows = self.result["benchmarks"]
        self.assertGreater(len(rows), 10)
        self.assertEqual([row for row in rows if "error_occurred" in row], [])
        # Piped, the console holds rows and nothing else.
        lines = self.smoke.stdout.splitlines()
        self.assertEqual([line.split()[0] for line in lines], [row["name"] for row in rows])
        self.assertIn(self.file, self.smoke.stderr)
        self.assertEqual(os.listdir(os.path.dirname(self.file)), ["smoke.json"])

    def test_result_follows_the_schema(self):
        try:
            import jsonschema
        except ImportError:
            self.skipTest("this Python has no jsonschema: THE SCHEMA WAS NOT CHECKED")
        schema = load(SCHEMA)
        jsonschema.Draft7Validator.check_schema(schema)
        jsonschema.validate(self.result, schema)
        file = self.path("int8.json")  # of which peaks are a third of an instruction's, where the CPU has such
        outcome = run("run", "--profile", "smoke", "--op", "linear,latent_attention", "--dtype", "bf16,int8", "--cache-dtype",
                      "int8,fp8", "--out", file)
        self.assertEqual(outcome.returncode, 0, outcome.stderr)
        jsonschema.validate(load(file), schema)
        for spoil in (
            lambda result: result.pop("context"),
            lambda result: result["benchmarks"][0].update(err="small"),
            lambda result: result["benchmarks"][0].update(name="linear"),
            lambda result: result["benchmarks"][0].update(typo=1),
            lambda result: result["context"].update({"mmb.seed": 1}),
            lambda result: result["context"].update({"mmb.accounts": "tiny: bytes many"}),
        ):
            spoiled = json.loads(json.dumps(self.result))
            spoil(spoiled)
            with self.assertRaises(jsonschema.ValidationError):
                jsonschema.validate(spoiled, schema)

    def test_the_context_keeps_the_verdict_and_its_figures(self):
        context = self.result["context"]
        self.assertIn("Verdict", context["mmb.verdict"])
        self.assertIn(context["mmb.verdict"], self.smoke.stderr)
        account = json.loads(run("account", "--model", "tiny-mla-moe", "--format", "json").stdout)
        ideal = float(context["mmb.dense_equivalent_parameters_ideal"].split()[2])  # at batch 1: what is active
        self.assertAlmostEqual(ideal, account["active_parameters"], delta=1e-4 * ideal)
        self.assertIn(f"tiny-mla-moe: total_parameters {account['total_parameters']} ", context["mmb.accounts"])

    def test_details_are_beside_the_thirteen_figures_of_an_account(self):
        plain, detailed = (json.loads(run("account", "--model", "DeepSeek-V3", "--format", "json", *more).stdout)
                           for more in ([], ["--details"]))
        self.assertEqual(len(plain), 13)
        self.assertEqual({name: detailed[name] for name in plain}, plain)
        self.assertEqual(detailed["kv_bytes_per_token/fp8_flashmla"], 40016)
        self.assertGreater(detailed["context_of_equal_flops/Llama-3.1-405B"], 0)
        # A detail that only one of two models has.
        table = run("account", "--details", "--model", "Llama-3.1-8B,DeepSeek-V3").stdout
        self.assertRegex(table, r"\nexperts_touched/batch_2 +- +15\.75\n")
        self.assertIn(f"DeepSeek-V3: total_parameters {plain['total_parameters']} ",
                      self.result["context"]["mmb.bundled_accounts"])
        self.assertIn(" kv_bytes_per_token/fp8_flashmla 40016 ", self.result["context"]["mmb.bundled_accounts"])

    def test_a_config_of_some_layers_is_timed_without_the_whole_models_sentence(self):
        config = json.loads((pathlib.Path(SCHEMA).parent.parent / "bench/models/tiny-mla-moe.json").read_text())
        del config["vocab_size"]
        pathlib.Path(self.path("layers.json")).write_text(json.dumps(config))
        file = self.path("layers-result.json")
        outcome = run("run", "--profile", "smoke", "--model", self.path("layers.json"), "--op",
                      "fma_peak,stream_read,mla_decode,moe_experts,dense_ffn", "--out", file)
        self.assertEqual(outcome.returncode, 0, outcome.stderr)
        context = load(file)["context"]
        self.assertEqual((context["mmb.accounts"], context["mmb.dense_equivalent_parameters_ideal"]), ("", ""))
        self.assertIn("Experts of one layers layer", context["mmb.verdict"])

    def test_the_verdict_speaks_of_the_fastest_level_and_compares_only_what_was_timed(self):
        impl = self.result["benchmarks"][-1]["name"].split("/")[3]
        file = self.path("absorbed.json")
        outcome = run("run", "--profile", "smoke", "--op", "mla_decode", "--filter", "absorbed", "--impl",
                      f"reference,{impl}", "--out", file)
        self.assertEqual(outcome.returncode, 0, outcome.stderr)
        verdict = load(file)["context"]["mmb.verdict"]
        self.assertIn(f", {impl} kernels, all threads", verdict)
        self.assertIn("MLA absorbed", verdict)
        self.assertNotIn("absorbed MLA is", verdict)

    def test_names_are_unique_and_equal_from_run_to_run(self):
        names = [row["name"] for row in self.result["benchmarks"]]
        self.assertEqual(len(names), len(set(names)))
        listed = run("list", "--profile", "smoke")
        self.assertEqual(listed.stdout.split(), names)

    def test_counters_fit_together(self):
        for row in self.result["benchmarks"]:
            name = row["name"]
            seconds = row["real_time"] * 1e-6
            total = row["bytes_weights"] + row["bytes_kv"] + row["bytes_activations"]
            self.assertAlmostEqual(row["gflops"] * seconds * 1e9, row["flops"], delta=1e-6 * row["flops"] + 1e-6, msg=name)
            self.assertAlmostEqual(row["gbs"] * seconds * 1e9, total, delta=1e-6 * total, msg=name)
            self.assertAlmostEqual(row["intensity"], row["flops"] / total, delta=1e-9 * row["intensity"], msg=name)
            self.assertGreater(row["roof"], 0, name)

    def test_rows_that_attend_to_latents_say_what_storing_them_costs(self):
        for row in self.result["benchmarks"]:
            op, algo, dtype = row["name"].split("/")[:3]
            reads = op == "latent_attention" or op == "mla_decode" and algo != "expanded"
            self.assertEqual("storage_err" in row, reads, row["name"])
            if reads:
                self.assertEqual(row["storage_err"] > 0, dtype == "bf16", row["name"])  # f32 loses nothing

    def test_google_compare_reads_it(self):
        """What tools/compare.py of Google Benchmark takes from a file: gbench/util.py and gbench/report.py."""
        for row in self.result["benchmarks"]:
            for field in ("name", "run_name", "run_type", "iterations", "real_time", "cpu_time", "time_unit"):
                self.assertIn(field, row)
            self.assertEqual(row["run_type"], "iteration")
            self.assertEqual(row["name"], row["run_name"])
            self.assertIn(row["time_unit"], ("s", "ms", "us", "ns"))

    def test_repetitions_are_kept_and_aggregates_dropped(self):
        file = self.path("repetitions.json")
        name = self.result["benchmarks"][-1]["name"]
        outcome = run("run", "--profile", "smoke", "--row", name, "--repetitions", "3", "--out", file)
        self.assertEqual(outcome.returncode, 0, outcome.stderr)
        rows = load(file)["benchmarks"]
        self.assertEqual([row["name"] for row in rows], [name] * 3)
        self.assertEqual([row["repetition_index"] for row in rows], [0, 1, 2])
        self.assertEqual(len(outcome.stdout.splitlines()), 1)

    def test_google_flags_are_passed_on(self):
        file = self.path("google.json")
        outcome = run("run", "--profile", "smoke", "--op", "linear", "--benchmark_repetitions=2", "--out", file,
                      env={**os.environ, "BENCHMARK_FILTER": "nothing"})
        self.assertEqual(outcome.returncode, 0, outcome.stderr)
        self.assertEqual({row["repetitions"] for row in load(file)["benchmarks"]}, {2})

    def test_the_environment_of_google_benchmark_changes_nothing(self):
        file, out = self.path("environment.json"), self.path("google_out.json")
        for variable, value in {"LIST_TESTS": "true", "FORMAT": "nonsense", "REPORT_AGGREGATES_ONLY": "true", "OUT": out}.items():
            outcome = run("run", "--profile", "smoke", "--op", "rms_norm", "--repetitions", "2", "--out", file,
                          env={**os.environ, "BENCHMARK_" + variable: value})
            self.assertEqual(outcome.returncode, 0, outcome.stderr)
            self.assertEqual({row["repetitions"] for row in load(file)["benchmarks"]}, {2})
            os.remove(file)
        self.assertFalse(os.path.exists(out))

    def test_threads_are_as_many_as_openmp_gives_and_not_any_number(self):
        file = self.path("limited.json")
        arguments = ["run", "--profile", "smoke", "--op", "rms_norm", "--out", file]
        self.assertEqual(run(*arguments, env={**os.environ, "OMP_THREAD_LIMIT": "1"}).returncode, 0)
        self.assertEqual(load(file)["context"]["mmb.threads_all"], "1")
        outcome = run(*arguments, env={**os.environ, "OMP_NUM_THREADS": "100000"})
        self.assertEqual(outcome.returncode, 2)
        self.assertRegex(outcome.stderr, "OMP_NUM_THREADS: expected at most \\d+ threads, got 100000")

    def test_bad_input_is_one_sentence_and_status_2(self):
        for arguments in (
            ["frobnicate"],
            ["run", "--nonsense"],
            ["run", "--profile"],
            ["run", "--profile", "fast"],
            ["--profile", "fast"],
            ["run", "--batch", "0"],
            ["run", "--batch", "1", "--batch", "2"],
            ["run", "--context", "1k..2k..4k"],
            ["run", "--new-tokens", "many"],
            ["run", "--dtype", "f16"],
            ["run", "--threads", "2"],
            ["run", "--impl", "sse"],
            ["run", "--memory", "4X"],
            ["run", "--memory", "1"],
            ["run", "--seed", "-1"],
            ["run", "--skew", "-1"],
            ["run", "--skew", "0,steep"],
            ["run", "--skew", "11"],
            ["run", "--overlap", "1.1"],
            ["run", "--overlap", "0,"],
            ["run", "--trace", "zipf1.txt"],
            ["run", "--trace", "a/x.txt,b/x.txt"],
            ["run", "--row", "moe_experts/grouped/bf16/generic/DeepSeek-V3/tokens:1/routing:wiki/threads:all"],
            ["run", "--filter", "("],
            ["run", "--filter", "(a)\\1"],
            ["run", "--filter", "(" * 2000 + "a" * 200 + ")" * 2000],
            ["run", "--filter", "(([a-z/]+)*.*)*$x"],
            ["run", "--filter", "nothing is called so"],
            ["run", "--op", "teleport"],
            ["run", "--row", "linear"],
            ["run", "--row", "linear/panels/bf16/generic/DeepSeek-V3/tokens:1/no:thing/threads:all"],
            ["run", "--model", "no-such-model"],
            ["run", "--model", "/no/such/config.json"],
            ["run", "--model", "tiny-mla-moe,tiny-mla-moe~x"],
            ["run", "--cache-dtype", "f32"],
            ["run", "--repetitions", "0"],
            ["run", "--min-time", "soon"],
            ["run", "--profile", "smoke", "--out", "/proc/no/such.json"],
            ["run", "--benchmark_out=x.json"],
            ["run", "--benchmark_nonsense=1"],
            ["run", "--benchmark_min_time=nan"],
            ["run", "--benchmark_repetitions=0"],
            ["list", "--batch", "1g"],
            ["list", "--row", "a/b/c/d/e/f:1/g:1"],
            ["list", "--new-tokens", "1000k"],
            ["run", "--benchmark_filter"],
            ["run", "--benchmark_filter=linear"],
            ["list", "--benchmark_repetitions=2"],
            ["run", "--model", ""],
            ["run", "--row", ""],
            ["--filter="],
            ["list", "--op", ""],
            ["account", "--machine", ""],
            ["run", "--profile", "smoke", "--op", "linear", "--trace", "/no/such.txt"],
            ["run", "--row", "moe_experts/grouped/bf16/generic/DeepSeek-V3/tokens:1/routing:zipfnan/threads:all"],
            ["run", "--row", "moe_experts/grouped/bf16/generic/DeepSeek-V3/tokens:1/routing:zipf11/threads:all"],
            ["run", "--profile", "smoke", "--out", "/tmp"],
            ["account", "--format", "xml", "--model", "tiny-mla-moe"],
            ["account", "--context", "-1"],
            ["account", "--context", "0"],
            ["account", "--batch", "67108865"],
            ["account", "--usd-per-hour", "2"],
            ["account", "--format", "json", "--machine", "H800x8"],
            ["account", "--details", "--machine", "H800x8"],
            ["account", "--cache-dtype", "zzz", "--machine", "H800x8"],
            ["account", "--dtype", "native", "--machine", "H800x8"],
            ["account", "--machine", "./"],
            ["account", "--model", "tiny-mla-moe,no-such-model", "--machine", "H800x8"],
            ["account", "--dtype", "f17", "--model", "tiny-mla-moe"],
        ):
            with self.subTest(arguments=arguments):
                outcome = run(*arguments, cwd=self.folder.name)
                self.assertEqual(outcome.returncode, 2, outcome.stderr)
                self.assertEqual(outcome.stdout, "")
                self.assertRegex(outcome.stderr, r"\Abench_mla: [^\n]+\n\Z")
                flag = next((argument.split("=")[0] for argument in arguments if argument.startswith("--")), None)
                if flag and flag != "--profile":
                    named = outcome.stderr + " --filter" * ("no row matches" in outcome.stderr)
                    self.assertTrue(flag in named or "--model" == flag, outcome.stderr)

    def test_a_command_that_is_not_known_is_named(self):
        self.assertEqual(run("frobnicate").stderr, "bench_mla: expected any of the commands run, account, machine, verify, "
                         "list, got 'frobnicate'\n")

    def test_what_standard_output_has_no_room_for_is_said(self):
        with open("/dev/full", "w") as full:
            for arguments in (["list", "--profile", "smoke"], ["account"], ["--help"]):
                outcome = subprocess.run([BENCH, *arguments], stdout=full, stderr=subprocess.PIPE, text=True)
                self.assertEqual(outcome.returncode, 2)
                self.assertRegex(outcome.stderr, r"bench_mla: standard output: [^\n]+\n\Z")

    def test_files_that_are_no_files_and_names_that_are_no_text(self):
        pipe = self.path("pipe.json")
        os.mkfifo(pipe)
        for arguments in (["account", "--machine", pipe], ["run", "--profile", "smoke", "--out", pipe]):
            self.assertEqual(run(*arguments).returncode, 2)
        self.assertTrue(pathlib.Path(pipe).is_fifo())
        config = os.fsencode(self.path("bad")) + b"\xffname.json"
        pathlib.Path(os.fsdecode(config)).write_bytes(
            (pathlib.Path(SCHEMA).parent.parent / "bench/models/tiny-mla-moe.json").read_bytes())
        outcome = run("account", "--format", "json", "--model", config)
        self.assertEqual(outcome.returncode, 0, outcome.stderr)
        self.assertEqual(json.loads(outcome.stdout)["model"], "bad\ufffdname")

    def test_a_link_stays_and_what_it_points_to_is_written(self):
        link, target = self.path("link.json"), self.path("target.json")
        os.symlink("target.json", link)
        self.assertEqual(run("run", "--profile", "smoke", "--op", "rope", "--out", link).returncode, 0)
        self.assertTrue(os.path.islink(link))
        self.assertGreaterEqual(len(load(target)["benchmarks"]), 1)

    def test_an_older_file_stays_until_a_row_has_finished(self):
        file = self.path("older.json")
        pathlib.Path(file + ".partial").write_text("somebody's")
        for old in (None, "older"):
            if old:
                pathlib.Path(file).write_text(old)
            arguments = ["run", "--profile", "smoke", "--row", self.result["benchmarks"][-1]["name"], "--min-time", "60"]
            process = subprocess.Popen([BENCH, *arguments, "--out", file], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                       text=True)
            interrupt(process, signal.SIGINT)
            _, errors = process.communicate(timeout=50)
            self.assertEqual(process.returncode, 128 + signal.SIGINT, errors)
            self.assertIn("no row finished", errors)
            self.assertEqual(pathlib.Path(file).read_text() if os.path.exists(file) else None, old)
            self.assertEqual([name for name in os.listdir(os.path.dirname(file)) if name.startswith("older.json.")],
                             ["older.json.partial"])

    def test_words_of_the_command_line_and_names_are_kept(self):
        model = self.path("my config.json")
        pathlib.Path(model).write_bytes(
            (pathlib.Path(SCHEMA).parent.parent / "bench/models/tiny-mla-moe.json").read_bytes())
        file = self.path("words.json")
        arguments = ["run", "--profile", "smoke", "--op", "rope", "--threads", "1", "--model", model,
                     "--filter", "(bf16|it's)", "--alias", "Büro\x1b 机器".encode() + b"\xff", "--out", file]
        outcome = run(*arguments)
        self.assertEqual(outcome.returncode, 0, outcome.stderr)
        context = load(file)["context"]
        self.assertEqual(shlex.split(context["mmb.argv"])[10:12], ["--filter", "(bf16|it's)"])
        self.assertIn(f"--model '{model}'", context["mmb.argv"])
        self.assertEqual(context["mmb.alias"], "Büro? 机器\ufffd")

    def test_machine_stops_when_interrupted(self):
        process = subprocess.Popen([BENCH, "machine"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        interrupt(process, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        self.assertEqual((process.returncode, output), (128 + signal.SIGINT, ""))

    def test_progress_says_what_is_left_from_the_start(self):
        terminal, end = os.openpty()
        outcome = subprocess.run([BENCH, "run", "--profile", "smoke", "--op", "rope", "--out", self.path("progress.json")],
                                 stdout=subprocess.DEVNULL, stderr=end)
        os.close(end)
        self.assertEqual(outcome.returncode, 0)
        self.assertRegex(os.read(terminal, 1 << 16).decode(), r"\[0/\d+\] about \d+ s left")
        os.close(terminal)

    def test_libraries_are_told_the_cpu_and_tell_their_versions(self):
        file = self.path("unbound.json")
        bound = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
        outcome = run("run", "--profile", "smoke", "--op", "rope", "--out", file, env={**bound, "OMP_PROC_BIND": "false"})
        self.assertEqual(outcome.returncode, 0, outcome.stderr)
        for library in ("openblas", "onednn"):
            version, unbound = (context.get(f"mmb.library_{library}") for context in
                                (self.result["context"], load(file)["context"]))
            self.assertEqual(version, unbound)
            absent = run("list", "--profile", "smoke", "--impl", library).returncode == 2
            self.assertEqual(version is None, absent)

    def test_threads_that_are_bound_already_hide_no_cpus(self):
        file, environment = self.path("bound.json"), {**os.environ, "OMP_PROC_BIND": "close", "OMP_PLACES": "cores"}
        environment.pop("OPENBLAS_CORETYPE", None)  # for which the program starts itself again
        outcome = run("run", "--profile", "smoke", "--op", "rope", "--out", file, env=environment)
        self.assertEqual(outcome.returncode, 0, outcome.stderr)
        self.assertEqual(load(file)["context"]["mmb.cpus_allowed"], str(len(os.sched_getaffinity(0))))

    def test_routings_are_rows(self):
        trace, file = self.path("wiki.txt"), self.path("routings.json")
        lines = [f"{i % 4} {4 + i % 3}, {(i + 1) % 4}" for i in range(34)]
        pathlib.Path(trace).write_text("# of layer 2\r\n" + "\r\n".join(lines))
        arguments = ["--profile", "smoke", "--op", "moe_experts,moe_layer,decoder_layer", "--dtype", "bf16", "--batch", "2"]
        arguments += ["--model", "tiny-mla-moe", "--skew", "0,1.5", "--overlap", "0,0.5", "--trace", trace]
        outcome = run("run", *arguments, "--out", file)
        self.assertEqual(outcome.returncode, 0, outcome.stderr)
        rows = load(file)["benchmarks"]
        self.assertEqual(len(rows), 5 * 6)
        for row in rows:
            self.assertRegex(row["name"], r"/routing:(uniform|zipf1\.5|wiki)(/overlap:0\.5)?/threads:all$")
            self.assertGreaterEqual(row["expert_load_max"], row["expert_load_mean"])
            if "routing:wiki" in row["name"] and "/q:17/" not in row["name"]:
                self.assertEqual(row["experts_touched"], 5)  # 0 4 1, 1 5 2
                self.assertEqual((row["expert_load_max"], row["expert_load_mean"]), (2, 1.2))
                self.assertAlmostEqual(row["expert_overlap"], 1 / 3)
            self.assertAlmostEqual(row["experts_expected"], 12 * (1 - 0.75 ** (34 if "/q:17/" in row["name"] else 2)))
        name = rows[4]["name"]
        self.assertIn("routing:wiki", name)
        self.assertEqual(run("list", "--row", name, "--trace", trace).stdout, name + "\n")

    def test_caches_with_scales_are_rows(self):
        file = self.path("caches.json")
        arguments = ["--profile", "smoke", "--op", "mla_decode,decode_step", "--dtype", "bf16", "--batch", "1"]
        arguments += ["--context", "133", "--new-tokens", "1", "--model", "tiny-mla-moe", "--cache-dtype", "bf16,int8,fp8"]
        outcome = run("run", *arguments, "--out", file)
        self.assertEqual(outcome.returncode, 0, outcome.stderr)
        rows = {row["name"]: row for row in load(file)["benchmarks"]}
        storage_err = {}
        # A latent of 37 elements and a rope key of 6; scales begin at multiples of 4 bytes.
        for cache, row_bytes in {"": 2 * 43, "/cache:int8": 44 + 2 * 4, "/cache:fp8": 40 + 4 + 2 * 6}.items():
            absorbed, = (row for name, row in rows.items() if f"/q:1/ctx:133{cache}/threads:all" in name
                         and name.startswith("mla_decode/absorbed/"))
            self.assertEqual(absorbed["kv_bytes_per_token"], row_bytes)
            storage_err[cache] = absorbed["storage_err"]
            steps = [name for name in rows if name.startswith("decode_step/") and "/tiny-mla-moe/" in name]
            self.assertEqual(sum(f"/ctx:133{cache}/layers:" in name for name in steps if "/integer/" not in name), 1, steps)
        self.assertTrue(0 < storage_err[""] < storage_err["/cache:int8"] < storage_err["/cache:fp8"], storage_err)
        self.assertEqual({name.split("/")[0] for name, row in rows.items() if "storage_err" in row}, {"mla_decode"})
        self.assertEqual({name.split("/")[1] for name in rows if "/cache:" in name} - {"integer"}, {"absorbed", "composed"})
        # Where the CPU has dot products of bytes, which the default level uses.
        integers = [name for name in rows if "/integer/" in name]
        self.assertIn(len(integers), (0, 4), integers)  # the model and its rivals in the FFN
        for name in integers:
            self.assertIn("/cache:int8/", name)
            unrounded = rows[name.replace("integer", "absorbed" if name.startswith("mla_decode/") else "composed")]
            self.assertGreater(rows[name]["err"], unrounded["err"])
            self.assertEqual(rows[name].get("storage_err"), unrounded.get("storage_err"))
            self.assertIn("int8 (dot products of integers) cache", outcome.stderr)
            self.assertRegex(outcome.stderr, r"With its latents in int8, in dot products of integers \(\d+ bytes")
        for cache in ("int8", "fp8"):
            # Nothing is compared with a row at another pace, which a loaded machine has.
            line = (rf"With its latents in {cache} \(\d+ bytes a token\) it takes [\d.]+ ms, \d+% of ideal"
                    r"(?:!|: [^\n]* than in plain ones)?; so stored they move outputs by up to ([\d.]+)% of the largest "
                    r"\(plain ones ([\d.]+)%\)\.\n")
            self.assertRegex(outcome.stderr, line)
            for percent, kind in zip(re.search(line, outcome.stderr).groups(), (f"/cache:{cache}", "")):
                self.assertAlmostEqual(float(percent), 100 * storage_err[kind], delta=0.05)
            self.assertIn(f"bf16 weights, {cache} cache", outcome.stderr)
        name = next(name for name in rows if "decode_step" in name and "cache:fp8" in name)
        self.assertEqual(run("list", "--row", name, "--profile", "smoke").stdout, name + "\n")

    def test_bad_traces_are_refused_with_line_and_field(self):
        for text, expected in {
            b"": "expected a line of experts",
            b"0 1 2\n3 4 x\n": "line 2: field 3: ",
            b"0 1 12": "line 1: field 3: ",
            b"0 1 99999999999999999999": "line 1: field 3: ",
            b"0 1 2\r\n\r\n4 4 5": "line 3: field 2: ",
            b"0 1": "line 1: field 3: ",
            b"0 1 2 3": "line 1: field 4: ",
            b"0 4 8": "line 1: field 3: ",
            b"0 1 2": "expected a line of experts for each of 2 tokens, got 1",
            bytes(range(256)) * 100: "line 1: field 1: ",
        }.items():
            with self.subTest(text=text[:40]):
                file = pathlib.Path(self.path("bad.txt"))
                file.write_bytes(text)
                outcome = run("run", "--profile", "smoke", "--batch", "2", "--trace", file)
                self.assertEqual((outcome.returncode, outcome.stdout), (2, ""))
                self.assertRegex(outcome.stderr, r"\Abench_mla: [^\n]+\n\Z")
                self.assertIn(f"bad.txt: {expected}", outcome.stderr)
        for file in ("/no/such.txt", self.folder.name, "/dev/zero"):
            self.assertEqual(run("list", "--profile", "smoke", "--trace", file).returncode, 2)

    def test_signals_leave_a_valid_file(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            file = self.path(f"interrupted{number}.json")
            arguments = [BENCH, "run", "--profile", "smoke", "--min-time", "0.5", "--out", file]
            process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            process.stdout.readline()  # one row is done
            self.assertEqual(pathlib.Path(f"/proc/{process.pid}/comm").read_text(), "bench_mla\n")  # what pkill looks for
            process.send_signal(number)
            _, errors = process.communicate(timeout=120)
            self.assertEqual(process.returncode, 128 + number, errors)
            self.assertIn("interrupted", errors)
            rows = load(file)["benchmarks"]
            self.assertGreaterEqual(len(rows), 1)
            self.assertLess(len(rows), len(self.result["benchmarks"]))
            self.assertEqual([row for row in rows if "error_occurred" in row], [])

    def test_a_killed_run_leaves_a_valid_file(self):
        file = self.path("killed.json")
        arguments = [BENCH, "run", "--profile", "smoke", "--min-time", "0.2", "--out", file]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(2):
            process.stdout.readline()
        time.sleep(0.05)
        process.kill()
        process.communicate()
        self.assertGreaterEqual(len(load(file)["benchmarks"]), 2)

    def test_verify_account_machine_and_help(self):
        outcome = run("verify", "--profile", "smoke", "--filter", "linear|mla")
        self.assertEqual(outcome.returncode, 0, outcome.stdout)
        self.assertTrue(all(line.startswith("ok ") for line in outcome.stdout.splitlines()), outcome.stdout)
        account = json.loads(run("account", "--model", "DeepSeek-V3", "--format", "json").stdout, parse_constant=refuse)
        self.assertEqual(account["kv_bytes_per_token"], 70272)
        self.assertIn("peak_gbs", run("machine").stdout)
        for arguments in (["--help"], ["run", "--help"], ["--version"]):
            outcome = run(*arguments)
            self.assertEqual((outcome.returncode, outcome.stderr), (0, ""))

    def test_peers_say_what_they_are(self):
        file = self.path("peers.json")
        outcome = run("run", "--profile", "smoke", "--op", "linear", "--dtype", "f32", "--impl", "peers", "--out", file)
        self.assertEqual(outcome.returncode, 0, outcome.stderr)
        notes = {row["name"].split("/")[3]: row["label"] for row in load(file)["benchmarks"]}
        for library, sign in {"eigen": "Eigen 3", "openblas": ", core ", "onednn": "oneDNN "}.items():
            if library in notes:
                self.assertIn(sign, notes[library])
                self.assertIn("best peer", outcome.stderr)

    def test_a_whole_model_is_timed_with_its_parts_and_nothing_else(self):
        names = run("list", "--profile", "model", "--model", "tiny-mla-moe", "--batch", "2", "--context", "33",
                    "--dtype", "f32").stdout.split()
        self.assertTrue(any(name.startswith("decode_step/") for name in names), names)
        linear = [name for name in names if re.match(r"linear/[^~]*/tokens:2/", name)]
        # The projection behind the attention and the output head.
        self.assertEqual({name.split("tokens:2/")[1].split("/threads")[0] for name in linear},
                         {"in_features:88/out_features:70", "in_features:70/out_features:101"}, names)

    def test_the_verdict_on_whole_models_is_about_one_level_and_a_cache_beside_its_own_kind(self):
        impl = self.result["benchmarks"][-1]["name"].split("/")[3]
        file = self.path("whole.json")
        outcome = run("run", "--profile", "smoke", "--op", "decode_step", "--model", "tiny-mla-moe", "--batch", "1",
                      "--context", "33", "--new-tokens", "1", "--cache-dtype", "bf16,int8", "--dtype", "bf16", "--impl",
                      f"reference,{impl}", "--out", file)
        self.assertEqual(outcome.returncode, 0, outcome.stderr)
        result = load(file)
        tables = result["context"]["mmb.verdict"].split("\nWhole ")[1:]
        rates = {row["name"]: row.get("model_tokens_per_second") for row in result["benchmarks"]}
        self.assertGreaterEqual(len(tables), 2)
        for table in tables:
            self.assertIn(f", {impl} kernels", table)
            self.assertEqual(sum(line.lstrip().startswith("1 ") for line in table.splitlines()), 1, table)
            self.assertNotIn("Long thinking", table)
            cache = "" if " bf16 cache" in table else "/cache:int8"
            algo = "integer" if "dot products" in table else "composed"
            dense = rates[f"decode_step/{algo}/bf16/{impl}/tiny-mla-moe~dense_active/batch:1/q:1/ctx:33{cache}/layers:3"
                          "/threads:all"]
            self.assertIn(f" {dense:.1f} ", table)

    def test_peaks_alone_are_a_run(self):
        file = self.path("peaks.json")
        outcome = run("run", "--profile", "smoke", "--op", "fma_peak,stream_read", "--out", file)
        self.assertEqual(outcome.returncode, 0, outcome.stderr)
        self.assertEqual({row["name"].split("/")[0] for row in load(file)["benchmarks"]}, {"fma_peak", "stream_read"})

    def test_what_cannot_run_is_said_and_not_timed(self):
        outcome = run("list", "--memory", "64Mi", "--op", "linear,moe_router", "--model", "DeepSeek-V3")
        self.assertIn("moe_router/", outcome.stdout)
        self.assertNotIn("linear/", outcome.stdout)
        self.assertRegex(outcome.stderr, r"skipped linear/[^\n]* 234881024 bytes")


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=2)
