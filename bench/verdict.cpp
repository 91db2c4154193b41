#include "verdict.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <ostream>
#include <set>
#include <vector>

#include "mmb/accounting.h"
#include "mmb/machine.h"
#include "model_verdict.h"
#include "pace.h"
#include "words.h"

namespace mmb {
namespace {

struct Timing {
  double measured, ideal;  // seconds
  bool memory_bound;
  bool usual;  // pace
};

// How many times faster `to` is than `from`, measured and as the machine's peaks allow.
struct Gain {
  double measured, ideal;
};
Gain gain(const Timing& from, const Timing& to) {
  return {from.measured / to.measured, from.ideal / to.ideal};
}
std::string words(const Gain& g) {
  return g.measured >= 1 ? figure(g.measured) + "x faster (ideal " + figure(g.ideal) + "x)"
                         : figure(1 / g.measured) + "x slower (ideal " + figure(1 / g.ideal) + "x)";
}

// The rows of one type and level, on all threads; without the rows whose result was wrong.
class Rows {
 public:
  Rows(std::span<const Result> results, Impl level) : pace_(results) {
    for (const Result& r : results) {
      if (!r.error.empty() || r.name.threads != "all" || r.name.impl != name(level) || !(r.seconds > 0)) continue;
      rows_.push_back(&r);
      if (r.name.model != "none" && !first_) first_ = &r;
    }
  }

  bool empty() const { return !first_; }
  const std::string& dtype() const { return first_->name.dtype; }
  DType weights() const {
    return *std::ranges::find(kWeightTypes, dtype(), [](DType type) { return std::string(name(type)); });
  }
  const std::string& impl() const { return first_->name.impl; }

  std::vector<const Result*> of(const std::string& op) const {
    std::vector<const Result*> found;
    if (empty()) return found;
    for (const Result* r : rows_)
      if (r->name.op == op && (r->name.model == "none" || r->name.dtype == dtype())) found.push_back(r);
    return found;
  }

  const Result* row(const std::string& op, const std::string& algo, const std::string& model,
                    const std::string& key_part) const {
    for (const Result* r : of(op))
      if ((algo.empty() || r->name.algo == algo) && r->name.model == model &&
          ("/" + r->name.key + "/").find("/" + key_part + "/") != std::string::npos)
        return r;
    return nullptr;
  }

  std::optional<Timing> time(const std::string& op, const std::string& algo, const std::string& model,
                             const std::string& key_part) const {
    const Result* r = row(op, algo, model, key_part);
    return r ? std::optional(timing(*r)) : std::nullopt;
  }

  Timing timing(const Result& r) const {
    return {r.seconds, r.counters.at("roof") * r.seconds, r.counters.at("bound") == 1, pace_.usual(r)};
  }

  // Of each op's rows, in percent, in the order of the run.
  std::vector<std::pair<std::string, std::vector<double>>> roofs() const {
    std::vector<std::pair<std::string, std::vector<double>>> all;
    for (const Result* r : rows_) {
      if (r->name.model == "none") continue;
      auto op = std::ranges::find(all, r->name.op, [](const auto& of) { return of.first; });
      if (op == all.end()) op = all.insert(op, {r->name.op, {}});
      op->second.push_back(100 * r->counters.at("roof"));
    }
    return all;
  }

  // A peak, a second: the largest beside a model's experts, in FLOPs of the instructions that its type is multiplied with.
  double peak(const std::string& model, const std::string& counter) const {
    double best = 0;
    for (const Result* r : of("moe_experts"))
      if (r->name.model == model) best = std::max(best, r->counters.at(counter));
    return best * kGiga;
  }

