// Dots of bytes, included by the file of every class of them.
// Bound: the units that add products of bytes in fours (vpdpbusd, usdot): unsigned times signed, sums in int32.
#pragma once

#include "chains.h"

namespace mmb {
namespace MMB_IMPL {
namespace {

struct DotInt8 {
  using Sum = VecInt;
  static constexpr int kWidth = kLanes, kChains = kRegisters * 3 / 4;
  VecInt a, b;
  DotInt8(float x, float y) : a(bytes_of(x)), b(bytes_of(y)) {}
  MMB_OP Sum start(const float* x) const { return __builtin_convertvector(load(x), VecInt); }
  MMB_OP Sum step(Sum v) const { return dot(v, a, b); }
  MMB_OP void finish(Sum v, float* y) const { store(y, __builtin_convertvector(v, Vec)); }
  MMB_OP static VecInt bytes_of(float x) { return VecInt{} + static_cast<int32_t>(x) * 0x01010101; }
};

}  // namespace

void fma_peak(const FmaPeak::Shape& shape, const FmaPeak::Args& args) noexcept {
  peak_of<DotInt8>(shape, args);
}

}  // namespace MMB_IMPL
}  // namespace mmb
