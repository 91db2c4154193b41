// Bound: the multiply-add units.
// Idea: as many independent chains as registers allow beside a and b. Two units of latency 4 need 8 chains, four need 16;
// levels without FMA need latency 8. Split: blocks of chains, evenly over the threads.
#include "chains.h"

namespace mmb::MMB_IMPL {
namespace {

struct Fma {
  using Sum = Vec;
  static constexpr int kWidth = kLanes, kChains = kRegisters * 3 / 4;
  Vec a, b;
  MMB_OP Fma(float x, float y) : a(broadcast(x)), b(broadcast(y)) {}
  MMB_OP Vec start(const float* x) const { return load(x); }
  MMB_OP Vec step(Vec v) const { return fma(v, a, b); }
  MMB_OP void finish(Vec v, float* y) const { store(y, v); }
};

}  // namespace

void fma_peak(const FmaPeak::Shape& shape, const FmaPeak::Args& args) noexcept {
  peak_of<Fma>(shape, args);
}

}  // namespace mmb::MMB_IMPL
