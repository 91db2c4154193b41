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
  double median() {
    const auto middle = rates_.begin() + static_cast<std::ptrdiff_t>(rates_.size() / 2);
    std::nth_element(rates_.begin(), middle, rates_.end());
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

}  // namespace

Machine measure(int threads, Impl impl, Arena& arena, double seconds) {
  if (impl == Impl::reference) impl = best_impl();
  MMB_REQUIRE(threads > 0 && supported(impl), "measure: " << threads << " threads, " << name(impl));
  const int saved = omp_get_max_threads();
  omp_set_num_threads(threads);

  // About a millisecond each: a hundred times the fork and join of a team. The first burst finds a sleeping team and the
  // wrong clock frequency; the next says how many steps a millisecond has, which an emulator makes few.
  FmaPeak::Shape arithmetic{FmaPeak::kBlock * 128 * threads, 10};
  const double work = FmaPeak::cost(arithmetic, DType::f32, "").flops;
  Probe<FmaPeak> trial(arithmetic, impl, arena, work);
  trial.burst();
  trial.forget();
  trial.burst();
  arithmetic.steps = std::clamp(static_cast<int64_t>(10 * 1e-3 * trial.median() / work), int64_t{10}, int64_t{1000});
  const StreamRead::Shape reading{std::min(int64_t{16 << 20} * threads, arena.bytes() / 4) / 64 * 64, 1};
  Probe<FmaPeak> flops(arithmetic, impl, arena, FmaPeak::cost(arithmetic, DType::f32, "").flops);
  Probe<StreamRead> bytes(reading, impl, arena, StreamRead::cost(reading, DType::f32, "").bytes());
  flops.burst();
  bytes.burst();
  flops.forget();
  bytes.forget();
  const auto start = Clock::now();
  for (int bursts = 0; bursts < 5 || seconds_since(start) < seconds; ++bursts) {
    flops.burst();
    bytes.burst();
  }

  omp_set_num_threads(saved);
  return {impl, threads, flops.median(), bytes.median(), flops.extremes(), bytes.extremes()};
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
