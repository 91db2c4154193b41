// The vector type of one instruction-set level and the few operations that plain C++ cannot spell. A kernel is written once
// against this file and compiled once per level; +, -, *, comparisons and ?: on Vec are the compiler's own.
// The file with instruction-set #ifs, but for the matrix unit's (tiles.h). Everything has internal linkage: code compiled for
// AVX-512 must not become the program's copy of a shared inline function.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <utility>

#include "mmb/tensor.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#ifndef MMB_IMPL
#error "MMB_IMPL names the instruction-set level that this file is compiled for"
#endif

#define MMB_UNROLL _Pragma("GCC unroll 64")
// A loop of multiply-adds, four steps at a time: counting and addresses take ports from them.
#define MMB_FEW_STEPS _Pragma("GCC unroll 4")
// A loop whose body is long: once in the code.
#define MMB_ONE_COPY _Pragma("GCC unroll 1")

namespace mmb {
namespace MMB_IMPL {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kLanes = 8, kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kLanes = 4, kRegisters = 32;
#else
constexpr int kLanes = 4, kRegisters = 16;
#endif

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t VecInt __attribute__((vector_size(4 * kLanes)));
typedef uint32_t VecBits __attribute__((vector_size(4 * kLanes)));
typedef uint16_t HalfBits __attribute__((vector_size(2 * kLanes)));
typedef int16_t HalfInt __attribute__((vector_size(2 * kLanes)));
typedef uint8_t ByteBits __attribute__((vector_size(kLanes)));
typedef uint8_t VecBytes __attribute__((vector_size(4 * kLanes)));

constexpr int kVecsPerPanel = static_cast<int>(kPanel) / kLanes;

#define MMB_OP [[gnu::always_inline, maybe_unused]] inline

MMB_OP Vec broadcast(float x) {
  return x - Vec{};
}
MMB_OP Vec load(const float* p) {
  Vec v;
  memcpy(&v, p, sizeof v);
  return v;
}
MMB_OP void store(float* p, Vec v) {
  memcpy(p, &v, sizeof v);
}

MMB_OP VecInt load_ints(const void* p) {
  VecInt v;
  memcpy(&v, p, sizeof v);
  return v;
}
// The same four bytes in every lane.
MMB_OP VecInt broadcast_four(const void* p) {
  int32_t bytes;
  memcpy(&bytes, p, 4);
  return VecInt{} + bytes;
}

MMB_OP int64_t min_of(int64_t a, int64_t b) {
  return a < b ? a : b;
}

// The same N elements in every N lanes; N is 1, 2 or 4.
template <int N>
MMB_OP Vec load_strip(const float* p) {
  if constexpr (N == 1) return broadcast(*p);
  if constexpr (N == 2) {
    typedef int64_t Pairs __attribute__((vector_size(4 * kLanes)));
    int64_t pair;
    memcpy(&pair, p, sizeof pair);
    return (Vec)(Pairs{} + pair);
  }
#if defined(__AVX512F__)
  return (Vec)_mm512_broadcast_f32x4(_mm_loadu_ps(p));
#elif defined(__AVX2__)
  return (Vec)_mm256_broadcast_ps(reinterpret_cast<const __m128*>(p));
#else
  return load(p);
#endif
}

// The first n of kLanes elements; the others are zero, and their memory is not touched.
MMB_OP Vec load_partial(const float* p, int64_t n) {
#if defined(__AVX512F__)
  return (Vec)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
#else
  Vec v = {};
  memcpy(&v, p, static_cast<size_t>(4 * n));
  return v;
#endif
}
MMB_OP void store_partial(float* p, Vec v, int64_t n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), (__m512)v);
#else
  memcpy(p, &v, static_cast<size_t>(4 * n));
#endif
}

