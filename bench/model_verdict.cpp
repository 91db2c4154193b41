#include "model_verdict.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <ostream>
#include <set>

#include "pace.h"
#include "selection.h"
#include "words.h"

namespace mmb {
namespace {

// A row of a whole model, with its key's numbers.
struct Step {
  const Result* result;
  std::string routing;                // empty: of a model without experts
  std::string cache;                  // and how it is read; empty: plain
  int64_t batch, new_tokens, cached;  // cached: context of a decode step, past of a prefill
  int64_t layers;
  bool usual_pace;
  double seconds() const { return whole_seconds(*result); }
  double tokens_per_second() const { return static_cast<double>(batch * new_tokens) / seconds(); }
};

std::vector<Step> steps(std::span<const Result> results, const std::string& op, Impl level) {
  const Pace pace(results);
  std::vector<Step> all;
  for (const Result& r : results) {
    if (r.name.op != op || !r.error.empty() || r.name.threads != "all" || r.name.impl != name(level)) continue;
    if (!r.counters.contains("model_tokens_per_second")) continue;  // the reference, which runs layer by layer
    const size_t routing = r.name.key.find("routing:");
    all.push_back(
        {&r, routing == std::string::npos ? "" : r.name.key.substr(routing),
         key_word(r.name.key, "cache").value_or("") + (r.name.algo == "integer" ? " (dot products of integers)" : ""),
         *key_value(r.name.key, "batch"), *key_value(r.name.key, "q"),
         *key_value(r.name.key, op == "decode_step" ? "ctx" : "past"), *key_value(r.name.key, "layers"),
         pace.usual(r)});
  }
  return all;
}

// The step of another model, or of another number of new tokens, at the same place.
const Step* find(const std::vector<Step>& all, const Step& like, const std::string& model, int64_t new_tokens) {
  for (const Step& s : all)
    if (s.result->name.model == model && s.result->name.dtype == like.result->name.dtype && s.batch == like.batch &&
        s.cached == like.cached && s.new_tokens == new_tokens)
      return &s;
  return nullptr;
}

constexpr std::pair<const char*, const char*> kRivals[] = {{"~mha", "MHA"},
                                                           {"~gqa8", "GQA-8"},
                                                           {"~mqa", "MQA"},
                                                           {"~dense_active", "dense active"},
                                                           {"~dense_total", "dense total"}};

std::string tokens_cell(const Step* step) {
  if (!step) return text("%12s  ", "-");
  return text("%12.1f%s%s", step->tokens_per_second(), step->result->counters.at("extrapolated") > 0 ? "*" : " ",
              step->usual_pace ? " " : "!");
}

// One line a step: tokens/s, of ideal, of the parts, and the rivals'.
void print_table(std::span<const Result> results, const std::vector<Step>& all, const std::vector<const Step*>& lines,
                 const char* cached, std::ostream& out) {
  out << text("  %5s %5s %8s %14s %6s %12s", "batch", "new", cached, "tokens/s", "ideal", "parts/whole");
  for (const auto& [suffix, label] : kRivals) out << text(" %13s", label);
  out << '\n';
  const RowsByName rows = rows_by_name(results);
  bool marked = false;
  const auto cell = [&](const Step* step) {
    marked = marked || (step && !step->usual_pace);
    return tokens_cell(step);
  };
  for (const Step* s : lines) {
    const auto parts = seconds_of_parts(*s->result, rows);
    out << text("  %5lld %5lld %8lld ", static_cast<long long>(s->batch), static_cast<long long>(s->new_tokens),
                static_cast<long long>(s->cached))
        << cell(s) << text(" %5.0f%%", 100 * s->result->counters.at("roof"))
        << (parts ? text(" %12.3f", *parts / s->result->seconds) : text(" %12s", "-"));
    for (const auto& [suffix, label] : kRivals)
      out << cell(find(all, *s, s->result->name.model + suffix, s->new_tokens));
    out << '\n';
  }
  if (marked)
    out << "  ! measured while the machine's peaks were more than a quarter off their middle, or below what the row "
           "reached: left out of what follows.\n";
}

// Multi-token prediction: a draft for each new token but the first.
void print_drafts(const std::vector<Step>& all, const std::vector<const Step*>& lines, std::ostream& out) {
  for (const Step* s : lines) {
    const Step* plain = find(all, *s, s->result->name.model, 1);
    if (s->new_tokens == 1 || s->batch != 1 || !plain || !s->usual_pace || !plain->usual_pace) continue;
    const double cost = s->seconds() / plain->seconds();
    const int64_t drafts = s->new_tokens - 1;
    const double least = break_even_acceptance(cost, drafts);
    // DeepSeek-V3, arXiv:2412.19437, section 5.4.3: 85 to 90 % of second tokens accepted, 1.8 times the tokens per second.
    constexpr double kPublishedAcceptance = 0.85;
    out << "  Verifying " << drafts << (drafts == 1 ? " draft" : " drafts") << " of one sequence on "
        << tokens(s->cached) << " takes " << text("%.2f", cost)
        << " steps' time: " << (least > 1 ? "it never pays" : text("it pays from %.0f%% acceptance on", 100 * least))
        << "; at 85%, " << text("%.2f", tokens_per_step(kPublishedAcceptance, drafts) / cost)
        << "x the tokens/s, the drafts themselves not counted";
    if (drafts == 1) out << " (published: 1.8x)";
    out << ".\n";
  }
}

void print_thinking(const std::vector<Step>& all, const std::string& model, const std::string& dtype,
                    std::ostream& out) {
  std::vector<std::pair<std::string, ContextFit>> forms;
  std::string lacking;
  for (const auto& [suffix, label] :
       {std::pair<const char*, const char*>{"", "MLA"}, kRivals[0], kRivals[1], kRivals[2]}) {
    std::map<double, double> points;
    for (const Step& s : all)
      if (s.result->name.model == model + suffix && s.result->name.dtype == dtype && s.batch == 1 &&
          s.new_tokens == 1 && s.usual_pace)
        points.emplace(s.cached, s.seconds());
    if (points.size() >= 2) forms.push_back({label, fit_context(points)});
    if (points.size() == 1)
      lacking += text("    %-6s was timed at one context alone at the usual pace; a line takes two\n", label);
  }
  if (forms.empty()) return;
  out << "  Long thinking, batch 1, time of a token = a + c T after T tokens, and 32K tokens from a prompt of 1K:\n";
  for (const auto& [label, fit] : forms) out << text("    %-6s ", label.c_str()) << long_thinking(fit) << '\n';
  out << lacking;
  for (size_t i = 1; i < forms.size() && forms[0].first == "MLA"; ++i) {
    if (!forms[0].second.grows() || !forms[i].second.grows()) continue;
    const double at = crossover(forms[i].second, forms[0].second);
    out << "    MLA against " << forms[i].first << ": ";
    if (at <= 0)
      out << (forms[0].second.c < forms[i].second.c ? "faster at any context" : "slower at any context");
    else if (std::isinf(at))
      out << "never crosses";
    else
      out << (forms[0].second.c < forms[i].second.c ? "faster" : "slower") << text(" from %.0f tokens on", at);
    out << ".\n";
  }
}

// A million tokens at the price of this machine.
void print_price(const std::vector<Step>& decodes, const std::vector<Step>& prefills, const std::string& model,
                 const std::string& dtype, const Price& price, std::ostream& out) {
  if (price.usd_per_hour <= 0) return;
  const auto cost = [&](const Step& s) { return price.usd_per_hour / 3600 / s.tokens_per_second() * 1e6; };
  const auto print = [&](const std::vector<Step>& all, const char* what) {
    for (const Step& s : all)
      if (s.result->name.model == model && s.result->name.dtype == dtype && s.usual_pace &&
          (s.new_tokens == 1 || &all == &prefills))
        out << "  " << what << ", batch " << s.batch << " on " << tokens(s.cached)
            << (&all == &prefills ? ", a prompt of " + tokens(s.new_tokens) : "")
            << text(": %.2f%s USD a million tokens.\n", cost(s), s.result->counters.at("extrapolated") > 0 ? "*" : "");
  };
  out << text("  At %.2f USD an hour (the machine alone: no staff, no idle hours, no margin):\n", price.usd_per_hour);
  print(prefills, "input");
  print(decodes, "output");
}

}  // namespace

double tokens_per_step(double acceptance, int64_t drafts) {
  double tokens = 1, all_accepted = 1;
  for (int64_t i = 0; i < drafts; ++i) tokens += all_accepted *= acceptance;
  return tokens;
}

double break_even_acceptance(double cost, int64_t drafts) {
  if (cost > tokens_per_step(1, drafts)) return std::numeric_limits<double>::infinity();
  double low = 0, high = 1;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (tokens_per_step(middle, drafts) < cost ? low : high) = middle;
  }
  return high;
}

