// Bound: the units that add products of bf16 in pairs (vdpbf16ps), latency 6 to 8.
#include "chains.h"

namespace mmb::MMB_IMPL {
namespace {

struct DotBf16 {
  using Sum = __m512;
  static constexpr int kWidth = 16, kChains = 24;
  __m512bh a, b;
  DotBf16(float x, float y)
      : a(_mm512_cvtne2ps_pbh(_mm512_set1_ps(x), _mm512_set1_ps(x))),
        b(_mm512_cvtne2ps_pbh(_mm512_set1_ps(y), _mm512_set1_ps(y))) {}
  MMB_OP Sum start(const float* x) const { return _mm512_loadu_ps(x); }
  MMB_OP Sum step(Sum v) const { return _mm512_dpbf16_ps(v, a, b); }
  MMB_OP void finish(Sum v, float* y) const { _mm512_storeu_ps(y, v); }
};

}  // namespace

void fma_peak(const FmaPeak::Shape& shape, const FmaPeak::Args& args) noexcept {
  peak_of<DotBf16>(shape, args);
}

}  // namespace mmb::MMB_IMPL
