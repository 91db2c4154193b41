"""The figures: what is in them, what they say where rows are missing, and that what is drawn can be read."""
import json
import re
import shlex
import subprocess
import xml.etree.ElementTree as ElementTree

import pytest

import figure_data
import plot
import results
import synthetic
from comparison import Side, compare
from figure_data import FIGURES, figure_of, view_of

TAIL = "threads:all"
PROJECT, ROUTER, PRODUCT, CORE, EXPERTS = 100e6, 7e6, 235e6, 33e6, 800e6  # bytes of weights of a layer's parts


def name(op, algo, keys, form="", threads="all"):
    return f"{op}/{algo}/bf16/avx2/DeepSeek-V3{form}/{keys}/threads:{threads}"


def decode(batch, ctx):
    return f"batch:{batch}/q:1/ctx:{ctx}"


def rows():
    """Of every figure, with times that are easy to check by hand."""
    made = {}
    for ctx in (1024, 4096, 16384):
        share = ctx / 1024
        for algo, base, slope in (("absorbed", 2, 1), ("expanded", 1, 4), ("reexpanded", 20, 20)):
            made[name("mla_decode", algo, decode(1, ctx))] = (
                [1e-3 * (base + slope * share)],
                {"roof": 0.5, "items_per_second": 1e3 / (base + slope * share), "bytes_weights": CORE})
        for form, slope in (("~mha", 10), ("~gqa8", 2), ("~mqa", 1)):
            made[name("attention_decode", "flash", decode(1, ctx), form)] = (
                [1e-3 * slope * share], {"roof": 0.8, "items_per_second": 1e3 / (slope * share)})
    for past in (0, 512, 4096, 16384):
        for q in (1, 64, 256):
            for algo, seconds in (("absorbed", 1e-4 * q), ("expanded", 1e-6 * past + 1e-5 * q + 1e-6)):
                made[name("mla_prefill", algo, f"batch:1/q:{q}/past:{past}")] = (
                    [seconds], {"items_per_second": q / seconds})
    for tokens in (1, 8, 32):
        for routing, touched in (("uniform", 8 * tokens ** 0.8), ("uniform/overlap:0.38", 8 * tokens ** 0.7),
                                 ("zipf", 8 * tokens ** 0.6)):
            made[name("moe_experts", "grouped", f"tokens:{tokens}/routing:{routing}")] = (
                [4e-3 * touched / 8], {"roof": 1, "experts_touched": touched, "bytes_weights": EXPERTS * touched / 8})
        for form, seconds, roof in (("~dense_active", 4e-3, 0.5), ("~dense_total", 0.1, 1)):
            made[name("dense_ffn", "panels", f"tokens:{tokens}/intermediate_size:9", form)] = [seconds], {"roof": roof}
    made[name("mla_project", "panels", "batch:1/q:1")] = ([3e-3], {"bytes_weights": PROJECT})
    made[name("moe_router", "topk", "tokens:1")] = ([1e-3], {"bytes_weights": ROUTER})
    made[name("linear", "panels", "tokens:1/in_features:2/out_features:3")] = ([9e-3], {"bytes_weights": PRODUCT / 5})
    made[name("linear", "panels", "tokens:1/in_features:9/out_features:3")] = ([2e-3], {"bytes_weights": PRODUCT})
    made[name("decoder_layer", "composed", decode(1, 4096) + "/attention:absorbed/ffn:moe")] = (
        [20e-3], {"roof": 0.75, "bytes_weights": PROJECT + ROUTER + PRODUCT + CORE + EXPERTS + 1000})
    made[name("mla_decode", "absorbed", decode(1, 4096), threads="1")] = ([24e-3], {"roof": 1})
    return made


CONTEXT = {
    "memory_total_bytes": "16000000000",
    "accounts": "DeepSeek-V3: total_parameters 671e9 active_parameters 37e9 kv_bytes_per_token 70272 "
                "kv_bytes_per_token_expanded 4997120 kv_bytes_at_context 287834112; "
                "DeepSeek-V3~mha: kv_bytes_per_token 5000000; DeepSeek-V3~gqa8: kv_bytes_per_token 312320",
    "dense_equivalent_parameters_ideal": "DeepSeek-V3: 1 37e9 2 60e9 64 500e9 4096 37e9",
    "dense_equivalent_parameters_measured": "DeepSeek-V3: 1 40e9 32 300e9",
}


