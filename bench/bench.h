// From an op, a model and a shape to benchmark rows: time -> verify -> counters. One row is one kernel, in one type, on one
// number of threads. Rows are collected by Suite::add, which the <op>_bench.cpp files call, and are then listed, verified or
// timed.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <set>

#include "mmb/accounting.h"
#include "mmb/compare.h"
#include "mmb/latent_attention.h"
#include "mmb/machine.h"
#include "mmb/mla_decode.h"
#include "mmb/model.h"
#include "mmb/moe_experts.h"
#include "mmb/random.h"
#include "mmb/sequences.h"
#include "selection.h"

namespace mmb {

// The parts of op/algo/dtype/impl/model/key:value.../threads:n, always all there.
struct RowName {
  std::string op, algo, dtype, impl, model, key, threads;
  std::string text() const {
    return op + '/' + algo + '/' + dtype + '/' + impl + '/' + model + '/' + key + "/threads:" + threads;
  }
};

struct Verification {
  double err = 0;       // largest error of the outputs, each relative to its tensor's largest expected value
  std::string failure;  // what is wrong; empty: nothing
};

// Compares what a kernel has just made of a problem with the reference: all of the output where that takes less than `budget`
// seconds, else its last unit, its first, and seeded others until the budget is used up.
template <class Op, auto Reference>
Verification verify(const typename Op::Shape& shape, const typename Op::Problem& problem, uint64_t seed, double budget);

// A row made ready: inputs in memory, kernel chosen.
class Subject {
 public:
  virtual ~Subject() = default;
  virtual void iterate() = 0;                                           // one cold run
  virtual Verification verify(uint64_t seed, double budget) const = 0;  // of the latest run
  // Of a whole model's step that takes `seconds`: of all the model's layers, run or not. 0: not a whole model's.
  virtual double model_seconds(double seconds) const = 0;
};

// The rows of latents that an op attends to, and how many.
struct Latents {
  LatentRow row;
  int64_t context;
  auto operator<=>(const Latents&) const = default;
};

struct Row {
  RowName name;
  Impl impl = Impl::reference;
  Threads threads = Threads::all;
  bool reads_arena = false;  // weights or caches, cold in every iteration
  std::string note;          // of a library's row
  Cost cost;
  std::vector<Component> parts;            // of a composite: its ops
  std::vector<double> ideal_of_parts;      // once timed: seconds of each, by the peaks measured beside the row
  double activation_memory = 0;            // bytes of inputs and outputs
  double verify_seconds = 0.1;             // of the reference
  int64_t tokens = 0;                      // per iteration
  std::optional<Latents> latents;          // where it attends to such
  std::map<std::string, double> counters;  // those that the shape alone decides
  std::function<std::unique_ptr<Subject>(Arena&)> prepare;
  std::optional<Verification> verification;  // of its first run
};

// The names that the row of a part may have beside the whole's: of its model, and of the model that a rival comes from.
std::array<std::string, 2> part_names(const RowName& whole, const Component& part);

// What each profile times of one dimension.
template <class T>
struct ByProfile {
  std::vector<T> smoke = {}, quick = {}, full = {}, model = {};
};

class Suite {
 public:
  explicit Suite(Selection selection);

  // For the bench files. The command line's choice where there is one, else the profile's.
  void for_each_model(const ByProfile<std::string>& names, const std::function<void(const Model&)>& add_rows);
  // What the command line selected, if anything, else what the profile times.
  template <class T>
  std::vector<T> choose(const std::vector<T>& selected, const ByProfile<T>& values) const {
    if (!selected.empty()) return selected;
    if (selection_.profile == Profile::smoke) return values.smoke;
    if (selection_.profile == Profile::model && (selection_.row.empty() || !values.model.empty())) return values.model;
    // What a name does not say (into how many lengths a batch is cut) is any that there is.
    return selection_.profile == Profile::full || !selection_.row.empty() ? values.full : values.quick;
  }
  std::vector<int64_t> batches(const ByProfile<int64_t>& values) const { return choose(selection_.batches, values); }
  std::vector<int64_t> contexts(const ByProfile<int64_t>& values) const { return choose(selection_.contexts, values); }
  std::vector<int64_t> new_tokens(const ByProfile<int64_t>& values) const {
    return choose(selection_.new_tokens, values);
  }
  // Of an op's shape: the row's that the command line names, which may be a layer's part.
  int64_t size(const std::string& key, int64_t usual) const {
    const auto named = selection_.sizes.find(key);
    return named == selection_.sizes.end() ? usual : named->second;
  }
  // The shortest sequence's context in a batch: 0 where all are alike, and uneven ones.
  std::vector<int64_t> shortest(int64_t batch, int64_t new_tokens, int64_t context) const;