// a * b + c, rounded once where the level has FMA.
MMB_OP Vec fma(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
  return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  return (Vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

// NaN in a gives b.
MMB_OP Vec max(Vec a, Vec b) {
  return a > b ? a : b;
}
MMB_OP Vec min(Vec a, Vec b) {
  return a < b ? a : b;
}

MMB_OP Vec magnitude(Vec v) {
  return (Vec)((VecBits)v & 0x7fffffffu);
}

template <int... I>
using LaneList = std::integer_sequence<int, I...>;
using Lanes = std::make_integer_sequence<int, kLanes>;

// Lane i is lane i ^ W of v.
template <int W, class V, int... I>
MMB_OP V swap_lanes(V v, LaneList<I...>) {
  return __builtin_shufflevector(v, v, (I ^ W)...);
}

// The lower (upper) W lanes of every 2W lanes of a, each followed by those of b.
template <int W, int... I>
MMB_OP Vec lower_lanes(Vec a, Vec b, LaneList<I...>) {
  return __builtin_shufflevector(a, b, (I & W ? kLanes + I - W : I)...);
}
template <int W, int... I>
MMB_OP Vec upper_lanes(Vec a, Vec b, LaneList<I...>) {
  return __builtin_shufflevector(a, b, (I & W ? kLanes + I : I + W)...);
}

// a and b, one after the other: their lanes of even and of odd number, and back.
template <int... I>
MMB_OP void unzip(Vec a, Vec b, Vec& even, Vec& odd, LaneList<I...>) {
  even = __builtin_shufflevector(a, b, (2 * I)...);
  odd = __builtin_shufflevector(a, b, (2 * I + 1)...);
}
template <int... I>
MMB_OP void zip(Vec even, Vec odd, Vec& a, Vec& b, LaneList<I...>) {
  a = __builtin_shufflevector(even, odd, (I / 2 + I % 2 * kLanes)...);
  b = __builtin_shufflevector(even, odd, (kLanes / 2 + I / 2 + I % 2 * kLanes)...);
}

// The sum (largest) of every W consecutive lanes, in each of them.
template <int W = kLanes, class V>
MMB_OP V sum_of_lanes(V v) {
  if constexpr (W == 1)
    return v;
  else
    return sum_of_lanes<W / 2>(v + swap_lanes<W / 2>(v, Lanes()));
}
template <int W = kLanes>
MMB_OP Vec max_of_lanes(Vec v) {
  if constexpr (W == 1)
    return v;
  else
    return max_of_lanes<W / 2>(max(v, swap_lanes<W / 2>(v, Lanes())));
}
MMB_OP float reduce_add(Vec v) {
  return sum_of_lanes(v)[0];
}
MMB_OP int32_t reduce_add(VecInt v) {
  return sum_of_lanes(v)[0];
}
MMB_OP float reduce_max(Vec v) {
  return max_of_lanes(v)[0];
}

// Of every N consecutive lanes, lane i of the result is the sum of those of v[i].
template <int N, int W = N / 2>
MMB_OP Vec sums(Vec (&v)[N]) {
  if constexpr (N == 1) return v[0];
  MMB_UNROLL
  for (int i = 0; i < W; ++i) v[i] = lower_lanes<W>(v[i], v[i + W], Lanes()) + upper_lanes<W>(v[i], v[i + W], Lanes());
  if constexpr (W > 1) return sums<N, W / 2>(v);
  return v[0];
}

// Lane j of v[i] and lane i of v[j] change places.
template <int W = kLanes / 2>
MMB_OP void transpose(Vec (&v)[kLanes]) {
  MMB_UNROLL
  for (int i = 0; i < kLanes; ++i) {
    if (i & W) continue;
    const Vec a = v[i], b = v[i + W];
    v[i] = lower_lanes<W>(a, b, Lanes());
    v[i + W] = upper_lanes<W>(a, b, Lanes());
  }
  if constexpr (W > 1) transpose<W / 2>(v);
}

// kLanes consecutive elements of a row, widened to f32.
MMB_OP Vec load(const bf16* p) {
#if defined(__AVX512F__)
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return (Vec)_mm512_slli_epi32(wide, 16);
#elif defined(__AVX2__)
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return (Vec)_mm256_slli_epi32(wide, 16);
#else
  HalfBits half;
  memcpy(&half, p, sizeof half);
  return (Vec)(__builtin_convertvector(half, VecBits) << 16);
#endif
}

// Rounded to nearest, ties to even; NaN does not occur in what kernels store.
MMB_OP void store(bf16* p, Vec v) {
  const VecBits bits = (VecBits)v;
  const HalfBits half = __builtin_convertvector((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16, HalfBits);
  memcpy(p, &half, sizeof half);
}
MMB_OP void store_partial(bf16* p, Vec v, int64_t n) {
  bf16 padded[kLanes];
  store(padded, v);
  memcpy(p, padded, static_cast<size_t>(2 * n));
}

// kLanes f16, widened; finite ones.
MMB_OP Vec load_f16(const uint16_t* p) {
#if defined(__AVX512F__)
  return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__AVX2__)
  return (Vec)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  HalfBits half;
  memcpy(&half, p, sizeof half);
  const VecBits bits = __builtin_convertvector(half, VecBits);
  return (Vec)((bits & 0x7fffu) << 13 | (bits & 0x8000u) << 16) * 0x1p112f;
#endif
}

// From here on the compiler does not know where x, a pointer or a stride, came from. It would else index many rows from one
// pointer, with more offsets than there are registers.
template <class T>
MMB_OP void forget_origin(T& x) {
  __asm__("" : "+r"(x));
}

// Nor where a vector came from: compilers would load or make it again for every use, where that is what is short.
MMB_OP void forget_origin([[maybe_unused]] VecBits& v) {
#if defined(__aarch64__)
  __asm__("" : "+w"(v));
#elif defined(__AVX2__)
  __asm__("" : "+v"(v));
#endif
}

// The elements of the scaled types, as a line of a panel has them (tensor.h): E is one of these.
struct fp8 {
  uint8_t bits;
};
struct int8 {
  int8_t value;
};
struct int4 {
  uint8_t pair;
};
template <class E>
constexpr DType kTypeOf = DType::f32;
template <>
constexpr DType kTypeOf<bf16> = DType::bf16;
template <>
constexpr DType kTypeOf<fp8> = DType::fp8;
template <>
constexpr DType kTypeOf<int8> = DType::int8;
template <>
constexpr DType kTypeOf<int4> = DType::int4;

// The upper half of each lane, as an f32. kFull: no register is left for the mask. Compilers would give it one all the same,
// and leave a sum on the stack.
template <bool kFull = false>
MMB_OP Vec upper_halves(VecBits bits) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  if constexpr (kFull) {
    alignas(32) static constexpr uint16_t kMask[] = {0, 0xffff, 0, 0xffff, 0, 0xffff, 0, 0xffff,
                                                     0, 0xffff, 0, 0xffff, 0, 0xffff, 0, 0xffff};
    __asm__("vpand %1, %0, %0" : "+x"(bits) : "m"(kMask));
    return (Vec)bits;
  }
#endif
  return (Vec)(bits & 0xffff0000u);
}

// Outputs [v * kLanes, (v + 1) * kLanes) of a panel's line, as f32: column c, or all of its columns. Those of fp8 are 2^-8 of
// their value, which its f16 has the same bits for.
constexpr float kFp8Unit = 256;
template <class E>
MMB_OP VecBits column_bits(const E* line, int v) {
  VecBits bits;
  memcpy(&bits, reinterpret_cast<const char*>(line) + 4 * kLanes * v, sizeof bits);
  return bits;
}
template <bool kFull = false>
MMB_OP Vec load_column(const float* line, int v, int) {
  return load(line + v * kLanes);
}
template <bool kFull = false>
MMB_OP Vec load_column(const bf16* line, int v, int c) {
  const VecBits bits = column_bits(line, v);
  return c == 0 ? (Vec)(bits << 16) : upper_halves<kFull>(bits);
}
template <bool kFull = false>
MMB_OP Vec load_column(const int8* line, int v, int c) {
  return __builtin_convertvector((VecInt)(column_bits(line, v) << (24 - 8 * c)) >> 24, Vec);
}
template <bool kFull = false>
MMB_OP Vec load_column(const int4* line, int v, int c) {
  const VecBits bits = column_bits(line, v);
#if defined(__AVX512F__)  // a permutation looks at the lowest four bits alone
  const __m512 values = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
  return (Vec)_mm512_permutexvar_ps((__m512i)(bits >> (4 * c)), values);
#else
  return __builtin_convertvector((VecInt)(bits << (28 - 4 * c)) >> 28, Vec);
#endif
}
template <class E, int N>
MMB_OP void load_columns(const E* line, int v, Vec (&columns)[N]) {
  MMB_UNROLL
  for (int c = 0; c < N; ++c) columns[c] = load_column(line, v, c);
}
// 2^-8 of any fp8, from the upper byte of 16 bits: an f16 has exponent and mantissa one bit further down.
MMB_OP Vec any_fp8(HalfBits upper) {
  HalfBits half = (HalfBits)((HalfInt)upper >> 1) & 0xbf80;
  half |= (HalfBits)((half & 0x7fff) == 0x3f80) & 0x7e00;  // NaN
#if defined(__AVX512F__)
  return (Vec)_mm512_cvtph_ps((__m256i)half);
#elif defined(__AVX2__)
  return (Vec)_mm256_cvtph_ps((__m128i)half);
#else
  const VecBits bits = __builtin_convertvector(half, VecBits), magnitude = (bits & 0x7fffu) << 13;
  const Vec value = (Vec)magnitude * 0x1p112f;
  return (Vec)((VecBits)(magnitude >= 0x0f800000u ? (Vec)(magnitude | 0x7f800000u) : value) | (bits & 0x8000u) << 16);
#endif
}
// Bytes of fp8, of which nearly all are normal numbers: finds whether some are not.
struct Fp8Screen {
  VecBytes most = {};  // of what is at the least kOther for zeros, subnormals and NaN
  static constexpr uint8_t kOther = 238;

  MMB_OP void add(VecBits bits) {
    const auto bytes = (VecBytes)bits;
    const VecBytes x = bytes + bytes - 16;  // without the sign
    most = x > most ? x : most;
  }
  MMB_OP bool all_normal() const {
#if defined(__AVX512BW__)
    return _mm512_cmpge_epu8_mask((__m512i)most, _mm512_set1_epi8(static_cast<char>(kOther))) == 0;
#elif defined(__AVX2__)
    return _mm256_movemask_epi8((__m256i)(most >= kOther)) == 0;
#else
    const auto others = (VecBytes)(most >= kOther);
    uint64_t words[2];
    memcpy(words, &others, sizeof words);
    return (words[0] | words[1]) == 0;
#endif
  }
};
// Columns c and c + 2, or all, of normal numbers: the upper byte of every 16 bits moves down by 4. Sign, 4 bits of exponent and
// mantissa have their places in an f32 then, to which the upper bits of the exponent are missing.
template <bool kFull = false>
MMB_OP void load_normal_columns(const fp8* line, int v, int c, Vec (&columns)[2]) {
  typedef uint16_t Pairs __attribute__((vector_size(4 * kLanes)));
  typedef int16_t PairInts __attribute__((vector_size(4 * kLanes)));
  const auto pairs = (Pairs)column_bits(line, v);
  const auto moved = (VecBits)((PairInts)(c == 0 ? pairs << 8 : pairs) >> 4);
  VecBits both = (moved & 0x87f087f0u) | 0x38003800u;
  forget_origin(both);
  columns[0] = (Vec)(both << 16);
  columns[1] = upper_halves<kFull>(both);
}
template <bool kFull = false>
MMB_OP void load_normal_columns(const fp8* line, int v, int, Vec (&columns)[4]) {
  Vec even[2], odd[2];
  load_normal_columns<kFull>(line, v, 0, even);
  load_normal_columns<kFull>(line, v, 1, odd);
  MMB_UNROLL
  for (int c = 0; c < 4; ++c) columns[c] = c % 2 ? odd[c / 2] : even[c / 2];
}
MMB_OP void load_columns(const fp8* line, int v, Vec (&columns)[4]) {
  const VecBits bits = column_bits(line, v);
  Fp8Screen screen;
  screen.add(bits);
  if (__builtin_expect(screen.all_normal(), 1)) return load_normal_columns(line, v, 0, columns);
  MMB_UNROLL
  for (int c = 0; c < 4; ++c)
    columns[c] = any_fp8(__builtin_convertvector(bits << (24 - 8 * c) >> 16, HalfBits) & 0xff00);
}

// kLanes consecutive elements of a row, widened; fp8 to 2^-8 of their value.
MMB_OP Vec load(const fp8* p) {
  ByteBits bytes;
  memcpy(&bytes, p, sizeof bytes);
  return any_fp8(__builtin_convertvector(bytes, HalfBits) << 8);
}
MMB_OP Vec load(const int8* p) {
#if defined(__AVX512F__)
  return __builtin_convertvector((VecInt)_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
                                 Vec);
#else
  typedef int8_t ByteInt __attribute__((vector_size(kLanes)));
  ByteInt bytes;
  memcpy(&bytes, p, sizeof bytes);  // by way of 16 bits: GCC takes lane by lane what is not a doubling
  return __builtin_convertvector(__builtin_convertvector(__builtin_convertvector(bytes, HalfInt), VecInt), Vec);
#endif
}
template <class E>
MMB_OP Vec load_partial(const E* p, int64_t n) {
  E padded[kLanes] = {};
  memcpy(padded, p, static_cast<size_t>(n) * sizeof(E));
  return load(padded);
}

// The lowest byte of each lane.
MMB_OP ByteBits low_bytes(VecInt v) {
#if defined(__AVX512F__)
  return (ByteBits)_mm512_cvtepi32_epi8((__m512i)v);
#else  // by way of 16 bits: GCC takes lane by lane what is not a halving
  return __builtin_convertvector(__builtin_convertvector(v, HalfBits), ByteBits);
#endif
}

// The first n bytes of a vector, at the most all; the others are zero, and their memory is not touched.
MMB_OP VecBytes load_bytes(const void* p, int64_t n) {
#if defined(__AVX512BW__)
  return (VecBytes)_mm512_maskz_loadu_epi8(n >= 64 ? ~0ull : (1ull << n) - 1, p);
#else
  VecBytes v = {};
  if (n >= int64_t{sizeof v})
    memcpy(&v, p, sizeof v);
  else if (n > 0)
    memcpy(&v, p, static_cast<size_t>(n));
  return v;
#endif
}

// Of every 16 bytes of a and b those from `From` on, W of each in turn, which are 16 again.
template <int W, int From, int... I>
MMB_OP VecBytes unpack(VecBytes a, VecBytes b, LaneList<I...>) {
  return __builtin_shufflevector(a, b, (I / W % 2 * 4 * kLanes + I / 16 * 16 + From + I % 16 / (2 * W) * W + I % W)...);
}
// Unpacking stays within 16 bytes: of a vector's fours, every n-th come there first, n being how often it has 16 bytes.
template <int... I>
MMB_OP VecBytes spread_fours(VecBytes v, LaneList<I...>) {
  const auto fours = (VecInt)v;
  return (VecBytes)__builtin_shufflevector(fours, fours, (I / 4 + I % 4 * (kLanes / 4))...);
}

// Bytes i * kLanes .. (i + 1) * kLanes - 1 of four vectors, one of each in turn, become vector i.
MMB_OP void interleave(VecBytes (&v)[4]) {
  constexpr std::make_integer_sequence<int, 4 * kLanes> all;
  MMB_UNROLL
  for (int i = 0; i < 4; ++i) v[i] = spread_fours(v[i], Lanes());
  const VecBytes ab[] = {unpack<1, 0>(v[0], v[1], all), unpack<1, 8>(v[0], v[1], all)},
                 cd[] = {unpack<1, 0>(v[2], v[3], all), unpack<1, 8>(v[2], v[3], all)};
  MMB_UNROLL
  for (int i = 0; i < 2; ++i) {
    v[2 * i] = unpack<2, 0>(ab[i], cd[i], all);
    v[2 * i + 1] = unpack<2, 8>(ab[i], cd[i], all);
  }
}

// Dots of bytes: every sum is added four products of u8 and s8, without rounding. Some CPUs of a level have them: functions
// that call dot are marked, and run where has_byte_dots (kernel.h).
#if defined(__AVX512F__)
constexpr bool kMayHaveDots = true;
#define MMB_DOTS [[gnu::target("avx512vnni")]]
#elif defined(__AVX2__)
constexpr bool kMayHaveDots = true;
#define MMB_DOTS [[gnu::target("avxvnni")]]
#elif defined(__aarch64__)
constexpr bool kMayHaveDots = true;
#define MMB_DOTS [[gnu::target("arch=armv8.2-a+i8mm")]]
#else
constexpr bool kMayHaveDots = false;
#define MMB_DOTS
#endif
MMB_DOTS MMB_OP VecInt dot(VecInt sums, [[maybe_unused]] VecInt u8, [[maybe_unused]] VecInt s8) {
#if defined(__AVX512F__)
  return (VecInt)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)u8, (__m512i)s8);
