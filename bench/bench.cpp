#include "bench.h"
#include "mmb/fma_peak.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <csignal>

#include "context.h"
#include "ops.h"
#include "words.h"

namespace mmb {
namespace {

volatile std::sig_atomic_t stop_signal = 0;

constexpr const char* kInterrupted = "interrupted";
constexpr double kMostFlops = 2e12;       // of one iteration: ten seconds on two cores
constexpr double kMostModelFlops = 2e13;  // of a whole model's
// Of the ruler, a few milliseconds each: before and after a row, and now and then in between.
constexpr int kBursts = 3;
constexpr double kSecondsBetweenBursts = 0.01;
constexpr double kShareOfBursts = 0.1;  // of the time at the least: beside a second a single one would be luck

struct Bench {
  const char* op;
  void (*register_rows)(Suite&);
};
#define MMB_BENCH(OP) {#OP, &register_##OP},
constexpr Bench kBenches[] = {MMB_BENCHES(MMB_BENCH)};
#undef MMB_BENCH

double min_time(const Selection& selection) {
  if (selection.min_time > 0) return selection.min_time;
  switch (selection.profile) {
    case Profile::smoke:
      return 0.001;
    case Profile::quick:
      return 0.05;
    case Profile::full:
    case Profile::model:
      return 0.2;
  }
  return 0;
}

int64_t memory_budget(const Selection& selection) {
  const int64_t available = available_memory_bytes();
  int64_t budget = selection.memory;
  if (budget == 0 && selection.profile == Profile::smoke) budget = int64_t{64} << 20;
  if (budget == 0 && selection.profile == Profile::quick) budget = 2'000'000'000;
  if (budget == 0 && selection.profile == Profile::full) budget = std::min(available / 2, int64_t{8} << 30);
  if (budget == 0 && selection.profile == Profile::model) budget = available / 16 * 15;
  return std::min(budget, available);
}

}  // namespace

Model no_model() {
  Model model;
  model.name = "none";
  return model;
}

std::vector<Model> with_dense_cache(const Model& model) {
  if (!model.is_mla()) return {model};
  return {counterfactual(model, "mha"), counterfactual(model, "gqa8"), counterfactual(model, "mqa")};
}

int interrupted() {
  return stop_signal;
}

void stop_on_signals() {
  struct sigaction action = {};
  action.sa_handler = [](int signal) { stop_signal = signal; };
  action.sa_flags = SA_RESETHAND;  // a second one ends the program at once
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

Verification detail::compare_outputs(const std::vector<Output>& actual, const std::vector<Output>& expected,
                                     bool intact) {
  if (expected.empty() || actual.size() != expected.size()) return {0, "nothing was compared"};
  Verification result;
  for (size_t i = 0; i < expected.size(); ++i) {
    const Comparison c = compare(actual[i].values, expected[i].values);
    result.err = std::max(result.err, c.max_err);
    if (!(c.max_err <= expected[i].tolerance) && result.failure.empty()) {
      std::ostringstream text;
      text << "wrong result: " << expected[i].name << " is off by " << c.max_err << " of its largest value, more than "
           << expected[i].tolerance;
      result.failure = text.str();
    }
  }
  if (!intact && result.failure.empty()) result.failure = "wrong result: wrote past the end of an output";
  return result;
}

Suite::Suite(Selection selection)
    : selection_(std::move(selection)), memory_(memory_budget(selection_)), all_threads_(default_threads()) {
  // Teams are as large as rows say, whatever OMP_DYNAMIC and OMP_MAX_ACTIVE_LEVELS would have.
  omp_set_dynamic(0);
  omp_set_max_active_levels(1);
  // Cold: before a byte is read again, the caches have seen several times their size. An eighth of the budget is left to
  // activations and scratch memory.
  const int64_t caches = last_level_cache_bytes();
  arena_bytes_ = std::min(std::max({int64_t{1} << 30, 4 * caches, memory_ / 2}), memory_ / 8 * 7);
  if (selection_.profile == Profile::model) arena_bytes_ = memory_ / 8 * 7;
  if (selection_.profile == Profile::smoke && selection_.memory == 0) arena_bytes_ = memory_ / 2;
  // Of three times its size read round and round, a cache that replaces at random still holds 6 %.
  cold_ = arena_bytes_ >= 3 * caches;
  for (const std::string& spec : selection_.models) {
    models_.push_back(load_model(spec));
    for (size_t i = 0; i + 1 < models_.size(); ++i)
      if (models_[i].name == models_.back().name)
        throw Error("--model: expected models of different names, got two called " + models_[i].name);
  }
  for (const std::string& op : selection_.ops)
    if (std::none_of(std::begin(kBenches), std::end(kBenches), [&](const Bench& bench) { return bench.op == op; }))
      throw Error("--op: expected any of " + joined(kBenches, ", ", &Bench::op) + ", got '" + op + "'");
}

std::vector<Threads> Suite::threads(bool headline) const {
  if (!selection_.threads.empty()) return selection_.threads;
  return headline ? std::vector{Threads::one, Threads::all} : std::vector{Threads::all};
}

bool Suite::selected(const std::string& name) const {
  if (!selection_.row.empty()) return name == selection_.row;
  return !selection_.filter || std::regex_search(name, *selection_.filter);
}

bool Suite::selected(Impl impl) const {
  const auto& some = selection_.impls;
  if (!some.empty()) return std::find(some.begin(), some.end(), impl) != some.end();
  if (op_ == FmaPeak::name && selection_.profile == Profile::full) return impl != Impl::reference && supported(impl);
  return impl == fastest_impl();
}

std::vector<DType> Suite::caches(const Model& model) const {
  return model.is_mla() ? selection_.caches : std::vector<DType>{DType::bf16};
}

std::vector<int64_t> Suite::shortest(int64_t batch, int64_t new_tokens, int64_t context) const {
  std::vector<int64_t> all = {0};
  const int64_t parts = choose<int64_t>({}, {.smoke = {8}, .quick = {1}, .full = {8}}).front();
  const int64_t length = context / parts;
  if (batch > 1 && length >= new_tokens && length < context) all.push_back(length);
  return all;
}

void Suite::for_each_model(const ByProfile<std::string>& names, const std::function<void(const Model&)>& add_rows) {
  const auto add = [&](const Model& model) {
    try {
      add_rows(model);
    } catch (const TraceError&) {
      throw;
    } catch (const Error& error) {  // a config without what this op needs, or sizes that make no shape
      skip(op_ + "/.../" + model.name, error.what());
    }
  };
  const std::vector<std::string> usual = choose<std::string>({}, names);
  if (profile() == Profile::model && usual.empty()) return;  // an op that is timed as a part alone
  if (!selection_.models.empty())
    for (const Model& model : models_) add(model);
  else
    for (const std::string& name : usual) add(load_model(name));
}

std::vector<Routing> Suite::routings(const Model& model, const ByProfile<Routing>& values) {
  const auto& [skews, overlaps, traces] = std::tie(selection_.skews, selection_.overlaps, selection_.traces);
  if (model.moe_layers() == 0) return {Routing{}};
  if (skews.empty() && overlaps.empty() && traces.empty()) return choose<Routing>({}, values);
  std::vector<Routing> list;
  if (!skews.empty() || !overlaps.empty())
    for (double skew : skews.empty() ? std::vector{0.0} : skews)
      for (double overlap : overlaps.empty() ? std::vector{0.0} : overlaps)
        list.push_back({.skew = skew, .overlap = overlap});
  for (const std::string& file : traces) {
    auto known = traces_.find({file, model.name});
    if (known == traces_.end()) known = traces_.emplace(std::pair(file, model.name), load_trace(file, model)).first;
    list.push_back({.trace = &known->second});
  }
  return list;
}

Model Suite::model(const std::string& name) const {
  for (const Model& model : models_) {
    if (model.name == name) return model;
    // A counterfactual of a file's model.
    if (name.rfind(model.name + "~", 0) == 0) return counterfactual(model, name.substr(model.name.size() + 1));
  }
  return load_model(name);
}

void Suite::add_rows() {
  for (const Bench& bench : kBenches) {
    op_ = bench.op;
    if (selection_.ops.empty() || std::count(selection_.ops.begin(), selection_.ops.end(), op_))
      bench.register_rows(*this);
  }
  if (rows_.empty() && skipped_.empty() && !selection_.row.empty())
    throw Error("--row: expected a name that `bench_mla list` prints, got '" + selection_.row + "'");
  if (rows_.empty())
    throw Error(skipped_.empty() ? "no row matches what the flags select; `bench_mla list` prints the rows of a profile"
                                 : "nothing to run: " + skipped_.front().first + ": " + skipped_.front().second);
}

void Suite::push(Row row) {
  const std::string name = row.name.text();
  // A model's counterfactual may have been named beside the model.
  if (!names_.insert(name).second) return;
  try {
    MMB_REQUIRE(supported(row.impl), "this CPU lacks " << row.name.impl);
    // Inputs, outputs, and the reference's outputs beside them.
    const double beside = static_cast<double>(memory_ - arena_bytes_);
    if (2 * row.activation_memory > beside) {
      std::ostringstream text;
      text << "memory: activations of " << row.activation_memory << " bytes, twice, do not fit the " << beside
           << " bytes that --memory leaves beside the arena";
      throw Error(text.str());
    }
    const double most = selection_.profile == Profile::model ? kMostModelFlops : kMostFlops;
    if (row.cost.flops > most && selection_.row.empty()) {
      std::ostringstream text;
      text << "time: " << row.cost.flops << " FLOPs in one iteration, more than " << most
           << "; --row runs it all the same";
      throw Error(text.str());
    }
    // Only then can a piece be larger than the arena: caches of uneven lengths take up to twice what is read of them.
    if (row.cost.weight_bytes + 2 * row.cost.kv_bytes > static_cast<double>(arena_bytes_)) {
      Arena untouched = Arena::untouched(arena_bytes_);
      row.prepare(untouched);
    }
    rows_.push_back(std::move(row));
  } catch (const Error& error) {
    skip(name, error.what());
  }
}

Impl Suite::level() const {
  const std::string none = no_model().name;
  const auto rank = [&](const Row& row) { return 2 * (row.name.model != none) + (row.impl == fastest_impl()); };
  return std::ranges::max_element(rows_, {}, rank)->impl;
}

Arena& Suite::arena() {
  if (!arena_) arena_ = std::make_unique<Arena>(arena_bytes_, selection_.seed);
  return *arena_;
}

Row& Suite::row(const std::string& name) {
  return *std::find_if(rows_.begin(), rows_.end(), [&](const Row& row) { return row.name.text() == name; });
}

// Google Benchmark calls a row's function several times in a row: inputs stay until another row needs the memory.
Subject& Suite::ready(Row& row) {
  omp_set_num_threads(count(row.threads));
  if (ready_row_ != &row) {
    ready_row_ = nullptr;
    ready_.reset();
    const int64_t taken = arena().taken();
    ready_ = row.prepare(arena());
    row.reads_arena = arena().taken() > taken;
    ready_row_ = &row;
  }
  return *ready_;
}

const Verification& Suite::verify(Row& row) {
  Subject& subject = ready(row);
  subject.iterate();
  return row.verification.emplace(subject.verify(selection_.seed, row.verify_seconds));
}

double Suite::storage_err(const Latents& latents) {
  const auto [found, fresh] = storage_errs_.try_emplace(latents);
  if (fresh) found->second = latents.row.storage_err(latents.context, selection_.seed);
  return found->second;
}

void Suite::time(Row& row, benchmark::State& state) {
  if (interrupted()) return state.SkipWithError(kInterrupted);
  Subject& subject = ready(row);
  Ruler& ruler = *rulers_.at({row.threads, row.impl});
  ruler.forget();
  for (int i = 0; i < kBursts; ++i) ruler.burst();
  auto measured = std::chrono::steady_clock::now();
  const auto iteration_seconds = [&] {
    const auto begin = std::chrono::steady_clock::now();
    subject.iterate();
    return detail::seconds_since(begin);
  };
  for (auto _ : state) {
    if (interrupted()) {
      state.SkipWithError(kInterrupted);
      break;
    }
    const int64_t peak = scratch_peak();
    double iteration = iteration_seconds();
    // The first to need so much scratch memory waited for its pages, up to six times as long as it takes: once more.
    if (scratch_peak() > peak) iteration = iteration_seconds();
    state.SetIterationTime(iteration);
    const double seconds = detail::seconds_since(measured);
    if (seconds < kSecondsBetweenBursts) continue;
    state.PauseTiming();
    const auto begin = std::chrono::steady_clock::now();
    do ruler.burst();
    while (detail::seconds_since(begin) < kShareOfBursts * seconds);
    measured = std::chrono::steady_clock::now();
    state.ResumeTiming();
  }
  if (state.error_occurred()) return;
  for (int i = 0; i < kBursts; ++i) ruler.burst();
  // What was timed is what is verified: a run of seconds need not be made twice. Once a row, though Google Benchmark calls
  // again for more iterations and for each repetition.
  if (!row.verification) row.verification = subject.verify(selection_.seed, row.verify_seconds);
  if (!row.verification->failure.empty()) return state.SkipWithError(row.verification->failure.c_str());

  using benchmark::Counter;
  const Cost& cost = row.cost;
  const Machine machine = ruler.machine();
  const double ideal = row.parts.empty() ? ideal_seconds(cost, machine) : ideal_seconds(row.parts, machine);
  row.ideal_of_parts.clear();
  for (const Component& part : row.parts) row.ideal_of_parts.push_back(ideal_seconds(part.cost, machine));
  // Rates are per second of real time and per iteration; the rest is as it is.
  const auto rate = [&](const char* name, double per_iteration) {
    state.counters[name] = Counter(per_iteration, Counter::kIsIterationInvariantRate);
  };
  for (const auto& [name, value] : row.counters) state.counters[name] = value;
  state.counters["flops"] = cost.flops;
  state.counters["bytes_weights"] = cost.weight_bytes;
  state.counters["bytes_kv"] = cost.kv_bytes;
  state.counters["bytes_activations"] = cost.activation_bytes;
  state.counters["exps"] = cost.exps;
  state.counters["intensity"] = cost.intensity();
  state.counters["working_set_bytes"] =
      row.reads_arena ? static_cast<double>(arena_bytes_) + cost.activation_bytes : cost.bytes();
  state.counters["cold"] = row.reads_arena && cold_;
  state.counters["threads_used"] = count(row.threads);
  state.counters["bound"] = memory_bound(cost, machine);
  state.counters["err"] = row.verification->err;
  if (row.latents) state.counters["storage_err"] = storage_err(*row.latents);
  // Of the instructions that most of the row's work is for; /3: of which three products make one multiplication.
  const auto most = [&](double flops) { return 2 * flops > cost.flops; };
  const double digits = machine.digit_flops_per_second();
  const std::string bf16 =
      std::string(machine.bf16_class) + (machine.rounded_flops_per_second > machine.bf16_flops_per_second ? "/3" : "");
  const auto [peak, instructions] =
      cost.rounded_flops > 0 ? std::pair(machine.rounded_flops_per_second, std::string(machine.bf16_class))
      : most(cost.digit_flops)
          ? std::pair(digits, digits > machine.bf16_flops_per_second ? std::string(machine.int8_class) + "/3" : bf16)
      : most(cost.bf16_flops) ? std::pair(machine.bf16_flops_per_second, bf16)
      : most(cost.int8_flops) ? std::pair(machine.int8_flops_per_second, std::string(machine.int8_class))
                              : std::pair(machine.flops_per_second, std::string(machine.flops_class));
  state.counters["peak_gflops"] = peak / kGiga;
  state.SetLabel(instructions + (row.note.empty() ? "" : "; " + row.note));
  state.counters["peak_gbs"] = machine.bytes_per_second / kGiga;
  rate("gflops", cost.flops * 1e-9);
  rate("gbs", cost.bytes() * 1e-9);
  rate("roof", ideal);
  if (row.tokens > 0) state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(row.tokens));
  if (const double whole = subject.model_seconds(1); whole > 0) {
    rate("model_tokens_per_second", static_cast<double>(row.tokens) / whole);
    state.counters["extrapolated"] = 1 - 1 / whole;
  }
}

void Suite::measure_machines() {
  machines_[{Threads::all, fastest_impl()}];
  for (const Row& row : rows_) machines_[{row.threads, row.impl}];
  for (auto& [on, machine] : machines_) machine = measure_machine(on.first, on.second);
}

Machine Suite::measure_machine(Threads threads, Impl impl) {
  choose_far_lines(count(Threads::all), arena());
  std::unique_ptr<Ruler>& ruler = rulers_[{threads, impl}];
  if (!ruler) ruler = std::make_unique<Ruler>(count(threads), impl, arena());
  return measure(*ruler, selection_.profile == Profile::smoke ? 0.02 : 0.25);
}

// A whole model stands beside the sum of its parts: what disturbs one measurement of a part must not tip the balance. What
// takes seconds by itself, a prompt, is its own mean.
int64_t Suite::repetitions(const Row& row) const {
  constexpr double kFlopsOfSeconds = 3e11;
  if (selection_.repetitions > 0) return selection_.repetitions;
  return selection_.profile == Profile::model && row.cost.flops < kFlopsOfSeconds ? 3 : 1;
}

void Suite::register_rows(bool own_min_time, bool own_repetitions) {
  for (Row& row : rows_) {
    auto* bench = benchmark::RegisterBenchmark(row.name.text().c_str(),
                                               [this, &row](benchmark::State& state) { time(row, state); });
    bench->UseManualTime()->MeasureProcessCPUTime()->Unit(benchmark::kMicrosecond);
    if (own_min_time) bench->MinTime(min_time(selection_));
    if (own_repetitions) bench->Repetitions(static_cast<int>(repetitions(row)));
  }
}

}  // namespace mmb
