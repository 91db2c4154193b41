"""The claims: what was said, what would test it, and a function of the evidence that gives a verdict and its reason.

They hold no numbers of their own: {name} is a published figure, the rest is computed from rows and accounts.
"""
import math

from results import short_number, short_time, times

from evidence import (AGREES, DENSE_67B, LITE, LLAMA_70B, LLAMA_405B, NEAR, QWEN_72B, V2, V3, Lacking, against, agrees,
                      billions, cite, compared, dollars, faster, gain, tenths, tokens_of, what, written)

HOLDS, ONLY_IF, NOT_HERE, MISPRINT = "holds", "holds only if", "does not hold here", "figure is misprinted"
BY_TOOL, FROM_RUN = "cannot be told by this tool", "cannot be told from this run"

NOT_COST = "Price is not cost."

CLAIMS = []  # (id, claim, test, judge) in the order of the ledger


class Entry:
    """A claim's figure, and what was published: filled as far as the evidence goes."""
    figure = published = "-"

    def cite(self, *names):
        self.published = cite(*names)


def claim(ident, text, test):
    def register(judge):
        CLAIMS.append((ident, text, test, judge))
        return judge
    return register


# ---- "Are DeepSeek's new models really that fast and cheap?"

@claim("G1", "If DeepSeek's models are more efficient, mixture of experts pushed hard is one reason.",
       "Time experts beside a dense FFN of equal active and of equal total size, by batch; count FLOPs and bytes.")
def experts_are_a_reason(e, entry):
    entry.cite("xeon_70b_ratio")
    own, dense = e.account(V3, "active_parameters"), e.account(LLAMA_70B, "active_parameters")
    read = {batch: dense / e.account(V3, f"weight_bytes_per_step_fp8/batch_{batch}") for batch in (1, 2, 32)}
    entry.figure = (f"V3 multiplies {tenths(own / e.account(V3, 'total_parameters'))} of its weights a token, "
                    f"{times(dense / own)} fewer than {LLAMA_70B} at any batch; at equal precision it reads "
                    + ", ".join(f"{compared(ratio, 'fewer', 'more')} at batch {batch}" for batch, ratio in read.items())
                    + f", as many at {e.account(V3, f'batch_of_equal_weights/{LLAMA_70B}'):.2f}")
    model, batches = e.experts
    entry.figure += f". Timed, {model}'s experts: " + "; ".join(
        f"{tokens_of(n)}, {against(small, moe)} than dense of equal active size, "
        f"{against(large, moe)} than of equal total size" for n, moe, small, large in batches)
    slow = [n for n, moe, small, _ in batches if faster(gain(moe, small))]
    pays = [n for n, moe, _, large in batches if faster(gain(large, moe))]
    if not pays:
        return NOT_HERE, "Experts are no faster than the dense FFN that they are cut from, at any batch timed."
    if not slow and len(pays) == len(batches):
        return HOLDS, "At every batch timed, experts cost what is active and not what is stored."
    if not slow:
        return ONLY_IF, f"batches are of {', '.join(map(str, pays))}: beyond, experts cost what is stored."
    return ONLY_IF, ("the rival is dense and of equal total size. Beside a dense FFN of equal active size experts are "
                     f"slower at batches of {', '.join(map(str, slow))}, where tokens want experts of their own; that "
                     "ends where a batch is so large that arithmetic bounds both.")


@claim("G2", "Latent attention is the other reason: the KV cache shrinks.",
       "Count cache bytes a token; time a decode step of MLA beside its counterfactuals with MHA and with GQA-8.")
def latent_attention_is_a_reason(e, entry):
    entry.cite("kv_72b_ratio", "kv_405b_ratio")
    own = e.account(V3, "kv_bytes_per_token")
    caches = {"its expanded form": e.account(V3, "kv_bytes_per_token_expanded"),
              **{model: e.account(model, "kv_bytes_per_token") for model in (QWEN_72B, LLAMA_405B)}}
    entry.figure = f"V3 {own:,.0f} bytes a token in bf16; " + "; ".join(
        f"{name} {count:,.0f} ({times(count / own)})" for name, count in caches.items())
    context, forms = e.longest_decode
    rivals = {"MHA": forms["mha"], "its expanded cache": forms["expanded"], "GQA-8": forms["gqa8"]}
    entry.figure += f". Timed at {context} tokens, absorbed: " + ", ".join(
        f"{against(row, forms['absorbed'])} than {name}" for name, row in rivals.items())
    won = [name for name, row in rivals.items() if faster(gain(row, forms["absorbed"]))]
    lost = [name for name in rivals if name not in won]
    if min(caches.values()) <= own:
        return NOT_HERE, "The cache is no smaller than these."
    if not won:
        return NOT_HERE, "The cache is smaller, but it makes no decode step faster here."
    if not lost:
        return HOLDS, f"The cache is smaller than all of these, and decodes faster at {context} tokens."
    flops = e.account(V3, "attention_flops_per_token") / e.account(V3, "attention_flops_per_token_expanded")
    return ONLY_IF, (f"the rival is {' or '.join(won)}; it is no faster than {' or '.join(lost)}. The cache is smaller "
                     f"than any of these, but absorbed attention takes {times(flops)} the FLOPs of the expanded form, "
                     "so a ratio of bytes is not a speed-up.")


@claim("G3", "The cache is significantly shrunk, by {v2_kv_saving}.",
       "Count cache bytes of V2 and of DeepSeek 67B at equal and at unequal bits an element.")
