import csv
import html.parser
import io
import json
import math
import re
import sys

import numpy as np
import pytest
import rich.console
from scipy import stats

import compare
import comparison
import conclusions
import pages
import results
import synthetic
from comparison import MIN_STARTS, Side
from synthetic import NAMES

BASE_SECONDS = 1e-3


# ---- Statistics

def test_the_interval_of_five_pairs_is_their_range():
    ratios = np.random.default_rng(1).normal(size=(20, 5))
    low, high = comparison.paired_interval(ratios)
    assert low == pytest.approx(ratios.min(axis=1))
    assert high == pytest.approx(ratios.max(axis=1))


@pytest.mark.parametrize("starts", [5, 10, 20])
def test_intervals_hold_the_truth_as_often_as_they_say(starts):
    rng = np.random.default_rng(2)
    base, new = rng.normal(size=(2, 500, starts))
    for low, high in (comparison.paired_interval(new - base), comparison.unpaired_interval(base, new)):
        assert 0.91 < np.mean((low <= 0) & (0 <= high)) < 0.98


def test_the_interval_is_as_wide_as_the_median_is_uncertain():
    sample = np.random.default_rng(3).normal(size=(20, 500))
    low, high = comparison.paired_interval(sample)
    # The median's standard error is sqrt(pi / 2) of the mean's.
    expected = 2 * stats.norm.ppf(0.975) * math.sqrt(math.pi / 2 / 500)
    assert np.mean(high - low) == pytest.approx(expected, rel=0.05)


def test_noise_is_what_a_base_differs_from_itself_by():
    rng = np.random.default_rng(4)
    found = comparison.noise(rng.normal(scale=0.02, size=(200, 50)))
    one, other = np.median(rng.normal(scale=0.02, size=(2, 20000, 50)), axis=-1)
    assert np.mean(found) == pytest.approx(np.quantile(np.abs(one - other), 0.95), rel=0.1)
    assert comparison.noise(np.zeros((3, 1))).tolist() == [0, 0, 0]


def test_holm():
    assert comparison.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert comparison.holm([0.9, 0.8]) == pytest.approx([1, 1])
    assert comparison.holm([]).tolist() == []


@pytest.mark.parametrize("low, high, floor, expected", [
    (0.04, 0.09, 0.03, "SLOWER"), (-0.09, -0.04, 0.03, "FASTER"), (-0.01, 0.02, 0.03, "SAME"),
    (0.01, 0.05, 0.03, "UNCLEAR"), (0.04, 0.09, 0.05, "UNCLEAR"), (-0.08, 0.02, 0.2, "UNCLEAR"),
    (-0.02, 0.08, 0.2, "UNCLEAR"),
])
def test_verdicts(low, high, floor, expected):
    assert comparison.verdict(low, high, floor) == expected


@pytest.mark.parametrize("estimate, width, noise", [(0.05, 0.03, 0.04), (-0.1, 0.2, 0.01), (0.01, 0.05, 0.03),
                                                    (0.2, 0.3, 0.5)])
def test_as_many_starts_as_are_asked_for_do_tell(estimate, width, noise):
    starts = 10
    needed = comparison.starts_that_tell(estimate, estimate - width, estimate + width, noise, starts)

    def verdict(of_starts):
        shrink = math.sqrt(starts / of_starts)
        floor = max(comparison.LEAST_FLOOR, shrink * noise)
        return comparison.verdict(estimate - shrink * width, estimate + shrink * width, floor)

    assert verdict(needed + 1) != "UNCLEAR"
    assert verdict(needed - 2) == "UNCLEAR"


# ---- Verdicts on made pairs

def side(logs, name="side", **context):
    """Of log times [rows, starts] or [rows, starts, repetitions], relative to a base time."""
    times = BASE_SECONDS * np.exp(np.asarray(logs, dtype=float))
    times = times[..., None] if times.ndim == 2 else times
    return Side(name, [synthetic.result(dict(zip(NAMES, times[:, start])), f"{name}{start}.json", **context)
                       for start in range(times.shape[1])])


def only_row(base, new, **options):
    row, = comparison.compare(side([base]), side([new]), **options).rows
    return row


STEADY = np.array([0.0, 0.004, -0.003, 0.006, 0.001, -0.005, 0.002, -0.001, 0.003, -0.004])
RESTLESS = 20 * STEADY


def test_slower():
    row = only_row(STEADY, STEADY[::-1] + math.log(1.1))
    assert row.verdict == "SLOWER"
    assert row.low < 1.1 < row.high and row.low > 1.05
    assert row.ratio == pytest.approx(1.1, rel=0.01)
    assert row.floor == pytest.approx(1.03)
    assert row.starts_that_tell is None