def view(some=None, **context):
    return view_of(synthetic.result(rows() if some is None else some, **{**CONTEXT, **context}))


def without(*parts):
    return {row: value for row, value in rows().items() if not any(part in row for part in parts)}


def series(figure, panel=0):
    return {line.label: line.points for line in figure.panels[panel].lines}


# ---- What is in them

def test_the_view_is_of_most_rows():
    made = view()
    assert (made.model, made.dtype, made.impl) == ("DeepSeek-V3", "bf16", "avx2")
    with pytest.raises(results.Unusable, match="--model: expected any of DeepSeek-V3, got 'x'"):
        view_of(synthetic.result(rows()), model="x")


def test_dense_equivalent():
    figure = figure_of("dense_equivalent", view())
    assert series(figure) == {"ideal": [(1, 37e9), (2, 60e9), (64, 500e9), (4096, 37e9)],
                              "measured": [(1, 40e9), (32, 300e9)]}
    assert [line.ideal for line in figure.panels[0].lines] == [True, False]
    assert [level.y for level in figure.panels[0].levels] == [671e9, 37e9]
    assert "500 B at 64" in figure.alt
    figure = figure_of("dense_equivalent", view(dense_equivalent_parameters_measured="DeepSeek-V3:"))
    assert list(series(figure)) == ["ideal"] and "Nothing measured" in figure.notes[0]


def test_claim_card():
    figure = figure_of("claim_card", view())
    gains = {(gain.group.split(",")[0], gain.label): (gain.ideal, gain.measured) for gain in figure.gains}
    # At 4096: absorbed 6 ms at half of its ideal; MHA 40 ms at 0.8 of it.
    assert gains["MLA decode", "MHA"] == pytest.approx((32 / 3, 40 / 6))
    assert gains["MLA decode", "GQA-8"] == pytest.approx((6.4 / 3, 8 / 6))
    assert gains["MLA decode", "its expanded cache"] == pytest.approx((17 / 6, 17 / 6))
    groups = {gain.group for gain in figure.gains}
    assert "MLA prefill, expanded, 256 new on 0 cached, against" in groups
    assert "MLA prefill, expanded, 256 new on 16K cached, against" in groups
    batches = {(gain.group, gain.label): gain for gain in figure.gains if gain.group.startswith("Experts")}
    active = "Experts, uniform routing, against dense of equal active size"
    assert [label for group, label in batches if group == active] == ["batch 1", "batch 8", "batch 32"]
    assert (batches[active, "batch 1"].ideal, batches[active, "batch 1"].measured) == pytest.approx((0.5, 1))


def test_claim_card_says_what_was_not_timed():
    figure = figure_of("claim_card", view(without("mla_prefill", "dense_ffn")))
    assert {gain.group.split(",")[0] for gain in figure.gains} == {"MLA decode"}
    assert "Not timed beside a rival: MLA prefill, experts." in figure.notes


def test_roofline():
    made = rows()
    for at, row in enumerate(made):
        made[row] = (made[row][0], {**made[row][1], "peak_gbs": 90 + 10 * (at % 3), "intensity": 2, "gflops": 7})
    figure = figure_of("roofline", view(made))
    roof, clouds = figure.panels[0].lines[0], figure.panels[0].lines[1:]
    assert roof.label == "fma_f32 500 GFLOP/s"
    assert roof.points == [(1, 100), (5, 500), (10, 500)]  # the bend is where 100 GB/s meet 500 GFLOP/s
    assert all(set(cloud.points) == {(2, 7)} and not cloud.joined for cloud in clouds)
    # Of all rows on all threads, each once.
    assert sum(len(cloud.points) for cloud in clouds) == len(made) - 1


