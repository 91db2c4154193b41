"""Two sides compared row by row: starts, statistics, verdicts. The help of compare.py says what these mean."""
import math
import pathlib
import re
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

import results
from conclusions import conclusions
from results import Unusable

MIN_STARTS = 5  # of these the 95 % interval of a median is the range of all; of fewer there is none
LEAST_FLOOR = math.log(1.03)
CONFIDENCE = 0.95
RESAMPLES = 2000


# ---- Sides

@dataclass
class Side:
    """One program on one machine: the results of its starts, by date."""
    name: str
    starts: list

    def __post_init__(self):
        levels = {row.impl for start in self.starts for row in start.rows if row.model != "none"}
        self.level = levels.pop() if len(levels) == 1 else None  # of instructions, where all rows share one

    def facts(self, key):
        """The values of a key of the context, each once."""
        return list(dict.fromkeys(start.context.get(f"mmb.{key}", "unknown") for start in self.starts))

    def number(self, key):
        """The median of a key of the context over starts; NaN where none is a number."""
        values = [start.context.get(f"mmb.{key}", "unknown") for start in self.starts]
        numbers = [float(value) for value in values if re.fullmatch(r"[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?", value)]
        return float(np.median(numbers)) if numbers else math.nan


def load_side(path):
    """Of a result file, or of a folder of them."""
    if path == "":
        raise Unusable("expected a result file or a folder of them, got ''")
    path = pathlib.Path(path)
    if not path.is_dir():
        start = results.load(path)
        return Side(start.name, [start])
    files = sorted(path.glob("*.json"))
    if not files:
        raise Unusable(f"{path}: expected a folder with result files (*.json), got none")
    starts = [results.load(file) for file in files]
    return Side(path.resolve().name, sorted(starts, key=lambda start: start.context["date"]))


# ---- Statistics. Ratios are logarithms here, of the new time over the base's.

def paired_interval(ratios):
    """Of the median of each line of [rows, pairs]."""
    return _interval((ratios,), lambda sample, axis: np.median(sample, axis=axis))


def unpaired_interval(base, new):
    """Of the difference of the medians of each line of [rows, base's samples] and [rows, new's samples]."""
    return _interval((base, new), lambda a, b, axis: np.median(b, axis=axis) - np.median(a, axis=axis))


def _interval(samples, statistic):
    found = stats.bootstrap(samples, statistic, axis=-1, vectorized=True, method="percentile", n_resamples=RESAMPLES,
                            confidence_level=CONFIDENCE, random_state=0).confidence_interval
    return found.low, found.high


def noise(base):
    """How far apart medians of as many starts of the base itself lie by chance: of each line of [rows, starts]."""
    starts = base.shape[-1]
    if starts == 1:
        return np.zeros(len(base))
    drawn = np.random.default_rng(0).integers(starts, size=(2, RESAMPLES, starts))
    one, other = (np.median(base[:, some], axis=-1) for some in drawn)
    return np.quantile(np.abs(one - other), CONFIDENCE, axis=-1)


def verdict(low, high, floor):
    if low > floor:
        return "SLOWER"
    if high < -floor:
        return "FASTER"
    # A noisy base, whose floor is high, is no reason to call a change none.
    return "SAME" if -LEAST_FLOOR < low and high < LEAST_FLOOR else "UNCLEAR"


def starts_that_tell(estimate, low, high, noise, starts):
    """From how many starts on there is a verdict, if the estimate stays, and interval and noise shrink with the root of
    the number."""
    width = max(high - estimate, estimate - low, 1e-9)
    beyond = abs(estimate) - LEAST_FLOOR
    # SLOWER and FASTER ask for |estimate| - shrink * width > max(LEAST_FLOOR, shrink * noise), SAME for
    # |estimate| + shrink * width < LEAST_FLOOR.
    shrink = min(beyond / width, abs(estimate) / (width + noise)) if beyond > 0 else -beyond / width
    return max(starts + 1, MIN_STARTS, math.ceil(starts / max(shrink, 1e-3) ** 2))


def holm(p):
    """Holm's step-down correction."""
    p = np.asarray(p, dtype=float)
    order = np.argsort(p)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return corrected


# ---- Rows

# Decided by the shape alone: under one name equal to the last digit, on any machine.
EXACT = ("flops", "bytes_weights", "bytes_kv", "bytes_activations", "kv_bytes_per_token", "experts_touched", "exps",
         "params_delta", "useful_flops")