def test_faster():
    assert only_row(STEADY, STEADY[::-1] - math.log(1.1)).verdict == "FASTER"


def test_same():
    assert only_row(STEADY, STEADY[::-1]).verdict == "SAME"


def test_unclear_says_how_many_starts_would_tell():
    row = only_row(RESTLESS, RESTLESS[::-1] + 0.05)
    assert row.verdict == "UNCLEAR"
    assert row.starts_that_tell > 10
    assert row.floor > 1.05


def test_a_drift_that_both_share_is_no_difference():
    drift = np.linspace(0, 0.5, 10)
    assert only_row(drift + STEADY, drift + STEADY[::-1]).verdict == "SAME"


def test_too_few_starts_give_no_verdict():
    for starts in range(1, MIN_STARTS):
        made = comparison.compare(side([STEADY[:starts]]), side([STEADY[:starts] + 1]))
        row, = made.rows
        assert row.verdict == "UNCLEAR" and row.starts_that_tell == MIN_STARTS
        assert any("too few for a verdict" in note for note in made.notes)
    assert only_row(STEADY[:MIN_STARTS], STEADY[:MIN_STARTS] + 1).verdict == "SLOWER"


def test_repetitions_do_not_stand_for_starts():
    rng = np.random.default_rng(5)
    made = comparison.compare(side(rng.normal(0, 0.01, (1, 1, 50))), side(rng.normal(0.2, 0.01, (1, 1, 50))))
    row, = made.rows
    assert row.verdict == "UNCLEAR"
    assert row.interval_of == "repetitions" and row.low < math.exp(0.2) < row.high
    assert any("too narrow" in note for note in made.notes)


def test_one_repetition_of_one_start_has_no_interval():
    row = only_row([0.0], [0.1])
    assert (row.low, row.high, row.interval_of) == (None, None, None)
    assert row.ratio == pytest.approx(math.exp(0.1))


def test_more_starts_on_one_side_are_named():
    made = comparison.compare(side([STEADY]), side([STEADY[:7]]))
    assert made.rows[0].starts == 7
    assert any("10 starts against 7" in note for note in made.notes)


def test_the_rank_test_is_scipys_and_holm_counts_the_rows():
    rng = np.random.default_rng(6)
    base, new = rng.normal(0, 0.02, (4, 8)), rng.normal(0.02, 0.02, (4, 8))
    made = comparison.compare(side(base), side(new))
    expected = [stats.mannwhitneyu(a, b, method="exact").pvalue for a, b in zip(base, new)]
    assert [row.p for row in made.rows] == pytest.approx(expected)
    assert [row.p_holm for row in made.rows] == pytest.approx(comparison.holm(expected))


def test_five_starts_reach_the_known_least_p():
    assert only_row(STEADY[:5], STEADY[:5] + 1).p == pytest.approx(2 / math.comb(10, 5))


def starts_of_a_machine(rng, rows, starts, sigma):
    """ABBA log times of two equal programs: the machine's drift over all starts, and noise of each with now and then
    one that was disturbed, which is what Student's t of 4 degrees has."""
    drift = np.cumsum(rng.normal(0, 0.005, (rows, 2 * starts)), axis=1)
    noise = rng.standard_t(4, (rows, 2 * starts)) * sigma
    order = np.ravel([(0, 1) if pair % 2 == 0 else (1, 0) for pair in range(starts)])
    times = drift + noise
    return times[:, order == 0], times[:, order == 1]


def test_equal_programs_are_not_told_apart():
    """200 pairs of rows between quiet and restless."""
    rng = np.random.default_rng(7)
    verdicts = []
    for pair in range(200):
        base, new = starts_of_a_machine(rng, 10, starts=10, sigma=rng.uniform(0.003, 0.05, (10, 1)))
        verdicts += [row.verdict for row in comparison.compare(side(base), side(new)).rows]
    assert len(verdicts) == 2000
    assert sum(verdict in ("SLOWER", "FASTER") for verdict in verdicts) < 20
    assert verdicts.count("SAME") > 500


def test_a_planted_regression_of_ten_percent_is_found():
    rng = np.random.default_rng(8)
    found = 0
    for pair in range(100):
        base, new = starts_of_a_machine(rng, 5, starts=10, sigma=0.015)
        planted = pair % 5
        new[planted] += math.log(1.1)
        rows = comparison.compare(side(base), side(new)).rows
        found += rows[planted].verdict == "SLOWER"
        assert not any(row.verdict == "SAME" for row in rows[planted:planted + 1])
        assert all(row.verdict in ("SAME", "UNCLEAR") for i, row in enumerate(rows) if i != planted)
    assert found >= 95


