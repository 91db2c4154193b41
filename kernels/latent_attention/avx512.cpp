// The algo `integer` (integer.h) with vpdpbusd.
// Bound: its rate, four times that of f32 FMAs.
// Idea: rows in lanes. Scores: 8 tokens x 3 vectors of rows, four dims of a token broadcast; mix: 8 rows x 3 vectors of dims,
// four tokens' weights of a row broadcast.
// Roof, 4096 tokens of an int8 cache, 2 cores of a Xeon with AMX, November 2026, by the time of one core: 128 heads 0.78, 3.1
// times as fast as flash on AVX-512 from bf16; 16 heads 0.39, twice as fast. The dots take three quarters of the time at 128
// heads; softmax and rounding the weights a seventh, laying out blocks a twelfth, which 16 heads share eight times less.
#include "integer.h"

namespace mmb::MMB_IMPL {
namespace {

// kTile tokens and N vectors of rows.
template <int N>
MMB_DOTS [[gnu::noinline]] void score_tile(const int8_t* q, int64_t apart, int64_t steps, const uint8_t* keys,
                                           int64_t stride, const int32_t* start, int32_t* sums, Prefetch ahead) {
  constexpr int kTile = kAccumulators / N, kThirds = ceil_div(kTile, 3);
  const uint8_t* key[kThirds];  // of every third token; the next two are one and two strides on
  MMB_UNROLL
  for (int g = 0; g < kThirds; ++g) key[g] = keys + 3 * g * stride;
  VecInt acc[kTile][N];
  MMB_UNROLL
  for (int t = 0; t < kTile; ++t) {
    MMB_UNROLL
    for (int v = 0; v < N; ++v) acc[t][v] = load_ints(start + v * kLine);
  }
  MMB_FEW_STEPS
  for (int64_t i = 0; i < steps; ++i) {
    ahead.fetch<1>();
    MMB_UNROLL
    for (int g = 0; g < kThirds; ++g) forget_origin(key[g]);
    VecInt row[N];
    MMB_UNROLL
    for (int v = 0; v < N; ++v) row[v] = load_ints(q + v * apart);
    MMB_UNROLL
    for (int t = 0; t < kTile; ++t) {
      const VecInt four = broadcast_four(key[t / 3] + t % 3 * stride);
      MMB_UNROLL
      for (int v = 0; v < N; ++v) acc[t][v] = dot(acc[t][v], four, row[v]);
    }
    q += 4 * kLine;
    MMB_UNROLL
    for (int g = 0; g < kThirds; ++g) key[g] += 4;
  }
  MMB_UNROLL
  for (int t = 0; t < kTile; ++t) {
    MMB_UNROLL
    for (int v = 0; v < N; ++v) memcpy(sums + v * kSums + t * kLine, &acc[t][v], sizeof(VecInt));
  }
}

constexpr int kMixRows = 8;

// kMixRows rows and N vectors of dims, for `steps` times four tokens.
template <int N>
MMB_DOTS [[gnu::noinline]] void mix_tile(const uint32_t* weights, const float* alpha, const float* unit,
                                         const int32_t* start, const int8_t* values, int64_t steps, float* o,
                                         int64_t o_stride) {
  VecInt acc[kMixRows][N];
  MMB_UNROLL
  for (int r = 0; r < kMixRows; ++r) {
    MMB_UNROLL
    for (int v = 0; v < N; ++v) acc[r][v] = VecInt{} + start[r];
  }
  MMB_FEW_STEPS
  for (int64_t i = 0; i < steps; ++i) {
    VecInt value[N];
    MMB_UNROLL
    for (int v = 0; v < N; ++v) value[v] = load_ints(values + v * kValueTile);
    MMB_UNROLL
    for (int r = 0; r < kMixRows; ++r) {
      const VecInt four = broadcast_four(weights + r);
      MMB_UNROLL
      for (int v = 0; v < N; ++v) acc[r][v] = dot(acc[r][v], four, value[v]);
    }
    weights += kLine;
    values += 4 * kLine;
  }
  MMB_UNROLL
  for (int r = 0; r < kMixRows; ++r) {
    MMB_UNROLL
    for (int v = 0; v < N; ++v) {
      float* to = o + r * o_stride + v * kLanes;
      store(to, fma(__builtin_convertvector(acc[r][v], Vec), broadcast(unit[r]), alpha[r] * load(to)));
    }
  }
}

struct Dots {
  static constexpr int kRowTiles = 3;

  template <int N>
  MMB_OP void scores(const int8_t* q, int64_t apart, int64_t dims, const uint8_t* keys, int64_t stride,
                     const int32_t* start, int64_t tokens, int32_t* sums, Memory ahead) {
    constexpr int kTile = kAccumulators / N;
    const int64_t tiles = ceil_div(tokens, kTile);
    for (int64_t i = 0; i < tiles; ++i)
      score_tile<N>(q, apart, dims / 4, keys + i * kTile * stride, stride, start, sums + i * kTile * kLine,
                    spread(ahead, i, tiles, dims / 4));
  }

  MMB_OP void mix(const Mixing& m, const int8_t* values, int64_t dims, int64_t tokens, int64_t rows, float* o,
                  int64_t o_stride) {
    for (int64_t dim = 0; dim < dims; dim += 3 * kLine) {
      with_tiles<3>(min_of(3, (dims - dim) / kLine), [&](auto n) {
        for (int64_t r = 0; r < rows; r += kMixRows)
          mix_tile<n>(m.weights + r / kLine * kSums / 4 + r % kLine, m.alpha + r, m.unit + r, m.start + r,
                      values + dim / kLine * kValueTile, tokens / 4, o + r * o_stride + dim, o_stride);
      });
    }
  }
};

}  // namespace

void latent_attention_integer(const LatentAttention::Shape& shape, const LatentAttention::Args& args) noexcept {
  team([&] { attend_integers<Dots>(shape, args); });
}

}  // namespace mmb::MMB_IMPL
