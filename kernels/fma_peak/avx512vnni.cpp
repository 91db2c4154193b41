// Bound: the units that add products of bytes in fours (vpdpbusd): unsigned times signed, sums in int32.
#include "chains.h"

namespace mmb::MMB_IMPL {
namespace {

struct DotInt8 {
  using Sum = __m512i;
  static constexpr int kWidth = 16, kChains = 24;
  __m512i a, b;
  DotInt8(float x, float y) : a(_mm512_set1_epi8(static_cast<char>(x))), b(_mm512_set1_epi8(static_cast<char>(y))) {}
  MMB_OP Sum start(const float* x) const { return _mm512_cvtps_epi32(_mm512_loadu_ps(x)); }
  MMB_OP Sum step(Sum v) const { return _mm512_dpbusd_epi32(v, a, b); }
  MMB_OP void finish(Sum v, float* y) const { _mm512_storeu_ps(y, _mm512_cvtepi32_ps(v)); }
};

}  // namespace

void fma_peak(const FmaPeak::Shape& shape, const FmaPeak::Args& args) noexcept {
  peak_of<DotInt8>(shape, args);
}

}  // namespace mmb::MMB_IMPL