def test_of_single_files_only_a_row_far_from_the_others_stands_out():
    rng = np.random.default_rng(9)
    standing = total = 0
    for pair in range(200):
        sigma = (0.03, 0.15)[pair % 2]
        base, new = starts_of_a_machine(rng, len(NAMES), starts=1, sigma=sigma)
        rows = comparison.compare(side(base), side(new + rng.normal(0, 0.2))).rows  # all rows, on another day
        standing += sum(row.stands_out for row in rows)
        total += len(rows)
        assert {row.verdict for row in rows} == {"UNCLEAR"}
        new[3] += 50 * sigma
        assert comparison.compare(side(base), side(new)).rows[3].stands_out
    assert standing < 0.01 * total


# ---- Another machine

def machine(name, seconds, roof, bound=1, threads="all", level="avx2", **context):
    rows = {name.replace("/avx2/", f"/{level}/").replace("threads:all", f"threads:{threads}"):
            (([seconds * (1 + i / 100) for i in range(3)]), {"roof": roof, "bound": bound}) for name in NAMES[:3]}
    return Side("machine", [synthetic.result(rows, **context)])


def test_another_machine_is_explained_by_its_peaks():
    base, new = machine(NAMES, 1.71e-3, 0.8), machine(NAMES, 1e-3, 0.8 * 1.0556, cpu_model="Bicus 1")
    made = comparison.compare(base, new)
    assert not made.same
    for row in made.rows:
        assert row.verdict is None and row.p is None
        assert 1 / row.ratio == pytest.approx(1.71)
        assert 1 / row.ideal_ratio == pytest.approx(1.62, rel=1e-3)
        assert 1 / row.left_ratio == pytest.approx(1.0556)
        assert row.low < row.ratio < row.high
        assert row.bound == "memory"
    text = plain(made)
    assert "1.71x" in text and "1.62x memory" in text and "1.06x" in text
    assert re.search(r"1\.6\dx \.\. 1\.7\dx", text)  # the slower end first
    assert "another cpu_model: Abacus 9000 against Bicus 1" in text


def test_levels_are_joined_unasked_and_threads_when_asked():
    made = comparison.compare(machine(NAMES, 1e-3, 0.5), machine(NAMES, 5e-4, 0.5, level="avx512"))
    assert not made.same and len(made.rows) == 3 and not made.only_base
    assert made.rows[0].name.startswith("linear/panels/bf16/*/DeepSeek-V3/tokens:1/")

    one, all_threads = machine(NAMES, 1e-3, 0.5, threads="1"), machine(NAMES, 5e-4, 0.5)
    apart = comparison.compare(one, all_threads)
    assert apart.rows == [] and apart.refusals
    made = comparison.compare(one, all_threads, across=["threads"])
    assert not made.same and len(made.rows) == 3 and not made.refusals


def test_the_rulers_rows_of_other_levels_stay_apart():
    ruler = "fma_peak/fma_f32/f32/{}/none/elements:1/threads:all"

    def rows(level):
        work = {name.replace("avx2", level): [1e-3] for name in NAMES[:2]}
        return {**{ruler.format(each): [1e-3] for each in ("avx2", "avx512")}, **work}

    base, new = (Side(level, [synthetic.result(rows(level))]) for level in ("avx2", "avx512"))
    made = comparison.compare(base, new)
    assert [row.name.split("/")[3] for row in made.rows] == ["*"] * 3
    assert made.only_base == [ruler.format("avx512")] and made.only_new == [ruler.format("avx2")]


def test_two_rows_of_one_joined_name_are_refused():
    rows = {NAMES[0]: [1.0], NAMES[0].replace("threads:all", "threads:1"): [1.0]}
    two = Side("two", [synthetic.result(rows)])
    with pytest.raises(results.Unusable, match="expected one linear/.*threads:\\*, got "):
        comparison.compare(two, two, across=["threads"])


# ---- Conclusions

def decode(times, **context):
    """Absorbed MLA beside MHA by context: {ctx: (seconds of MLA, of MHA)}; roofs 0.5 and 1."""
    rows = {}
    for size, (mla, mha) in times.items():
        shape = f"batch:1/q:1/ctx:{size}/threads:all"
        rows[f"mla_decode/absorbed/bf16/avx2/DeepSeek-V3/{shape}"] = [mla], {"roof": 0.5}
        rows[f"attention_decode/flash/bf16/avx2/DeepSeek-V3~mha/{shape}"] = [mha], {"roof": 1.0}
    return synthetic.result(rows, **context)


