"""What claims are held against: published figures, with their sources; the accounts of models; the rows of a run."""
import functools
import json

import numpy as np

import results
from results import times

EQUAL_TIME = 1.03  # a ratio of times nearer to 1 than this says nothing
AGREES = 0.02  # two figures of the same thing agree within this
NEAR = 0.1  # a figure in round words is right within this

V3, V2, LITE, DENSE_67B = "DeepSeek-V3", "DeepSeek-V2", "DeepSeek-V2-Lite", "DeepSeek-67B"
LLAMA_70B, LLAMA_405B, QWEN_72B = "Llama-3.1-70B", "Llama-3.1-405B", "Qwen2.5-72B"

PUBLISHED = json.loads((results.HERE / "published.json").read_text(encoding="utf-8"))


# ---- In words

def dollars(value):
    if value >= 1000:
        return f"${value:,.0f}"
    return f"${value:.2f}" if round(value, 2) == round(value, 3) else f"${value:.3f}"


def tenths(fraction):
    """Of a percent, as most published shares are given."""
    return results.percent(fraction, 1)


def billions(parameters):
    return f"{parameters / 1e9:.1f} B"


def many_tokens(count):
    if count < 1e9:
        return f"{count:g} tokens"
    return f"{count / 1e9:g} B tokens" if count < 1e12 else f"{count / 1e12:g} T tokens"


_WRITTEN = {
    "$": lambda value: f"${value / 1e6:g}M" if value >= 1e6 else f"${value:,g}",
    "$/Mtok": lambda value: f"${value:g}" if value == int(value) else dollars(value),
    "x": lambda value: f"{value:g}x",
    "fraction": lambda value: f"{round(100 * value, 2):g}%",
    "s": lambda value: f"{1e3 * value:g} ms",
    "tokens": many_tokens,
    "parameters": lambda value: f"{value / 1e9:g} B",
    "GFLOP/token": lambda value: f"{value:g} GFLOP a token",
    "bytes/s": lambda value: f"{value / 1e9:g} GB/s",
    "FLOP/s": lambda value: f"{value / 1e12:g} TFLOP/s",
    "statement": lambda value: "yes" if value else "no",
}


def what(name):
    """What a published figure is of."""
    return PUBLISHED["figures"][name]["what"]


def written(name):
    """A published figure as it was printed."""
    figure = PUBLISHED["figures"][name]
    return _WRITTEN.get(figure["unit"], lambda value: f"{value:,.10g} {figure['unit']}")(figure["value"])


def cite(*names):
    """Published figures with what they are of, by source and date."""
    by_source = {}
    for name in names:
        figure = PUBLISHED["figures"][name]
        by_source.setdefault((figure["source"], figure["access"]), []).append(f"{written(name)} ({figure['what']})")
    parts = []
    for (source, access), figures in by_source.items():
        origin = PUBLISHED["sources"][source]
        status = "" if access == "V" else f"; {PUBLISHED['access'][access]}"
        parts.append(f"{', '.join(figures)} [{origin['title']}, {origin['date']}{status}]")
    return "; ".join(parts)


def said(text):
    """{name} in a text becomes the published figure of that name."""
    return text.format_map({name: written(name) for name in PUBLISHED["figures"]})


def tokens_of(count):
    return f"{count} token{'s' if count > 1 else ''}"


def compared(ratio, more="faster", less="slower"):
    return f"{times(ratio)} {more}" if ratio >= 1 else f"{times(1 / ratio)} {less}"


# ---- Comparisons

def gain(rival, row):
    """How many times as fast `row` is as `rival`."""
    return rival.time / row.time


def against(rival, row):
    """The gain in words, and what it would be were both rows as fast as this machine allows."""
    return f"{compared(gain(rival, row))} (ideal {compared(rival.ideal_seconds / row.ideal_seconds)})"


def faster(ratio):
    return ratio > EQUAL_TIME


def agrees(figure, published, within=AGREES):
    return abs(figure / published - 1) <= within


class Lacking(Exception):
    """What a run lacks, and the command that would tell."""

    def __init__(self, lacks, command):
        super().__init__(f"This run lacks {lacks}; `{command}` would tell.")


