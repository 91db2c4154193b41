#include "mmb/machine.h"

#include <omp.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <vector>

#include "mmb/fma_peak.h"
#include "mmb/stream_read.h"

namespace mmb {
namespace {

double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The calling thread's own, which stand still while other work has its core.
double own_seconds() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// One op at one shape, run again and again; collects work per second.
template <class Op>
class Probe {
 public:
  Probe(const typename Op::Shape& shape, const Kernel<Op>& kernel, Arena& arena)
      : shape_(shape), kernel_(kernel), problem_(shape, DType::f32, kernel.algo, arena, 1) {
    const Cost cost = Op::cost(shape, DType::f32, kernel.algo);
    work_ = std::is_same_v<Op, FmaPeak> ? cost.flops : cost.bytes();
  }

  void burst(double (*now)() = wall_seconds) {
    problem_.next();
    // Arithmetic runs once before it counts: cores that have waited for memory need a millisecond to come to their clock under
    // vector arithmetic, which would take 8 % off a burst.
    if constexpr (std::is_same_v<Op, FmaPeak>) kernel_.run(shape_, problem_.args());
    const double start = now();
    kernel_.run(shape_, problem_.args());
    rates_.push_back(work_ / (now() - start));
  }
  void forget() { rates_.clear(); }
  const char* algo() const { return kernel_.algo; }
  double median() const {
    std::vector<double> rates = rates_;
    const auto middle = rates.begin() + static_cast<std::ptrdiff_t>(rates.size() / 2);
    std::nth_element(rates.begin(), middle, rates.end());
    return *middle;
  }
  Machine::Extremes extremes() const {
    const auto [min, max] = std::minmax_element(rates_.begin(), rates_.end());
    return {*min, *max};
  }