  // Types of its cache: those with scales are of latents.
  std::vector<DType> caches(const Model& model) const;

  // How the tokens of a model with experts choose them; uniformly where nothing says otherwise.
  std::vector<Routing> routings(const Model& model, const ByProfile<Routing>& values = {
                                                        {Routing{}}, {Routing{}}, {Routing{}}, {Routing{}}});

  struct Choice {
    std::string headline = {};       // the algo that is timed with threads:1 too
    std::vector<DType> dtypes = {};  // instead of those selected
    std::string algo = {};           // the only one
  };
  // Every selected kernel of Op at this shape.
  template <class Op, auto Reference>
  void add(const Model& model, const typename Op::Shape& shape, const Choice& choice);
  template <class Op, auto Reference>
  void add(const Model& model, const typename Op::Shape& shape) {
    add<Op, Reference>(model, shape, Choice());
  }

  // Calls the bench files of the selected ops, in the order of ops.h. Throws where nothing is left to run.
  void add_rows();
  std::vector<Row>& rows() { return rows_; }
  // Rows that are not run, and why.
  void skip(const std::string& name, const std::string& reason) { skipped_.emplace_back(name, reason); }
  const std::vector<std::pair<std::string, std::string>>& skipped() const { return skipped_; }
  // The level that conclusions are about: of several the one that a run has by itself.
  Impl level() const;

  // Runs a row once and verifies it.
  const Verification& verify(Row& row);
  Row& row(const std::string& name);
  // The rulers of all rows: the machine on their threads, with their instructions.
  void measure_machines();
  const std::map<std::pair<Threads, Impl>, Machine>& machines() const { return machines_; }
  Machine measure_machine(Threads threads, Impl impl);  // again
  int count(Threads threads) const { return threads == Threads::one ? 1 : all_threads_; }
  int64_t repetitions(const Row& row) const;
  // Hands every row to Google Benchmark; time and repetitions are ours to set unless its own flags say them.
  void register_rows(bool own_min_time = true, bool own_repetitions = true);

  // The model that a row names.
  Model model(const std::string& name) const;
  const Selection& selection() const { return selection_; }
  Profile profile() const { return selection_.profile; }
  int64_t arena_bytes() const { return arena_bytes_; }

 private:
  std::vector<Threads> threads(bool headline) const;
  bool selected(const std::string& name) const;
  bool selected(Impl impl) const;
  void push(Row row);
  // A row of each op of `whole` that has none yet, in profiles long enough.
  void add_parts(const Model& model, const Row& whole);
  Subject& ready(Row& row);
  void time(Row& row, benchmark::State& state);
  Arena& arena();
  double storage_err(const Latents& latents);

