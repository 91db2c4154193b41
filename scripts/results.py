"""Result files of bench_mla run: read, checked, repetitions merged; and what the scripts share in showing them."""
import argparse
import contextlib
import functools
import itertools
import json
import math
import os
import pathlib
import re
import sys
from dataclasses import dataclass, field

HERE = pathlib.Path(__file__).resolve().parent
VENV = HERE.parent / "build/venv"  # made by scripts/setup.sh

if pathlib.Path(sys.argv[0]).resolve().parent == HERE and sys.prefix == sys.base_prefix:
    if (VENV / "bin/python").exists():  # has the libraries, which this python3 may lack
        os.execv(VENV / "bin/python", [str(VENV / "bin/python"), *sys.argv])
try:
    import jsonschema
    import numpy as np
    import scipy  # noqa: F401: not here, but in what imports this
except ModuleNotFoundError as missing:
    print(f"{sys.argv[0]}: this python3 has no {missing.name}: scripts/bench.sh makes build/venv, which has it; or run "
          f"`uv run {sys.argv[0]}`", file=sys.stderr)
    raise SystemExit(2) from None


class Unusable(Exception):
    """file: field: what was expected."""


class Parser(argparse.ArgumentParser):
    """Says in one sentence what is wrong with the command line."""
    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (--help shows the usage)\n")


@contextlib.contextmanager
def writing(where, what):
    """Of what is written meanwhile: where it goes, and what was expected there."""
    try:
        yield
    except OSError as error:
        raise Unusable(f"{where}: expected {what} that can be written: {error.strerror}") from None


def spare(read, written):
    """Refuses to write over what was read."""
    kept = {pathlib.Path(path).resolve() for path in read}
    for path in written:
        if path.resolve() in kept:
            raise Unusable(f"--out: {path}: expected a file that is none of the results")


@contextlib.contextmanager
def standard_output():
    """What is printed meanwhile has arrived at the end, unless its reader left early, as a pager may be left. Letters
    that its encoding lacks are escaped."""
    with writing("standard output", "a file"):
        try:
            sys.stdout.reconfigure(errors="backslashreplace")
            yield sys.stdout
            sys.stdout.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries it again at its end
            if not isinstance(error, BrokenPipeError):
                raise


@dataclass
class Row:
    """A kernel at a shape: op/algo/dtype/impl/model/key:value.../threads:n. Its time and its counters are those of the
    middle repetition, as in the verdict: medians of each would be of different ones, whose product nobody measured."""
    name: str
    label: str = ""
    seconds: np.ndarray = field(default_factory=lambda: np.empty(0))  # one per repetition
    counters: dict = field(default_factory=dict)
    error: str = None  # what went wrong; then there are no seconds
    entries: list = field(default_factory=list, repr=False)  # as they are in the file
    usual_pace: bool = True  # of the machine beside it, as bench/pace.h has it: else its time is no evidence

    def __post_init__(self):
        self.op, self.algo, self.dtype, self.impl, self.model, *keys = self.name.split("/")
        self.keys = dict(key.split(":", 1) for key in keys)

    @functools.cached_property
    def time(self):
        return float(np.sort(self.seconds)[_middle(self.seconds)]) if len(self.seconds) else math.nan

    @property
    def whole_seconds(self):
        """Of the whole model where only some of its layers were run."""
        rate, batch, new = self.counters.get("model_tokens_per_second"), self.number("batch"), self.number("q")
        return batch * new / rate if rate and batch and new else self.time

    @property
    def uniformly_routed(self):
        """Or without experts: not one of several rows that differ in routing alone."""
        return self.keys.get("routing", "uniform") == "uniform" and "overlap" not in self.keys

    @property
    def roof(self):
        return self.counters.get("roof", math.nan)

    @property
    def ideal_seconds(self):
        return self.roof * self.time

    @property
    def base_model(self):
        return self.model.partition("~")[0]

    @property
    def counterfactual(self):
        return self.model.partition("~")[2]

    @property
    def variant(self):
        """The word in VARIANTS that this row is coloured by, or ""."""
        words = (self.counterfactual, self.keys.get("attention"), self.algo, self.op.partition("_")[0])
        return next((word for word in words if word in VARIANTS), "")

    def number(self, key):
        """The number behind a key, or None: not there, or a range as of uneven contexts."""
        return whole_number(self.keys.get(key, ""))


MOST_OFF = 1.25  # of peaks beside a row, from the middle of their kind
MOST_ROOF = 1.1  # beyond, the peak was measured slower than the row ran