def test_kv_cache():
    figure = figure_of("kv_cache", view())
    lines = series(figure)
    assert set(lines) == {"MLA: 222K", "MLA expanded: 3.13K", "MHA: 3.12K", "GQA-8: 50K"}
    assert dict(lines["MLA: 222K"])[4096] == 4096 * 70272
    assert [level.y for level in figure.panels[0].levels] == [16e9]
    assert "Not in this run: MQA." in figure.notes
    assert "MLA" in series(figure_of("kv_cache", view(memory_total_bytes="unknown")))
    windows = CONTEXT["accounts"].replace("287834112", "1000")
    assert "Sliding windows" in " ".join(figure_of("kv_cache", view(accounts=windows)).notes)


def test_decode_context():
    figure = figure_of("decode_context", view())
    lines = series(figure)
    assert set(lines) == {"MLA absorbed", "MLA expanded", "MLA re-expanded", "MHA", "GQA-8", "MQA"}
    assert lines["MLA absorbed"] == [(1024, 1e3 / 3), (4096, 1e3 / 6), (16384, 1e3 / 18)]
    # GQA-8 is 3/2 times as fast at 1024 and 3/4 times at 4096: 1024 * 4 ** (log(3/2) / log(2)).
    assert [x for x, _, _ in figure.panels[0].marks] == pytest.approx([2304])
    assert "one layer" in figure.title


def test_decode_of_the_whole_model_goes_first():
    made = rows()
    for ctx in (1024, 4096):
        keys = f"{decode(1, ctx)}/layers:61"
        made[name("decode_step", "composed", f"{keys}/routing:uniform")] = [1.0], {"model_tokens_per_second": 5 + ctx / 1024}
        made[name("decode_step", "composed", f"{keys}/routing:zipf1")] = [1.0], {"model_tokens_per_second": 1000}
        made[name("decode_step", "composed", f"{decode(1, ctx).replace('q:1', 'q:2')}/layers:61/routing:uniform")] = (
            [1.0], {"model_tokens_per_second": 1000})
        made[name("decode_step", "composed", f"{keys}/routing:uniform", "~mha")] = [1.0], {"model_tokens_per_second": 3}
    figure = figure_of("decode_context", view(made))
    assert series(figure) == {"MLA absorbed": [(1024, 6), (4096, 9)], "MHA": [(1024, 3), (4096, 3)]}
    assert figure.panels[0].y_label == "tokens/s of the model"


def test_prefill_prompt():
    figure = figure_of("prefill_prompt", view())
    assert [panel.title for panel in figure.panels] == ["on 0 cached", "on 4K cached", "on 16K cached"]
    assert "Timed and not drawn: on 512 cached." in figure.notes
    assert [(q, pytest.approx(1e4)) for q in (1, 64, 256)] == series(figure, 1)["MLA absorbed"]
    # 1e-4 q = 4096e-6 + 1e-5 q + 1e-6 at 45.5 new tokens.
    assert [x for x, _, _ in figure.panels[1].marks] == pytest.approx([45.5], rel=0.05)
    assert figure.panels[0].marks == []


def test_moe_batch():
    figure = figure_of("moe_batch", view())
    seconds, touched = series(figure, 0), series(figure, 1)
    assert set(seconds) == {"MoE, uniform", "MoE, overlap 0.38", "MoE, zipf", "dense, equal active", "dense, equal total"}
    assert seconds["dense, equal active"] == [(1, 4e-3), (8, 5e-4), (32, 1.25e-4)]
    assert seconds["MoE, uniform"][1] == pytest.approx((8, 4e-3 * 8 ** 0.8 / 8))
    assert touched["MoE, zipf"][2] == pytest.approx((32, 8 * 32 ** 0.6))
    notes = figure_of("moe_batch", view(without("zipf", "overlap", "dense_total"))).notes
    assert "Not timed: dense, equal total." in notes and any("skewed" in note for note in notes)