@dataclass
class Compared:
    """A row of both sides. Ratios are new over base, of times: above 1 the new one is slower."""
    name: str
    base_rows: list = field(repr=False)  # results.Row, one per start
    new_rows: list = field(repr=False)
    starts: int = 0  # of the side that has fewer
    base_seconds: float = None
    new_seconds: float = None
    ratio: float = None
    low: float = None  # of the 95 % interval of the ratio
    high: float = None
    interval_of: str = None  # "starts"; "repetitions" where there is one start: then it is too narrow
    floor: float = None  # 1.03: 3 %
    verdict: str = None  # FASTER SLOWER SAME UNCLEAR; CHANGED: an exact counter is; ERROR: a side has one
    starts_that_tell: int = None
    stands_out: bool = False  # from the other rows, where there are too few starts for a verdict
    p: float = None
    p_holm: float = None
    ideal_ratio: float = None  # of ideal times: what the measured peaks of both explain
    bound: str = None  # memory or arithmetic
    changed: dict = field(default_factory=dict)  # exact counter: [base, new]
    errors: dict = field(default_factory=dict)  # side: what went wrong

    def __post_init__(self):
        self.starts = min(len(self.base_rows), len(self.new_rows))
        self.errors = {side: row.error for side, rows in (("base", self.base_rows), ("new", self.new_rows))
                       for row in rows if row.error is not None}
        if self.errors:
            self.verdict = "ERROR"
            return
        self.base_seconds, self.new_seconds = self._medians("time")
        self.ratio = self.new_seconds / self.base_seconds
        ideals = self._medians("ideal_seconds")
        if min(ideals) > 0:
            self.ideal_ratio = ideals[1] / ideals[0]
        rows = self.base_rows + self.new_rows
        self.bound = " and ".join(sorted({"memory" if row.counters.get("bound") else "arithmetic" for row in rows}))
        for counter in EXACT:
            values = [entry[counter] for row in rows for entry in row.entries if counter in entry]
            self.changed.update({counter: [values[0], value] for value in values if value != values[0]})

    @property
    def left_ratio(self):
        """What the peaks do not explain."""
        return None if self.ideal_ratio is None else self.ratio / self.ideal_ratio

    def _medians(self, attribute):
        return [float(np.median([getattr(row, attribute) for row in rows])) for rows in (self.base_rows, self.new_rows)]

    def logs(self):
        """Logarithms of the starts' times, of both sides."""
        return [np.log([row.time for row in rows]) for rows in (self.base_rows, self.new_rows)]

    def all_logs(self):
        """Of every repetition of every start."""
        return [np.log(np.concatenate([row.seconds for row in rows])) for rows in (self.base_rows, self.new_rows)]

    def set_interval(self, low, high, of):
        self.low, self.high, self.interval_of = math.exp(low), math.exp(high), of


def by_starts(rows):
    """(rows, log times of the base [rows, starts], of the new) for each number of starts: arrays have no gaps."""
    groups = {}
    for row in rows:
        groups.setdefault((len(row.base_rows), len(row.new_rows)), []).append(row)
    for group in groups.values():
        yield group, *(np.array(side) for side in zip(*(row.logs() for row in group)))


def judge(rows):
    """Of one machine and setting: did the change matter?"""
    for group, base, new in by_starts(rows):
        starts = group[0].starts
        ratios = new[:, :starts] - base[:, :starts]
        estimates, noises = np.median(ratios, axis=-1), noise(base)
        lows, highs = paired_interval(ratios) if starts > 1 else (None, None)
        for i, row in enumerate(group):
            row.ratio, row.floor = math.exp(estimates[i]), math.exp(max(LEAST_FLOOR, noises[i]))
            row.verdict, row.starts_that_tell = "UNCLEAR", MIN_STARTS
            if starts == 1:
                interval_of_repetitions(row)
                continue
            row.set_interval(lows[i], highs[i], "starts")
            row.starts_that_tell = starts_that_tell(estimates[i], lows[i], highs[i], noises[i], starts)
            if starts >= MIN_STARTS:
                row.verdict = verdict(lows[i], highs[i], math.log(row.floor))
            if row.verdict != "UNCLEAR":
                row.starts_that_tell = None
    test_ranks([row for row in rows if row.starts > 1])
    mark_outstanding([row for row in rows if row.starts < MIN_STARTS])


def weigh(rows):
    """Of different ones: how far apart are they?"""
    for group, base, new in by_starts(rows):
        if group[0].starts > 1:
            for row, low, high in zip(group, *unpaired_interval(base, new)):
                row.set_interval(low, high, "starts")
        else:
            for row in group:
                interval_of_repetitions(row)


def interval_of_repetitions(row):
    base, new = row.all_logs()
    if min(len(base), len(new)) > 1:
        row.set_interval(*unpaired_interval(base, new), "repetitions")


def test_ranks(rows):
    for row in rows:
        row.p = float(stats.mannwhitneyu(*row.logs(), method="exact").pvalue)
    for row, p in zip(rows, holm([row.p for row in rows])):
        row.p_holm = float(p)


