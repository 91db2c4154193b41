"""What the figures of plot.py show, from the rows and the context of a result file. A figure whose rows the file lacks
is a note, with the options of bench_mla run that time them."""
import math
from collections import Counter
from dataclasses import dataclass, field

import results
from conclusions import crossings
from evidence import faster
from results import (VARIANTS, Style, Unusable, accounts, figures, percent, quantity, short_number, short_time, times,
                     whole_number)

import numpy as np


class Missing(Exception):
    """What a figure lacks; `options` of bench_mla run make it."""

    def __init__(self, what, options=""):
        super().__init__(what)
        self.options = options


# ---- What is in a figure

@dataclass
class Line:
    label: str
    style: Style
    points: list  # (x, y), by x
    ideal: bool = False  # open markers and thin; measured is filled
    joined: bool = True
    named: bool = True


@dataclass
class Level:
    """A horizontal line and its words."""
    y: float
    text: str
    side: str = "right"
    below: bool = False


@dataclass
class Panel:
    lines: list
    x_label: str
    y_label: str
    title: str = ""
    marks: list = field(default_factory=list)  # (x, y, text) of crossings
    doubts: list = field(default_factory=list)  # points of lines, measured at another pace
    levels: list = field(default_factory=list)
    x_ticks: list = field(default_factory=list)
    y_format: object = short_number


@dataclass
class Gain:
    """Times faster than something, as the machine's peaks allow it and as measured."""
    group: str
    label: str
    ideal: float
    measured: float


@dataclass
class Bar:
    label: str
    parts: list  # (name, seconds)
    total: float  # of the row that has all these parts in it


@dataclass
class Forest:
    """A ratio with its interval, by row; None: not known."""
    label: str
    ratio: float
    low: float = None
    high: float = None
    floor: float = None  # the ratio up to which all is noise
    left: float = None  # of the ratio, beside that of the measured peaks


@dataclass
class Figure:
    """One of the lists is filled; none where the rows are missing: then the notes say which."""
    name: str
    title: str = ""
    subtitle: str = ""
    alt: str = ""
    notes: list = field(default_factory=list)
    reading: str = ""  # how to read it
    axis: str = ""  # of gains, bars and forests
    panels: list = field(default_factory=list)
    stacked: bool = False  # panels: one above the other, not side by side
    gains: list = field(default_factory=list)
    bars: list = field(default_factory=list)
    forest: list = field(default_factory=list)

    @property
    def drawn(self):
        return bool(self.panels or self.gains or self.bars or self.forest)

    @property
    def data(self):
        """What is drawn, as plain values."""
        series = [{"panel": panel.title or panel.y_label, "series": line.label, "ideal": line.ideal,
                   "points": line.points} for panel in self.panels for line in panel.lines]
        return series or [vars(item) for item in self.gains or self.bars or self.forest]


@dataclass(frozen=True)
class View:
    """The rows that one set of figures is of: one model and its counterfactuals, one type, one level."""
    result: object
    model: str
    dtype: str
    impl: str
    left_out: set = field(default_factory=set)  # names of rows that were asked for and were at another pace

    def select(self, threads="all", any_pace=False, **parts):
        """Of caches with scales only where `cache` says so."""
        rows = self.result.select(dtype=self.dtype, impl=self.impl, threads=threads, **parts)
        rows = [row for row in rows if row.base_model == self.model and row.keys.get("cache") == parts.get("cache")]
        if any_pace:
            return rows
        self.left_out.update(row.name for row in rows if not row.usual_pace)
        return [row for row in rows if row.usual_pace]

    def rows(self, op, counterfactual="", **parts):
        return [row for row in self.select(op=op, **parts) if row.counterfactual == counterfactual]

    def row(self, op, **parts):
        """The first of them, as the verdict takes it, or None."""
        return next(iter(self.rows(op, **parts)), None)

    @property
    def subtitle(self):
        context = self.result.context
        threads, alias = context["mmb.threads_all"], context.get("mmb.alias", "none")
        where = context["mmb.cpu_model"] + ("" if alias == "none" else f" ({alias})")
        return f"{self.dtype}, {self.impl} kernels, {threads} thread{'s' * (threads != '1')} of {where}"


