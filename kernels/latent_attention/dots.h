// The algo `integer` (integer.h) in dots of bytes between vectors, included by the file of every level that may have them.
// Bound: their rate, four times that of f32 FMAs.
// Idea: rows in lanes. Scores: 8 tokens x 3 vectors of rows (AVX2: 4 x 3), four dims of a token broadcast; mix: as many rows x 3
// vectors of dims, four tokens' weights of a row broadcast.
// Roof, 4096 tokens of an int8 cache, 2 cores of a Xeon without a matrix unit, November 2026: 128 heads 0.71 (AVX2 0.67), 3.2
// times as fast as flash from bf16; 16 heads 0.37 (0.46), 1.9 (2.5) times. At 128 heads the dots take three quarters of the
// time; softmax and rounding the weights a seventh, laying out blocks a twelfth, which 16 heads share eight times less.
#pragma once

#include "integer.h"

namespace mmb {
namespace MMB_IMPL {
namespace {

// kAccumulators / N tokens and N vectors of rows from `vec` on.
template <int N>
MMB_DOTS [[gnu::noinline]] void score_tile(const int8_t* q, int64_t apart, int64_t vec, int64_t steps,
                                           const uint8_t* keys, int64_t stride, const int32_t* start, int32_t* sums,
                                           Prefetch ahead) {
  constexpr int kTile = kAccumulators / N;
  static_assert(kTokens % kTile == 0);
  Keys<uint8_t, kTile> key(keys, stride);
  const int8_t* row_of[N];
  VecInt acc[kTile][N];
  MMB_UNROLL
  for (int v = 0; v < N; ++v) {
    row_of[v] = q + place_of(vec + v, apart);
    MMB_UNROLL
    for (int t = 0; t < kTile; ++t) acc[t][v] = load_ints(start + (vec + v) * kLanes);
  }
  MMB_FEW_STEPS
  for (int64_t i = 0; i < steps; ++i) {
    ahead.fetch<1>();
    key.forget_origins();
    VecInt row[N];
    MMB_UNROLL
    for (int v = 0; v < N; ++v) row[v] = load_ints(row_of[v] + i * 4 * kLine);
    MMB_UNROLL
    for (int t = 0; t < kTile; ++t) {
      const VecInt four = broadcast_four(key.at(t));
      MMB_UNROLL
      for (int v = 0; v < N; ++v) acc[t][v] = dot(acc[t][v], four, row[v]);
    }
    key.advance(4);
  }
  MMB_UNROLL
  for (int v = 0; v < N; ++v) {
    int32_t* to = sums + place_of(vec + v, 4 * kSums) / 4;
    MMB_UNROLL
    for (int t = 0; t < kTile; ++t) memcpy(to + t * kLine, &acc[t][v], sizeof(VecInt));
  }
}

constexpr int kMixVecs = 3, kMixRows = kAccumulators / kMixVecs;

// kMixRows rows and N vectors of dims from `vec` on, for `steps` times four tokens.
template <int N>
MMB_DOTS [[gnu::noinline]] void mix_tile(const uint32_t* weights, const float* alpha, const float* unit,
                                         const int32_t* start, const int8_t* values, int64_t vec, int64_t steps,
                                         float* o, int64_t o_stride) {
  const int8_t* value_of[N];
  MMB_UNROLL
  for (int v = 0; v < N; ++v) value_of[v] = values + place_of(vec + v, kValueTile);
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
    for (int v = 0; v < N; ++v) value[v] = load_ints(value_of[v] + i * 4 * kLine);
    MMB_UNROLL
    for (int r = 0; r < kMixRows; ++r) {
      const VecInt four = broadcast_four(weights + r);
      MMB_UNROLL
      for (int v = 0; v < N; ++v) acc[r][v] = dot(acc[r][v], four, value[v]);
    }
    weights += kLine;
  }
  MMB_UNROLL
  for (int r = 0; r < kMixRows; ++r) {
    MMB_UNROLL
    for (int v = 0; v < N; ++v) {
      float* to = o + r * o_stride + (vec + v) * kLanes;
      store(to, fma(__builtin_convertvector(acc[r][v], Vec), broadcast(unit[r]), alpha[r] * load(to)));
    }
  }
}

// Of `vecs` vectors of rows so many at a time, that none is left over.
constexpr int evenly(int vecs) {
  return vecs % 3 == 0 ? 3 : vecs % 2 == 0 ? 2 : 1;
}

struct Dots {
  static constexpr int kRowTiles = 3;

  template <int N>
  MMB_OP void scores(const int8_t* q, int64_t apart, int64_t dims, const uint8_t* keys, int64_t stride,
                     const int32_t* start, int64_t tokens, int32_t* sums, Memory ahead) {
    constexpr int kVecs = evenly(N * kLineVecs), kTile = kAccumulators / kVecs;
    const int64_t tiles = ceil_div(tokens, kTile), all = N * kLineVecs / kVecs * tiles;
    for (int64_t i = 0; i < all; ++i) {
      const int64_t token = i % tiles * kTile;
      score_tile<kVecs>(q, apart, i / tiles * kVecs, dims / 4, keys + token * stride, stride, start,
                        sums + token * kLine, spread(ahead, i, all, dims / 4));
    }
  }

  MMB_OP void mix(const Mixing& m, const int8_t* values, int64_t dims, int64_t tokens, int64_t rows, float* o,
                  int64_t o_stride) {
    const int64_t vecs = dims / kLanes;
    for (int64_t vec = 0; vec < vecs; vec += kMixVecs) {
      with_tiles<kMixVecs>(min_of(kMixVecs, vecs - vec), [&](auto n) {
        for (int64_t r = 0; r < rows; r += kMixRows)
          mix_tile<n>(m.weights + r / kLine * kSums / 4 + r % kLine, m.alpha + r, m.unit + r, m.start + r, values, vec,
                      tokens / 4, o + r * o_stride, o_stride);
      });
    }
  }
};

}  // namespace

void latent_attention_integer(const LatentAttention::Shape& shape, const LatentAttention::Args& args) noexcept {
  team([&] { attend_integers<Dots>(shape, args); });
}

}  // namespace MMB_IMPL
}  // namespace mmb