def shrunk_by_mla_or_by_bits(e, entry):
    entry.cite("v2_kv_saving")
    full = 16
    whole = e.account(DENSE_67B, f"kv_bytes_per_token/bits_{full}")
    latent = {bits: e.account(V2, f"kv_bytes_per_token/bits_{bits}") for bits in (4, 6, 8, 16)}
    entry.figure = f"{DENSE_67B}, {full} bits: {whole:,.0f} bytes a token. V2: " + "; ".join(
        f"{bits} bits {count:,.0f} (-{tenths(1 - count / whole)})" for bits, count in latent.items())
    fitting = [bits for bits, count in latent.items() if round(1 - count / whole, 3) == e["v2_kv_saving"]]
    equal = f"At equal precision it is {tenths(1 - latent[full] / whole)}, not {written('v2_kv_saving')}."
    if full in fitting:
        return HOLDS, "It is so at equal precision."
    if not fitting:
        return MISPRINT, f"No number of bits counted here gives it. {equal}"
    bits = fitting[0]
    return ONLY_IF, (f"the latent has {bits} bits and the rival's keys and values {full}: of "
                     f"{times(whole / latent[bits])} MLA is {times(whole / latent[full])} and the bits are "
                     f"{times(full / bits)}. {equal}")


@claim("G4", "R1 at about {text_a_r1_price} against o1 at about {text_a_o1_price} does not show o1 to be that much "
       "less efficient.", "Divide list prices by the cost of rented hardware at DeepSeek's published throughput.")
def price_gap_is_no_efficiency_gap(e, entry):
    entry.cite("text_a_r1_price", "text_a_o1_price", "r1_input", "r1_output", "o1_output", "gpu_hour",
               "node_input_rate", "node_output_rate")
    margins = {"output": e.over_floor("r1_output"), "input": e.over_floor("r1_input")}
    entry.figure = (f"o1 over R1, output: {times(e['o1_output'] / e['r1_output'])}. Rented hardware: "
                    f"{dollars(e.floor('node_output_rate'))} for a million tokens out, "
                    f"{dollars(e.floor('node_input_rate'))} in; R1's list price over that: "
                    + ", ".join(f"{kind} {times(margin)}" for kind, margin in margins.items()))
    if min(margins.values()) > 1 + NEAR:
        return HOLDS, (f"R1's own price is {times(min(margins.values()))} its hardware or more, so the ratio of prices "
                       f"holds a margin on one side at least. {NOT_COST} o1's cost is not public.")
    return NOT_HERE, f"R1's price is near its hardware's cost, so its side of the gap is no margin. {NOT_COST}"


@claim("G5", "V3 at {text_a_v3_price} against GPT-4o at {text_a_4o_price}: the same again.",
       "Put the price lists side by side, like with like.")
def v3_price_gap(e, entry):
    mine = {"promotion": "v3_promotion_", "list": "v3_"}
    entry.cite("text_a_v3_price", "text_a_4o_price",
               *(start + kind for start in (*mine.values(), "4o_") for kind in ("input", "output")))
    text = e["text_a_4o_price"] / e["text_a_v3_price"]
    ratios = {f"{kind}, {tariff}": e["4o_" + kind] / e[start + kind]
              for tariff, start in mine.items() for kind in ("input", "output")}
    entry.figure = f"As the text has it {times(text)}; " + "; ".join(f"{name} {times(r)}" for name, r in ratios.items())
    prices = [start + kind for start in mine.values() for kind in ("input", "output")]
    nearest = min(prices, key=lambda name: abs(e[name] / e["text_a_v3_price"] - 1))
    if agrees(e[nearest], e["text_a_v3_price"]):
        return HOLDS, f"{written('text_a_v3_price')} was {what(nearest)}. {NOT_COST}"
    fitting = [name for name, ratio in ratios.items() if agrees(ratio, text, NEAR)]
    condition = f"prices of {' or '.join(fitting)} are meant" if fitting else "prices are meant that no list has"
    return ONLY_IF, (f"{condition}: {written('text_a_v3_price')} is on no list, the nearest is {written(nearest)} "
                     f"({what(nearest)}). {NOT_COST}")


@claim("G6", "DeepSeek does not lose money on each call.",
       "Hold its prices against the cost of rented hardware at its published throughput, by kind and for a day's mix.")
def above_cost(e, entry):
    prices = ("v3_input", "v3_output", "v3_promotion_input", "v3_promotion_output")
    entry.cite(*prices, "v3_promotion_cached", "node_input_rate", "node_output_rate", "gpu_hour", "fleet_nodes",
               "day_input", "day_output", "day_hits", "sglang_output_rate", "sglang_price")
    over = {name: e.over_floor(name) for name in prices}
    cost = e["fleet_nodes"] * e["gpus_per_node"] * e["gpu_hour"] * 24
    output, hits = e["day_output"] * e["v3_promotion_output"] / 1e6, e["day_input"] * e["day_hits"] / 1e6
    fresh = e["day_input"] / 1e6 - hits
    revenue = {"all input at the price of fresh": output + (fresh + hits) * e["v3_promotion_input"],
               "hits at theirs": output + fresh * e["v3_promotion_input"] + hits * e["v3_promotion_cached"]}
    entry.figure = ("price over rented hardware: " + "; ".join(f"{what(name)} {times(r)}" for name, r in over.items())
                    + f". A day of the fleet is {dollars(cost)}; its tokens at the promotion's prices, "
                    + ", ".join(f"{name}, {dollars(value)}" for name, value in revenue.items())
                    + f". Another's replication of output comes to {dollars(e.floor('sglang_output_rate'))}")
    below = [name for name, ratio in over.items() if ratio < 1]
    caveat = f"Counted is hardware at rent: no staff, no research. {NOT_COST}"
    if not below:
        return HOLDS, f"Every price is above it. {caveat}"
    mix = min(revenue.values()) / cost
    if mix < 1:
        return NOT_HERE, f"At the promotion's prices a day's mix brings {tenths(mix)} of its hardware. {caveat}"
    return ONLY_IF, ("input pays for output during the promotion: " + ", ".join(
        f"{what(name)} is {tenths(1 - over[name])} below its hardware" for name in below)
        + f", and a day's mix brings {times(mix)} its hardware. {caveat}")