#elif defined(__AVX2__)
  return (VecInt)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)u8, (__m256i)s8);
#elif defined(__aarch64__)
  return (VecInt)vusdotq_s32((int32x4_t)sums, (uint8x16_t)u8, (int8x16_t)s8);
#else
  return sums;
#endif
}

// The same with the same four bytes of s8 from memory for every sum, of N vectors. On AVX-512 compilers would broadcast them
// in an instruction of its own, which takes twice the time.
template <int N>
MMB_DOTS MMB_OP void dot_four(VecInt (&sums)[N], const VecInt (&u8)[N], const void* s8) {
#if defined(__AVX512F__)
  struct [[gnu::packed, gnu::may_alias]] Four {
    int32_t bytes;
  };
  MMB_UNROLL
  for (int v = 0; v < N; ++v)
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sums[v]) : "v"(u8[v]), "m"(*static_cast<const Four*>(s8)));
#else
  const VecInt four = broadcast_four(s8);
  MMB_UNROLL
  for (int v = 0; v < N; ++v) sums[v] = dot(sums[v], u8[v], four);
#endif
}

// Into L1, and into L2 alone. What comes from memory is fetched by both, far_lines and kNearLines ahead (kernel.h).
MMB_OP void prefetch(const void* p) {
  __builtin_prefetch(p, 0, 3);
}
MMB_OP void prefetch_l2(const void* p) {
  __builtin_prefetch(p, 0, 2);
}