def test_token_time():
    figure = figure_of("token_time", view())
    assert [bar.label for bar in figure.bars] == ["batch 1, 4K cached: measured", "batch 1, 4K cached: ideal"]
    measured = dict(figure.bars[0].parts)
    assert measured == pytest.approx({"projections of MLA": 3e-3, "attention": 6e-3, "output projection": 2e-3,
                                      "router": 1e-3, "experts": 4e-3, "norms and the rest": 4e-3})
    assert sum(measured.values()) == pytest.approx(figure.bars[0].total) == pytest.approx(20e-3)
    assert figure.bars[1].total == pytest.approx(15e-3)
    assert dict(figure.bars[1].parts)["experts"] == pytest.approx(4e-3)


def test_token_time_of_parts_that_take_longer_than_the_layer():
    made = rows()
    layer = next(row for row in made if row.startswith("decoder_layer"))
    made[layer] = ([10e-3], made[layer][1])
    figure = figure_of("token_time", view(made))
    assert "norms and the rest" not in dict(figure.bars[0].parts)
    assert "by 60% at batch 1." in figure.notes[-1]


def test_thread_scaling():
    figure = figure_of("thread_scaling", view())
    assert [(gain.label, gain.ideal, gain.measured) for gain in figure.gains] == [
        ("batch 1, q 1, ctx 4096", pytest.approx(8), pytest.approx(4))]
    assert "one thread" in " ".join(figure_of("thread_scaling", view(threads_all="1")).notes)


def test_a_wrong_result_is_in_no_figure():
    made = rows()
    made[name("mla_decode", "absorbed", decode(1, 4096))] = ([1e-3], {"error": "off"})
    assert [x for x, _ in series(figure_of("decode_context", view(made)))["MLA absorbed"]] == [1024, 16384]
    assert not figure_of("token_time", view(made)).drawn


def test_unknown_ops_types_and_keys_are_no_obstacle():
    made = {"teleport/fast/bf16/avx2/Tiny/size:huge/colour:red/threads:all": [1e-3],
            "moe_experts/grouped/bf16/avx2/Tiny/tokens:1/routing:zipf/skew:1/overlap:2/threads:all":
                ([1e-3], {"experts_touched": 3}),
            "moe_experts/grouped/bf16/avx2/Tiny/tokens:8/routing:zipf/skew:1/overlap:2/threads:all":
                ([2e-3], {"experts_touched": 5})}
    figures = {key: figure_of(key, view(made)) for key in FIGURES}
    assert [line.label for line in figures["moe_batch"].panels[0].lines] == ["MoE, zipf skew 1 overlap 2"]
    assert {key for key in figures if figures[key].drawn} == {"moe_batch", "roofline"}


def test_ranges_and_sizes_that_are_none_are_no_obstacle():
    odd = {name("mla_prefill", algo, f"batch:1/{keys}"): [1e-3] for algo in ("absorbed", "expanded")
           for keys in ("q:1..64/past:512", "q:64/past:512..700", "q:\N{SUPERSCRIPT TWO}/past:0", "q:1/ctx:7")}
    odd.update({name(op, algo, f"tokens:0/{keys}", form): ([1e-3], {"experts_touched": 1}) for op, algo, keys, form in (
        ("moe_experts", "grouped", "routing:uniform", ""), ("dense_ffn", "panels", "size:9", "~dense_active"))})
    odd[name("decoder_layer", "composed", decode(0, 4096) + "/attention:absorbed")] = [1e-3]
    for key in FIGURES:
        assert figure_of(key, view({**rows(), **odd})).data == figure_of(key, view()).data or key == "roofline"


@pytest.mark.parametrize("accounts", [
    "DeepSeek-V3: total_parameters 1", "DeepSeek-V3: kv_bytes_per_token 0 kv_bytes_at_context 1",
    "DeepSeek-V3: kv_bytes_per_token 1", "DeepSeek-V3: total_parameters 0 active_parameters -1"])
def test_accounts_that_lack_what_a_figure_needs(accounts):
    figure = figure_of("kv_cache", view(accounts=accounts))
    assert not figure.drawn and "holds no account of DeepSeek-V3" in figure.notes[0]
    plot.render(figure_of("dense_equivalent", view(accounts=accounts)), plot.LIGHT)