@claim("G7", "These optimisations may cost quality.", "Compare models trained both ways; no timing tells.")
def quality(e, entry):
    entry.cite("v2_ablation_entries", "v2_ablation_better")
    entry.figure = (f"not measured; published: MLA as good as MHA or better in {e['v2_ablation_better']} of "
                    f"{e['v2_ablation_entries']} comparisons")
    return BY_TOOL, ("Kernels are verified against references; what a model answers is not. No dense rival here is "
                     "matched in quality.")


@claim("G8", "A reasoning model costs what a token costs, times the tokens it thinks: thinking longer costs more.",
       "Sum FLOPs and bytes over the tokens of a thought, each with the cache that stands before it.")
def longer_thinking(e, entry):
    short, long = 1024, 32768
    growth = {unit: e.account(V3, f"{name}/tokens_{long}") / e.account(V3, f"{name}/tokens_{short}")
              for unit, name in (("FLOPs", "generation_flops"), ("bytes", "generation_bytes_fp8"))}
    entry.figure = (f"V3, absorbed: {long // short} times the tokens ({short} to {long}) are "
                    + " and ".join(f"{times(ratio)} the {unit}" for unit, ratio in growth.items())
                    + f"; a token's FLOPs have doubled at {e.account(V3, 'context_of_equal_flops/own_weights'):,.0f} "
                    "cached tokens, its bytes (one sequence, weights in fp8, cache in bf16) at "
                    f"{e.account(V3, 'context_of_equal_bytes/weights_fp8_cache_bf16'):,.0f}")
    if min(growth.values()) <= 1:
        return NOT_HERE, "A longer thought takes no more."
    linear = [unit for unit, ratio in growth.items() if agrees(ratio, long / short, NEAR)]
    faster_growing = [unit for unit in growth if unit not in linear]
    if not faster_growing:
        return HOLDS, "FLOPs and bytes both follow the number of tokens."
    if not linear:
        return NOT_HERE, "Longer costs more, but more than in proportion: a token attends to all before it."
    return ONLY_IF, (f"{linear[0]} bound a step: they follow the number of tokens, but {faster_growing[0]} grow "
                     "faster, since a token attends to all before it. Longer costs more either way.")


@claim("G9", "A model can be left to think almost indefinitely.",
       "Time decode steps by context; fit their seconds as a line over it.")
def think_indefinitely(e, entry):
    entry.cite("ik_empty", "ik_long", "mainline_empty", "mainline_long")
    timed, contexts, start, slope = e.growth
    entry.figure = (f"{timed}, {min(contexts)} to {max(contexts)} tokens cached: {short_time(max(start, 0))} with "
                    f"nothing cached and {1e9 * slope:.3g} us for each thousand tokens")
    double = max(start, 0) / slope
    entry.figure += f"; twice the time at {double:,.0f} tokens"
    if double < min(contexts):
        return NOT_HERE, "A step takes twice its time before the fewest tokens that were timed are cached."
    return ONLY_IF, (f"thoughts stay well under {double:,.0f} tokens, where this machine needs twice the time a token, "
                     "and while there is memory for the cache.")


@claim("G10", "Training V3 took about {text_a_training_cost} of compute.",
       "FLOPs of training from the accounts, over the published utilisation of the published hardware.")
def training_cost(e, entry):
    entry.cite("text_a_training_cost", "v3_cost", "v3_tokens", "v3_pretraining_hours", "v3_hours", "v3_mfu",
               "h100_bf16", "gpu_hour")
    hours, rent = e.training_flops / (e["v3_mfu"] * e["h100_bf16"]) / 3600, e["v3_hours"] * e["gpu_hour"]
    entry.figure = (f"{e.training_flops:.3g} FLOP, {hours / 1e3:,.0f}K GPU-hours of pre-training; the published hours "
                    f"of all stages at rent {dollars(rent)}")
    off = abs(hours / e["v3_pretraining_hours"] - 1)
    if agrees(hours, e["v3_pretraining_hours"]) and agrees(rent, e["text_a_training_cost"]):
        return HOLDS, (f"The hours follow from tokens, FLOPs and utilisation within {tenths(off)}; the dollars are "
                       f"those hours at an assumed rent. {NOT_COST}")
    return MISPRINT, f"The hours of pre-training are {tenths(off)} off, or the dollars do not follow from hours."


@claim("G11", "That is about half of what GPT-4o or Sonnet took.",
       "Compare training FLOPs and hours; neither rival published any.")