def test_conclusions_have_no_unit_and_a_crossing():
    drawn = conclusions.conclusions([decode({1024: (2.0, 1.0), 4096: (1.0, 2.0)})])
    where = "absorbed MLA over MHA, decode: DeepSeek-V3 bf16 batch:1/q:1/threads:all"
    assert drawn == {f"{where}/ctx:1024": "0.50x (ideal 1.00x)", f"{where}/ctx:4096": "2.00x (ideal 4.00x)",
                     f"{where}: faster": "from ctx 2048"}


@pytest.mark.parametrize("gains, text", [
    ((2, 3), "always, ctx 1024 to 4096"), ((0.5, 0.9), "never, ctx 1024 to 4096"), ((4, 0.25), "up to ctx 2048"),
])
def test_crossings(gains, text):
    drawn = conclusions.conclusions([decode({1024: (1.0, gains[0]), 4096: (1.0, gains[1])})])
    assert [value for what, value in drawn.items() if what.endswith("faster")] == [text]


def test_sizes_that_are_no_numbers_have_no_crossing():
    start = decode({1024: (2.0, 1.0), 4096: (1.0, 2.0), 0: (1.0, 1.0), "\N{SUPERSCRIPT TWO}": (1.0, 1.0)})
    assert [text for what, text in conclusions.conclusions([start]).items() if what.endswith("faster")] == [
        "from ctx 2048"]


def test_rows_at_another_pace_conclude_nothing():
    start = decode({1024: (2.0, 1.0), 4096: (1.0, 2.0)})
    next(row for row in start.rows if row.keys["ctx"] == "4096").usual_pace = False
    assert [what.rpartition(":")[2] for what in conclusions.conclusions([start])] == ["1024"]


def test_moe_meets_its_dense_twins_though_their_keys_differ():
    rows = {"moe_experts/grouped/bf16/avx2/DeepSeek-V3/tokens:8/routing:uniform/threads:all": [2.0],
            "dense_ffn/panels/bf16/avx2/DeepSeek-V3~dense_active/tokens:8/intermediate_size:18432/threads:all": [1.0],
            "dense_ffn/panels/bf16/avx2/DeepSeek-V3~dense_total/tokens:8/intermediate_size:526336/threads:all": [6.0],
            "dense_ffn/panels/bf16/avx2/Mixtral~dense_total/tokens:8/intermediate_size:92928/threads:all": [9.0]}
    drawn = conclusions.conclusions([synthetic.result(rows)])
    assert list(drawn.values()) == ["0.50x (ideal 0.50x)", "3.00x (ideal 3.00x)"]


def test_whole_models_are_compared_whole():
    step = "decode_step/composed/bf16/avx2/{}/batch:1/q:1/ctx:4096/layers:{}/threads:all".format
    rows = {step("V3", "9/routing:uniform"): ([1.0], {"roof": 0.5, "model_tokens_per_second": 0.2}),
            step("V3~mha", "5/routing:uniform"): ([1.0], {"roof": 0.4, "model_tokens_per_second": 0.1}),
            step("V3~mha", "5/routing:zipf1"): ([9.0], {"roof": 0.4, "model_tokens_per_second": 0.01}),
            step("V3~dense_total", "2"): ([1.0], {"roof": 0.5, "model_tokens_per_second": 0.05})}
    drawn = conclusions.conclusions([synthetic.result(rows)])
    assert drawn == {
        "whole decode step over ~mha: V3 bf16 batch:1/q:1/layers:9/routing:uniform/threads:all/ctx:4096":
            "2.00x (ideal 1.60x)",
        "whole decode step over ~dense_total: V3 bf16 batch:1/q:1/layers:9/routing:uniform/threads:all/ctx:4096":
            "4.00x (ideal 4.00x)"}


def test_conclusions_stand_side_by_side():
    base = Side("base", [decode({1024: (1.0, 2.0)})])
    new = Side("new", [decode({1024: (1.0, 3.0), 2048: (1.0, 4.0)}, cpu_model="Bicus 1")])
    made = comparison.compare(base, new)
    where = "absorbed MLA over MHA, decode: DeepSeek-V3 bf16 batch:1/q:1/threads:all"
    assert made.conclusions[f"{where}/ctx:1024"] == ["2.00x (ideal 4.00x)", "3.00x (ideal 6.00x)"]
    assert made.conclusions[f"{where}/ctx:2048"] == [None, "4.00x (ideal 8.00x)"]