def test_rivals_without_a_cache_are_lacking():
    zero = CONTEXT["accounts"].replace("mha: kv_bytes_per_token 5000000", "mha: kv_bytes_per_token 0").replace(
        "gqa8: kv_bytes_per_token", "gqa8: other").replace("expanded 4997120", "expanded 0")
    figure = figure_of("kv_cache", view(accounts=zero, memory_total_bytes="0"))
    assert set(series(figure)) == {"as published"}
    plot.render(figure, plot.LIGHT)


def test_forest():
    base, new = (Side(word, [synthetic.result({row: [share * seconds for share in (1, 1.01, 0.99)]
                                               for row in synthetic.NAMES}, cpu_model=word)])
                 for word, seconds in (("old", 2e-3), ("new", 1e-3)))
    figure = figure_data.forest_of(compare(base, new), "forest")
    assert len(figure.forest) == len(synthetic.NAMES)
    row = figure.forest[0]
    assert row.label == "linear panels V3 tokens:1 7168 2048"
    assert row.ratio == pytest.approx(0.5) and row.low < 0.5 < row.high
    assert row.left == pytest.approx(1)  # half the ideal time, too
    figure = figure_data.forest_of(compare(base, Side("other", [synthetic.result(rows())])), "forest")
    assert not figure.drawn and "no row" in figure.notes[0]


# ---- Rows at another pace than the machine's usual one

def disturbed(*parts):
    """The rows, those whose names hold all parts measured while memory had half its speed."""
    return {row: (seconds, {**counters, "peak_gbs": 50} if all(part in row for part in parts) else counters)
            for row, (seconds, counters) in rows().items()}


def test_gains_leave_them_out_and_say_so():
    figure = figure_of("claim_card", view(disturbed("~mha", "ctx:4096")))
    assert [gain.label for gain in figure.gains if gain.group.startswith("MLA decode")] == [
        "GQA-8", "MQA", "its expanded cache"]
    assert any("Left out: 1 row measured while" in note for note in figure.notes)
    assert not any("Left out" in note for note in figure_of("claim_card", view()).notes)
    figure = figure_of("token_time", view(disturbed("mla_project")))
    assert not figure.drawn and "Left out: 1 row measured while" in figure.notes[0]
    assert not figure_of("thread_scaling", view(disturbed("mla_decode/absorbed", "ctx:4096/threads:all"))).drawn


def test_lines_mark_them_and_cross_without_them():
    crossing = figure_of("decode_context", view()).panels[0].marks
    panel = figure_of("decode_context", view(disturbed("~gqa8", "ctx:1024"))).panels[0]
    assert panel.doubts == [(1024, 500)]
    assert len(panel.marks) < len(crossing)
    figure = figure_of("moe_batch", view(disturbed("dense_active", "tokens:8/")))
    assert figure.panels[0].doubts == [(8, 0.5e-3)] and figure.notes[-1].startswith("! measured while")
    assert figure.notes[-1] in figure.alt
    drawn, _ = plot.render(figure, plot.LIGHT)
    assert ">!</text>" in drawn
    panels = figure_of("prefill_prompt", view(disturbed("mla_prefill/expanded", "q:64/past:4096/"))).panels
    assert [len(one.doubts) for one in panels] == [0, 1, 0]


# ---- Small parts

def test_a_level_of_which_three_products_make_one_multiplication_says_so():
    for label in ("dot_int8/3", "dot_int8"):
        made = {row: (seconds, {**counters, "label": label, "peak_gflops": 500})
                for row, (seconds, counters) in rows().items()}
        figure = figure_of("roofline", view(made))
        assert figure.panels[0].lines[0].label == f"{label} 500 GFLOP/s"
        assert any(note.startswith("/3:") for note in figure.notes) == ("/3" in label)