def half_of_others(e, entry):
    entry.cite("text_a_half", "llama_405b_hours", "llama_405b_tokens", "v3_hours", "v3_tokens")
    flops = e.account(LLAMA_405B, "training_flops_per_token_4k") * e["llama_405b_tokens"] / e.training_flops
    entry.figure = (f"against {LLAMA_405B}, which did publish: {times(e['llama_405b_hours'] / e['v3_hours'])} fewer "
                    f"hours, {times(flops)} fewer FLOPs")
    return BY_TOOL, "No FLOPs or hours of GPT-4o or Sonnet are public."


@claim("G12", "That cost leaves research out.", "Read the report.")
def research_excluded(e, entry):
    entry.cite("v3_cost", "v3_cost_excludes_research")
    entry.figure = "the report's own words"
    if e["v3_cost_excludes_research"]:
        return HOLDS, "The report says so itself."
    return NOT_HERE, "The report counts it in."


@claim("G13", "What R1 took is not known; the {text_a_r1_cost} that went round is probably V3's.",
       "V3's hours at rent; what was published of R1 later.")
def r1_cost(e, entry):
    entry.cite("text_a_r1_cost", "v3_cost", "v3_hours", "gpu_hour", "r1_cost")
    rent = e["v3_hours"] * e["gpu_hour"]
    entry.figure = (f"V3's hours at rent are {dollars(rent)}, {tenths(rent / e['text_a_r1_cost'])} of the figure that "
                    "went round")
    if agrees(rent, e["text_a_r1_cost"], NEAR):
        return HOLDS, f"It is V3's in round numbers. R1's own was published later: {written('r1_cost')} on top of V3."
    return NOT_HERE, "V3's hours at rent are another figure."


@claim("G14", "Very large runs are limited by how fast data moves between GPUs.",
       "Bytes that a token's all-to-all sends, over a link; beside its FLOPs over a GPU's peak.")
def all_to_all(e, entry):
    entry.cite("all_to_all_step", "all_to_all_link", "all_to_all_batch", "all_to_all_passes", "h800_bf16")
    sent = e.account(V3, "all_to_all_bytes_per_token")
    link, arithmetic = sent / e["all_to_all_link"], e.account(V3, "flops_per_token") / e["h800_bf16"]
    cached = e.account(V3, "kv_bytes_at_context") / e.account(V3, "kv_bytes_per_token")
    step = link * e["all_to_all_batch"] * e["all_to_all_passes"]
    entry.figure = (f"V3: {sent / 1e6:.2f} MB a token over all layers, {short_time(link)} of one link; its FLOPs with "
                    f"{cached:,.0f} tokens cached {short_time(arithmetic)} of a GPU's peak; a step as in the report "
                    f"{short_time(step)}")
    off = abs(step / e["all_to_all_step"] - 1)
    rest = f"The published bound follows within {tenths(off)}. No network is timed here."
    if link > arithmetic:
        return ONLY_IF, (f"experts are spread over nodes: then the link takes {times(link / arithmetic)} the time of "
                         f"the arithmetic, unless a token is kept to few nodes. {rest}")
    return NOT_HERE, f"The link takes {times(link / arithmetic)} the time of the arithmetic. {rest}"


@claim("G15", "Their answers are close to o1's and GPT-4o's.", "Benchmarks of answers; no timing tells.")
def close_to_others(e, entry):
    entry.figure = "not measured"
    return BY_TOOL, "This tool times kernels on random weights; it never hears a model answer."


# ---- "Why is DeepSeek V3 fast?"

@claim("N1", "V3 is fast for its size: why?",
       "Take a layer of a decode step apart: time, FLOPs, bytes, share of the ideal; put a dense FFN for the experts.")
def why_fast(e, entry):
    layer = e.row("decoder_layer", model=V3, batch=1, q=1, attention="absorbed")
    moe, dense = (e.row("moe_experts", model=V3, tokens=1),
                  e.row("dense_ffn", model=f"{V3}~dense_total", tokens=1))
    if not layer or not moe or not dense:
        raise Lacking("a whole layer, its experts and a dense FFN of equal total size",
                      "bench_mla run --op mla_project,mla_decode,moe_router,moe_experts,dense_ffn,decoder_layer "
                      f"--model {V3}")
    context = layer.keys["ctx"]
    parts = {"query and latent": e.row("mla_project", model=V3, batch=1, q=1),
             "attention": e.row("mla_decode", "absorbed", V3, batch=1, q=1, ctx=context),
             "router": e.row("moe_router", model=V3, tokens=1), "experts, shared one included": moe}
    parts = {name: row for name, row in parts.items() if row}

    def described(row):
        count = sum(row.counters[f"bytes_{kind}"] for kind in ("weights", "kv", "activations"))
        return (f"{short_time(row.time)}, {short_number(row.counters['flops'])}FLOP, {short_number(count)}B, "
                f"{tenths(row.roof)} of ideal")

    ratio = (layer.time - moe.time + dense.time) / layer.time
    step = e.row("decode_step", model=V3, batch=1, q=1)
    rate = step and step.counters.get("model_tokens_per_second")
    entry.figure = (f"one layer, one sequence, {context} tokens cached: {described(layer)}. Of it "
                    + "; ".join(f"{name} {described(row)}" for name, row in parts.items())
                    + f". With a dense FFN of equal total size the layer takes {times(ratio)} as long"
                    + (f". The whole model decodes {rate:.3g} tokens/s" if rate else ""))
    if not faster(ratio):
        return NOT_HERE, "With a dense FFN of equal total size a layer would be no slower."
    shares = sorted(((row.time / layer.time, name) for name, row in parts.items()), reverse=True)
    return HOLDS, ("A token reads few of the experts that are stored. What time is left goes to "
                   + ", ".join(f"{name} ({tenths(share)})" for share, name in shares)
                   + "; parts timed alone need not add up to a layer.")