def mark_outstanding(rows):
    """Of too few starts: how far apart the other rows' ratios lie says how far chance carries one."""
    if len(rows) < 10:
        return
    ratios = np.log([row.ratio for row in rows])
    distances = np.abs(ratios - np.median(ratios))
    limit = max(math.log(1.25), 5 * stats.median_abs_deviation(ratios, scale="normal"))
    for row, distance in zip(rows, distances):
        base, new = row.all_logs()
        row.stands_out = bool(distance > limit and (base.max() < new.min() or new.max() < base.min()))


# ---- Sides compared

@dataclass
class Comparison:
    base: Side
    new: Side
    same: bool  # machine and setting
    rows: list
    only_base: list  # names
    only_new: list
    refusals: list  # why not to compare
    warnings: list
    notes: list
    conclusions: dict  # what: [base, new]

    def having(self, verdict):
        return [row for row in self.rows if row.verdict == verdict]


def compare(base, new, same=None, across=(), keep=lambda name: True, force=False):
    """The Comparison of two Sides. `same`: of one machine and setting, None: as their contexts say; `across`: parts of
    names that may differ; `keep`: of a name, whether to compare it; `force`: time also what exact counters forbid."""
    join = Join(base, new, across)
    others = differing_settings(base, new, join.across)
    same = not others if same is None else same
    base_rows, new_rows = join.rows(base, keep), join.rows(new, keep)
    rows = [Compared(name, some, new_rows[name]) for name, some in base_rows.items() if name in new_rows]
    for row in rows:
        if row.changed and not force:
            row.verdict = "CHANGED"
    timed = [row for row in rows if row.verdict is None]
    (judge if same else weigh)(timed)

    refusals = reasons_to_refuse(base, new)
    if not rows:
        refusals.append("no row is in both; --across joins names that differ in their level or threads")
    notes = [f"joined across {' and '.join(sorted(join.across))}"] * bool(join.across)
    notes += [f"another {other}" for other in others] + sample_notes(base, new, timed, same)
    drawn = [conclusions(side.starts, keep, unnamed=join.across) for side in (base, new)]
    return Comparison(base, new, same, rows,
                      only_base=[name for name in base_rows if name not in new_rows],
                      only_new=[name for name in new_rows if name not in base_rows],
                      refusals=refusals, warnings=warnings(base, new, rows, same), notes=notes,
                      conclusions={what: [of.get(what) for of in drawn] for what in {**drawn[0], **drawn[1]}})


class Join:
    """Which rows of two sides have one name. Where each side has rows of one level, levels are joined unasked."""

    def __init__(self, base, new, across):
        self.across = set(across)
        if base.level and new.level and base.level != new.level:
            self.across.add("impl")

    def rows(self, side, keep):
        """{name: rows, one per start}"""
        found = {}
        for start in side.starts:
            names = {}
            for row in filter(lambda row: keep(row.name), start.rows):
                name = self.name(row, side)
                if name in names:
                    raise Unusable(f"{start.path}: benchmarks: expected one {name}, got {names[name]} and {row.name}; "
                                   "--filter chooses")
                names[name] = row.name
                found.setdefault(name, []).append(row)
        return found

    def name(self, row, side):
        name = row.name
        # A ruler's row of a level that is not the compared one keeps its own.
        if "impl" in self.across and row.impl == (side.level or row.impl):
            name = name.replace(f"/{row.impl}/", "/*/", 1)
        return re.sub("/threads:[^/]*", "/threads:*", name) if "threads" in self.across else name


MACHINE = ("cpu_vendor", "cpu_model", "cpu_family", "cpu_model_number", "cpu_stepping", "cpus_online", "cores_allowed",
           "cache_l1d_bytes", "cache_l2_bytes", "cache_l3_bytes", "numa_nodes", "threads_all")


def differing_settings(base, new, across):
    """What makes this another machine or setting: "cpu_model: X against Y"."""
    words = [f"{key}: {against(base, new, key)}" for key in MACHINE if set(base.facts(key)) != set(new.facts(key))]
    if "impl" in across and base.level != new.level:
        words.append(f"level of instructions: {base.level} against {new.level}")
    if "threads" in across:
        words.append("number of threads")
    return words


def against(base, new, key):
    return " against ".join(" and ".join(side.facts(key)) for side in (base, new))


def reasons_to_refuse(base, new):
    reasons = []
    seeds = set(base.facts("seed") + new.facts("seed"))
    if len(seeds) > 1:
        reasons.append(f"seeds differ ({', '.join(sorted(seeds))}): other data and other routing")
    shapes = {}
    for text in base.facts("models") + new.facts("models"):
        for model, _, shape in (item.partition(": ") for item in text.split("; ")):
            shapes.setdefault(model, set()).add(shape)
    return reasons + [f"shapes differ under one name: {model}" for model, some in shapes.items() if len(some) > 1]


