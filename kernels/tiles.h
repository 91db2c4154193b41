// The matrix unit that some levels have (Intel AMX): eight tiles of 16 rows x 64 bytes, and products of bf16 with sums in
// f32. Kernels are templates over a unit, so that a test can run them on an emulated one:
//   Unit(rows)              sets the tiles up: 0 to 3 are sums [rows][16] f32, 4 to 6 left operands [rows][32] bf16, and 7
//                           the right operand [16][16][2] bf16, pairs of its 32 rows: 16 lines of a packed Matrix
//   zero<S>()               sum S = 0
//   load_sum<S>(p, bytes)   from rows `bytes` apart (0: all the same); store_sum likewise
//   load_left<L>(p, bytes), load_right(p, bytes)
//   dot<S, L>()             sum S += left L * right
//   dot_bytes<S, L>()       the same in int32, of u8 [rows][64] and s8 [16][16][4]: 64 products for each sum
//   dot_signed<S, L>()      the same of s8 and s8
// An f32 operand is the sum of three bf16 without any rounding (8 bits of its mantissa each), so that three products of
// bf16 give what f32 FMAs give, at a third of the unit's rate; a bf16 operand needs one.
#pragma once

#include "prefetch.h"

namespace mmb {
namespace MMB_IMPL {
namespace {

constexpr int64_t kTileRows = 16, kTileColumns = 32;  // of a left operand
constexpr int kTileSums = 4;
constexpr int64_t kTileBytes = 1024;

// bf16 that make up a value of type E.
template <class E>
constexpr int kTerms = sizeof(E) == 4 ? 3 : 1;

// The terms of v, from large to small.
template <int Terms>
MMB_OP void split(Vec v, HalfBits (&terms)[Terms]) {
  MMB_UNROLL
  for (int i = 0; i < Terms; ++i) {
    const VecBits bits = (VecBits)v & 0xffff0000u;
    terms[i] = __builtin_convertvector(bits >> 16, HalfBits);
    v -= (Vec)bits;
  }
}

// f(integral_constant<int, i>) for i in 0 .. N - 1: a tile's number is part of its instructions.
template <class F, int... I>
MMB_OP void each_tile(const F& f, std::integer_sequence<int, I...>) {
  (f(std::integral_constant<int, I>()), ...);
}
template <int N, class F>
MMB_OP void each_tile(const F& f) {
  each_tile(f, std::make_integer_sequence<int, N>());
}

// f(integral_constant<int, n>) for n in 1 .. Most.
template <int Most, class F>
MMB_OP void with_tiles(int64_t n, const F& f) {
  if (n == Most)
    f(std::integral_constant<int, Most>());
  else if constexpr (Most > 1)
    with_tiles<Most - 1>(n, f);
}

#if defined(__AMX_BF16__) || defined(__AMXBF16__)
constexpr bool kHasTiles = true;

// The operating system has been asked for the state (supported(Impl::amx)).
class TileUnit {
 public:
  MMB_OP explicit TileUnit(int64_t rows) {
    struct alignas(64) {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16];
    } config;
    for (int i = 0; i < 16; ++i) config.rows[i] = static_cast<uint8_t>(i < 7 ? rows : i == 7 ? kTileRows : 0);
    __asm__ volatile("ldtilecfg %0" : : "m"(config));
  }
  MMB_OP ~TileUnit() { __asm__ volatile("tilerelease"); }
  TileUnit(const TileUnit&) = delete;

  template <int S>
  MMB_OP void zero() {
    __asm__ volatile("tilezero %%tmm%c0" : : "i"(S));
  }
  template <int S>
  MMB_OP void load_sum(const void* p, int64_t bytes) {
    load<S>(p, bytes);
  }
  template <int S>
  MMB_OP void store_sum(void* p, int64_t bytes) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(bytes), "i"(S) : "memory");
  }
  template <int L>
  MMB_OP void load_left(const void* p, int64_t bytes) {
    load<4 + L>(p, bytes);
  }
  MMB_OP void load_right(const void* p, int64_t bytes) { load<7>(p, bytes); }
  template <int S, int L>
  MMB_OP void dot() {
    __asm__ volatile("tdpbf16ps %%tmm7, %%tmm%c1, %%tmm%c0" : : "i"(S), "i"(4 + L));
  }
  template <int S, int L>
  MMB_OP void dot_bytes() {
    __asm__ volatile("tdpbusd %%tmm7, %%tmm%c1, %%tmm%c0" : : "i"(S), "i"(4 + L));
  }
  template <int S, int L>
  MMB_OP void dot_signed() {
    __asm__ volatile("tdpbssd %%tmm7, %%tmm%c1, %%tmm%c0" : : "i"(S), "i"(4 + L));
  }

 private:
  template <int T>
  MMB_OP void load(const void* p, int64_t bytes) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(bytes), "i"(T) : "memory");
  }
};
#elif defined(MMB_EMULATED_TILES)
constexpr bool kHasTiles = true;  // TileUnit is the test's (tests/emulated_tiles.h)
#else
constexpr bool kHasTiles = false;
class TileUnit;
#endif

}  // namespace
}  // namespace MMB_IMPL
}  // namespace mmb