@claim("N2", "People think it is cheap because its price is low.", "Divide prices by the cost of rented hardware.")
def priced_low(e, entry):
    prices = ("r1_input", "r1_output", "v3_input", "v3_output")
    entry.cite(*prices, "4o_output", "node_input_rate", "node_output_rate", "gpu_hour")
    over = {name: e.over_floor(name) for name in prices}
    entry.figure = "price over rented hardware: " + "; ".join(f"{what(name)} {times(r)}" for name, r in over.items())
    if min(over.values()) < 1:
        return HOLDS, f"A price is below the rented hardware, so a low price is all there is to see. {NOT_COST}"
    return ONLY_IF, (f"they look no further: list prices are {times(min(over.values()))} to "
                     f"{times(max(over.values()))} the rented hardware, which for output is "
                     f"{tenths(e.floor('node_output_rate') / e['4o_output'])} of GPT-4o's price. {NOT_COST} "
                     "Here a low cost stands behind the low price.")


@claim("N3", "R1 takes {text_b_r1_input} where o1 takes {text_b_o1_input}.", "Read the price lists.")
def r1_and_o1(e, entry):
    entry.cite("text_b_r1_input", "text_b_o1_input", "r1_input", "o1_input", "r1_cached", "o1_cached")
    entry.figure = (f"{times(e['o1_input'] / e['r1_input'])}, both for input not in the cache; "
                    f"{times(e['o1_cached'] / e['r1_cached'])} for input in it")
    if e["text_b_r1_input"] == e["r1_input"] and e["text_b_o1_input"] == e["o1_input"]:
        return HOLDS, f"Both are as listed. {NOT_COST}"
    return MISPRINT, f"The lists say {written('r1_input')} and {written('o1_input')}. {NOT_COST}"


@claim("N4", "V3 takes {text_b_v3_price}; GPT-4o {text_b_4o_input} and {text_b_4o_output}.", "Read the price lists.")
def v3_and_4o(e, entry):
    said = {"text_b_v3_price": ("v3_input", "v3_output"), "text_b_4o_input": ("4o_input",),
            "text_b_4o_output": ("4o_output",)}
    listed = ("v3_input", "v3_cached", "v3_output", "v3_promotion_input", "v3_promotion_output", "4o_input",
              "4o_cached", "4o_output")
    entry.cite(*said, *listed)
    maker = lambda name: name.partition("_")[0]
    same = {name: [price for price in listed if maker(price) == maker(meant[0]) and e[price] == e[name]]
            for name, meant in said.items()}
    entry.figure = "; ".join(f"{written(name)} is {' and '.join(map(what, prices)) or 'on no list of its maker'}"
                             for name, prices in same.items())
    if all(set(same[name]) & set(meant) for name, meant in said.items()):
        return HOLDS, f"All are as listed. {NOT_COST}"
    return MISPRINT, f"Not each is the price that it is given as. {NOT_COST}"


@claim("N5", "Others serve V3 too: Together at {text_b_together}, Fireworks at {text_b_fireworks}.",
       "Divide by the cost of rented hardware.")
def other_hosts(e, entry):
    hosts = ("text_b_together", "text_b_fireworks")
    entry.cite(*hosts, "node_output_rate", "gpu_hour")
    entry.figure = "over rented hardware, for output: " + ", ".join(
        f"{what(name)} {times(e[name] / e.floor('node_output_rate'))}" for name in hosts)
    return BY_TOOL, f"These prices are known only from the text; what is margin, only the hosts know. {NOT_COST}"


@claim("N6", "DeepSeek serves at about {text_b_share} of OpenAI's price.",
       "Put the price lists side by side, like with like.")
def share_of_price(e, entry):
    pairs = [("r1_input", "o1_input"), ("r1_output", "o1_output"), ("v3_input", "4o_input"), ("v3_output", "4o_output")]
    entry.cite("text_b_share", *(name for pair in pairs for name in pair))
    shares = {f"{what(own)} over {what(other)}": e[own] / e[other] for own, other in pairs}
    entry.figure = "; ".join(f"{name}: {tenths(share)}" for name, share in shares.items())
    fitting = [name for name, share in shares.items() if agrees(share, e["text_b_share"], NEAR)]
    if len(fitting) == len(shares):
        return HOLDS, f"All list prices say so. {NOT_COST}"
    if fitting:
        return ONLY_IF, f"{' or '.join(fitting)} is meant. {NOT_COST}"
    return NOT_HERE, (f"List prices are {tenths(min(shares.values()))} to {tenths(max(shares.values()))} of "
                      f"OpenAI's. {NOT_COST}")