def view_of(result, model=None, dtype=None, impl=None):
    """Of what most rows are of, unless it is said."""
    rows = [row for row in result.rows if row.error is None and row.model != "none"]
    chosen = []
    for flag, part, value in (("model", "base_model", model), ("dtype", "dtype", dtype), ("impl", "impl", impl)):
        counts = Counter(getattr(row, part) for row in rows)
        if value is not None and not counts:
            raise Unusable(f"{result.path}: --{flag}: expected rows of a model without an error, got none")
        if value is not None and value not in counts:
            raise Unusable(f"{result.path}: --{flag}: expected any of {', '.join(sorted(counts))}, got {value!r}")
        # Of equals the last, as in the verdict.
        chosen.append(value or max(reversed(counts), key=counts.get, default="none"))
        rows = [row for row in rows if getattr(row, part) == chosen[-1]]
    return View(result, *chosen)


# ---- Numbers in words

def giga(value):
    return f"{value / 1e9:.3g} B"


def plain_number(value):
    return f"{value:,.0f}" if value >= 10 else f"{value:.3g}"


def byte_number(value):
    return quantity(value, "B")


def binary(value):
    """4096 is 4K: contexts and batches are powers of two."""
    for unit, size in (("M", 1 << 20), ("K", 1 << 10)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return str(round(value))


# ---- Points and where lines cross

OTHER = Style("other ops", "#7d8590", "x", "-")
OWN = Style("as published", results.BLACK, "o", "-")
MLA = Style("MLA", VARIANTS["absorbed"].color, "o", "-")
RIVALS = ("mha", "gqa8", "mqa")  # of MLA, from the largest cache to the smallest


def by_number(rows, key):
    """{the key's number: the first row of it}; without rows of ranges and of nothing."""
    found = {}
    for row in rows:
        if row.number(key):
            found.setdefault(row.number(key), row)
    return found


def by_variant(rows, key, counter):
    """{style: [(the key's number, counter)]}"""
    groups = {}
    for row in rows:
        if row.counters.get(counter, 0) > 0:
            groups.setdefault(VARIANTS.get(row.variant, OWN), []).append(row)
    return {style: sorted((number, row.counters[counter]) for number, row in by_number(some, key).items())
            for style, some in groups.items()}


def lines_of(series):
    return [Line(style.title, style, points) for style, points in series.items()]


def doubts_of(rows, lines, key, y):
    """The points of lines whose rows were measured at another pace."""
    unusual = {(row.number(key), y(row)) for row in rows if not row.usual_pace and row.number(key)}
    return [point for line in lines for point in line.points if point in unusual]


def meetings(one, other):
    """Where two lines cross: (x, y) by x; by points at which they differ."""
    first, second = dict(one), dict(other)
    common = sorted(at for at in set(first) & set(second)
                    if faster(first[at] / second[at]) or faster(second[at] / first[at]))
    return [(x, float(np.exp(np.interp(np.log(x), np.log(common), np.log([first[at] for at in common])))))
            for x, _ in crossings([(at, first[at] / second[at]) for at in common])]


def marks_of(series, others, doubts):
    """The last crossing of absorbed MLA with each of the others: which is above stays so up to the last point."""
    def sure(style):
        return [point for point in series.get(style, []) if point not in doubts]

    return [(x, y, binary(x)) for other in others for x, y in meetings(sure(VARIANTS["absorbed"]), sure(other))[-1:]]


def ticks(lines, most=12):
    """Among the lines' x, the last and such before it that at most so many have room: powers of two where the first and
    the last are."""
    xs = sorted({x for line in lines for x, _ in line.points})
    powers = [x for x in xs if x & (x - 1) == 0]
    chosen = []
    for x in reversed(powers if {xs[0], xs[-1]} <= set(powers) else xs):
        if not chosen or math.log(chosen[-1] / x) >= math.log(xs[-1] / xs[0]) / most:
            chosen.append(x)
    return chosen[::-1]


# ---- The figures. Each fills a Figure from a View, or raises Missing; its first words say how to read it.

def dense_equivalent(view, figure):
    """A model with experts multiplies with few of its parameters but, at larger batches, reads many of them: the line
    says how large a dense model may be to decode as fast. Near the lower level sparsity costs nothing, near the upper
    one it saves nothing."""
    figure.title = f"{view.model} decodes as fast as a dense model of how many parameters?"
    context = view.result.context
    ideal, measured = (figures(context.get(f"mmb.dense_equivalent_parameters_{kind}", "")).get(view.model, {})
                       for kind in ("ideal", "measured"))
    if not ideal:
        raise Missing("experts and the two peaks were not timed in one run",
                      "--op fma_peak,stream_read,moe_experts,dense_ffn")
    if not measured:
        figure.notes.append("Nothing measured: dense FFNs of equal active size were not timed.")
    lines = [Line(kind, Style(kind, results.BLUE, "o", dash),
                  sorted((int(batch), value) for batch, value in curve.items()), ideal=kind == "ideal")
             for kind, curve, dash in (("ideal", ideal, "--"), ("measured", measured, "-")) if curve]
    account = accounts(context, "mmb.accounts").get(view.model, {})
    levels = [Level(account[key], text, below=below)
              for key, text, below in (("total_parameters", "all parameters", False),
                                       ("active_parameters", "active for one token", True)) if key in account]
    figure.panels = [Panel(lines, "batch: sequences that decode together", "dense-equivalent parameters", levels=levels,
                           x_ticks=[4 ** power for power in range(7)], y_format=giga)]
    figure.notes.append("Uniform routing, the worst case. Ideal: by this machine's measured peaks. Measured: by the "
                        "experts' time over that of a dense FFN of equal active size, the rest of the model being as "
                        "dense as any.")


def claim_card(view, figure):
    """To the right of 1 the sparse or compressed form is faster than its rival, to the left slower. Open is what the
    bytes and FLOPs of both allow on this machine, filled what was measured: the gap between them is the kernels'."""
    figure.title = "What MLA and MoE promise on this machine, and what is realised"
    figure.axis = "times faster"
    parts = {"MLA decode": decode_gains(view), "MLA prefill": prefill_gains(view), "experts": expert_gains(view)}
    figure.gains = [gain for gains in parts.values() for gain in gains]
    if not figure.gains:
        raise Missing("neither MLA nor experts were timed beside their rivals",
                      "--op mla_decode,attention_decode,mla_prefill,attention_prefill,moe_experts,dense_ffn")
    if parts["MLA decode"] or parts["MLA prefill"]:
        figure.notes.append("Attention goes from per-head query to per-head output: MLA's absorption and up-projection "
                            "are inside, its rivals' projections of keys and values are not.")
    lacking = [what for what, gains in parts.items() if not gains]
    if lacking:
        figure.notes.append(f"Not timed beside a rival: {', '.join(lacking)}.")


USUAL_CONTEXT = 4096  # of the verdict's sentence


def nearest(numbers, wanted):
    return min(numbers, key=lambda number: abs(number - wanted))


def gains_of(group, fast, rivals):
    """Of one row against others: those that are there."""
    return [Gain(group, label, slow.ideal_seconds / fast.ideal_seconds, slow.time / fast.time)
            for label, slow in rivals if slow and slow.ideal_seconds > 0 and fast.ideal_seconds > 0]


def decode_gains(view):
    rows = by_number(view.rows("mla_decode", algo="absorbed", batch=1, q=1), "ctx")
    if not rows:
        return []
    context = nearest(rows, USUAL_CONTEXT)
    keys = {"batch": 1, "q": 1, "ctx": context}
    return gains_of(f"MLA decode, absorbed, {binary(context)} cached, against", rows[context], [
        *((VARIANTS[rival].title, view.row("attention_decode", counterfactual=rival, **keys)) for rival in RIVALS),
        ("its expanded cache", view.row("mla_decode", algo="expanded", **keys))])


def prefill_gains(view):
    """The most new tokens timed, on the shortest and on the longest cache."""
    rows = {(row.number("past"), row.number("q")): row for row in view.rows("mla_prefill", algo="expanded", batch=1)
            if row.number("past") is not None and row.number("q")}
    gains = []
    for past in sorted({min(rows)[0], max(rows)[0]} if rows else ()):
        new = max(q for at, q in rows if at == past)
        keys = {"batch": 1, "q": new, "past": past}
        gains += gains_of(f"MLA prefill, expanded, {new} new on {binary(past)} cached, against", rows[past, new], [
            *((VARIANTS[rival].title, view.row("attention_prefill", counterfactual=rival, **keys)) for rival in RIVALS),
            ("its absorbed form", view.row("mla_prefill", algo="absorbed", **keys))])
    return gains


def expert_gains(view):
    """At the smallest, the middle and the largest batch."""
    rows = by_number(view.rows("moe_experts", routing="uniform", overlap=None), "tokens")
    batches = sorted(rows)
    some = dict.fromkeys(batches[at] for at in (0, len(batches) // 2, -1)) if batches else ()
    return [gain for form, size in (("dense_active", "active"), ("dense_total", "total")) for batch in some
            for gain in gains_of(f"Experts, uniform routing, against dense of equal {size} size", rows[batch], [
                (f"batch {batch}", view.row("dense_ffn", counterfactual=form, tokens=batch))])]


def roofline(view, figure):
    """A row cannot rise above the slope, which is memory, nor above the level of its instructions. What is near neither
    is held back by something else: latency, conversion, or a kernel that could be better."""
    figure.title = f"Roofline of this machine, and the rows of {view.model}"
    timed = view.select()
    rows = [row for row in timed if row.counters["gflops"] > 0]
    if not rows:
        raise Missing("no row with FLOPs was timed on all threads", "--op linear" if timed else "--threads all")
    bandwidth = float(np.median([row.counters["peak_gbs"] for row in rows]))
    classes, groups = {}, {}
    for row in rows:
        classes.setdefault(row.label.partition(";")[0], []).append(row.counters["peak_gflops"])
        style = VARIANTS.get(row.variant, OTHER)
        groups.setdefault(style, []).append((row.counters["intensity"], row.counters["gflops"]))
    peaks = {instructions: float(np.median(values)) for instructions, values in classes.items()}
    xs = [x for points in groups.values() for x, _ in points]
    low, high = min(xs) / 2, 2 * max(*xs, max(peaks.values()) / bandwidth)
    lines = [Line(f"{instructions} {quantity(peak * 1e9, 'FLOP/s')}", Style("", results.BLACK, "", "-"),
                  [(x, min(x * bandwidth, peak)) for x in (low, peak / bandwidth, high)])
             for instructions, peak in peaks.items()]
    lines += [Line(style.title, style, sorted(groups[style]), joined=False)
              for style in (*VARIANTS.values(), OTHER) if style in groups]
    figure.panels = [Panel(lines, "FLOPs per byte", "GFLOP/s", y_format=plain_number)]
    figure.notes.append(f"Slope: {bandwidth:.3g} GB/s. Slope and levels are medians of the peaks measured between the "
                        "rows' own iterations, so that a row can lie above them.")
    if any(instructions.endswith("/3") for instructions in peaks):
        figure.notes.append("/3: three products make one multiplication.")


ACCOUNT_CONTEXT = 4096  # of bench_mla account, unless it is told another


def kv_cache(view, figure):
    """What one conversation takes, by the way its keys and values are kept. Where a line meets memory, one user fills
    the machine; where it is lower, that many more users fit."""
    figure.title = f"KV cache of {view.model} and of its counterfactuals"
    models = accounts(view.result.context, "mmb.accounts")
    own = models.get(view.model, {})
    if not {"kv_bytes_per_token", "kv_bytes_at_context"} <= own.keys():
        raise Missing(f"the file holds no account of {view.model}", "--op mla_decode,attention_decode")
    per_token = {OWN: own["kv_bytes_per_token"]}
    if "kv_bytes_per_token_expanded" in own:
        per_token = {MLA: own["kv_bytes_per_token"], VARIANTS["expanded"]: own["kv_bytes_per_token_expanded"]}
    lacking = []
    for rival in RIVALS:
        account = models.get(f"{view.model}~{rival}", {})
        if "kv_bytes_per_token" in account:
            per_token[VARIANTS[rival]] = account["kv_bytes_per_token"]
        else:
            lacking.append(VARIANTS[rival].title)
    contexts = [1 << power for power in range(10, 21)]
    lines = [Line(style.title, style, [(context, context * each) for context in contexts])
             for style, each in per_token.items()]
    figure.panels = [Panel(lines, "tokens in the cache of one sequence", "bytes of all layers, bf16",
                           x_ticks=contexts[::2], y_format=byte_number)]
    memory = whole_number(view.result.context.get("mmb.memory_total_bytes", ""))
    if memory:
        figure.panels[0].levels = [Level(memory, "memory here", "left")]
        for line, each in zip(lines, per_token.values()):
            line.label += f": {binary(memory / each)}"
        figure.notes.append("Beside a name: the tokens whose cache fits into this machine's memory, weights aside.")
    else:
        figure.notes.append("Not in the file: how much memory this machine has.")
    if own["kv_bytes_at_context"] != ACCOUNT_CONTEXT * own["kv_bytes_per_token"]:
        figure.notes.append("Sliding windows are not in these lines: beyond its window a layer's cache stops growing.")
    if lacking and MLA in per_token:
        figure.notes.append(f"Not in this run: {', '.join(lacking)}.")


def decode_context(view, figure):
    """Higher is faster. Every token attends to all before it, so that speed falls with context: for MHA by its bytes,
    for absorbed MLA by its FLOPs."""
    figure.title = f"Decode speed of {view.model} against context"
    wholes = [row for row in view.select(op="decode_step", batch=1, q=1, any_pace=True) if row.uniformly_routed]
    steps = by_variant(wholes, "ctx", "model_tokens_per_second")
    if VARIANTS["mha"] in steps and OWN in steps:  # only MLA has such rivals
        steps = {VARIANTS["absorbed"]: steps.pop(OWN), **steps}
    cores = [row for op in ("mla_decode", "attention_decode")
             for row in view.select(op=op, batch=1, q=1, any_pace=True)]
    attention = by_variant(cores, "ctx", "items_per_second")
    whole = any(len(points) > 1 for points in steps.values())
    series, rows, counter = ((steps, wholes, "model_tokens_per_second") if whole
                             else (attention, cores, "items_per_second"))
    if all(len(points) < 2 for points in series.values()):
        raise Missing("no attention was timed at two contexts", "--op mla_decode,attention_decode")
    figure.title += "" if whole else ": the attention of one layer"
    lines = lines_of(series)
    doubts = doubts_of(rows, lines, "ctx", lambda row: row.counters.get(counter))
    figure.panels = [Panel(lines, "tokens in the cache",
                           "tokens/s of the model" if whole else "tokens/s through one layer's attention",
                           marks=marks_of(series, series, doubts), doubts=doubts, x_ticks=ticks(lines))]
    if not whole:
        figure.notes.append("From query to output of one layer, batch 1, absorption included; without projections and "
                            "FFN.")
    if figure.panels[0].marks:
        figure.notes.append("Rings: where absorbed MLA crosses another line, with the tokens in the cache.")


def prefill_prompt(view, figure):
    """Higher is faster. Absorbed, each new token pays more for each cached one; expanded, the cached latents are paid
    for once: with many new tokens that wins."""
    figure.title = f"Prefill of {view.model}: absorb the cached latents, or expand them?"
    rows = [row for op in ("mla_prefill", "attention_prefill") for row in view.select(op=op, batch=1, any_pace=True)]
    for past in sorted({row.number("past") for row in rows} - {None}):
        some = [row for row in rows if row.number("past") == past]
        series = by_variant(some, "q", "items_per_second")
        if sum(len(points) > 1 for points in series.values()) > 1:
            lines = lines_of(series)
            doubts = doubts_of(some, lines, "q", lambda row: row.counters.get("items_per_second"))
            figure.panels.append(Panel(lines, "new tokens", "tokens/s through one layer's attention",
                                       f"on {binary(past)} cached", marks_of(series, [VARIANTS["expanded"]], doubts),
                                       doubts, x_ticks=ticks(lines, 4)))
    if not figure.panels:
        raise Missing("no two forms of attention were timed at two prompt lengths",
                      "--op mla_prefill,attention_prefill")
    figure.notes.append("From query to output of one layer, batch 1." + any(panel.marks for panel in figure.panels) *
                        " Rings: from so many new tokens on expanding is faster.")
    if len(figure.panels) > 3:
        figure.notes.append(f"Timed and not drawn: {', '.join(panel.title for panel in figure.panels[1:-2])}.")
        figure.panels = [figure.panels[0], *figure.panels[-2:]]


def moe_batch(view, figure):
    """Lower is faster. One token reads few experts; more tokens want other ones, until all are read at every step.
    Uniform routing is the worst case; skewed routing shares experts."""
    figure.title = f"Experts of one layer of {view.model} against batch"
    routings = {}
    experts = view.rows("moe_experts", any_pace=True)
    rivals = {form: view.rows("dense_ffn", form, any_pace=True) for form in ("dense_active", "dense_total")}
    for row in experts:
        routing = " ".join(value if key == "routing" else f"{key} {value}" for key, value in row.keys.items()
                           if key not in ("tokens", "threads")).replace("uniform overlap", "overlap")
        routings.setdefault(routing, []).append(row)
    routings = {routing: sorted(by_number(rows, "tokens").items()) for routing, rows in routings.items()}
    routings = {routing: rows for routing, rows in routings.items() if len(rows) > 1}
    if not routings:
        raise Missing("experts were not timed at two batches", "--op moe_experts,dense_ffn")
    looks = zip(("D", "o", "X", "*", "h", "p"), ("-", "--", ":", "-.", "--", ":"))
    styles = {routing: Style(f"MoE, {routing}", VARIANTS["moe"].color, *look)
              for routing, look in zip(routings, looks)}
    seconds = [Line(style.title, style, [(tokens, row.time / tokens) for tokens, row in routings[routing]])
               for routing, style in styles.items()]
    touched = [Line(style.title, style, named=False,
                    points=[(tokens, row.counters["experts_touched"]) for tokens, row in routings[routing]])
               for routing, style in styles.items()]
    for form, rows in rivals.items():
        dense = by_number(rows, "tokens")
        if dense:
            seconds.append(Line(VARIANTS[form].title, VARIANTS[form],
                                [(tokens, row.time / tokens) for tokens, row in sorted(dense.items())]))
        else:
            figure.notes.append(f"Not timed: {VARIANTS[form].title}.")
    at = ticks(seconds)
    figure.stacked = True
    doubts = doubts_of([*experts, *sum(rivals.values(), [])], seconds, "tokens",
                       lambda row: row.time / row.number("tokens"))
    figure.panels = [Panel(seconds, "", "time per token", doubts=doubts, x_ticks=at, y_format=short_time),
                     Panel(touched, "batch: tokens that pick experts together", "experts touched", x_ticks=at,
                           y_format=plain_number)]
    if len(routings) == 1:
        figure.notes.append("One routing was timed; bench_mla run --profile full times skewed routing too.")


PARTS = {  # colour and hatch
    "projections of MLA": (results.PURPLE, "//"), "attention": (results.BLUE, ""),
    "output projection": (results.GREEN, "\\\\"), "router": (results.BLACK, ""), "experts": (results.VERMILLION, "xx"),
    "norms and the rest": (OTHER.color, ".."),
}


def token_time(view, figure):
    """Where the milliseconds of a layer are. What is ideal by bytes and FLOPs stands below what was measured; the
    longest part is the one worth improving."""
    figure.title = f"Where the time of a token goes: one decoder layer of {view.model}"
    figure.axis = "time per token"
    longer = []
    for batch in sorted(by_number(view.rows("decoder_layer", q=1, attention="absorbed"), "batch")):
        layers = by_number(view.rows("decoder_layer", q=1, attention="absorbed", batch=batch), "ctx")
        context = nearest(layers, USUAL_CONTEXT)
        layer, parts = layers[context], layer_parts(view, layers[context], batch, context)
        for kind, seconds in (("measured", "time"), ("ideal", "ideal_seconds")) if parts else ():
            shares = [(name, getattr(row, seconds) / batch) for name, row in parts.items()]
            known, total = sum(share for _, share in shares), getattr(layer, seconds) / batch
            if total > known:
                shares.append(("norms and the rest", total - known))
            elif kind == "measured":
                longer.append(f"{percent(known / total - 1)} at batch {batch}")
            figure.bars.append(Bar(f"batch {batch}, {binary(context)} cached: {kind}", shares, total))
    if not figure.bars:
        raise Missing("no decoder layer was timed with each of its parts at the same batch and context",
                      "--op mla_project,mla_decode,linear,moe_router,moe_experts,decoder_layer")
    figure.notes.append("The parts are rows of their own, timed apart; the upright tick and the number are the whole "
                        "layer.")
    if longer:
        figure.notes.append(f"The parts together take longer than the layer: by {', '.join(longer)}.")


def layer_parts(view, layer, batch, context):
    """The rows whose work is in a layer's row; {} if one is missing. The output projection is the product whose weights
    the layer reads beside those of the other parts; what is left then are the norms."""
    parts = {"projections of MLA": view.row("mla_project", batch=batch, q=1),
             "attention": view.row("mla_decode", algo="absorbed", batch=batch, q=1, ctx=context),
             "output projection": None,
             "router": view.row("moe_router", tokens=batch),
             "experts": view.row("moe_experts", tokens=batch, routing="uniform", overlap=None)}
    left = layer.counters["bytes_weights"] - sum(row.counters["bytes_weights"] for row in parts.values() if row)
    parts["output projection"] = next((row for row in view.rows("linear", tokens=batch)
                                       if 0.99 * left <= row.counters["bytes_weights"] <= left), None)
    return parts if all(parts.values()) else {}


MOST_GAINS = 20


def thread_scaling(view, figure):
    """Memory is shared: what it bounds gains less from threads than what arithmetic bounds. The open mark is the gain
    that this machine's measured peaks allow."""
    count = view.result.context["mmb.threads_all"]
    figure.title = f"{view.model}: one thread, and all {count}"
    figure.axis = f"times faster on {count} threads than on one"
    options = "--threads 1,all --op mla_decode,attention_decode,moe_experts,dense_ffn"
    if count == "1":
        raise Missing("this run had one thread", options)
    for row in view.select(threads="1"):
        many = view.result.by_name.get(row.name.replace("/threads:1", "/threads:all"))
        keys = {key: value for key, value in row.keys.items() if key != "threads"}
        even = not any(".." in value for value in keys.values())
        if many and many.error is None and many.usual_pace and even:
            group = f"{row.op} {row.algo} {'~' * bool(row.counterfactual)}{row.counterfactual}".rstrip()
            figure.gains += gains_of(group, many, [(", ".join(map(" ".join, keys.items())), row)])
    if not figure.gains:
        raise Missing("no row was timed on one thread and on all", options)
    if len(figure.gains) > MOST_GAINS:
        figure.notes.append(f"The first {MOST_GAINS} of {len(figure.gains)} rows that were timed both ways.")
        figure.gains = figure.gains[:MOST_GAINS]
    figure.notes.append("Ideal: by the peaks measured on one thread and on all.")


FIGURES = {function.__name__: function for function in (
    dense_equivalent, claim_card, roofline, kv_cache, decode_context, prefill_prompt, moe_batch, token_time,
    thread_scaling)}


def figure_of(name, view):
    """One of FIGURES; where the rows are missing, a note in its place."""
    figure = Figure(name, subtitle=view.subtitle, reading=" ".join(FIGURES[name].__doc__.split()))
    view.left_out.clear()
    try:
        FIGURES[name](view, figure)
        if any(panel.doubts for panel in figure.panels):
            figure.notes.append(f"! {results.ANOTHER_PACE}.")
        if view.left_out:
            figure.notes.append(results.left_out(len(view.left_out)).strip())
    except Missing as missing:
        figure.notes = [f"Not drawn: {missing}.{results.left_out(len(view.left_out))} The command that times it:",
                        f"bench_mla run --profile full --model {view.model} {missing.options}"]
    figure.alt = alt_text(figure)
    return figure


# ---- Several files: how a later one compares with the first

MOST_FORESTS = 40


def forest_of(comparison, name):
    base, new = comparison.base.name, comparison.new.name
    figure = Figure(name, f"Time of {new} over time of {base}", axis=f"time of {new} / time of {base}",
                    subtitle="Below 1 the later one is faster. Dots: measured; lines: 95 % intervals; grey: noise.",
                    reading="Each dot is a row that both files have. A line that crosses the grey says nothing; a "
                            "diamond at 1 means that the two machines' peaks explain the difference.")
    rows = [row for row in comparison.rows if row.ratio]
    far = {row.name for row in sorted(rows, key=lambda row: -abs(math.log(row.ratio)))[:MOST_FORESTS]}
    drawn = [row for row in rows if row.name in far]
    words = [short_name(row.name).split() for row in drawn]
    shared = [word for word in words[0] if ":" in word and all(word in some for some in words)] if words[1:] else []
    figure.forest = [Forest(" ".join(word for word in some if word not in shared), row.ratio, row.low, row.high,
                            row.floor, row.left_ratio) for row, some in zip(drawn, words)]
    if shared:
        figure.notes.append(f"All rows: {', '.join(shared)}.")
    if not rows:
        figure.notes.append("Not drawn: no row was timed in both.")
    if any(row.left for row in figure.forest):
        figure.notes.append("Diamonds: what is left of the ratio beside that of the measured peaks.")
    if any(row.low is None for row in figure.forest):
        figure.notes.append("Dots without a line were timed once on each side: nothing is known of their spread.")
    if len(rows) > MOST_FORESTS:
        figure.notes.append(f"The {MOST_FORESTS} of {len(rows)} rows that differ most.")
    figure.alt = alt_text(figure)
    return figure


def short_name(name):
    """Without what is the same in nearly all names, and without long keys beside their numbers."""
    op, algo, _, _, model, *keys = name.split("/")
    pairs = [key.split(":", 1) for key in keys if key not in ("threads:all", "threads:*")]
    return " ".join([op, algo, model.replace("DeepSeek-", ""),
                     *(f"{key}:{value}" if len(key) < 8 else value for key, value in pairs)])


# ---- In words

def alt_text(figure):
    """The figure for those who do not see it."""
    sentences = [f"{figure.title}{'' if figure.title.endswith('?') else '.'} {figure.subtitle.rstrip('.')}."]
    for panel in figure.panels:
        sentences.append(f"{panel.title or panel.y_label} against {panel.x_label or 'batch'}:")
        sentences += [line_in_words(line, panel.y_format) for line in panel.lines]
        if panel.marks:
            sentences.append(f"Lines cross at {', '.join(text for _, _, text in panel.marks)}.")
    sentences += [f"{gain.group}: {gain.label}: {times(gain.measured)}, ideal {times(gain.ideal)}."
                  for gain in figure.gains]
    sentences += [f"{bar.label}: {', '.join(f'{name} {short_time(value)}' for name, value in bar.parts)}."
                  for bar in figure.bars]
    sentences += [f"{row.label}: {times(row.ratio)}" + (f", {times(row.low)} to {times(row.high)}." if row.low else ".")
                  for row in figure.forest]
    return " ".join([*sentences, *figure.notes])


def line_in_words(line, y_format):
    """Its first, its last and, between them, its largest and its smallest point; of a cloud the number of points."""
    if not line.joined:
        return f"{line.label}: {len(line.points)} rows."
    by_y = sorted(line.points, key=lambda point: point[1])
    some = sorted({line.points[0], by_y[0], by_y[-1], line.points[-1]})
    return f"{line.label}: {', '.join(f'{y_format(y)} at {binary(x)}' for x, y in some)}."