// Among the instructions that make `sum`, and not before them all, where compilers would put it.
template <class V>
MMB_OP void prefetch_beside(V& sum, const char* p) {
#if defined(__AVX512F__)
  __asm__ volatile("prefetcht1 %1" : "+v"(sum) : "m"(*p));
#else
  prefetch_l2(p);
  (void)sum;
#endif
}

// Adding this rounds to an integer, which is then in the low mantissa bits.
constexpr float kToInteger = 12582912.f;  // 1.5 * 2^23
// What is smaller counts as zero where values become integers relative to their largest: its inverse stays finite.
constexpr float kLeast = 1e-30f;

// 2^f for f in [-1/2, 1/2]: degree 5, relative error at most 2.5e-7.
MMB_OP Vec exp2_of_fraction(Vec f) {
  Vec p = broadcast(1.3390936e-3f);
  p = fma(p, f, broadcast(9.6740136e-3f));
  p = fma(p, f, broadcast(5.5503324e-2f));
  p = fma(p, f, broadcast(2.4022181e-1f));
  p = fma(p, f, broadcast(6.9314720e-1f));
  return fma(p, f, broadcast(1.f));
}

// 2^(n + f) for the integer n in the low bits of `shifted`.
MMB_OP Vec exp2(Vec shifted, Vec f) {
  return (Vec)((VecBits)exp2_of_fraction(f) + ((VecBits)shifted << 23));
}