@claim("N7", "An H800 is as fast as an H100, with worse memory.", "Read the data sheets.")
def h800(e, entry):
    parts = {"arithmetic": "bf16", "memory": "memory", "NVLink": "nvlink"}
    entry.cite(*(f"{gpu}_{part}" for part in parts.values() for gpu in ("h800", "h100")))
    ratios = {name: e[f"h800_{part}"] / e[f"h100_{part}"] for name, part in parts.items()}
    entry.figure = "H800 over H100: " + ", ".join(f"{name} {tenths(ratio)}" for name, ratio in ratios.items())
    cut = [name for name, ratio in ratios.items() if ratio < 1 - AGREES]
    if cut == ["memory"]:
        return HOLDS, "Memory is what was cut."
    also = "" if "memory" in cut else "; memory is not"
    return NOT_HERE, f"What was cut is {' and '.join(cut) or 'none of these'}{also}."


@claim("N8", "V3 is like a model of {text_b_size}, so it cannot be cheaper to run than a far smaller one.",
       "Count what is stored, multiplied and read; time experts beside dense FFNs of equal active and total size.")
def like_its_size(e, entry):
    entry.cite("text_b_size", "v3_total", "v3_active")
    stored, active = e.account(V3, "total_parameters"), e.account(V3, "active_parameters")
    steps = {batch: e.account(V3, f"weight_bytes_per_step_fp8/batch_{batch}") for batch in (1, 32, 128)}
    entry.figure = (f"{billions(stored)} stored, {billions(active)} multiplied a token; read in fp8 "
                    + ", ".join(f"{count / 1e9:.1f} GB at batch {batch}" for batch, count in steps.items()))
    model, batches = e.experts
    entry.figure += f". Timed, {model}'s experts: " + "; ".join(
        f"{tokens_of(n)}, {times(gain(moe, small))} dense of active size, {tenths(gain(moe, large))} of dense of "
        "total size" for n, moe, small, large in batches)
    as_large = [n for n, moe, _, large in batches if not faster(gain(large, moe))]
    if len(as_large) == len(batches):
        return HOLDS, "At every batch timed, experts take as long as the dense FFN of all of them."
    memory = f"memory is meant, since all {billions(stored)} must be held"
    if as_large:
        return ONLY_IF, (f"{memory}; or batches of {', '.join(map(str, as_large))}, where experts take as long as the "
                         "dense FFN of all of them.")
    n, moe, small, large = batches[-1]
    return ONLY_IF, (f"{memory}. It is not so in FLOPs; in time it goes by the batch: at {tokens_of(n)} experts take "
                     f"{times(gain(moe, small))} dense of active size, yet {tenths(gain(moe, large))} of dense of "
                     "total size.")


@claim("N9", "R1 against o1 hangs on how long each thinks.",
       "Tokens that each thinks on the same questions; o1's are not public.")
def thinking_length(e, entry):
    entry.figure = (f"R1, whose shape is V3's: a token's FLOPs have doubled at "
                    f"{e.account(V3, 'context_of_equal_flops/own_weights'):,.0f} cached tokens")
    return BY_TOOL, ("What a token takes R1 is computed here; how many tokens o1 thinks, and what one takes it, is not "
                     "public.")


@claim("N10", "Price does not map one to one to cost.",
       "Divide each of R1's prices by the cost of rented hardware for that kind of token.")
def price_and_cost(e, entry):
    prices = ("r1_input", "r1_cached", "r1_output")
    entry.cite(*prices, "node_input_rate", "node_output_rate", "gpu_hour")
    over = {what(name): e.over_floor(name) for name in prices}
    entry.figure = "; ".join(f"{name} {times(r)}" for name, r in over.items()) + " (a hit as if computed in full)"
    spread = max(over.values()) / min(over.values())
    if spread > 1 + NEAR:
        return HOLDS, f"One maker's margins on one model already differ by {times(spread)}. {NOT_COST}"
    return NOT_HERE, "R1's prices are all the same multiple of the hardware's cost."


@claim("N11", "Training was cheap because of workarounds for the hardware.",
       "Utilisation of the peak, from training FLOPs, tokens and hours: V3 beside V2 and DeepSeek 67B.")
def workarounds(e, entry):
    entry.cite("v3_tokens", "v3_pretraining_hours", "v2_hours_per_trillion", "v2_hours_saving", "h800_bf16", "h800_fp8")
    trillion, hours = 1e12, e["v2_hours_per_trillion"]
    used = {V3: e.utilisation(V3, e["v3_tokens"], e["v3_pretraining_hours"]), V2: e.utilisation(V2, trillion, hours),
            DENSE_67B: e.utilisation(DENSE_67B, trillion, hours / (1 - e["v2_hours_saving"]))}
    flops = e.account(DENSE_67B, "training_flops_per_token_4k") / e.account(V3, "training_flops_per_token_4k")
    entry.figure = ("of the BF16 peak: " + ", ".join(f"{model} {tenths(share)}" for model, share in used.items())
                    + f"; of the FP8 peak V3 {tenths(used[V3] * e['h800_bf16'] / e['h800_fp8'])}. {DENSE_67B} takes "
                    f"{times(flops)} V3's FLOPs a token")
    if used[V3] > used[DENSE_67B] * (1 + NEAR):
        return HOLDS, "V3 uses more of its hardware than a dense model of the same makers did."
    if used[V3] > used[V2] * (1 + NEAR):
        return ONLY_IF, (f"V2 is what it is compared with: V3's utilisation is {times(used[V3] / used[V2])} V2's, but "
                         f"{times(used[V3] / used[DENSE_67B])} that of a dense model of the same makers. Beside that "
                         f"one, what made V3 cheaper are {times(flops)} fewer FLOPs a token.")
    return NOT_HERE, (f"V3's utilisation is no higher than V2's; its FLOPs a token are {times(flops)} fewer than a "
                      "dense model's.")