std::string long_thinking(const ContextFit& fit) {
  if (!fit.grows()) return "took no longer after more tokens: noise hides the growth, more repetitions would show it";
  constexpr double kFirst = 1024, kCount = 32768;
  return text("a = %s, c = %s us; 32K tokens take %.0f s, %.2fx what they would at the first one's speed",
              milliseconds(fit.a).c_str(), figure(1e6 * fit.c).c_str(), fit.seconds(kFirst, kCount),
              fit.seconds(kFirst, kCount) / (kCount * fit.seconds(kFirst)));
}

ContextFit fit_context(const std::map<double, double>& points) {
  const auto n = static_cast<double>(points.size());
  double x = 0, y = 0, xx = 0, xy = 0;
  for (const auto& [cached, seconds] : points) {
    x += cached;
    y += seconds;
    xx += cached * cached;
    xy += cached * seconds;
  }
  const double c = (n * xy - x * y) / (n * xx - x * x);
  return {(y - c * x) / n, c};
}

double crossover(const ContextFit& a, const ContextFit& b) {
  return a.c == b.c ? std::numeric_limits<double>::infinity() : (b.a - a.a) / (a.c - b.c);
}

void print_whole_models(const Suite& suite, std::span<const Result> results, const Price& price, std::ostream& out) {
  const Impl level = suite.level();
  const std::vector<Step> all_decodes = steps(results, "decode_step", level),
                          all_prefills = steps(results, "prefill_step", level);
  // Models as published, in each type, with each routing and each cache.
  std::vector<std::array<std::string, 4>> seen;
  for (const auto* all : {&all_decodes, &all_prefills})
    for (const Step& s : *all) {
      const std::array<std::string, 4> key{s.result->name.model, s.result->name.dtype, s.routing, s.cache};
      if (key[0].find('~') == std::string::npos && std::find(seen.begin(), seen.end(), key) == seen.end())
        seen.push_back(key);
    }
  for (const auto& key : seen) {
    const auto &model = key[0], &dtype = key[1], &routing = key[2], &cache = key[3];
    // Rivals without latents have a plain cache beside any.
    const auto alike = [&](std::vector<Step> all) {
      std::erase_if(all, [&](const Step& s) {
        return (s.routing != routing && !s.routing.empty()) ||
               (s.cache != cache && suite.model(s.result->name.model).is_mla());
      });
      return all;
    };
    const std::vector<Step> decodes = alike(all_decodes), prefills = alike(all_prefills);
    const auto lines = [&](const std::vector<Step>& all) {
      std::vector<const Step*> own;
      for (const Step& s : all)
        if (s.result->name.model == model && s.result->name.dtype == dtype) own.push_back(&s);
      return own;
    };
    const auto decode_lines = lines(decodes), prefill_lines = lines(prefills);
    std::set<int64_t> layers;
    for (const auto* own : {&decode_lines, &prefill_lines})
      for (const Step* s : *own) layers.insert(s->layers);
    out << "\nWhole " << model << ", " << dtype << " weights, "
        << (!cache.empty()   ? cache
            : dtype == "f32" ? "f32"
                             : "bf16")
        << " cache, " << (routing.empty() ? "" : routing + ", ") << name(level) << " kernels (" << *layers.begin()
        << (layers.size() > 1 ? " to " + std::to_string(*layers.rbegin()) : "") << " of "
        << suite.model(model).num_hidden_layers
        << " layers were run; * where some were not, which count as long as those of their kind)\n";
    if (!decode_lines.empty()) {
      print_table(results, decodes, decode_lines, "context", out);
      print_drafts(decodes, decode_lines, out);
      print_thinking(decodes, model, dtype, out);
    }
    if (!prefill_lines.empty()) {
      out << "  A prompt:\n";
      print_table(results, prefills, prefill_lines, "cached", out);
    }
    print_price(decodes, prefills, model, dtype, price, out);
  }
}

}  // namespace mmb
