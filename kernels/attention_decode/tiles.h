// Attention on a matrix unit, over a bf16 cache: 16 query rows at a time.
//   Scores   left operand: 16 tokens, as their keys lie in the cache; right: the queries' three terms (tiles.h), packed
//            once in pairs. Sums are S^T[token][row], so that the softmax is vertical.
//   Values   left: the weights' three terms, transposed to [row][token]; right: the values in pairs of tokens, which is the
//            one thing that has to be laid out anew for each block, once for all rows.
//   Scales   of int8 and fp8 multiply the sums of the scores that they belong to, and the weights before they are split.
// Blocking: 192 tokens. Scores: 3 tiles of tokens x 16 rows, 9 products for 6 tiles that are loaded; mix: 16 rows x 4 tiles
// of dims, 12 for 7. Of 128 rows: keys and values of a block 221 + 196 KB, queries 442 KB, results 256 KB: in L2.
// Roof, as attention_decode/simd.cpp's: latents of 128 heads 0.45 (2.6 times as fast as AVX-512), of 16 heads 0.38 (1.5
// times), V3's MQA 0.33 (1.9 times): softmax, the weights' terms and pairs of values are not the unit's work, and weigh
// more the fewer rows share a block.
// Prefetches: a line that a software prefetch waits for holds one of L1's fill buffers for as long as memory takes, and tile
// loads from L2 wait for one too: in eight streams, in each of which the hardware runs ahead, most of the lines are there.
// Bound: the unit, 3 of its products for each of f32 FMAs; the cache from memory for few rows.
#pragma once

#include "../attend.h"