def sample_notes(base, new, rows, same):
    if not rows:
        return []
    notes = []
    counts = len(base.starts), len(new.starts)
    starts = min(counts)
    if any(row.interval_of == "repetitions" for row in rows):
        notes.append("intervals are over the repetitions inside one start, which share its luck: they are too narrow")
    if not same:
        return notes
    if counts[0] != counts[1]:
        notes.append(f"{counts[0]} starts against {counts[1]}: the first {starts} of both are paired")
    if starts < MIN_STARTS:
        notes.append(f"{starts} start{'s' * (starts > 1)} a side: too few for a verdict, {MIN_STARTS} are the least "
                     "(--run makes 10; or give a folder of result files a side)")
    elif 2 / math.comb(2 * starts, starts) * len(rows) > 1 - CONFIDENCE:
        notes.append(f"of {starts} starts a side over {len(rows)} rows p (Holm) cannot fall below {1 - CONFIDENCE:.2g}")
    return notes


# ---- Warnings: what differs, and which way it may push

@dataclass(frozen=True)
class Fact:
    """Of a run, which should be equal on both sides."""
    key: str
    title: str
    speed: object = lambda value: None  # value -> a number, larger where it makes faster; None: may push either way


def order(*values):
    """Of these the later make faster."""
    return lambda value: values.index(value) if value in values else None


FACTS = (
    Fact("build_type", "build type", order("Debug", "Release")),
    Fact("build_compiler", "compiler"),
    Fact("build_flags", "compiler flags"),
    Fact("isa_found", "instructions found"),
    Fact("threads_all", "threads", results.whole_number),
    Fact("openmp_proc_bind", "threads bound to cores", order("false", "close")),
    Fact("openmp_places", "OpenMP places"),
    Fact("prefetch_lines", "lines prefetched ahead"),
    Fact("env_OMP_WAIT_POLICY", "OMP_WAIT_POLICY", order("passive", "unknown", "active")),
    Fact("governor", "frequency governor", order("powersave", "performance")),
    Fact("transparent_huge_pages", "huge pages", order("never", "madvise", "always")),
    Fact("hypervisor", "hypervisor"),
    Fact("kernel", "kernel"),
    Fact("arena_bytes", "bytes of cold memory"),
    Fact("profile", "profile"),
    Fact("library_benchmark", "Google Benchmark"),
    Fact("library_openmp", "OpenMP"),
)
CANARIES = {"gbs": "bandwidth (GB/s)", "gflops": "multiply rate (GFLOP/s)"}
LEAST_CHANGE = 0.05  # of a canary from side to side
LEAST_DRIFT = 0.10  # of a canary within a run
LEAST_LOAD = 0.5  # cores


def warnings(base, new, rows, same):
    return ([text for fact in FACTS for text in differing_fact(fact, base, new)]
            + [text for canary in CANARIES for text in differing_canary(canary, base, new) if same]
            + [text for which, side in (("base", base), ("new", new)) for text in doubts(which, side)]
            + differing_caches(rows))


def differing_fact(fact, base, new):
    values = base.facts(fact.key), new.facts(fact.key)
    if set(values[0]) == set(values[1]):
        return
    speeds = [fact.speed(some[0]) if len(some) == 1 else None for some in values]
    way = "may push either way" if None in speeds else push(*speeds)
    yield f"{fact.title}: {against(base, new, fact.key)}: {way}"


def differing_canary(canary, base, new):
    rates = [side.number(f"canary_{canary}_before") for side in (base, new)]
    if abs(rates[1] - rates[0]) > LEAST_CHANGE * max(rates):
        yield f"the machine's {CANARIES[canary]}: {rates[0]:.4g} against {rates[1]:.4g}: {push(*rates)}"


def push(base, new):
    return f"may push new {'faster' if new > base else 'slower'}"


def doubts(which, side):
    if side.facts("build_git_dirty") != ["no"]:
        yield f"{which}: built from a tree with changes that no commit names: may push either way"
    load = side.number("load_before")
    if load > LEAST_LOAD:
        yield f"{which}: load average {load:.2g} at its start: may push {which} slower"
    for canary, title in CANARIES.items():
        drift = side.number(f"canary_{canary}_after") / side.number(f"canary_{canary}_before") - 1
        if abs(drift) > LEAST_DRIFT:
            yield (f"{which}: the machine's {title} moved by {100 * drift:+.0f} % during the run: may push its later "
                   f"rows {'faster' if drift > 0 else 'slower'}")


def differing_caches(rows):
    cold = [[{r.counters.get("cold") for r in some} for some in (row.base_rows, row.new_rows)] for row in rows]
    count = sum(base != new for base, new in cold)
    return [f"{count} rows are cold on one side and warm on the other: may push the warm side faster"] * bool(count)