@dataclass
class Result:
    path: str
    name: str  # short: the alias of the run, else the name of the file
    context: dict
    rows: list

    def __post_init__(self):
        self.by_name = {row.name: row for row in self.rows}
        peaks = {}  # of rows whose peaks are of one kind
        for row in self.select():
            memory = row.counters["bound"]
            kind = row.keys["threads"], row.impl, memory or row.label.partition(";")[0]
            peaks.setdefault(kind, []).append((row.counters["peak_gbs" if memory else "peak_gflops"], row))
        for some in peaks.values():
            middle = sorted(peak for peak, _ in some)[len(some) // 2]
            for peak, row in some:
                outran = row.counters.get("cold") and row.roof > MOST_ROOF  # what is warm may be faster than memory
                row.usual_pace = middle / MOST_OFF <= peak <= middle * MOST_OFF and not outran

    def select(self, op=None, algo=None, dtype=None, impl=None, model=None, **keys):
        """Rows without an error whose parts are these, in the order of the file; a key that is None is to be absent."""
        wanted = {"op": op, "algo": algo, "dtype": dtype, "impl": impl, "model": model}
        return [row for row in self.rows
                if row.error is None
                and all(value is None or getattr(row, part) == value for part, value in wanted.items())
                and all(row.keys.get(key) == (None if value is None else str(value)) for key, value in keys.items())]


# ---- Reading

def load(path):
    """The Result in a file, or Unusable in one sentence."""
    document = read_json(path)
    context = document.get("context") if isinstance(document, dict) else None
    if not isinstance(context, dict) or "mmb.schema_version" not in context:
        raise Unusable(f"{path}: context.mmb.schema_version: expected the result of bench_mla run, got another file")
    error = jsonschema.exceptions.best_match(_validator().iter_errors(document))
    if error:
        raise Unusable(f"{path}: {_field(error.absolute_path)}: {_expected(error)}")
    if not document["benchmarks"]:
        raise Unusable(f"{path}: benchmarks: expected rows, got none: the run ended before its first")
    repetitions = set()
    for at, entry in enumerate(document["benchmarks"]):
        repetition = entry["name"], entry["repetition_index"]
        if repetition in repetitions:
            raise Unusable(f"{path}: benchmarks[{at}].repetition_index: expected one that {entry['name']} does not have "
                           f"above, got {entry['repetition_index']}")
        repetitions.add(repetition)
    return result_of(document, path)


def result_of(document, path):
    """The Result in a document that follows the schema."""
    entries = {}
    for entry in document["benchmarks"]:
        entries.setdefault(entry["name"], []).append(entry)
    context = document["context"]
    alias = context.get("mmb.alias", "none")
    name = pathlib.Path(path).stem if alias == "none" else alias
    return Result(str(path), name, context, [_row(name, some) for name, some in entries.items()])


def figures(text):
    """{model: {figure: number}} of a fact of the context such as mmb.accounts."""
    models = {}
    for part in filter(None, text.split("; ")):
        model, _, words = part.rpartition(":")
        names, values = words.split()[::2], words.split()[1::2]
        models[model] = dict(zip(names, map(float, values)))
    return models


def accounts(context, key):
    """Such figures of models, those above 0: others divide, or are drawn on logarithmic axes."""
    return {model: {figure: number for figure, number in account.items() if number > 0}
            for model, account in figures(context.get(key, "")).items()}


def whole_number(text):
    """Or None."""
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def read_json(path):
    """Strict JSON: NaN, Infinity and repeated keys are errors."""
    def unique(pairs):
        members = dict(pairs)
        if len(members) < len(pairs):
            raise ValueError("an object repeats a key")
        return members

    def refuse(constant):
        raise ValueError(f"{constant} is not a number of JSON")

    try:
        text = pathlib.Path(path).read_text(encoding="utf-8-sig")
        if not text.strip():
            raise Unusable(f"{path}: expected JSON, got an empty file")
        document = json.loads(text, parse_constant=refuse, object_pairs_hook=unique)
        json.dumps(document, ensure_ascii=False).encode()
        return document
    except OSError as error:
        raise Unusable(f"{path}: expected a file that can be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Unusable(f"{path}: expected JSON, got bytes that are no text") from None
    except UnicodeEncodeError as error:
        before = error.object[:error.start][-40:]
        raise Unusable(f"{path}: expected JSON, got half of a character after {before}") from None
    except RecursionError:
        raise Unusable(f"{path}: expected JSON, got brackets without end") from None
    except json.JSONDecodeError as error:
        cut = " (cut off?)" if error.pos >= len(text.rstrip()) - 1 or "Unterminated" in error.msg else ""
        raise Unusable(f"{path}: line {error.lineno}: expected JSON: {error.msg}{cut}") from None
    except ValueError as error:
        raise Unusable(f"{path}: expected JSON: {error}") from None


def _row(name, entries):
    error = next((entry["error_message"] for entry in entries if "error_occurred" in entry), None)
    if error is not None:
        return Row(name, error=error, entries=entries)
    middle = sorted(entries, key=lambda entry: entry["real_time"])[_middle(entries)]
    counters = {key: value for key, value in middle.items() if key not in _GOOGLE and isinstance(value, (int, float))}
    seconds = np.array([entry["real_time"] for entry in entries]) * 1e-6  # the schema has microseconds only
    return Row(name, middle["label"], seconds, counters, entries=entries)


def _middle(repetitions):
    """Which of them, by time, stands for the row; of an even number the earlier, as bench/reporter.cpp has it."""
    return (len(repetitions) - 1) // 2


_SCHEMA = HERE / "result.schema.json"
# Google Benchmark's own fields of a row; the other numbers are counters.
_GOOGLE = {"family_index", "per_family_instance_index", "repetitions", "repetition_index", "threads", "iterations",
           "real_time", "cpu_time"}


@functools.lru_cache(None)
def _validator():
    return jsonschema.Draft7Validator(json.loads(_SCHEMA.read_text()))


def _field(path):
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".") or "the file"


def _expected(error):
    if error.validator == "required":
        return "expected " + next(name for name in error.validator_value if name not in error.instance)
    if error.validator == "additionalProperties":
        known, patterns = error.schema.get("properties", {}), error.schema.get("patternProperties", {})
        strange = next(key for key in error.instance
                       if key not in known and not any(re.search(pattern, key) for pattern in patterns))
        return f"expected only fields that {_SCHEMA.name} knows, got {strange}"
    words = {"const": "", "type": "", "enum": "one of ", "pattern": "text like ", "minimum": "at least ",
             "exclusiveMinimum": "more than ", "maximum": "at most "}
    rule = error.validator_value if error.validator == "type" else json.dumps(error.validator_value)
    if error.validator == "pattern":
        rule = error.schema.get("description", rule)
    got = json.dumps(error.instance)
    got = got if len(got) < 80 else got[:77] + "..."
    return f"expected {words.get(error.validator, error.validator + ' ')}{rule}, got {got}"


# ---- Showing

@dataclass(frozen=True)
class Style:
    """How one variant looks in every figure and table; marker and dash for those who do not see the colour."""
    title: str
    color: str  # of Okabe and Ito's palette; black is drawn in the colour of the text
    marker: str  # matplotlib's
    dash: str  # matplotlib's


BLUE, VERMILLION, GREEN, PURPLE, BLACK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000"
VARIANTS = {
    "absorbed": Style("MLA absorbed", BLUE, "o", "-"),
    "expanded": Style("MLA expanded", VERMILLION, "s", "--"),
    "reexpanded": Style("MLA re-expanded", VERMILLION, "d", ":"),
    "mha": Style("MHA", BLACK, "^", "-."),
    "gqa8": Style("GQA-8", GREEN, "v", ":"),
    "mqa": Style("MQA", PURPLE, "P", "--"),
    "moe": Style("MoE", BLUE, "D", "-"),
    "dense_active": Style("dense, equal active", GREEN, "X", ":"),
    "dense_total": Style("dense, equal total", VERMILLION, "p", "--"),
}


def three_digits(value):
    magnitude = abs(value)
    if magnitude < 0.1:
        return f"{value:#.3g}"
    return f"{value:.2f}" if magnitude < 9.995 else f"{value:.1f}" if magnitude < 99.95 else f"{value:.0f}"


def quantity(value, unit):
    """25.3 GB"""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(value) < 999.5 or prefix == "P":
            return f"{three_digits(value)} {prefix}{unit}"
        value /= 1000


def short_number(value):
    return quantity(value, "").replace(" ", "")


def numbered(names):
    """The names, each once: run, run_2."""
    made = []
    for name in names:
        at = itertools.count(2)
        each = name
        while each in made or each != name and each in names:
            each = f"{name}_{next(at)}"
        made.append(each)
    return made


def short_time(seconds):
    for unit, factor in (("ns", 1e9), ("us", 1e6), ("ms", 1e3)):
        if seconds * factor < 999.5:
            return f"{three_digits(seconds * factor)} {unit}"
    return f"{three_digits(seconds)} s"


def percent(fraction, decimals=0):
    return f"{100 * fraction:.{decimals}f}%"


def times(ratio):
    """A ratio of which 1 means equal: 1.71x."""
    return f"{three_digits(ratio)}x"


ANOTHER_PACE = ("measured while the machine's peaks were more than a quarter off their middle, or below what the row "
                "reached")


def left_out(count):
    """A sentence about so many rows, after another one."""
    return f" Left out: {count} row{'s' * (count > 1)} {ANOTHER_PACE}." if count else ""


def markdown(text):
    """A text that stands for itself in a line or a cell of Markdown. Inside of words _ does so anyway."""
    return re.sub(r"[\\|~*<>`]|\b_|_\b", r"\\\g<0>", " ".join(str(text).split()))


def rich_console(out):
    """Of a terminal, where rich is there; else None."""
    try:
        import rich.console
    except ModuleNotFoundError:
        return None
    return rich.console.Console(file=out, highlight=False) if out.isatty() else None
