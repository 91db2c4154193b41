// Bound: the units that add products of bytes in fours (vpdpbusd): unsigned times signed, sums in int32.
#include "chains.h"

namespace mmb::MMB_IMPL {
namespace {

struct DotInt8 {
  using Sum = VecInt;  // of __m512i, GCC keeps arrays of sums in memory
  static constexpr int kWidth = 16, kChains = 24;
  __m512i a, b;
  DotInt8(float x, float y) : a(_mm512_set1_epi8(static_cast<char>(x))), b(_mm512_set1_epi8(static_cast<char>(y))) {}
  MMB_OP Sum start(const float* x) const { return __builtin_convertvector(load(x), VecInt); }
  MMB_OP Sum step(Sum v) const { return (VecInt)_mm512_dpbusd_epi32((__m512i)v, a, b); }
  MMB_OP void finish(Sum v, float* y) const { store(y, __builtin_convertvector(v, Vec)); }
};

}  // namespace

void fma_peak(const FmaPeak::Shape& shape, const FmaPeak::Args& args) noexcept {
  peak_of<DotInt8>(shape, args);
}

}  // namespace mmb::MMB_IMPL