 private:
  typename Op::Shape shape_;
  Kernel<Op> kernel_;
  typename Op::Problem problem_;
  double work_;
  std::vector<double> rates_;
};

// The kernel of a level, and of an algo where it is named.
template <class Op>
const Kernel<Op>* kernel_of(Impl impl, std::string_view algo = "") {
  for (const Kernel<Op>& kernel : Op::kernels())
    if (kernel.impl == impl && (algo.empty() || algo == kernel.algo)) return &kernel;
  return nullptr;
}

// About a millisecond of arithmetic, a hundred times the fork and join of a team. The first trial finds a sleeping team and
// the wrong clock frequency; the next ones how many steps a millisecond has, which an emulator makes few. Of teams that sleep
// between runs (OMP_WAIT_POLICY=passive) a short trial sees little but waking up.
FmaPeak::Shape arithmetic(int threads, const Kernel<FmaPeak>& kernel, Arena& arena) {
  constexpr int kTrials = 4;
  FmaPeak::Shape shape{FmaPeak::kBlock * 128 * threads, 10};
  for (int i = 0; i < kTrials; ++i) {
    Probe<FmaPeak> trial(shape, kernel, arena);
    trial.burst();
    const double seconds = FmaPeak::cost(shape, DType::f32, kernel.algo).flops / trial.median();
    const double steps = static_cast<double>(shape.steps) * 1e-3 / seconds;
    if (i > 0) shape.steps = std::clamp(static_cast<int64_t>(steps), int64_t{1}, int64_t{2000});
  }
  return shape;
}

// Sets the number of threads for as long as it lives.
class Threads {
 public:
  explicit Threads(int threads) : saved_(omp_get_max_threads()) { omp_set_num_threads(threads); }
  ~Threads() { omp_set_num_threads(saved_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int saved_;
};

// Of a level or class: its instructions, and those for bf16 and for int8 where it has faster ones: a matrix unit's, or
// the dots of bytes that its kernels use where the CPU has them.
struct ArithmeticProbes {
  std::vector<Probe<FmaPeak>> all;

  ArithmeticProbes(int threads, Impl impl, Arena& arena) {
    const auto add = [&](const Kernel<FmaPeak>* kernel) {
      if (kernel) all.emplace_back(arithmetic(threads, *kernel, arena), *kernel, arena);
    };
    for (const char* algo : {"", "tile_bf16", "tile_int8"}) add(kernel_of<FmaPeak>(impl, algo));
    if (impl != Impl::amx && has_byte_dots(impl)) add(kernel_of<FmaPeak>(*byte_dots(impl)));
  }
  const Probe<FmaPeak>& f32() const { return all.front(); }
  const Probe<FmaPeak>& bf16() const { return of({"tile_bf16"}); }
  const Probe<FmaPeak>& int8() const { return of({"tile_int8", "dot_int8"}); }

 private:
  const Probe<FmaPeak>& of(std::initializer_list<std::string_view> algos) const {
    for (const auto& probe : all)
      if (std::ranges::count(algos, probe.algo()) > 0) return probe;
    return f32();
  }
};

Probe<StreamRead> reading_probe(int threads, Impl impl, Arena& arena) {
  const StreamRead::Shape shape{std::min(int64_t{64 << 20} * threads, arena.bytes() / 4) / 64 * 64, 1};
  const Kernel<StreamRead>* kernel = kernel_of<StreamRead>(impl);
  return {shape, kernel ? *kernel : *kernel_of<StreamRead>(best_impl()), arena};
}

}  // namespace

struct Ruler::Probes {
  ArithmeticProbes flops;
  Probe<StreamRead> bytes;
};

Ruler::Ruler(int threads, Impl impl, Arena& arena)
    : impl_(kernel_of<FmaPeak>(impl) && impl != Impl::reference ? impl : fastest_impl()), threads_(threads) {
  MMB_REQUIRE(threads > 0 && supported(impl), "measure: " << threads << " threads, " << name(impl));
  const Threads on(threads);
  probes_.reset(new Probes{{threads, impl_, arena}, reading_probe(threads, impl_, arena)});
  burst();
  forget();
}

Ruler::~Ruler() = default;

void Ruler::burst() {
  const Threads on(threads_);
  probes_->bytes.burst();
  for (auto& probe : probes_->flops.all) probe.burst();  // last: what is timed next finds cores at their clock too
}

void Ruler::forget() {
  for (auto& probe : probes_->flops.all) probe.forget();
  probes_->bytes.forget();
}

Machine Ruler::machine() const {
  const auto &f32 = probes_->flops.f32(), &bf16 = probes_->flops.bf16(), &int8 = probes_->flops.int8();
  const auto& bytes = probes_->bytes;
  return {.impl = impl_,
          .threads = threads_,
          .flops_per_second = f32.median(),
          .bf16_flops_per_second = bf16.median(),
          .rounded_flops_per_second = bf16.median() * (bf16.algo() == std::string_view("tile_bf16") ? 3 : 1),
          .int8_flops_per_second = int8.median(),
          .bytes_per_second = bytes.median(),
          .flops_extremes = f32.extremes(),
          .bf16_flops_extremes = bf16.extremes(),
          .int8_flops_extremes = int8.extremes(),
          .bytes_extremes = bytes.extremes(),
          .flops_class = f32.algo(),
          .bf16_class = bf16.algo(),
          .int8_class = int8.algo()};
}

Impl fastest_impl() {
  static const Impl fastest = [] {
    const Threads on(1);
    Arena unused(64);
    std::vector<Impl> candidates;
    std::vector<ArithmeticProbes> probes;
    for (Impl level : levels()) {
      if (!supported(level)) continue;
      candidates.push_back(level);
      probes.emplace_back(1, level, unused);
    }
    for (int bursts = 0; bursts < 7; ++bursts)
      for (auto& level : probes)
        for (auto& probe : level.all) probe.burst(own_seconds);
    // By the fastest bursts: what else the machine does only slows them, and the choice names the rows. In the thread's own
    // time: on a busy machine all bursts of one level may be interrupted, since they come in turn as timeslices do. The wider
    // of two that are alike: it needs fewer instructions beside the arithmetic.
    const auto speed = [&](size_t i) { return probes[i].bf16().extremes().max; };
    size_t best = 0;
    for (size_t i = 1; i < probes.size(); ++i)
      if (speed(i) > 0.9 * speed(best)) best = i;
    return candidates[best];
  }();
  return fastest;
}

void choose_far_lines(int threads, Arena& arena) {
  static const int64_t chosen = [&] {
    const Threads on(threads);
    struct Trial {
      int64_t lines;
      Probe<StreamRead> probe;
    };
    Trial near{kNearLines, reading_probe(threads, fastest_impl(), arena)},
        far{kFarLines, reading_probe(threads, fastest_impl(), arena)};
    for (int bursts = 0; bursts < 9; ++bursts) {
      for (Trial* trial : {&far, &near}) {
        far_lines = trial->lines;
        trial->probe.burst();
      }
    }
    // Two steps where they are alike, for the sake of loops that do more than read.
    return near.probe.median() > 1.03 * far.probe.median() ? near.lines : far.lines;
  }();
  far_lines = chosen;
}

Machine measure(Ruler& ruler, double seconds) {
  ruler.forget();
  const double start = wall_seconds();
  for (int bursts = 0; bursts < 5 || wall_seconds() - start < seconds; ++bursts) ruler.burst();
  return ruler.machine();
}

namespace {

double flops_seconds(const Cost& cost, const Machine& machine) {
  return (cost.flops - cost.bf16_flops - cost.int8_flops) / machine.flops_per_second +
         (cost.bf16_flops - cost.rounded_flops - cost.digit_flops) / machine.bf16_flops_per_second +
         cost.rounded_flops / machine.rounded_flops_per_second + cost.digit_flops / machine.digit_flops_per_second() +
         cost.int8_flops / machine.int8_flops_per_second;
}

double bytes_seconds(const Cost& cost, const Machine& machine) {
  return cost.bytes() / machine.bytes_per_second;
}

}  // namespace

double ideal_seconds(const Cost& cost, const Machine& machine) {
  return std::max(flops_seconds(cost, machine), bytes_seconds(cost, machine));
}

bool memory_bound(const Cost& cost, const Machine& machine) {
  return bytes_seconds(cost, machine) > flops_seconds(cost, machine);
}

Cost sum(std::span<const Component> parts) {
  Cost all;
  for (const Component& part : parts) all = all + part.cost;
  return all;
}

double ideal_seconds(std::span<const Component> parts, const Machine& machine) {
  double seconds = 0;
  for (const Component& part : parts) seconds += ideal_seconds(part.cost, machine);
  return seconds;
}

double overlap_bound(std::span<const Component> parts, const Machine& machine) {
  return ideal_seconds(sum(parts), machine);
}

}  // namespace mmb