@pytest.mark.parametrize("low, high, ticks", [
    (2.3, 4.9, [2.5, 3, 3.5, 4, 4.5]), (0.9, 1.32, [0.9, 1, 1.1, 1.2, 1.3]),
    (0.33, 4.7, [0.4, 0.6, 0.8, 1, 1.5, 2, 3, 4]), (2.2, 11, [3, 4, 6, 8, 10]),
    (1.2e-3, 0.9, [2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5]), (7e7, 5e12, [1e8, 1e9, 1e10, 1e11, 1e12]),
])
def test_ticks_are_round_and_as_many_as_have_room(low, high, ticks):
    assert plot.round_numbers(low, high) == pytest.approx(ticks)


def test_nothing_of_a_forest_is_cut_at_its_edges():
    base, new = (Side(name, [synthetic.result({row: [seconds] for row, seconds in some.items()}, cpu_model=name)])
                 for name, some in (("a", {row: 1 for row in synthetic.NAMES[:2]}),
                                    ("b", dict(zip(synthetic.NAMES[:2], (28, 0.2))))))
    with plot.plt.rc_context(plot.STYLE):
        canvas = plot.draw_forest(figure_data.forest_of(compare(base, new), "forest"), plot.LIGHT)
    axes, = canvas.axes
    points = canvas.dpi / 72
    box, marker = axes.get_window_extent(), 4 * points  # half of a dot or a diamond, with its edge
    for line in axes.lines[:-1]:  # the last is at 1
        across = axes.transData.transform(line.get_xydata())[:, 0]
        assert box.x0 + marker <= across.min() and across.max() <= box.x1 - marker
    plot.plt.close(canvas)


def test_lines_that_differ_by_noise_do_not_cross():
    assert figure_data.meetings([(1, 100), (16, 40)], [(1, 99), (16, 50)]) == []
    assert figure_data.meetings([(1, 100), (4, 51), (16, 40)], [(1, 90), (4, 50), (16, 50)]) != []


def test_crossings_are_straight_on_logarithmic_axes():
    falling, flat = [(1, 4), (4, 1), (16, 0.25)], [(1, 2), (4, 2), (16, 2)]
    assert figure_data.meetings(falling, flat) == [pytest.approx((2, 2))]
    assert figure_data.meetings(flat, flat) == []


def test_names_are_apart_and_inside():
    for wanted in ([0.9, 0.88, 0.87], [0.05, 0.04, 0.03, 0.02], [1, 0.5, 0.49, -1, -1], []):
        heights = plot.spread(wanted, 0.1)
        assert all(a - b >= 0.1 - 1e-9 for a, b in zip(heights, heights[1:]))
        assert all(-1e-9 <= height <= 1 for height in heights)


def test_ticks_have_room():
    line = figure_data.Line("", figure_data.OWN, [(x, 1) for x in (1, 4, 16, 32, 64, 96, 128, 160, 192, 256, 512)])
    assert figure_data.ticks([line]) == [1, 4, 16, 32, 64, 128, 256, 512]
    assert figure_data.ticks([line], 4) == [4, 64, 512]


@pytest.mark.parametrize("xs, expected", [((1, 100, 3000, 5000), [1, 100, 5000]), ((1, 2, 4, 600), [1, 2, 4, 600]),
                                          ((3000,), [3000]), ((1, 3, 4), [1, 4])])
def test_the_last_size_has_a_tick(xs, expected):
    assert figure_data.ticks([figure_data.Line("", figure_data.OWN, [(x, 1) for x in xs])]) == expected


# ---- Rows that are missing

@pytest.mark.parametrize("key", FIGURES)
def test_a_figure_without_its_rows_is_a_note(key, bench_mla):
    figure = figure_of(key, view({"rms_norm/two_pass/bf16/avx2/DeepSeek-V3/tokens:1/hidden_size:9/threads:all": [1e-6]},
                                 accounts="", dense_equivalent_parameters_ideal=""))
    if key == "roofline":
        assert figure.drawn
        name = "rms_norm/two_pass/bf16/avx2/DeepSeek-V3/tokens:1/hidden_size:9/threads:all"
        figure = figure_of(key, view({name: ([1e-6], {"gflops": 0})}))
    assert not figure.drawn and figure.title and figure.notes[0].startswith("Not drawn: ")
    plot.render(figure, plot.LIGHT)
    # The command that the note names would time what is missing; asked of a model whose rows are listed at once.
    usual = "bench_mla run --profile full --model DeepSeek-V3 "
    assert figure.notes[1].startswith(usual)
    options = shlex.split(figure.notes[1][len(usual):])
    listed = subprocess.run([bench_mla, "list", "--profile", "smoke", "--model", "tiny-mla-moe", *options], text=True,
                            capture_output=True, check=True).stdout.split()
    assert {row.split("/")[0] for row in listed} == set(options[options.index("--op") + 1].split(","))