# ---- Published figures

@claim("F1", "Llama-3.1-405B's cache is {kv_405b_ratio} V3's.", "Divide the two caches' bytes a token.")
def cache_of_405b(e, entry):
    entry.cite("kv_405b_ratio", "kv_72b_ratio")
    own, large, small = (e.account(model, "kv_bytes_per_token") for model in (V3, LLAMA_405B, QWEN_72B))
    entry.figure = (f"{large:,.0f} / {own:,.0f} = {large / own:.3f}x; {QWEN_72B}: {small:,.0f} / {own:,.0f} = "
                    f"{small / own:.3f}x")
    if round(large / own, 2) == e["kv_405b_ratio"]:
        return HOLDS, "It follows from the bytes."
    return MISPRINT, f"The bytes in the same table give {large / own:.2f}x, not {written('kv_405b_ratio')}."


TRAINING = "Six FLOPs a weight and token, and attention over causal sequences of four thousand tokens."


def training_parts(e, model):
    """GFLOP a token: the layers' matrices, the head, attention between tokens; and their sum."""
    parts = [e.account(model, f"training_flops_per_token_4k/{part}") / 1e9
             for part in ("layers_without_attention_core", "head", "attention_core")]
    return *parts, sum(parts)


@claim("F2", "Training takes {training_v2} for V2 and {training_v3} for V3.", TRAINING)
def training_of_deepseek(e, entry):
    models = {"training_v2": V2, "training_v3": V3}
    entry.cite(*models)
    whole = {name: training_parts(e, model)[-1] for name, model in models.items()}
    entry.figure = "; ".join(f"{model} {whole[name]:.1f} GFLOP a token" for name, model in models.items())
    if all(round(value) == e[name] for name, value in whole.items()):
        return HOLDS, "Both follow."
    return MISPRINT, "They do not follow."


@claim("F3", "Training takes {training_72b} for Qwen-72B.", TRAINING)
def training_of_qwen(e, entry):
    entry.cite("training_72b")
    layers, head, attention, whole = training_parts(e, QWEN_72B)
    entry.figure = (f"{layers:.1f} (layers) + {head:.1f} (head) + {attention:.1f} (attention) = {whole:.1f} GFLOP a "
                    "token")
    if round(whole) == e["training_72b"]:
        return HOLDS, "It follows."
    if layers > e["training_72b"]:
        return MISPRINT, (f"The matrices of {QWEN_72B}'s layers alone take {layers:.0f} GFLOP a token, more than the "
                          f"{written('training_72b')} published: no way to count attention or head gives it.")
    return ONLY_IF, "attention or head are counted in another way than for the other models of the same table."


@claim("F4", "Training takes {training_405b} for Llama-405B.", TRAINING)
def training_of_llama(e, entry):
    entry.cite("training_405b")
    *_, attention, whole = training_parts(e, LLAMA_405B)
    halved = whole - attention / 2
    entry.figure = f"{whole:.1f} GFLOP a token; with half of its attention {halved:.1f}"
    if round(whole) == e["training_405b"]:
        return HOLDS, "It follows."
    if round(halved) == e["training_405b"]:
        return ONLY_IF, "its attention is halved once more than that of V2 and V3 in the same table."
    return MISPRINT, "It follows in neither way."


@claim("F5", "V3 has {v3_active} active parameters.",
       "Count what a decoded token multiplies, with and without the table of the input embedding.")
def active_parameters(e, entry):
    entry.cite("v3_active", "v3_total")
    counts = {"without the table": e.account(V3, "active_parameters"),
              "with it": e.account(V3, "active_parameters/with_embedding")}
    entry.figure = ", ".join(f"{count / 1e9:.2f} B {name}" for name, count in counts.items())
    fitting = [name for name, count in counts.items() if round(count / 1e9) * 1e9 == e["v3_active"]]
    if len(fitting) == len(counts):
        return HOLDS, "Both ways of counting round to it."
    if not fitting:
        return MISPRINT, "Neither way of counting gives it."
    return ONLY_IF, (f"it is counted {fitting[0]}: the counts round to "
                     + ", ".join(f"{count / 1e9:.0f} B {name}" for name, count in counts.items())
                     + ". A token looks one row of the table up and multiplies none.")


@claim("F6", "Predicting a second token makes decoding {mtp_speed} as fast.",
       "One sequence bound by bytes: tokens accepted, over the bytes of a step that verifies two and drafts one.")
def second_token(e, entry):
    entry.cite("mtp_speed", "mtp_acceptance_low", "mtp_acceptance_high")
    accepted = [1 + e[name] for name in ("mtp_acceptance_low", "mtp_acceptance_high")]
    factors = {"experts chosen independently": e.account(V3, "mtp_bytes_factor/overlap_by_chance"),
               "neighbours sharing experts as measured on text": e.account(V3, "mtp_bytes_factor/overlap_38_percent")}
    entry.figure = "; ".join(f"{name}: {factor:.3f}x the bytes, {accepted[0] / factor:.2f} to "
                             f"{accepted[1] / factor:.2f}x the tokens/s" for name, factor in factors.items())
    best = accepted[1] / min(factors.values())
    if best >= e["mtp_speed"]:
        return HOLDS, "It does even where bytes bound a single sequence."
    if accepted[1] >= e["mtp_speed"]:
        return ONLY_IF, ("a second token adds next to no time to a step, as where all experts are read anyway. One "
                         f"sequence bound by bytes gains {times(best)} at the most: its second token wants experts of "
                         "its own.")
    return NOT_HERE, "Fewer tokens are accepted than that takes."


