#include "mmb/machine.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <numeric>

#include "mmb/fma_peak.h"
#include "mmb/stream_read.h"

namespace mmb {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// One op at one shape, run again and again; collects work per second.
template <class Op>
class Probe {
 public:
  Probe(const typename Op::Shape& shape, Impl impl, Arena& arena, double work)
      : shape_(shape), work_(work), problem_(shape, DType::f32, "", arena, 1) {
    const auto list = Op::kernels();
    kernel_ = *std::find_if(list.begin(), list.end(), [impl](const Kernel<Op>& kernel) { return kernel.impl == impl; });
  }

  void burst() {
    problem_.next();
    const auto start = Clock::now();
    kernel_.run(shape_, problem_.args());
    rates_.push_back(work_ / seconds_since(start));
  }
  void forget() { rates_.clear(); }
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
  double work_;
  typename Op::Problem problem_;
  Kernel<Op> kernel_;
  std::vector<double> rates_;
};

// Of the flops of a burst: about a millisecond, a hundred times the fork and join of a team. The first trial finds a
// sleeping team and the wrong clock frequency; the second says how many steps a millisecond has, which an emulator makes few.
FmaPeak::Shape arithmetic(int threads, Impl impl, Arena& arena) {
  FmaPeak::Shape shape{FmaPeak::kBlock * 128 * threads, 10};
  const double work = FmaPeak::cost(shape, DType::f32, "").flops;
  Probe<FmaPeak> trial(shape, impl, arena, work);
  trial.burst();
  trial.forget();
  trial.burst();
  shape.steps = std::clamp(static_cast<int64_t>(10 * 1e-3 * trial.median() / work), int64_t{1}, int64_t{1000});
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

}  // namespace

struct Ruler::Probes {
  Probes(const FmaPeak::Shape& arithmetic, const StreamRead::Shape& reading, Impl impl, Arena& arena)
      : flops(arithmetic, impl, arena, FmaPeak::cost(arithmetic, DType::f32, "").flops),
        bytes(reading, impl, arena, StreamRead::cost(reading, DType::f32, "").bytes()) {}
  Probe<FmaPeak> flops;
  Probe<StreamRead> bytes;
};

Ruler::Ruler(int threads, Impl impl, Arena& arena)
    : impl_(impl == Impl::reference ? best_impl() : impl), threads_(threads) {
  MMB_REQUIRE(threads > 0 && supported(impl_), "measure: " << threads << " threads, " << name(impl_));
  const Threads on(threads);
  const StreamRead::Shape reading{std::min(int64_t{16 << 20} * threads, arena.bytes() / 4) / 64 * 64, 1};
  probes_ = std::make_unique<Probes>(arithmetic(threads, impl_, arena), reading, impl_, arena);
  burst();
  forget();
}

Ruler::~Ruler() = default;

void Ruler::burst() {
  const Threads on(threads_);
  probes_->flops.burst();
  probes_->bytes.burst();
}

void Ruler::forget() {
  probes_->flops.forget();
  probes_->bytes.forget();
}

Machine Ruler::machine() const {
  return {impl_,
          threads_,
          probes_->flops.median(),
          probes_->bytes.median(),
          probes_->flops.extremes(),
          probes_->bytes.extremes()};
}

Machine measure(Ruler& ruler, double seconds) {
  ruler.forget();
  const auto start = Clock::now();
  for (int bursts = 0; bursts < 5 || seconds_since(start) < seconds; ++bursts) ruler.burst();
  return ruler.machine();
}

double ideal_seconds(const Cost& cost, const Machine& machine) {
  return std::max(cost.flops / machine.flops_per_second, cost.bytes() / machine.bytes_per_second);
}

bool memory_bound(const Cost& cost, const Machine& machine) {
  return cost.bytes() / machine.bytes_per_second > cost.flops / machine.flops_per_second;
}

double ideal_seconds(std::span<const Cost> parts, const Machine& machine) {
  double sum = 0;
  for (const Cost& part : parts) sum += ideal_seconds(part, machine);
  return sum;
}

double overlap_bound(std::span<const Cost> parts, const Machine& machine) {
  return ideal_seconds(std::accumulate(parts.begin(), parts.end(), Cost()), machine);
}

}  // namespace mmb