# ---- What is drawn

def all_figures():
    made = [figure_of(key, view()) for key in FIGURES]
    base, new = (Side(word, [synthetic.result({row: [seconds, 1.1 * seconds] for row in rows()})])
                 for word, seconds in (("old", 2e-3), ("new", 1e-3)))
    return made + [figure_data.forest_of(compare(base, new), "forest")]


@pytest.mark.parametrize("figure", all_figures(), ids=lambda figure: figure.name)
def test_no_words_are_cut_off_or_too_small(figure):
    assert figure.drawn
    with plot.plt.rc_context(plot.STYLE):
        canvas = plot.draw(figure, plot.LIGHT)
        canvas.canvas.draw()
        texts = [text for text in canvas.findobj(plot.matplotlib.text.Text) if text.get_text()]
        assert texts and all(text.get_fontsize() >= plot.SMALL for text in texts)
        box, (width, height) = canvas.get_tightbbox(), canvas.get_size_inches()
        assert 0 <= box.x0 and box.x1 <= width and 0 <= box.y0 and box.y1 <= height
        plot.plt.close(canvas)


def long_words():
    """Figures of a model and files with long names."""
    word = "A-model-whose-name-goes-on-and-on-" * 3
    keys = "/".join(f"key_{letter}:{row}" for row, letter in enumerate("abcdefgh"))
    made = {row.replace("DeepSeek-V3", word).replace("/threads", f"/{keys}/last:{at}/threads"): seconds
            for at, (row, (seconds, _)) in enumerate(rows().items())}
    base, new = (Side(name, [synthetic.result(made, cpu_model=name)]) for name in (word, word + "2"))
    return [figure_of("roofline", view(made)), figure_data.forest_of(compare(base, new), "forest")]


@pytest.mark.parametrize("figure", long_words(), ids=lambda figure: figure.name)
def test_long_names_are_not_cut_off(figure):
    test_no_words_are_cut_off_or_too_small(figure)


def test_a_forest_does_not_repeat_what_all_its_rows_share():
    base, new = (Side(word, [synthetic.result({name.replace("threads", "batch:1/threads"): [1]
                                               for name in synthetic.NAMES[:2]})]) for word in ("old", "new"))
    figure = figure_data.forest_of(compare(base, new), "forest")
    assert [row.label for row in figure.forest] == ["linear panels V3 tokens:1 7168 2048",
                                                    "linear panels V3 tokens:2 7168 2048"]
    assert "All rows: batch:1." in figure.notes


def test_names_of_lines_do_not_overlap():
    for key in ("decode_context", "kv_cache", "moe_batch", "roofline", "prefill_prompt"):
        with plot.plt.rc_context(plot.STYLE):
            canvas = plot.draw(figure_of(key, view()), plot.LIGHT)
            canvas.canvas.draw()
            for axes in canvas.axes:
                boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
                names = [box for box in boxes if box.x0 > axes.bbox.x1]
                assert not any(a.overlaps(b) for at, a in enumerate(names) for b in names[:at]), key
            plot.plt.close(canvas)


