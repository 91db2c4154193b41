// The algo `integer` (integer.h) on a matrix unit (../tiles.h).
// Bound: what is not products: the unit multiplies seven times as fast as vpdpbusd.
// Idea: scores: 3 tiles of 16 tokens x 16 rows, which stay in L1 for 4 tiles of rows, steps of 64 dims; mix: 2 tiles of rows x
// 2 of dims, steps of 64 tokens.
// Roof, as dots.h's: 128 heads 0.23, 2.1 to 2.6 times as fast as flash on the unit from bf16; 16 heads 0.32, of memory,
// 1.6 times. Scores take a third of the time, mix and its sums in f32 a quarter, softmax and weights a third, blocks an eighth.
#pragma once

#include "integer.h"

namespace mmb {
namespace MMB_IMPL {
namespace {

template <class Unit>
class TileDots {
 public:
  static constexpr int kRowTiles = 4;

  template <int N>
  MMB_OP void scores(const int8_t* q, int64_t apart, int64_t dims, const uint8_t* keys, int64_t stride,
                     const int32_t* start, int64_t tokens, int32_t* sums, Memory ahead) {
    const int64_t tiles = ceil_div(tokens, kTileRows), steps = dims / kWide;
    BlockAhead lines = block_ahead(ahead, ceil_div(tiles, 3) * N * steps);
    for (int64_t i = 0; i < tiles; i += 3)
      with_tiles<3>(min_of(3, tiles - i), [&](auto n) {
        for (int64_t j = 0; j < N; ++j)
          score_tiles<n>(unit_, q + j * apart, steps, keys + i * kTileRows * stride, stride, start + j * kLine,
                         sums + j * kSums + i * kTileRows * kLine, lines);
      });
  }

  MMB_OP void mix(const Mixing& m, const int8_t* values, int64_t dims, int64_t tokens, int64_t rows, float* o,
                  int64_t o_stride) {
    const int64_t tiles = ceil_div(rows, kLine);
    uint32_t weights[kRowTiles][kSums / 4];
    for (int64_t j = 0; j < tiles; ++j) row_major(m.weights + j * kSums / 4, tokens, weights[j]);
    for (int64_t dim = 0; dim < dims; dim += 2 * kLine)
      for (int64_t j = 0; j < tiles; j += 2)
        with_tiles<2>(min_of(2, (dims - dim) / kLine), [&](auto dim_tiles) {
          with_tiles<2>(min_of(2, tiles - j), [&](auto row_tiles) {
            mix_tiles<row_tiles, dim_tiles>(unit_, weights[j], m, j * kLine, values + dim * kTokens, tokens / kWide,
                                            o + j * kLine * o_stride + dim, o_stride);
          });
        });
  }

 private:
  // Left operands [step of 64 tokens][16 rows][64], from [step of 4 tokens][16 rows][4].
  MMB_OP static void row_major(const uint32_t* weights, int64_t tokens, uint32_t* out) {
    for (int64_t i = 0; i < tokens / 4; i += kLanes)
      for (int64_t r = 0; r < kLine; r += kLanes) {
        Vec v[kLanes];
        MMB_UNROLL
        for (int lane = 0; lane < kLanes; ++lane) memcpy(&v[lane], weights + (i + lane) * kLine + r, sizeof(Vec));
        transpose(v);
        uint32_t* to = out + i / kLine * kLine * kLine + i % kLine;
        MMB_UNROLL
        for (int lane = 0; lane < kLanes; ++lane) memcpy(to + (r + lane) * kLine, &v[lane], sizeof(Vec));
      }
  }

  template <int N>
  [[gnu::noinline]] static void score_tiles(Unit& unit, const int8_t* q, int64_t steps, const uint8_t* keys,
                                            int64_t stride, const int32_t* start, int32_t* sums, BlockAhead& ahead) {
    each_tile<N>([&](auto i) { unit.template load_sum<i>(start, 0); });
    for (int64_t step = 0; step < steps; ++step) {
      ahead.fetch();
      each_tile<N>([&](auto i) { unit.template load_left<i>(keys + i * kTileRows * stride, stride); });
      unit.load_right(q, 64);
      each_tile<N>([&](auto i) { unit.template dot_bytes<i, i>(); });
      q += kTileBytes;
      keys += kWide;
    }
    each_tile<N>([&](auto i) { unit.template store_sum<i>(sums + i * kTileRows * kLine, 64); });
  }

  // RowTiles tiles of rows from `row` on, and DimTiles of dims; sum i is that of tile i % RowTiles of the rows.
  template <int RowTiles, int DimTiles>
  [[gnu::noinline]] static void mix_tiles(Unit& unit, const uint32_t* weights, const Mixing& m, int64_t row,
                                          const int8_t* values, int64_t steps, float* o, int64_t o_stride) {
    each_tile<RowTiles * DimTiles>([&](auto i) { unit.template zero<i>(); });
    for (int64_t step = 0; step < steps; ++step) {
      each_tile<RowTiles>(
          [&](auto r) { unit.template load_left<r>(weights + r * kSums / 4 + step * kTileBytes / 4, 64); });
      each_tile<DimTiles>([&](auto d) {
        constexpr int kFirst = d * RowTiles;
        unit.load_right(values + d * kValueTile + step * kTileBytes, 64);
        each_tile<RowTiles>([&](auto r) { unit.template dot_bytes<kFirst + r, r>(); });
      });
    }
    alignas(64) int32_t sums[RowTiles * DimTiles][kLine][kLine];
    each_tile<RowTiles * DimTiles>([&](auto i) { unit.template store_sum<i>(sums[i], sizeof sums[0][0]); });
    for (int64_t r = 0; r < RowTiles * kLine; ++r) {
      const Vec alpha = broadcast(m.alpha[row + r]), step = broadcast(m.unit[row + r]);
      for (int64_t d = 0; d < DimTiles; ++d)
        for (int64_t i = 0; i < kLine; i += kLanes) {
          const VecInt sum = load_ints(&sums[d * RowTiles + r / kLine][r % kLine][i]);
          float* to = o + r * o_stride + d * kLine + i;
          store(to, fma(__builtin_convertvector(sum + m.start[row + r], Vec), step, alpha * load(to)));
        }
    }
  }

  Unit unit_{kTileRows};
};

}  // namespace
}  // namespace MMB_IMPL
}  // namespace mmb
