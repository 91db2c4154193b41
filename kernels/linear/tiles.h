// Panels of a product with bf16 weights on a matrix unit.
// Bound: weights from memory up to about 70 tokens on a unit of 1.1 TFLOP/s a core (f32 activations), the unit beyond.
// Idea: the left operand is 16 tokens, the right one 16 lines of a panel as they lie; 4 panels side by side, so that four
// chains of sums hide the unit's latency, share the tokens' terms. A step of 32 columns reads 3 + 4 tiles for 12 products.
// Blocking: one tile of tokens: sums stay in the unit over all columns, weights come from memory, prefetched in 4 streams.
// More: blocks of 32 steps, in which the terms of 8 tiles (786 KB) and the lines of 4 panels (128 KB) stay in L2; the first
// tile that meets the lines prefetches them.
// Roof, as linear/simd.cpp's: 8 tokens 0.79-0.86, 32 tokens 0.36-0.52, 128 tokens 0.31-0.51 of three products for each: 1.5 to
// 2.9 times as fast as AVX-512 from 32 tokens on. What is missing: memory and unit overlap in part only (the first tile of
// tokens waits for the weights), and L2 delivers a tile of weights for every three products.
#pragma once

#include "../matmul.h"

namespace mmb {
namespace MMB_IMPL {
namespace {

constexpr int64_t kBlockSteps = 32;
constexpr int64_t kFewTiles = 4;  // cannot prefetch the next lines beside their work as fast as memory gives them

// The sums [16][Panels][16] of one tile of tokens and a group of panels over `lines` lines. `left` is
// [step][term][height][32], panel p's lines begin at right + p * apart. kAhead: bytes to the lines that are prefetched, a
// tile of them before each tile that is loaded, by the first tile of tokens to meet them; 0: none.
template <class Unit, int Terms, int Panels, int64_t kAhead>
[[gnu::noinline]] void unit_product(Unit& unit, const char* left, int64_t height, const char* right, int64_t apart,
                                    int64_t lines, Lines left_ahead, Lines right_ahead, float* sums, bool add) {
  constexpr int64_t kRow = Panels * 64;
  const int64_t term_bytes = height * kTileColumns * 2;
  const auto step = [&](auto ahead, const char* group, int64_t from_panel_to_panel) {
    constexpr int64_t kFetch = ahead;
    each_tile<Terms>([&](auto term) { unit.template load_left<term>(left + term * term_bytes, 64); });
    each_tile<Panels>([&](auto p) {
      constexpr int kPanelIndex = p;
      const char* tile = group + p * from_panel_to_panel;
      if constexpr (kFetch > 0) {
        MMB_UNROLL
        for (int i = 0; i < 16; ++i) prefetch(tile + kFetch + i * 64);
      }
      unit.load_right(tile, 64);
      each_tile<Terms>([&](auto term) { unit.template dot<kPanelIndex, term>(); });
    });
    left += Terms * term_bytes;
  };
  each_tile<Panels>([&](auto p) {
    if (add)
      unit.template load_sum<p>(sums + p * kPanel, kRow);
    else
      unit.template zero<p>();
  });
  int64_t line = 0;
  for (; line + 16 <= lines; line += 16) {
    left_ahead.fetch();
    right_ahead.fetch();
    step(std::integral_constant<int64_t, kAhead>(), right + line * 64, apart);
  }
  if (line < lines) {  // the last columns
    alignas(64) char padded[Panels * kTileBytes] = {};
    for (int p = 0; p < Panels; ++p)
      memcpy(padded + p * kTileBytes, right + p * apart + line * 64, static_cast<size_t>(64 * (lines - line)));
    step(std::integral_constant<int64_t, 0>(), padded, kTileBytes);
  }
  each_tile<Panels>([&](auto p) { unit.template store_sum<p>(sums + p * kPanel, kRow); });
}

// What linear_panels promises (matmul.h), for tokens of `Terms` terms.
template <class Unit, int Terms>
[[gnu::noinline]] void unit_panels(const float* packed, int64_t tokens, const Matrix& w, Share panels, float* y,
                                   int64_t y_stride, float* scratch) {
  constexpr int64_t kSums = kTileRows * kPanel;
  const int64_t lines = ceil_div(w.cols, 2), apart = lines * 64, token_bytes = ceil_div(w.cols, 32) * 64 * Terms;
  const TokenTiles tiles = unit_tiles(tokens);
  // One tile of tokens needs its sums once: they stay in the unit over all columns.
  const int64_t block = tiles.tiles == 1 ? round_up(lines, 16) : kBlockSteps * 16;
  Unit unit(ceil_div(tokens, tiles.tiles));

  const auto height = [&](int64_t tile) { return tiles.begin(tile + 1) - tiles.begin(tile); };
  const auto left = [&](int64_t tile, int64_t line) {
    return reinterpret_cast<const char*>(packed) + tiles.begin(tile) * token_bytes +
           line / 16 * height(tile) * 64 * Terms;
  };
  const auto right = [&](int64_t p, int64_t line) { return static_cast<const char*>(w.data) + p * apart + line * 64; };

  for (int64_t t0 = 0; t0 < tiles.tiles; t0 += kNearTiles) {
    const int64_t t1 = t0 + kNearTiles < tiles.tiles ? t0 + kNearTiles : tiles.tiles, near_tiles = t1 - t0;
    const bool few = near_tiles <= kFewTiles;
    for (int64_t p0 = panels.begin; p0 < panels.end; p0 += kNearPanels) {
      const int64_t p1 = p0 + kNearPanels < panels.end ? p0 + kNearPanels : panels.end;
      const auto sums = [&](int64_t tile, int64_t p) {
        return scratch + ((tile - t0) * kNearPanels + (p - p0)) * kSums;
      };
      const auto group_at = [&](int64_t p) { return p1 - p < kTileSums ? p1 - p : kTileSums; };

      for (int64_t first = 0; first < lines; first += block) {
        const int64_t count = lines - first < block ? lines - first : block, steps = ceil_div(count, 16);
        for (int64_t p = p0; p < p1; p += kTileSums) {
          const int64_t group = group_at(p);
          const bool last = p + group == p1;
          for (int64_t t = t0; t < t1; ++t) {
            // This tile's part of the lines of the next group, or of the first group's next block; and this group's part
            // of the tile's next terms.
            const int64_t line = (t - t0) * group * count / near_tiles;
            const char* next =
                right((last ? p0 : p + group) + line / count, (last ? first + block : first) + line % count);
            const Lines right_ahead = few ? Lines() : part_of(next, group * count * 64, 0, near_tiles, steps);
            const Lines left_ahead = few ? Lines()
                                         : part_of(left(t, first + block), steps * Terms * height(t) * 64,
                                                   (p - p0) / kTileSums, ceil_div(p1 - p0, kTileSums), steps);
            with_tiles<kTileSums>(group, [&](auto n) {
              constexpr int64_t kAhead = 128 / n * 64;  // over all streams what memory delivers in twice its latency
              const auto product =
                  few && t == t0 ? unit_product<Unit, Terms, n, kAhead> : unit_product<Unit, Terms, n, 0>;
              product(unit, left(t, first), height(t), right(p, first), apart, count, left_ahead, right_ahead,
                      sums(t, p), first > 0);
            });
          }
        }
      }
      // To where they belong, but for rows and outputs that do not exist.
      for (int64_t t = t0; t < t1; ++t) {
        for (int64_t p = p0; p < p1; p += kTileSums) {
          const int64_t width = group_at(p) * kPanel, outputs = w.rows - p * kPanel;
          for (int64_t i = 0; i < height(t); ++i)
            memcpy(y + (tiles.begin(t) + i) * y_stride + p * kPanel, sums(t, p) + i * width,
                   static_cast<size_t>(4 * (outputs < width ? outputs : width)));
        }
      }
    }
  }
}

}  // namespace
}  // namespace MMB_IMPL
}  // namespace mmb