@claim("F7", "Absorbed decode is bound by arithmetic at V3's heads.",
       "FLOPs a byte of cache beside this machine's ridge, its measured multiply rate over its measured bandwidth.")
def compute_bound(e, entry):
    entry.cite("h800_sustained", "h800_memory")
    own, lite = (e.account(model, "attention_flops_per_cache_byte/bf16") for model in (V3, LITE))
    entry.figure = (f"V3 {own:.0f} FLOP a byte of cache, V2-Lite {lite:.0f}; an H800 balances "
                    f"{e['h800_sustained'] / e['h800_memory']:.0f}")
    context, forms = e.longest_decode
    row = forms["absorbed"]
    ridge, step = row.counters["peak_gflops"] / row.counters["peak_gbs"], row.counters["intensity"]
    entry.figure += (f", this machine {ridge:.0f}. With W_UK and W_UV, which are read too, a step of one sequence at "
                     f"{context} tokens takes {step:.0f}; it ran at {tenths(row.roof)} of ideal")
    if own <= ridge:
        return NOT_HERE, "This machine multiplies as often for each byte it reads as the cache asks for, or more."
    asks = f"asks for {times(own / ridge)} the FLOPs a byte that this machine balances"
    if step > ridge:
        return HOLDS, f"The cache {asks}, and so does the step as timed."
    return ONLY_IF, (f"most of what is read is cache, as with many sequences or a long context. The cache {asks}, but "
                     f"for one sequence at {context} tokens weights make a step one of {step:.0f} FLOP a byte.")


@claim("F8", "Expanding the latents beats absorbing them from {ik_crossover_low} to {ik_crossover_high} on.",
       "Time both for more and more new tokens on cached ones; beside it the crossover by FLOPs.")
def crossover(e, entry):
    entry.cite("ik_crossover_low", "ik_crossover_high")
    by_flops = {past: e.account(V3, f"absorbed_crossover/cached_{past}") for past in (512, 4096)}
    entry.figure = "by FLOPs " + ", ".join(f"at {count:.0f} on {past} cached" for past, count in by_flops.items())
    crossings = {}  # the most new tokens at which expanding is no faster, and the fewest beyond
    for past in by_flops:
        gains = {}
        for absorbed in e.rows("mla_prefill", "absorbed", V3, batch=1, past=past):
            expanded = e.row("mla_prefill", "expanded", V3, batch=1, past=past, q=absorbed.keys.get("q"))
            if expanded and absorbed.number("q"):
                gains[absorbed.number("q")] = gain(absorbed, expanded)
        if gains:
            low = max((q for q, ratio in gains.items() if not faster(ratio)), default=0)
            crossings[past] = low, min((q for q in gains if q > low), default=math.inf)
    if not crossings:
        raise Lacking("prefills both ways", f"bench_mla run --op mla_prefill --model {V3}")
    entry.figure += "; timed " + ", ".join(
        (f"after {low}" if high == math.inf else f"between {low} and {high}") + f" on {past} cached"
        for past, (low, high) in crossings.items())
    inside = [past for past, (low, high) in crossings.items()
              if low < e["ik_crossover_high"] and high >= e["ik_crossover_low"]]
    if len(inside) == len(crossings):
        return HOLDS, "The crossing falls there on this machine too."
    if inside:
        return ONLY_IF, f"{' or '.join(map(str, inside))} tokens are cached; else the crossing falls elsewhere here."
    return NOT_HERE, "The crossing falls elsewhere on this machine."


@claim("F9", "On CPUs the experts' kernel reaches {xeon_kernel} of the bandwidth.",
       "The kernel's share of the ideal beside that of the step that it is in.")
def kernel_and_step(e, entry):
    entry.cite("xeon_kernel", "xeon_step", "xeon_bandwidth", "xeon_70b_ratio")
    whole = e.account(V3, "weight_bytes_per_step_fp8/batch_1") / e["xeon_step"] / e["xeon_bandwidth"]
    ratio = e.account(LLAMA_70B, "active_parameters") / e.account(V3, "active_parameters")
    entry.figure = (f"there a token's bytes over its time are {tenths(whole)} of the bandwidth; by bytes it should be "
                    f"{times(ratio)} as fast as {LLAMA_70B}, and was {written('xeon_70b_ratio')}")
    kernel = e.row("moe_experts", model=V3, tokens=1)
    step = (e.row("decode_step", model=V3, batch=1, q=1)
            or e.row("decoder_layer", model=V3, batch=1, attention="absorbed"))
    if not kernel or not step:
        raise Lacking("experts and a step around them", f"bench_mla run --op moe_experts,decoder_layer --model {V3}")
    entry.figure += f". Here the kernel is at {tenths(kernel.roof)} of ideal, {step.op} at {tenths(step.roof)}"
    if kernel.roof < e["xeon_kernel"] * (1 - NEAR):
        return NOT_HERE, f"The kernel reaches {tenths(kernel.roof)} here."
    if whole >= e["xeon_kernel"] * (1 - NEAR):
        return HOLDS, "The kernel does, and so did the whole step there."
    return ONLY_IF, f"the kernel alone is meant: the whole step there reached {tenths(whole)}."