namespace mmb {
namespace MMB_IMPL {
namespace {

constexpr int kQueryTerms = kTerms<float>;
constexpr int64_t kTileElements = kTileBytes / 2;  // bf16

// Pairs of 2 * kLanes bf16 of two rows, in order: (first, second) of dims 0, 1, ...
MMB_OP void pair_up(VecBits first, VecBits second, Vec& a, Vec& b) {
  zip((Vec)((first & 0xffffu) | second << 16), (Vec)(first >> 16 | (second & 0xffff0000u)), a, b, Lanes());
}

// Values of `count` tokens as right operands, [step of 32 tokens][tile of 16 dims][16 pairs][16][2]; tokens that are not
// there are zero.
[[gnu::noinline, maybe_unused]] void pair_values(const bf16* v, int64_t stride, int64_t dv, int64_t count, bf16* out,
                                                 BlockAhead ahead) {
  const int64_t dim_tiles = ceil_div(dv, kTileRows);
  const auto pair_rows = [&](int64_t t, const auto& first, const auto& second) {
    ahead.fetch();
    bf16* to = out + t / kTileColumns * dim_tiles * kTileElements + t % kTileColumns * kTileRows;
    const auto to_dim = [&](int64_t dim) { return to + dim / kTileRows * kTileElements + dim % kTileRows * 2; };
    for (int64_t dim = 0; dim < dim_tiles * kTileRows; dim += 2 * kLanes) {
      Vec pairs[2];
      pair_up(first(dim), second(dim), pairs[0], pairs[1]);
      memcpy(to_dim(dim), &pairs[0], sizeof(Vec));
      if (dim + kLanes < dim_tiles * kTileRows) memcpy(to_dim(dim + kLanes), &pairs[1], sizeof(Vec));
    }
  };
  const auto row = [&](int64_t t) {
    return [from = v + t * stride](int64_t dim) {
      VecBits bits;
      memcpy(&bits, from + dim, sizeof bits);
      return bits;
    };
  };
  const auto zero = [](int64_t) { return VecBits{}; };
  int64_t t = 0;
  for (; t + 2 <= count; t += 2) pair_rows(t, row(t), row(t + 1));
  if (t < count) pair_rows(t, row(t), zero), t += 2;
  for (; t < round_up(count, kTileColumns); t += 2) pair_rows(t, zero, zero);
}

// Scores of up to 3 tiles of 16 tokens and 16 rows: s[token][16]. `q` is [step][term][16 pairs][16 rows][2].
template <class Unit, int Tiles>
[[gnu::noinline]] void unit_scores(Unit& unit, const bf16* q, int64_t steps, const bf16* k, int64_t k_stride, float* s,
                                   BlockAhead& ahead) {
  const int64_t bytes = k_stride * 2;
  each_tile<Tiles>([&](auto i) { unit.template zero<i>(); });
  for (int64_t step = 0; step < steps; ++step) {
    ahead.fetch();
    each_tile<Tiles>([&](auto i) { unit.template load_left<i>(k + i * kTileRows * k_stride, bytes); });
    MMB_UNROLL
    for (int term = 0; term < kQueryTerms; ++term) {
      unit.load_right(q + term * kTileElements, 64);
      each_tile<Tiles>([&](auto i) { unit.template dot<i, i>(); });
    }
    q += kQueryTerms * kTileElements;
    k += kTileColumns;
  }
  each_tile<Tiles>([&](auto i) { unit.template store_sum<i>(s + i * kTileRows * kTileRows, 64); });
}

// s[token][16] (+)= scale of the token * part[token][16].
MMB_OP void add_scaled_scores(const float* part, const float* scales, int64_t tokens, bool first, float* s) {
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t row = 0; row < kTileRows; row += kLanes) {
      const int64_t i = t * kTileRows + row;
      store(s + i, fma(load(part + i), broadcast(scales[t]), first ? Vec{} : load(s + i)));
    }
}

// Weights s[token][16] of `tokens` tokens (a multiple of 32), times the tokens' scales if there are any, as left operands,
// [step][term][16 rows][32 tokens].
[[gnu::noinline, maybe_unused]] void split_weights(const float* s, const float* scales, int64_t tokens, bf16* out) {
  for (int64_t t = 0; t < tokens; t += kLanes) {
    for (int64_t row = 0; row < kTileRows; row += kLanes) {
      Vec v[kLanes];
      MMB_UNROLL
      for (int i = 0; i < kLanes; ++i) {
        v[i] = load(s + (t + i) * kTileRows + row);
        if (scales) v[i] *= scales[t + i];
      }
      transpose(v);
      bf16* to = out + t / kTileColumns * kQueryTerms * kTileElements + row * kTileColumns + t % kTileColumns;
      MMB_UNROLL
      for (int i = 0; i < kLanes; ++i) {
        HalfBits terms[kQueryTerms];
        split(v[i], terms);
        MMB_UNROLL
        for (int term = 0; term < kQueryTerms; ++term)
          memcpy(to + term * kTileElements + i * kTileColumns, &terms[term], sizeof terms[term]);
      }
    }
  }
}

// o += weights * values for 16 rows and up to 4 tiles of 16 dims; `apart`: elements of v from step to step.
template <class Unit, int Tiles>
[[gnu::noinline]] void unit_mix(Unit& unit, const bf16* weights, const bf16* v, int64_t apart, int64_t steps, float* o,
                                int64_t o_stride, BlockAhead& ahead) {
  each_tile<Tiles>([&](auto i) { unit.template load_sum<i>(o + i * kTileRows, o_stride * 4); });
  for (int64_t step = 0; step < steps; ++step) {
    ahead.fetch();
    each_tile<kQueryTerms>([&](auto term) { unit.template load_left<term>(weights + term * kTileElements, 64); });
    each_tile<Tiles>([&](auto i) {
      constexpr int kSum = i;
      unit.load_right(v + i * kTileElements, 64);
      each_tile<kQueryTerms>([&](auto term) { unit.template dot<kSum, term>(); });
    });
    weights += kQueryTerms * kTileElements;
    v += apart;
  }
  each_tile<Tiles>([&](auto i) { unit.template store_sum<i>(o + i * kTileRows, o_stride * 4); });
}

}  // namespace
}  // namespace MMB_IMPL
}  // namespace mmb