# ---- What differs, and which way it may push

@pytest.mark.parametrize("context, expected", [
    ({"build_compiler": "clang 14"}, "compiler: GCC 12.2.0 against clang 14: may push either way"),
    ({"build_type": "Debug"}, "build type: unknown against Debug: may push either way"),
    ({"env_OMP_WAIT_POLICY": "passive"}, "OMP_WAIT_POLICY: unknown against passive: may push new slower"),
    ({"canary_gbs_before": "80", "canary_gbs_after": "80"}, "bandwidth (GB/s): 100 against 80: may push new slower"),
    ({"canary_gflops_after": "400"},
     "multiply rate (GFLOP/s) moved by -20 % during the run: may push its later rows slower"),
    ({"build_git_dirty": "yes"}, "new: built from a tree with changes that no commit names"),
    ({"load_before": "3.5"}, "new: load average 3.5 at its start: may push new slower"),
])
def test_warnings_say_which_way(context, expected):
    made = comparison.compare(side([[0.0]]), side([[0.0]], **context))
    assert any(expected in warning for warning in made.warnings), made.warnings
    assert not made.refusals


def test_equal_settings_warn_of_nothing():
    assert comparison.compare(side([[0.0]]), side([[0.0]])).warnings == []


@pytest.mark.parametrize("values, expected", [
    (("powersave", "performance"), "new faster"), (("performance", "powersave"), "new slower"),
    (("performance", "schedutil"), "either way"),
])
def test_governors(values, expected):
    base, new = (side([[0.0]], governor=value) for value in values)
    warning, = comparison.compare(base, new).warnings
    assert warning.endswith(f"may push {expected}")


def test_cold_against_warm_is_warned_of():
    warm = Side("warm", [synthetic.result({NAMES[0]: ([1.0], {"cold": 0})})])
    assert any("cold on one side" in warning for warning in comparison.compare(side([[0.0]]), warm).warnings)


# ---- The command line

def files(tmp_path, name, logs, **context):
    """A folder of result files, one per start."""
    for i, start in enumerate(side(logs, **context).starts):
        synthetic.write(tmp_path / name / f"{i}.json", {row.name: list(row.seconds) for row in start.rows}, **context)
    return tmp_path / name


def plain(*comparisons):
    out = io.StringIO()
    pages.write_plain(comparisons, out)
    return out.getvalue()


@pytest.fixture
def pair(tmp_path):
    rng = np.random.default_rng(10)
    base, new = (rng.normal(0, 0.004, (3, 10)) for _ in range(2))
    new[1] += math.log(1.2)
    return files(tmp_path, "before", base), files(tmp_path, "after", new)


def run(*arguments):
    return compare.main([str(argument) for argument in arguments])


def test_folders_of_starts_are_compared(pair, capsys):
    assert run(*pair) == 0
    out = capsys.readouterr().out
    assert "after against before: the same machine and setting" in out
    assert re.search(rf"{NAMES[1]} .* SLOWER", out) and f"SLOWER: {NAMES[1]}: +" in out
    assert re.search(rf"{NAMES[0]} .* SAME", out)
    assert "3 rows in both: 1 SLOWER, 2 SAME." in out


def test_the_starts_of_a_folder_are_in_the_order_of_their_dates(tmp_path):
    for name, hour in (("b", 1), ("a", 2), ("c", 3)):
        synthetic.write(tmp_path / f"{name}.json", {NAMES[0]: [hour]})
        document = results.read_json(tmp_path / f"{name}.json")
        document["context"]["date"] = f"2026-11-01T0{hour}:00:00+0000"
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    assert [start.rows[0].time for start in comparison.load_side(tmp_path).starts] == pytest.approx([1, 2, 3])


def test_timing_is_a_gate_only_when_asked(pair, capsys):
    assert run(*pair, "--fail-on", "slower") == 1
    assert "a row is SLOWER: 1" in capsys.readouterr().err
    assert run(pair[1], pair[0], "--fail-on", "slower") == 0
    assert run(*pair, "--filter", "tokens:1/", "--fail-on", "slower") == 0


def changed(tmp_path):
    base = synthetic.write(tmp_path / "base.json", {NAMES[0]: [1.0], NAMES[1]: [1.0]})
    new = synthetic.write(tmp_path / "new.json", {NAMES[0]: [1.0], NAMES[1]: ([1.0], {"flops": 3e7 + 1})})
    return base, new