class Evidence:
    """The rows of a run that can be compared: on all threads, of one level and type, routed uniformly, at the machine's
    usual pace. The accounts by model."""

    def __init__(self, result, accounts):
        self._accounts = accounts
        usable = [row for row in result.rows
                  if row.time > 0 and row.roof > 0 and row.keys.get("threads") == "all"
                  and row.impl == result.context.get("mmb.impl_used")
                  and row.uniformly_routed]
        dtypes = [row.dtype for row in usable if row.model != "none"]
        dtype = "bf16" if "bf16" in dtypes else next(iter(dtypes), None)
        self._rows = [row for row in usable if row.dtype == dtype and row.usual_pace]
        self.left_out = len([row for row in usable if row.dtype == dtype]) - len(self._rows)

    def __getitem__(self, name):
        """A published figure."""
        return PUBLISHED["figures"][name]["value"]

    def account(self, model, figure):
        try:
            return self._accounts[model][figure]
        except KeyError:
            raise Lacking(f"the account of {model} ({figure}), which newer programs keep in the file",
                          "bench_mla run") from None

    def rows(self, op, algo=None, model=None, cache=None, **keys):
        keys["cache"] = cache  # a plain one where nothing is said
        return [row for row in self._rows if row.op == op and algo in (None, row.algo) and model in (None, row.model)
                and all(row.keys.get(key) == (None if value is None else str(value)) for key, value in keys.items())]

    def row(self, op, algo=None, model=None, **keys):
        return next(iter(self.rows(op, algo, model, **keys)), None)

    # Rows that several claims share.

    @functools.cached_property
    def experts(self):
        """A model, and [(tokens, its experts, dense of equal active size, dense of equal total size)] by tokens."""
        for model in (V3, V2, LITE):
            batches = []
            for moe in self.rows("moe_experts", model=model):
                rivals = [self.row("dense_ffn", model=f"{model}~{size}", tokens=moe.keys.get("tokens"))
                          for size in ("dense_active", "dense_total")]
                if all(rivals) and moe.number("tokens"):
                    batches.append((moe.number("tokens"), moe, *rivals))
            if batches:
                return model, sorted(batches, key=lambda batch: batch[0])
        raise Lacking("experts beside dense FFNs of equal size",
                      f"bench_mla run --op moe_experts,dense_ffn --model {V3}")

    @functools.cached_property
    def longest_decode(self):
        """The longest context of a decode step of V3's attention, one sequence, and its rows by form."""
        steps = {}
        for absorbed in self.rows("mla_decode", "absorbed", V3, batch=1, q=1):
            key = {"batch": 1, "q": 1, "ctx": absorbed.keys.get("ctx")}
            forms = {"absorbed": absorbed, "expanded": self.row("mla_decode", "expanded", V3, **key),
                     **{form: self.row("attention_decode", None, f"{V3}~{form}", **key) for form in ("mha", "gqa8")}}
            if all(forms.values()) and absorbed.number("ctx"):
                steps[absorbed.number("ctx")] = forms
        if not steps:
            raise Lacking("decode steps of MLA beside its counterfactuals",
                          f"bench_mla run --op mla_decode,attention_decode --model {V3}")
        return max(steps.items())

    @functools.cached_property
    def growth(self):
        """What was timed, its contexts, and the line through its seconds: at 0 tokens cached, and for each."""
        def by_context(rows, seconds):
            return sorted({row.number("ctx"): seconds(row) for row in rows if row.number("ctx")}.items())

        def line(points):
            slope, start = np.polyfit(*zip(*points), 1)
            if slope <= 0 or not faster(points[-1][1] / points[0][1]):
                raise Lacking("contexts so far apart that their times differ", f"{command} --context 1k,32k")
            return float(start), float(slope)

        command = f"bench_mla run --op mla_decode,decoder_layer --model {V3}"

        steps = by_context(self.rows("decode_step", model=V3, batch=1, q=1), lambda row: row.whole_seconds)
        if len(steps) > 1:
            return "a whole decode step", [context for context, _ in steps], *line(steps)
        core = by_context(self.rows("mla_decode", "absorbed", V3, batch=1, q=1), lambda row: row.time)
        layer = self.row("decoder_layer", model=V3, batch=1, q=1, attention="absorbed")
        if len(core) > 1 and layer and layer.number("ctx"):
            _, slope = line(core)
            return ("one layer, which grows as its attention does", [context for context, _ in core],
                    layer.time - slope * layer.number("ctx"), slope)
        raise Lacking("decode at two contexts, and a layer around it", f"{command} --context 1k,4k")

    # Money and hardware, from published figures.

    def floor(self, rate):
        """Dollars of rented hardware for a million tokens at a node's `rate`."""
        return self["gpus_per_node"] * self["gpu_hour"] / (self[rate] * 3600) * 1e6

    def over_floor(self, price):
        return self[price] / self.floor("node_output_rate" if price.endswith("output") else "node_input_rate")

    @property
    def training_flops(self):
        """Of V3's pre-training."""
        return self.account(V3, "training_flops_per_token_4k") * self["v3_tokens"]

    def utilisation(self, model, tokens, hours):
        """Of the H800's BF16 peak."""
        return self.account(model, "training_flops_per_token_4k") * tokens / (hours * 3600 * self["h800_bf16"])