def test_files(tmp_path):
    source = synthetic.write(tmp_path / "made.json", rows(), **CONTEXT)
    assert plot.main([str(source)]) == 0
    folder = tmp_path / "made-figures"
    expected = {f"{key}-{theme}.{form}" for key in FIGURES for theme in ("light", "dark") for form in ("svg", "png")}
    assert {path.name for path in folder.iterdir()} == expected | {"figures.json"}
    for path in folder.glob("*.svg"):
        root = ElementTree.parse(path).getroot()
        space = "{http://www.w3.org/2000/svg}"
        assert root.get("role") == "img" and root.find(space + "title").text and root.find(space + "desc").text
        assert path.stat().st_size < 120_000
    for path in folder.glob("*.png"):
        assert int.from_bytes(path.read_bytes()[16:20], "big") == 1600
    light, dark = ((folder / f"roofline-{theme}.svg").read_text() for theme in ("light", "dark"))
    assert plot.LIGHT.paper in light and plot.DARK.paper in dark and plot.DARK.paper not in light
    words = json.loads((folder / "figures.json").read_text())
    assert [entry["name"] for entry in words] == list(FIGURES)
    assert all(entry["alt"] and entry["data"] for entry in words)


def test_of_several_files_a_folder_each_and_the_forest(tmp_path):
    files = [synthetic.write(tmp_path / f"{word}.json", rows(), **CONTEXT) for word in ("one", "two")]
    assert plot.main([*map(str, files), "--only", "claim_card,forest", "--out", str(tmp_path / "out")]) == 0
    assert {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*-light.svg")} == {
        "one/claim_card-light.svg", "two/claim_card-light.svg", "forest-light.svg"}


def test_figures_of_equally_named_files_are_apart(tmp_path):
    files = [synthetic.write(tmp_path / where / f"{word}.json", rows(), **CONTEXT)
             for where, word in (("a", "run"), ("b", "run"), ("b", "run_2"))]
    assert plot.main([*map(str, files), "--only", "roofline", "--out", str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"run", "run_2", "run_3"}


def test_a_result_is_never_written_over(tmp_path, capsys):
    file = synthetic.write(tmp_path / "figures.json", rows(), **CONTEXT)
    kept = file.read_bytes()
    assert plot.main([str(file), "--out", str(tmp_path)]) == 2
    assert re.fullmatch(r"plot\.py: --out: [^\n]*expected [^\n]+\n", capsys.readouterr().err)
    assert file.read_bytes() == kept

def test_a_real_result_is_drawn(smoke_file, tmp_path):
    assert plot.main([str(smoke_file), "--out", str(tmp_path)]) == 0
    drawn = {entry["name"] for entry in json.loads((tmp_path / "figures.json").read_text()) if entry["drawn"]}
    assert drawn == set(FIGURES) - {"token_time", "thread_scaling"}


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"context": {}}'])
def test_what_is_no_result_is_one_sentence_and_status_2(content, tmp_path, capsys):
    file = tmp_path / "bad.json"
    if content is not None:
        file.write_text(content)
    assert plot.main([str(file)]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.startswith("plot.py: ") and output.err.count("\n") == 1


@pytest.mark.parametrize("name", ["", ".", "/"])
def test_a_folder_is_no_result(name, capsys):
    assert plot.main([name]) == 2
    assert re.fullmatch(r"plot\.py: [^\n]*expected a file that can be read[^\n]*\n", capsys.readouterr().err)


def test_of_rows_in_error_there_is_no_view(tmp_path, capsys):
    file = synthetic.write(tmp_path / "made.json", {name: ([1.0], {"error": "wrong"}) for name in rows()})
    assert plot.main([str(file), "--model", "DeepSeek-V3"]) == 2
    assert "--model: expected rows of a model without an error, got none" in capsys.readouterr().err


def test_bad_flags_are_one_sentence_and_status_2(tmp_path, capsys):
    source = str(synthetic.write(tmp_path / "made.json", rows(), **CONTEXT))
    for flags in (["--only", "pie"], ["--only", ""], ["--model", "x"], ["--dtype", "f16"], ["--impl", "sse"],
                  ["--out", source], ["--out", ""]):
        assert plot.main([source, *flags]) == 2
        assert re.fullmatch(rf"plot\.py: [^\n]*{flags[0]}: [^\n]*expected [^\n]+\n", capsys.readouterr().err)