  Selection selection_;
  int64_t memory_, arena_bytes_;
  bool cold_;  // the arena is several times the caches
  int all_threads_;
  std::string op_;  // whose bench file is adding rows
  std::unique_ptr<Arena> arena_;
  std::map<std::pair<Threads, Impl>, std::unique_ptr<Ruler>> rulers_;
  std::map<std::pair<Threads, Impl>, Machine> machines_;         // at the start
  std::vector<Model> models_;                                    // the command line's
  std::map<std::pair<std::string, std::string>, Trace> traces_;  // by file and model
  std::map<Latents, double> storage_errs_;                       // once for all rows of such
  std::vector<Row> rows_;
  std::set<std::string> names_;
  std::vector<std::pair<std::string, std::string>> skipped_;
  const Row* ready_row_ = nullptr;
  std::unique_ptr<Subject> ready_;
};

// The model of the ruler's rows, `none`.
Model no_model();
// A model as attention over keys and values can run it: itself, or an MLA model's counterfactuals.
std::vector<Model> with_dense_cache(const Model& model);

// The signal that asked the run to stop, or 0; rows that have not been timed yet are then left out.
int interrupted();
void stop_on_signals();

// ---------------------------------------------------------------------------------------------------------------------

namespace detail {

// Outputs of several units, tensor by tensor.
inline void append(std::vector<Output>& all, std::vector<Output> some) {
  if (all.empty()) {
    all = std::move(some);
    return;
  }
  for (size_t i = 0; i < all.size(); ++i)
    all[i].values.insert(all[i].values.end(), some.at(i).values.begin(), some.at(i).values.end());
}

Verification compare_outputs(const std::vector<Output>& actual, const std::vector<Output>& expected, bool intact);

inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

template <class Op, auto Reference>
class OpSubject : public Subject {
 public:
  OpSubject(const Kernel<Op>& kernel, const typename Op::Shape& shape, DType dtype, Arena& arena, uint64_t seed)
      : kernel_(kernel), shape_(shape), problem_(shape, dtype, kernel.algo, arena, seed) {}
  void iterate() override {
    problem_.next();
    kernel_.run(shape_, problem_.args());
    if constexpr (requires { problem_.ran(); }) problem_.ran();
  }
  double model_seconds([[maybe_unused]] double seconds) const override {
    if constexpr (requires { problem_.model_seconds(seconds); }) return problem_.model_seconds(seconds);
    return 0;
  }
  Verification verify(uint64_t seed, double budget) const override {
    return mmb::verify<Op, Reference>(shape_, problem_, seed, budget);
  }