 private:
  Pace pace_;
  std::vector<const Result*> rows_;
  const Result* first_ = nullptr;
};

constexpr const char* kUnusualPace =
    "  ! measured while the machine's peaks were more than a quarter off their middle, or below what the row reached: "
    "left out of comparisons.\n";

// One decode step of attention by the ways to cache it.
struct Decode {
  int64_t context;
  std::optional<Timing> mha, gqa8, mqa, absorbed, expanded;
  double storage_err;                 // of absorbed
  std::vector<const Result*> scaled;  // absorbed or integer, of latents with scales
};

std::vector<Decode> decodes(const Rows& rows, const std::string& model) {
  std::vector<Decode> all;
  for (const Result* r : rows.of("mla_decode")) {
    const auto context = key_value(r->name.key, "ctx");
    if (r->name.model != model || r->name.algo != "absorbed" || key_value(r->name.key, "batch") != 1 ||
        key_value(r->name.key, "q") != 1 || !context || key_word(r->name.key, "cache"))
      continue;
    const std::string& key = r->name.key;
    std::vector<const Result*> scaled;
    for (const Result* other : rows.of("mla_decode"))
      if (other->name.model == model && key_word(other->name.key, "cache") && other->name.key.starts_with(key + "/"))
        scaled.push_back(other);
    all.push_back({*context, rows.time("attention_decode", "", model + "~mha", key),
                   rows.time("attention_decode", "", model + "~gqa8", key),
                   rows.time("attention_decode", "", model + "~mqa", key),
                   rows.time("mla_decode", "absorbed", model, key), rows.time("mla_decode", "expanded", model, key),
                   r->counters.at("storage_err"), std::move(scaled)});
  }
  return all;
}

void print_cache(const Model& model, std::ostream& out) {
  const int64_t latent = 2 * kv_elements(model);
  out << "KV cache, bf16, per token and layer (exact): MLA " << latent << " bytes";
  for (const char* form : {"mha", "gqa8", "mqa"}) {
    const int64_t bytes = 2 * kv_elements(counterfactual(model, form));
    out << "; ~" << form << " " << bytes << " (" << figure(static_cast<double>(bytes) / static_cast<double>(latent))
        << "x)";
  }
  out << ".\n";
}

void print_decode(const Rows& rows, const Model& model, const std::vector<Decode>& decodes, std::ostream& out) {
  out << "Attention of one decode step, one layer, batch 1, query to output (% of ideal):\n";
  bool marked = false;
  const auto cell = [&](const std::optional<Timing>& t) {
    if (!t) return text("%16s ", "-");
    marked = marked || !t->usual;
    return text("%9.3f ms %3.0f%%%s", 1e3 * t->measured, 100 * t->ideal / t->measured, t->usual ? " " : "!");
  };
  out << text("  %8s %16s %17s %17s %17s %17s\n", "context", "MHA", "GQA-8", "MQA", "MLA absorbed", "MLA expanded");
  for (const Decode& d : decodes)
    out << text("  %8lld ", static_cast<long long>(d.context)) << cell(d.mha) << ' ' << cell(d.gqa8) << ' '
        << cell(d.mqa) << ' ' << cell(d.absorbed) << ' ' << cell(d.expanded) << '\n';
  if (marked) out << kUnusualPace;
  for (const Decode& d : decodes) {
    std::string compared;
    const auto against = [&](const char* name, const std::optional<Timing>& other) {
      if (other && other->usual && d.absorbed->usual)
        compared += (compared.empty() ? " " : ", ") + words(gain(*other, *d.absorbed)) + " than " + name;
    };
    against("MHA", d.mha);
    against("GQA-8", d.gqa8);
    against("MQA", d.mqa);
    against("its own expanded cache", d.expanded);
    if (!compared.empty()) out << "  At " << tokens(d.context) << " absorbed MLA is" << compared << ".\n";
    for (const Result* r : d.scaled) {
      out << "  With its latents in " << *key_word(r->name.key, "cache")
          << (r->name.algo == "integer" ? ", in dot products of integers" : "")
          << text(" (%.0f bytes a token) it takes %.3f ms, %.0f%% of ideal", r->counters.at("kv_bytes_per_token"),
                  1e3 * r->seconds, 100 * r->counters.at("roof"));
      const Timing t = rows.timing(*r);
      if (!t.usual) out << '!';
      if (t.usual && d.absorbed->usual) out << ": " << words(gain(*d.absorbed, t)) << " than in plain ones";
      out << "; so stored they move outputs by up to " << figure(100 * r->counters.at("storage_err"))
          << "% of the largest (plain ones " << figure(100 * d.storage_err) << "%).\n";
    }
  }
  if (decodes.empty()) return;
  const Decode& last = decodes.back();
  out << "  What bounds them at " << tokens(last.context) << ":";
  const char* separator = " ";
  const auto bound = [&](const char* name, const std::optional<Timing>& t) {
    if (!t) return;
    out << separator << name << (t->memory_bound ? " memory" : " arithmetic");
    separator = ", ";
  };
  bound("MHA", last.mha);
  bound("GQA-8", last.gqa8);
  bound("MQA", last.mqa);
  bound("MLA absorbed", last.absorbed);
  const double flops =
      static_cast<double>(attention_flops(model)) / static_cast<double>(attention_flops_expanded(model));
  out << ". MLA trades bytes for FLOPs (for every cached token " << figure(flops)
      << "x those of its expanded form), so a cache ratio is not a speed-up.\n";
}

void print_prefill(const Rows& rows, const Model& model, std::ostream& out) {
  // New tokens at which the expanded form is first faster, by past length.
  std::map<int64_t, std::vector<std::pair<int64_t, Gain>>> by_past;
  for (const Result* r : rows.of("mla_prefill")) {
    const auto past = key_value(r->name.key, "past"), new_tokens = key_value(r->name.key, "q");
    if (r->name.model != model.name || r->name.algo != "absorbed" || !past || !new_tokens) continue;
    const auto expanded = rows.time("mla_prefill", "expanded", model.name, r->name.key);
    const auto absorbed = rows.time("mla_prefill", "absorbed", model.name, r->name.key);
    if (expanded && expanded->usual && absorbed->usual)
      by_past[*past].push_back({*new_tokens, gain(*absorbed, *expanded)});
  }
  if (by_past.empty()) return;
  out << "New tokens on cached ones: absorb, or expand the latents?\n";
  for (auto& [past, points] : by_past) {
    std::sort(points.begin(), points.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    const auto crossing =
        std::find_if(points.begin(), points.end(), [](const auto& p) { return p.second.measured > 1; });
    out << "  On " << past << " cached: ";
    if (crossing == points.end())
      out << "absorbed is faster up to " << points.back().first << " new, the most timed";
    else if (crossing == points.begin())
      out << "expanded is faster from " << crossing->first << " new token" << (crossing->first > 1 ? "s" : "") << " on";
    else
      out << "absorbed is faster up to " << std::prev(crossing)->first << " new, expanded from " << crossing->first
          << " on";
    const double flops = absorbed_crossover(model, past);
    out << (std::isinf(flops) ? " (by FLOPs: absorbed always)"
            : past == 0       ? " (by FLOPs: expanded always)"
                              : text(" (by FLOPs: from %.0f on)", flops));
    out << "; at " << points.back().first << " new tokens expanded is " << words(points.back().second) << ".\n";
  }
}

// A MoE layer's experts at one batch, and the dense FFNs beside them.
struct Experts {
  int64_t tokens;
  double touched;
  Timing moe;
  std::optional<Timing> active, total;
  std::vector<const Result*> skewed;  // the same batch under other routings

  bool comparable(const std::optional<Timing>& other) const { return other && other->usual && moe.usual; }
};

std::vector<Experts> experts(const Rows& rows, const std::string& model) {
  std::vector<Experts> all;
  for (const Result* r : rows.of("moe_experts")) {
    const auto tokens = key_value(r->name.key, "tokens");
    if (r->name.model != model || !tokens || !r->name.key.ends_with("/routing:uniform")) continue;
    const std::string key = "tokens:" + std::to_string(*tokens);
    std::vector<const Result*> skewed;
    for (const Result* other : rows.of("moe_experts"))
      if (*tokens > 1 && other != r && other->name.algo == r->name.algo && other->name.model == model &&
          key_value(other->name.key, "tokens") == tokens && rows.timing(*r).usual && rows.timing(*other).usual)
        skewed.push_back(other);
    all.push_back({*tokens, r->counters.at("experts_touched"), rows.timing(*r),
                   rows.time("dense_ffn", "", model + "~dense_active", key),
                   rows.time("dense_ffn", "", model + "~dense_total", key), std::move(skewed)});
  }
  return all;
}

void print_experts(const Rows& rows, const Model& model, const std::vector<Experts>& batches, std::ostream& out) {
  if (batches.empty()) return;
  bool marked = false;
  out << "Experts of one " << model.name << " layer (" << model.n_routed_experts << ", top "
      << model.num_experts_per_tok << ") under uniform routing, the worst case for bytes:\n";
  for (const Experts& b : batches) {
    out << "  " << text("%3lld token%s %s", static_cast<long long>(b.tokens), b.tokens == 1 ? ", " : "s,", "")
        << text("%5.1f experts touched, ", b.touched) << milliseconds(b.moe.measured) << " ("
        << milliseconds(b.moe.measured / static_cast<double>(b.tokens)) << " a token, "
        << text("%.0f%%%s of ideal, ", 100 * b.moe.ideal / b.moe.measured, b.moe.usual ? "" : "!")
        << (b.moe.memory_bound ? "memory" : "arithmetic") << ")";
    marked = marked || !b.moe.usual;
    if (b.comparable(b.active)) out << "; " << words(gain(*b.active, b.moe)) << " than dense of equal active size";
    if (b.comparable(b.total)) out << "; " << words(gain(*b.total, b.moe)) << " than dense of equal total size";
    out << ".\n";
    const auto skewed = [&](const Result* r) {
      return r->name.key.substr(r->name.key.find('/') + 1) +
             text(": %.0f experts, ", r->counters.at("experts_touched")) + words(gain(b.moe, rows.timing(*r)));
    };
    if (!b.skewed.empty()) out << "      " << joined(b.skewed, "; ", skewed) << " than uniform.\n";
  }
  if (marked) out << kUnusualPace;
}

// What a dense model of the same speed would weigh, from the machine's peaks: at batch B a dense model's P parameters take
// the larger of their bytes' time and of B tokens' arithmetic.
class DenseEquivalent {
 public:
  DenseEquivalent(const Model& model, const Rows& rows)
      : layers_(static_cast<double>(model.moe_layers())),
        expert_(3.0 * static_cast<double>(model.hidden_size) * static_cast<double>(model.moe_intermediate_size)),
        shared_(3.0 * static_cast<double>(model.hidden_size) *
                static_cast<double>(model.shared_expert_intermediate_size)),
        rest_(static_cast<double>(active_parameters(model) - routed_active_parameters(model)) - layers_ * shared_),
        experts_(model.n_routed_experts),
        top_k_(model.num_experts_per_tok),
        flops_(rows.peak(model.name, "peak_gflops")),
        parameters_(rows.peak(model.name, "peak_gbs") * 8 / static_cast<double>(bits_of(rows.weights()))) {}

  // Parameters, in 1e9.
  double ideal(int64_t batch) const {
    const double touched = experts_touched(experts_, top_k_, batch);
    const auto tokens = static_cast<double>(batch);
    const double routed =
        std::max(touched * expert_ / parameters_, 2 * tokens * static_cast<double>(top_k_) * expert_ / flops_);
    return (rest_ + layers_ * (shared_ + routed / seconds_per_parameter(tokens))) * 1e-9;
  }
  // With the experts' time as measured against a dense FFN of equal active size; the rest of the model is as dense as any.
  double measured(const Experts& b) const {
    const double active = static_cast<double>(top_k_) * expert_ + shared_;
    return (rest_ + layers_ * active * b.moe.measured / b.active->measured) * 1e-9;
  }
  // 1, 2, 3, 4, 6, 8, 12 ... 4096: even steps on a logarithmic scale.
  static std::vector<int64_t> curve_batches() {
    std::vector<int64_t> batches = {1};
    for (int64_t batch = 2; batch <= kMost; batch *= 2) {
      batches.push_back(batch);
      if (batch < kMost) batches.push_back(batch / 2 * 3);
    }
    return batches;
  }
  int64_t worst_batch() const {
    int64_t worst = 1;
    for (int64_t batch = 1; batch <= kMost; ++batch)
      if (ideal(batch) > ideal(worst)) worst = batch;
    return worst;
  }
  // The batch from which the experts are as dense as their arithmetic again, within 5 %.
  int64_t dense_again() const {
    int64_t batch = worst_batch();
    while (batch < kMost && ideal(batch) > 1.05 * ideal(1)) ++batch;
    return batch;
  }

 private:
  static constexpr int64_t kMost = 4096;
  double seconds_per_parameter(double tokens) const { return std::max(1 / parameters_, 2 * tokens / flops_); }

  double layers_, expert_, shared_, rest_;
  int64_t experts_, top_k_;
  double flops_, parameters_;  // a second, from memory
};

// KV heads whose attention takes as long as `seconds`, between the heads that were timed.
double heads_of_equal_time(const std::vector<std::pair<double, double>>& heads_and_seconds, double seconds) {
  auto above = std::find_if(heads_and_seconds.begin(), heads_and_seconds.end(),
                            [&](const auto& point) { return point.second >= seconds; });
  if (above == heads_and_seconds.end()) above = std::prev(above);
  if (above == heads_and_seconds.begin()) return above->first * seconds / above->second;
  const auto below = std::prev(above);
  return below->first + (above->first - below->first) * (seconds - below->second) / (above->second - below->second);
}

// The least and the largest of an op's values, or its one.
std::string range_of(const std::string& op, const std::vector<double>& values, int decimals) {
  const auto [min, max] = std::minmax_element(values.begin(), values.end());
  return op + text(" %.*f", decimals, *min) + (values.size() > 1 ? text("-%.*f", decimals, *max) : "");
}

// How close the kernels came to the machine: ratios of rows that are far from it say little about the algorithms.
void print_roofs(const Rows& rows, std::ostream& out) {
  const auto range = [](const auto& of_op) { return range_of(of_op.first, of_op.second, 0) + "%"; };
  out << "Ideal over measured time, from the worst to the best row of each op: " << joined(rows.roofs(), ", ", range)
      << ".\n";
}

// Layers beside the sum of their ops, where the run has a row of each.
void print_parts(std::span<const Result> results, Impl level, std::ostream& out) {
  const RowsByName by_name = rows_by_name(results);
  std::map<std::string, std::vector<double>> ratios;
  for (const Result& r : results)
    if (r.name.impl == name(level))
      if (const auto parts = seconds_of_parts(r, by_name)) ratios[r.name.op].push_back(*parts / r.seconds);
  if (ratios.empty()) return;
  const auto range = [](const auto& of_op) { return range_of(of_op.first, of_op.second, 2); };
  out << "The sum of a layer's ops over the layer: " << joined(ratios, ", ", range) << ".\n";
}

// The kernels beside other libraries, where the run timed any.
void print_peers(std::span<const Result> results, std::ostream& out) {
  const auto is_peer = [](const Result& r) {
    return std::any_of(peers().begin(), peers().end(), [&](Impl impl) { return r.name.impl == name(impl); });
  };
  const auto usable = [](const Result& r) { return r.error.empty() && r.seconds > 0 && r.name.impl != "reference"; };
  for (const Result& ours : results) {
    if (!usable(ours) || is_peer(ours)) continue;
    const Result* best = nullptr;
    for (const Result& r : results)
      if (usable(r) && is_peer(r) && r.name.op == ours.name.op && r.name.dtype == ours.name.dtype &&
          r.name.model == ours.name.model && r.name.key == ours.name.key && r.name.threads == ours.name.threads &&
          (!best || r.seconds < best->seconds))
        best = &r;
    if (best)
      out << ours.name.text() << ": " << milliseconds(ours.seconds) << ", best peer " << best->name.impl << " "
          << milliseconds(best->seconds) << text(", %.2fx\n", best->seconds / ours.seconds);
  }
}

void print_sentence(const Rows& rows, const Model& model, const std::vector<Decode>& decodes,
                    const std::vector<Experts>& batches, std::ostream& out) {
  if (batches.empty() || decodes.empty()) return;
  const DenseEquivalent dense(model, rows);

  const Experts *one = nullptr, *worst = nullptr, *again = nullptr;
  const int64_t dense_again = dense.dense_again();
  for (const Experts& b : batches) {
    if (!b.comparable(b.active)) continue;
    if (b.tokens == 1) one = &b;
    if (b.tokens > 1 && (!worst || dense.measured(b) > dense.measured(*worst))) worst = &b;
    if (b.tokens >= dense_again) again = &b;
  }
  const auto billions = [](double measured, double ideal) { return text("%.0f B (ideal %.0f B)", measured, ideal); };
  out << "On this machine " << model.name << " decodes like a ";
  out << (one ? billions(dense.measured(*one), dense.ideal(1)) : text("%.0f B (ideal, not timed)", dense.ideal(1)));
  out << " dense model for one user, ";
  const int64_t worst_batch = dense.worst_batch();
  if (worst)
    out << billions(dense.measured(*worst), dense.ideal(worst->tokens)) << " at batch " << worst->tokens
        << text(" (the worst timed; ideally the worst is %.0f B at %lld)", dense.ideal(worst_batch),
                static_cast<long long>(worst_batch));
  else
    out << text("%.0f B at batch %lld (the worst; ideal, not timed)", dense.ideal(worst_batch),
                static_cast<long long>(worst_batch));
  out << ", ";
  if (again)
    out << billions(dense.measured(*again), dense.ideal(again->tokens)) << " again past " << dense_again;
  else
    out << text("%.0f B again past %lld (ideal, not timed)", dense.ideal(dense_again),
                static_cast<long long>(dense_again));

  const Decode& d = *std::min_element(decodes.begin(), decodes.end(), [](const Decode& a, const Decode& b) {
    return std::abs(a.context - 4096) < std::abs(b.context - 4096);
  });
  // In heads of 128 keys and 128 values, as dense models have them.
  constexpr double kHead = 256;
  const double unit = static_cast<double>(model.head_dim + model.v_head_dim) / kHead;
  std::vector<std::pair<double, double>> measured, ideal;
  const auto point = [&](int64_t heads, const std::optional<Timing>& t) {
    if (!t || !t->usual || !d.absorbed->usual) return;
    measured.push_back({static_cast<double>(heads) * unit, t->measured});
    ideal.push_back({static_cast<double>(heads) * unit, t->ideal});
  };
  point(1, d.mqa);
  point(8, d.gqa8);
  point(model.num_attention_heads, d.mha);
  out << "; at " << (d.context == 4096 ? "4K" : std::to_string(d.context)) << " tokens its cache is stored like "
      << text("%.2f", static_cast<double>(kv_elements(model)) / kHead) << " KV heads and costs the time of ";
  if (measured.empty())
    out << "an unknown number (not timed)";
  else
    out << text("%.0f (ideal %.0f)", heads_of_equal_time(measured, d.absorbed->measured),
                heads_of_equal_time(ideal, d.absorbed->ideal));
  out << ".\n";
}

}  // namespace

void print_verdict(const Suite& suite, std::span<const Result> results, const Price& price, std::ostream& out) {
  print_peers(results, out);
  print_whole_models(suite, results, price, out);
  print_pace(results, out);
  if (suite.profile() == Profile::model) return;  // its other rows are parts
  const Rows rows(results, suite.level());
  if (rows.empty()) return;
  // Models with experts or with MLA that were timed, the one with both kinds of rows last: it gives the sentence.
  std::vector<std::string> names;
  for (const char* op : {"moe_experts", "mla_decode", "mla_prefill"})
    for (const Result* r : rows.of(op)) {
      names.erase(std::remove(names.begin(), names.end(), r->name.model), names.end());
      names.push_back(r->name.model);
    }
  if (names.empty()) {
    if (rows.of("decode_step").empty() && rows.of("prefill_step").empty())
      out << "\nNo verdict: this run timed neither MLA nor experts.\n";
    return;
  }
  out << "\nVerdict (" << rows.dtype() << ", " << rows.impl()
      << " kernels, all threads; ideal = the larger of bytes and FLOPs over "
      << "this machine's measured peaks)\n";
  for (const std::string& name : names) {
    const Model model = suite.model(name);
    const auto steps = decodes(rows, name);
    if (model.is_mla() && !steps.empty()) {
      print_cache(model, out);
      print_decode(rows, model, steps, out);
    }
    if (model.is_mla()) print_prefill(rows, model, out);
    print_experts(rows, model, experts(rows, name), out);
  }
  print_roofs(rows, out);
  print_parts(results, suite.level(), out);
  out << "What this cannot tell: quality, which no dense comparator here is matched in; real routing, which is not "
         "uniform; "
         "accelerators, networks and batches beyond those timed.\n\n";
  const Model model = suite.model(names.back());
  if (!model.is_mla() || !model.moe_layers()) return;
  try {
    print_sentence(rows, model, decodes(rows, names.back()), experts(rows, names.back()), out);
  } catch (const Error&) {  // a config of these layers, without what a whole model's account asks for
  }
}

std::map<std::string, std::string> dense_equivalents(const Suite& suite, std::span<const Result> results) {
  const Rows rows(results, suite.level());
  std::set<std::string> names;
  for (const Result* r : rows.of("moe_experts")) names.insert(r->name.model);
  std::string ideal, measured;
  const auto add = [](std::string& curve, int64_t batch, double billions) {
    curve += text(" %lld %.5g", static_cast<long long>(batch), 1e9 * billions);
  };
  for (const std::string& name : names) {
    try {
      const DenseEquivalent dense(suite.model(name), rows);
      for (std::string* curve : {&ideal, &measured}) *curve += (curve->empty() ? "" : "; ") + name + ":";
      for (int64_t batch : DenseEquivalent::curve_batches()) add(ideal, batch, dense.ideal(batch));
      for (const Experts& b : experts(rows, name))
        if (b.comparable(b.active)) add(measured, b.tokens, dense.measured(b));
    } catch (const Error&) {  // as above
    }
  }
  return {{"mmb.dense_equivalent_parameters_ideal", ideal}, {"mmb.dense_equivalent_parameters_measured", measured}};
}

}  // namespace mmb