def test_an_exact_counter_is_the_default_gate(tmp_path, capsys):
    assert run(*changed(tmp_path)) == 1
    captured = capsys.readouterr()
    assert "CHANGED: flops" in captured.out and f"{NAMES[1]}: flops was 30000000, is 30000001." in captured.out
    assert "an exact counter changed: 1" in captured.err


def test_an_exact_counter_is_that_of_every_repetition(tmp_path, capsys):
    made = synthetic.document({NAMES[0]: [1.0, 2.0, 3.0]})
    made["benchmarks"][0]["flops"] += 1  # the middle one is another
    base = synthetic.write(tmp_path / "base.json", {NAMES[0]: [1.0, 2.0, 3.0]})
    new = tmp_path / "new.json"
    new.write_text(json.dumps(made))
    assert run(base, new) == 1
    assert "CHANGED: flops" in capsys.readouterr().out


def test_a_changed_row_is_not_comparable_where_it_is_no_gate(tmp_path, capsys):
    assert run(*changed(tmp_path), "--fail-on", "none") == 3
    assert "exact counters differ in 1 rows" in capsys.readouterr().err
    assert run(*changed(tmp_path), "--fail-on", "none", "--force") == 0
    assert "CHANGED" not in capsys.readouterr().out


def test_new_errors_and_missing_rows_are_gates(tmp_path, capsys):
    good = synthetic.write(tmp_path / "good.json", {NAMES[0]: [1.0], NAMES[1]: [1.0]})
    wrong = synthetic.write(tmp_path / "wrong.json", {NAMES[0]: [1.0], NAMES[1]: ([0.0], {"error": "wrong result"})})
    fewer = synthetic.write(tmp_path / "fewer.json", {NAMES[0]: [1.0]})
    assert run(good, wrong) == 1
    assert "ERROR in new: wrong result" in capsys.readouterr().out
    assert run(wrong, good) == 0
    assert run(good, fewer) == 0
    assert f"only in base\n{NAMES[1]}" in capsys.readouterr().out
    assert run(good, fewer, "--fail-on", "missing") == 1
    assert run(fewer, good, "--fail-on", "missing") == 0


@pytest.mark.parametrize("context, expected", [
    ({"seed": "2"}, "seeds differ"),
    ({"models": "DeepSeek-V3: hidden_size 1024"}, "shapes differ under one name: DeepSeek-V3"),
])
def test_what_is_not_comparable_is_refused(tmp_path, capsys, context, expected):
    base = synthetic.write(tmp_path / "base.json", {NAMES[0]: [1.0]})
    new = synthetic.write(tmp_path / "new.json", {NAMES[0]: [1.0]}, **context)
    assert run(base, new) == 3
    captured = capsys.readouterr()
    assert captured.out == "" and expected in captured.err
    assert run(base, new, "--force") == 0
    assert f"Not comparable: {expected}" in capsys.readouterr().out


def test_no_row_in_both_is_refused(tmp_path, capsys):
    base = synthetic.write(tmp_path / "base.json", {NAMES[0]: [1.0]})
    new = synthetic.write(tmp_path / "new.json", {NAMES[1]: [1.0]})
    assert run(base, new) == 3
    assert "no row is in both" in capsys.readouterr().err


def test_what_names_nothing_is_refused(tmp_path, capsys):
    file = synthetic.write(tmp_path / "made.json", {NAMES[0]: [1.0]})
    for arguments, expected in (((file, file, "--filter", "nosuchthing"), "--filter: expected [^\n]+'nosuchthing'"),
                                ((file, ""), "expected a result file or a folder of them, got ''")):
        assert run(*arguments) == 2
        assert re.fullmatch(rf"compare.py: {expected}\n", capsys.readouterr().err)


def test_slower_cannot_be_asked_of_another_machine(tmp_path, capsys):
    base = synthetic.write(tmp_path / "base.json", {NAMES[0]: [1.0]})
    new = synthetic.write(tmp_path / "new.json", {NAMES[0]: [1.0]}, cpu_model="Bicus 1")
    assert run(base, new, "--fail-on", "slower") == 3
    assert run(base, new, "--fail-on", "slower", "--as", "same") == 0
    assert run(base, new) == 0


def test_each_file_is_compared_with_the_first(tmp_path, capsys):
    paths = [synthetic.write(tmp_path / f"{name}.json", {NAMES[0]: [1.0]}) for name in ("first", "second", "third")]
    assert run(*paths) == 0
    out = capsys.readouterr().out
    assert "second against first" in out and "third against first" in out and "third against second" not in out


