// Bound: the multiply-add units in half precision (vfmadd231ph): sums in f16 too, exact up to 2048.
#include "chains.h"

namespace mmb::MMB_IMPL {
namespace {

struct FmaF16 {
  using Sum = __m512h;
  static constexpr int kWidth = 32, kChains = 24;
  __m512h a, b;
  FmaF16(float x, float y) : a(_mm512_set1_ph(static_cast<_Float16>(x))), b(_mm512_set1_ph(static_cast<_Float16>(y))) {}
  MMB_OP Sum start(const float* x) const {
    return _mm512_castpd_ph(
        _mm512_insertf64x4(_mm512_castpd256_pd512(_mm256_castph_pd(_mm512_cvtxps_ph(_mm512_loadu_ps(x)))),
                           _mm256_castph_pd(_mm512_cvtxps_ph(_mm512_loadu_ps(x + 16))), 1));
  }
  MMB_OP Sum step(Sum v) const { return _mm512_fmadd_ph(a, b, v); }
  MMB_OP void finish(Sum v, float* y) const {
    const __m512d bits = _mm512_castph_pd(v);
    _mm512_storeu_ps(y, _mm512_cvtxph_ps(_mm256_castpd_ph(_mm512_castpd512_pd256(bits))));
    _mm512_storeu_ps(y + 16, _mm512_cvtxph_ps(_mm256_castpd_ph(_mm512_extractf64x4_pd(bits, 1))));
  }
};

}  // namespace

void fma_peak(const FmaPeak::Shape& shape, const FmaPeak::Args& args) noexcept {
  peak_of<FmaF16>(shape, args);
}

}  // namespace mmb::MMB_IMPL
