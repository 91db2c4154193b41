// Bound: the multiply-add units.
// Idea: as many independent chains as registers allow beside a and b. Two units of latency 4 need 8 chains, four need
// 16; levels without FMA need latency 8. Split: blocks of kBlock elements, evenly over the threads.
#include "mmb/fma_peak.h"

#include "../simd.h"
#include "../team.h"

namespace mmb::MMB_IMPL {
namespace {

constexpr int kChains = kRegisters * 3 / 4;
static_assert(FmaPeak::kBlock % (kChains * kLanes) == 0);

// `n` of kChains * kLanes elements; vectors beyond are computed on zeros.
[[gnu::noinline]] void chains(const float* x, float a, float b, float* y, int64_t n, int64_t steps) {
  const Vec va = broadcast(a), vb = broadcast(b);
  Vec v[kChains];
  MMB_UNROLL
  for (int c = 0; c < kChains; ++c) {
    const int64_t left = n - c * kLanes;
    v[c] = left >= kLanes ? load(x + c * kLanes) : left > 0 ? load_partial(x + c * kLanes, left) : Vec{};
  }
  for (int64_t step = 0; step < steps; ++step) {
    MMB_UNROLL
    for (int c = 0; c < kChains; ++c) v[c] = fma(v[c], va, vb);
  }
  MMB_UNROLL
  for (int c = 0; c < kChains; ++c) {
    const int64_t left = n - c * kLanes;
    if (left >= kLanes)
      store(y + c * kLanes, v[c]);
    else if (left > 0)
      store_partial(y + c * kLanes, v[c], left);
  }
}

}  // namespace

void fma_peak(const FmaPeak::Shape& shape, const FmaPeak::Args& args) noexcept {
  const int64_t E = shape.elements, block = kChains * kLanes;
  team([&] {
    const Share blocks = share(ceil_div(E, FmaPeak::kBlock));
    const int64_t end = blocks.end * FmaPeak::kBlock < E ? blocks.end * FmaPeak::kBlock : E;
    for (int64_t i = blocks.begin * FmaPeak::kBlock; i < end; i += block)
      chains(args.x + i, args.a, args.b, args.y + i, end - i < block ? end - i : block, shape.steps);
    barrier();
  });
}

}  // namespace mmb::MMB_IMPL