BAD_FILES = {"missing": None, "empty": "", "cut off": '{"context": {"da', "foreign": '{"context": {}}',
             "no JSON": "real 0m1.0s", "nan": "[NaN]"}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_one_sentence_and_status_2(tmp_path, capsys, kind):
    good = synthetic.write(tmp_path / "good.json", {NAMES[0]: [1.0]})
    bad = tmp_path / "bad.json"
    if BAD_FILES[kind] is not None:
        bad.write_text(BAD_FILES[kind])
    for arguments in ((good, bad), (bad, good), (good, good, bad)):
        assert run(*arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert re.fullmatch(rf"compare.py: {re.escape(str(bad))}: [^\n]*expected [^\n]+\n", captured.err), captured.err


def test_a_folder_without_results_is_status_2(tmp_path, capsys):
    assert run(tmp_path, tmp_path) == 2
    assert "expected a folder with result files" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [
    [], ["one.json"], ["a", "b", "--format", "pdf"], ["a", "b", "--filter", "("], ["a", "b", "--across", "model"],
    ["a", "b", "--fail-on", "rain"], ["a", "b", "--starts", "0"], ["a", "b", "--into", "c"],
    ["a", "b", "--", "--op", "linear"], ["c", "--run", "a", "b"], ["--run", "a"], ["a", "b", "--nonsense"],
])
def test_bad_usage_is_one_sentence_and_status_2(capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == "" and re.fullmatch(r"compare.py: [^\n]+\n", captured.err)


def test_a_file_that_cannot_be_written_is_status_2(pair, tmp_path, capsys):
    assert run(*pair, "--out", tmp_path / "no" / "such" / "folder.md") == 2
    assert "--out" in capsys.readouterr().err


def test_a_result_is_never_written_over(pair, tmp_path, capsys):
    for out in (pair[0] / "3.json", tmp_path / "before" / ".." / "after" / "0.json"):
        kept = out.read_bytes()
        assert run(*pair, "--out", out) == 2
        assert re.fullmatch(r"compare\.py: --out: [^\n]*expected [^\n]+\n", capsys.readouterr().err)
        assert out.read_bytes() == kept


# ---- Formats

class Cells(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.cells, self.links = [], [], []

    def handle_starttag(self, tag, attributes):
        self.open += [tag] if tag != "meta" else []
        self.links += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "td":
            self.cells.append(data)


def test_json(pair, tmp_path):
    out = tmp_path / "out.json"
    assert run(*pair, "--format", "json", "--out", out) == 0
    made, = results.read_json(out)
    assert made["same"] and made["base"]["name"] == "before" and len(made["new"]["files"]) == 10
    assert [row["verdict"] for row in made["rows"]] == ["SAME", "SLOWER", "SAME"]
    assert made["rows"][1]["low"] < 1.2 < made["rows"][1]["high"]


def test_csv(pair, tmp_path):
    out = tmp_path / "out.csv"
    assert run(*pair, "--format", "csv", "--out", out) == 0
    rows = list(csv.DictReader(out.open()))
    assert [row["name"] for row in rows] == NAMES[:3]
    assert rows[1]["verdict"] == "SLOWER" and float(rows[1]["ratio"]) == pytest.approx(1.2, rel=0.02)


def test_csv_lists_rows_of_one_side(tmp_path, capsys):
    base = synthetic.write(tmp_path / "base.json", {NAMES[0]: [1.0], NAMES[1]: [1.0]})
    new = synthetic.write(tmp_path / "new.json", {NAMES[0]: [1.0], NAMES[2]: [1.0]})
    assert run(base, new, "--format", "csv") == 0
    rows = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert [(row["name"], row["only_in"]) for row in rows] == [(NAMES[0], ""), (NAMES[1], "base"), (NAMES[2], "new")]


def test_md(pair, capsys):
    assert run(*pair, "--format", "md") == 0
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("|")]
    assert len(lines) == 5 and {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {9}
    assert lines[1].startswith("| --- | ---: |")
    assert "## after against before" in out


def test_html(pair, capsys):
    assert run(*pair, "--format", "html") == 0
    out = capsys.readouterr().out
    parser = Cells()
    parser.feed(out)
    assert parser.open == [] and parser.links == []
    assert NAMES[1] in parser.cells and "SLOWER" in parser.cells


def test_html_escapes_names(tmp_path, capsys):
    paths = [synthetic.write(tmp_path / f"{name}.json", {NAMES[0]: [1.0]}, alias=f"<b>{name}") for name in ("a", "b")]
    assert run(*paths, "--format", "html") == 0
    assert "&lt;b&gt;b against &lt;b&gt;a" in capsys.readouterr().out


def test_every_format_takes_another_machine(tmp_path, capsys):
    base = synthetic.write(tmp_path / "base.json", {NAMES[0]: [1.0], NAMES[1]: [1.0]})
    rows = {NAMES[0]: [1.0], NAMES[2]: ([0.0], {"error": "wrong"})}
    new = synthetic.write(tmp_path / "new.json", rows, cpu_model="B")
    for form in pages.FORMATS:
        assert run(base, new, "--format", form) == 0
        assert NAMES[0] in capsys.readouterr().out


def test_a_terminal_gets_the_same_words_by_rich(pair):
    made = comparison.compare(*map(comparison.load_side, pair))
    console = rich.console.Console(file=io.StringIO(), width=250, highlight=False)
    pages.write_rich([made], console)
    text = console.file.getvalue()
    assert NAMES[1] in text and "SLOWER" in text and "3 rows in both: 1 SLOWER, 2 SAME." in text


def test_a_terminal_gets_names_as_they_are():
    made = comparison.compare(side([[0]], "one [/] :x:"), side([[0]], "two [bold]"))
    console = rich.console.Console(file=io.StringIO(), width=250, highlight=False)
    pages.write_rich([made], console)
    assert "two [bold] against one [/] :x:" in console.file.getvalue()


# ---- Starting programs

def test_programs_are_started_by_turns(tmp_path, capsys):
    log = tmp_path / "log"
    old = synthetic.program(tmp_path / "old", log, 1.0, sys.executable)
    new = synthetic.program(tmp_path / "new", log, 1.5, sys.executable)
    into = tmp_path / "starts"
    assert run("--run", old, new, "--starts", "5", "--into", into, "--fail-on", "slower", "--", "--op", "linear") == 1
    assert log.read_text().splitlines() == [f"{word} run --op linear" for word in
                                            ("old", "new", "new", "old", "old", "new", "new", "old", "old", "new")]
    assert len(list((into / "base").iterdir())) == len(list((into / "new").iterdir())) == 5
    captured = capsys.readouterr()
    assert f"SLOWER: {NAMES[0]}: +50.0 %" in captured.out
    assert "start 10 of 10" in captured.err
    assert run("--run", old, new, "--into", into) == 2
    assert "expected a folder that is not there yet" in capsys.readouterr().err


def test_a_program_that_fails_is_one_sentence_and_status_2(tmp_path, capsys):
    good = synthetic.program(tmp_path / "good", tmp_path / "log", 1.0, sys.executable)
    bad = synthetic.program(tmp_path / "bad", tmp_path / "log", 1.0, sys.executable, status=3)
    for second, expected in ((bad, "got exit status 3"), (tmp_path / "none", "No such file"),
                             ("true", "got exit status 0: it said nothing")):
        assert run("--run", good, second, "--into", tmp_path / f"starts {expected}") == 2
        assert expected in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("row, status, expected", [(NAMES[1], 3, "no row is in both"), ("linear", 2, "expected text")])
def test_starts_end_with_the_first_that_cannot_be_compared(tmp_path, capsys, row, status, expected):
    log = tmp_path / "log"
    programs = [synthetic.program(tmp_path / word, log, 1.0, sys.executable, row=name)
                for word, name in (("old", NAMES[0]), ("new", row))]
    assert run("--run", *programs, "--into", tmp_path / "starts") == status
    *_, where, reason = capsys.readouterr().err.splitlines()
    assert where == f"Results of the starts: {tmp_path / 'starts'}" and expected in reason
    assert len(log.read_text().splitlines()) == 2


def test_a_program_may_complain_in_any_bytes(tmp_path, capsys):
    bad = tmp_path / "bad"
    bad.write_text("#!/bin/sh\nprintf 'na\\357ve\\n' >&2\nexit 3\n")
    bad.chmod(0o755)
    assert run("--run", bad, bad, "--into", tmp_path / "starts") == 2
    assert capsys.readouterr().err.endswith("got exit status 3: na\N{REPLACEMENT CHARACTER}ve\n")


# ---- Real files
def test_a_real_file_compared_with_itself(smoke_file, capsys):
    assert run(smoke_file, smoke_file) == 0
    out = capsys.readouterr().out
    assert "the same machine and setting" in out
    assert re.search(r"(\d+) rows in both: \1 UNCLEAR\.", out)