 private:
  Kernel<Op> kernel_;
  typename Op::Shape shape_;
  typename Op::Problem problem_;
};

// New tokens of one iteration; 0 for an op that knows no tokens.
template <class Op>
int64_t tokens(const typename Op::Shape& shape) {
  if constexpr (requires { shape.tokens; }) return shape.tokens;
  if constexpr (requires { shape.batch* shape.new_tokens; }) return shape.batch * shape.new_tokens;
  if constexpr (requires { shape.router; }) return shape.router.tokens;
  if constexpr (requires { shape.moe_layer; }) return Op::units(shape);
  return 0;
}

// Tokens in the caches that one iteration reads; 0 for an op that reads none.
template <class Shape>
int64_t cached_tokens(const Shape& shape) {
  if constexpr (requires { shape.shortest; })
    return Batch(shape.batch, shape.new_tokens, shape.context, shape.shortest).cached();
  if constexpr (requires { shape.layers; }) return shape.batch * shape.context;
  if constexpr (requires { shape.mla_layer; })
    return shape.mla_layer.batch ? cached_tokens(shape.mla_layer) : cached_tokens(shape.attention_layer);
  return 0;
}

// Of a decode step's attention alone, not of the layers around it; expanded keys and values are no latents.
template <class Op>
std::optional<Latents> latents(const typename Op::Shape& shape, DType dtype, std::string_view algo) {
  if constexpr (std::is_same_v<Op, LatentAttention>)
    return Latents{{dtype, shape.kv_lora_rank, shape.qk_rope_head_dim}, shape.context};
  if constexpr (std::is_same_v<Op, MlaDecode>)
    if (algo != "expanded") return Latents{cached_row(shape, dtype), shape.context};
  return {};
}

// Where one iteration's tokens go: of experts, if the shape has any.
template <class Shape>
void count_experts(const Shape& shape, std::map<std::string, double>& counters) {
  if constexpr (std::is_same_v<Shape, MoeExperts::Shape>) {
    if (shape.tokens == 0) return;
    const MoeExperts::Load load = MoeExperts::load(shape, MoeExperts::route(shape));
    counters["experts_touched"] = static_cast<double>(load.experts_touched);
    counters["experts_expected"] =
        mmb::experts_touched(shape.n_routed_experts, shape.num_experts_per_tok, shape.tokens);
    counters["expert_load_max"] = static_cast<double>(load.max);
    counters["expert_load_mean"] = load.mean;
    counters["expert_overlap"] = load.overlap;
  }
  if constexpr (requires { shape.router; }) count_experts(shape.experts, counters);
  if constexpr (requires { shape.moe_layer; }) count_experts(shape.moe_layer.experts, counters);
  if constexpr (requires { shape.layers; }) count_experts(shape.layers.back(), counters);
}

}  // namespace detail

template <class Op, auto Reference>
Verification verify(const typename Op::Shape& shape, const typename Op::Problem& problem, uint64_t seed,
                    double budget) {
  const int64_t units = Op::units(shape);
  const auto start = std::chrono::steady_clock::now();
  std::vector<Output> actual, expected;
  const auto check = [&](Range range) {
    Reference(shape, problem.expected(), range);
    for (int64_t unit = range.begin; unit < range.end; ++unit) {
      detail::append(actual, problem.outputs(problem.args(), unit));
      detail::append(expected, problem.outputs(problem.expected(), unit));
    }
  };
  check({units - 1, units});
  if (detail::seconds_since(start) * static_cast<double>(units) <= budget) {
    check({0, units - 1});
  } else {
    for (uint64_t i = 0; detail::seconds_since(start) < budget; ++i) {
      const auto unit = i == 0 ? 0 : static_cast<int64_t>(uniform(seed, i) * static_cast<double>(units));
      check({unit, unit + 1});
    }
  }
  return detail::compare_outputs(actual, expected, problem.intact());
}

template <class Op, auto Reference>
void Suite::add(const Model& model, const typename Op::Shape& shape, const Choice& choice) {
  static_assert(Operator<Op>);
  try {
    for (const Kernel<Op>& kernel : Op::kernels()) {
      if (!selected(kernel.impl) || (!choice.algo.empty() && choice.algo != kernel.algo)) continue;
      for (DType dtype : choice.dtypes.empty() ? selection_.dtypes : choice.dtypes) {
        if (!takes(kernel, shape, dtype)) continue;
        for (Threads threads : threads(kernel.algo == choice.headline)) {
          Row row;
          row.name = {Op::name,
                      kernel.algo,
                      mmb::name(dtype),
                      mmb::name(kernel.impl),
                      model.name,
                      Op::key(shape),
                      threads == Threads::one ? "1" : "all"};
          if constexpr (requires { Op::parts(shape, dtype, kernel.algo); }) {
            row.parts = Op::parts(shape, dtype, kernel.algo);
            add_parts(model, row);
          }
          if (!selected(row.name.text())) continue;
          row.impl = kernel.impl;
          if (kernel.note) row.note = kernel.note();
          row.threads = threads;
          row.cost = Op::cost(shape, dtype, kernel.algo);
          row.activation_memory = row.cost.activation_bytes;
          if constexpr (requires { Op::activation_memory(shape); })
            row.activation_memory = Op::activation_memory(shape);
          if constexpr (requires { Op::kVerifySeconds; }) row.verify_seconds = Op::kVerifySeconds;
          row.tokens = detail::tokens<Op>(shape);
          row.latents = detail::latents<Op>(shape, dtype, kernel.algo);
          if (model.base) row.counters["params_delta"] = static_cast<double>(params_delta(model));
          if (const int64_t cached = detail::cached_tokens(shape))
            row.counters["kv_bytes_per_token"] = row.cost.kv_bytes / static_cast<double>(cached);
          detail::count_experts(shape, row.counters);
          if constexpr (requires { Op::useful_flops(shape); })
            if (Op::useful_flops(shape) != row.cost.flops) row.counters["useful_flops"] = Op::useful_flops(shape);
          row.prepare = [this, kernel, shape, dtype](Arena& arena) {
            return std::make_unique<detail::OpSubject<Op, Reference>>(kernel, shape, dtype, arena, selection_.seed);
          };
          push(std::move(row));
        }
      }
    }
  } catch (const TraceError&) {
    throw;
  } catch (const Error& error) {
    skip(std::string(Op::name) + "/.../" + model.name, error.what());
  }
}

}  // namespace mmb