// 2^x for x in [-126, 127], relative error at most 2.5e-7; 2^-126 or less for x below.
MMB_OP Vec exp2(Vec x) {
#if defined(__AVX512DQ__)
  const Vec f = (Vec)_mm512_reduce_ps((__m512)x, 0);  // what rounding to an integer takes away
  return (Vec)_mm512_scalef_ps((__m512)exp2_of_fraction(f), (__m512)(x - f));
#else
  x = max(x, broadcast(-126.f));
  const Vec shifted = x + kToInteger;
  return exp2(shifted, x - (shifted - kToInteger));
#endif
}

constexpr float kLog2e = 1.44269502f;

// e^x for x in [-87.3, 88], x beyond as the nearer end: relative error at most 3e-7. ln(2) is taken off in two parts, of
// which the first times any n is exact, so that nothing is lost to the size of x.
MMB_OP Vec exp(Vec x) {
  constexpr float kLn2 = 0.693359375f, kLn2Rest = -2.12194440e-4f;
  x = min(max(x, broadcast(-87.3f)), broadcast(88.f));
  const Vec shifted = x * kLog2e + kToInteger, n = shifted - kToInteger;
  return exp2(shifted, fma(n, broadcast(-kLn2Rest), fma(n, broadcast(-kLn2), x)) * kLog2e);
}

// 1 / (1 + e^-x)
MMB_OP Vec sigmoid(Vec x) {
  return 1.f / (1.f + exp(-x));
}

// x * sigmoid(x): relative error at most 3e-7 and two roundings for x >= -87, nearly 0 below.
MMB_OP Vec silu(Vec x) {
  return x / (1.f + exp(-x));
}

}  // namespace
}  // namespace MMB_IMPL
}  // namespace mmb
