"""What a run says whatever its machine: how many times as fast one kind of row is as another, at the same shape."""
import math
from dataclasses import dataclass

import numpy as np

from results import times, whole_number


@dataclass(frozen=True)
class Contrast:
    """One kind of row against another; sizes along one key, where a crossing may lie."""
    title: str
    of: tuple  # op, algo or None for any, counterfactual
    than: tuple
    along: str


ABSORBED, EXPANDED = ("mla_decode", "absorbed", ""), ("mla_decode", "expanded", "")
EXPANDED_PREFILL, ABSORBED_PREFILL = ("mla_prefill", "expanded", ""), ("mla_prefill", "absorbed", "")
EXPERTS = ("moe_experts", None, "")
CONTRASTS = (
    Contrast("absorbed MLA over MHA, decode", ABSORBED, ("attention_decode", None, "mha"), "ctx"),
    Contrast("absorbed MLA over GQA-8, decode", ABSORBED, ("attention_decode", None, "gqa8"), "ctx"),
    Contrast("absorbed MLA over MQA, decode", ABSORBED, ("attention_decode", None, "mqa"), "ctx"),
    Contrast("absorbed over expanded MLA, decode", ABSORBED, EXPANDED, "ctx"),
    Contrast("expanded over absorbed MLA, prefill", EXPANDED_PREFILL, ABSORBED_PREFILL, "q"),
    Contrast("expanded MLA over MHA, prefill", EXPANDED_PREFILL, ("attention_prefill", None, "mha"), "q"),
    Contrast("MoE over dense of equal active size", EXPERTS, ("dense_ffn", None, "dense_active"), "tokens"),
    Contrast("MoE over dense of equal total size", EXPERTS, ("dense_ffn", None, "dense_total"), "tokens"),
    *(Contrast(f"whole decode step over ~{form}", ("decode_step", None, ""), ("decode_step", None, form), "ctx")
      for form in ("mha", "gqa8", "mqa", "dense_active", "dense_total")),
)


def conclusions(starts, keep=lambda name: True, unnamed=()):
    """{what: "2.4x (ideal 3.1x)"} for each shape, and where along a key it passes 1; medians over starts.
    `unnamed`: keys that are left out of the names."""
    return {title: text for contrast in CONTRASTS for title, text in conclude(starts, contrast, keep, unnamed)}


def conclude(starts, contrast, keep, unnamed):
    for (model, dtype, rest), line in lines_of(starts, contrast, keep, {contrast.along, *unnamed}).items():
        where = f"{contrast.title}: {model} {dtype} {rest}"
        gains = {size: np.median(samples, axis=0) for size, samples in line.items()}
        for size, (measured, ideal) in gains.items():
            yield f"{where}/{contrast.along}:{size}", f"{times(measured)} (ideal {times(ideal)})"
        points = sorted((int(size), gain[0]) for size, gain in gains.items() if whole_number(size))
        if len(points) > 1:
            yield f"{where}: faster", crossing(points, contrast.along)


def lines_of(starts, contrast, keep, unnamed):
    """{(model, dtype, other keys): {size: [(gain measured, gain ideal) of each start]}}"""
    lines = {}
    for start in starts:
        for of, than in twins(start, contrast, keep):
            rest = "/".join(f"{key}:{value}" for key, value in of.keys.items() if key not in unnamed)
            line = lines.setdefault((of.base_model, of.dtype, rest), {})
            measured = than.whole_seconds / of.whole_seconds
            gain = measured, measured * than.roof / of.roof
            line.setdefault(of.keys[contrast.along], []).append(gain)
    return lines


def twins(start, contrast, keep):
    """Pairs of rows that differ in what the contrast names, in keys that one of them lacks, and in the number of a model's
    layers that memory held."""
    def rows(op, algo, form):
        return [row for row in start.select(op=op, algo=algo) if row.counterfactual == form and keep(row.name)
                and row.ideal_seconds > 0 and row.usual_pace and contrast.along in row.keys]

    for of in rows(*contrast.of):
        for than in rows(*contrast.than):
            if ((of.base_model, of.dtype, of.impl) == (than.base_model, than.dtype, than.impl)
                    and all(key == "layers" or than.keys.get(key, value) == value for key, value in of.keys.items())):
                yield of, than


def crossing(points, along):
    """Where a line of (size, gain) passes 1, in words."""
    places = [f"{'from' if up else 'up to'} {along} {x:.0f}" for x, up in crossings(points)]
    (first, gain), (last, _) = points[0], points[-1]
    return ", ".join(places) or f"{'always' if gain > 1 else 'never'}, {along} {first} to {last}"


def crossings(points):
    """Where a line of (x, ratio) passes 1, straight between points on logarithmic axes: (x, whether upwards) by x."""
    return [(x0 * (x1 / x0) ** (math.log(y0) / math.log(y0 / y1)), y1 > 1)
            for (x0, y0), (x1, y1) in zip(points, points[1:]) if (y0 > 1) != (y1 > 1)]
