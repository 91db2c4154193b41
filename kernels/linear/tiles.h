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

// The sums of one tile of tokens and a group of panels. `left` is [step][term][height][32], panel p's lines begin at
// right + p * apart; the sums are [16][Panels][16].
template <class Unit, int Terms, int Panels>
struct UnitProduct {
  // kAhead: bytes to the lines to prefetch, a tile of them before each tile that is loaded.
  template <int P, int64_t kAhead>
  MMB_OP static void panel(Unit& unit, const char* lines) {
    if constexpr (kAhead > 0) {
      MMB_UNROLL
      for (int i = 0; i < 16; ++i) prefetch(lines + kAhead + i * 64);
    }
    unit.load_right(lines, 64);
    unit.template dot<P, 0>();
    if constexpr (Terms > 1) unit.template dot<P, 1>();
    if constexpr (Terms > 2) unit.template dot<P, 2>();
  }

  template <int64_t kAhead>
  MMB_OP static void step(Unit& unit, const char* left, int64_t term_bytes, const char* right, int64_t apart) {
    unit.template load_left<0>(left, 64);
    if constexpr (Terms > 1) unit.template load_left<1>(left + term_bytes, 64);
    if constexpr (Terms > 2) unit.template load_left<2>(left + 2 * term_bytes, 64);
    panel<0, kAhead>(unit, right);
    if constexpr (Panels > 1) panel<1, kAhead>(unit, right + apart);
    if constexpr (Panels > 2) panel<2, kAhead>(unit, right + 2 * apart);
    if constexpr (Panels > 3) panel<3, kAhead>(unit, right + 3 * apart);
  }

  // The last columns: `lines` of 16 lines exist.
  MMB_OP static void last_step(Unit& unit, const char* left, int64_t term_bytes, const char* right, int64_t apart,
                               int64_t lines) {
    alignas(64) char padded[Panels * kTileBytes] = {};
    for (int p = 0; p < Panels; ++p)
      memcpy(padded + p * kTileBytes, right + p * apart, static_cast<size_t>(64 * lines));
    step<0>(unit, left, term_bytes, padded, kTileBytes);
  }

  MMB_OP static void begin(Unit& unit, const float* y, int64_t bytes, bool add) {
    if (add) {
      unit.template load_sum<0>(y, bytes);
      if constexpr (Panels > 1) unit.template load_sum<1>(y + kPanel, bytes);
      if constexpr (Panels > 2) unit.template load_sum<2>(y + 2 * kPanel, bytes);
      if constexpr (Panels > 3) unit.template load_sum<3>(y + 3 * kPanel, bytes);
    } else {
      unit.template zero<0>();
      if constexpr (Panels > 1) unit.template zero<1>();
      if constexpr (Panels > 2) unit.template zero<2>();
      if constexpr (Panels > 3) unit.template zero<3>();
    }
  }

  MMB_OP static void end(Unit& unit, float* y, int64_t bytes) {
    unit.template store_sum<0>(y, bytes);
    if constexpr (Panels > 1) unit.template store_sum<1>(y + kPanel, bytes);
    if constexpr (Panels > 2) unit.template store_sum<2>(y + 2 * kPanel, bytes);
    if constexpr (Panels > 3) unit.template store_sum<3>(y + 3 * kPanel, bytes);
  }

  [[gnu::noinline]] static void run(Unit& unit, const char* left, int64_t height, const char* right, int64_t apart,
                                    int64_t lines, Lines left_ahead, Lines right_ahead, float* sums, bool add) {
    const int64_t term_bytes = height * kTileColumns * 2;
    begin(unit, sums, Panels * 64, add);
    int64_t line = 0;
    for (; line + 16 <= lines; line += 16, left += Terms * term_bytes) {
      left_ahead.fetch();
      right_ahead.fetch();
      step<0>(unit, left, term_bytes, right + line * 64, apart);
    }
    if (line < lines) last_step(unit, left, term_bytes, right + line * 64, apart, lines - line);
    end(unit, sums, Panels * 64);
  }

  // The first tile of tokens to meet the lines reads them from memory, in as many streams as there are panels.
  [[gnu::noinline]] static void run_first(Unit& unit, const char* left, int64_t height, const char* right,
                                          int64_t apart, int64_t lines, float* sums, bool add) {
    constexpr int64_t kAhead = 128 / Panels * 64;  // bytes: over all streams what memory delivers in twice its latency
    const int64_t term_bytes = height * kTileColumns * 2;
    begin(unit, sums, Panels * 64, add);
    int64_t line = 0;
    for (; line + 16 <= lines; line += 16, left += Terms * term_bytes)
      step<kAhead>(unit, left, term_bytes, right + line * 64, apart);
    if (line < lines) last_step(unit, left, term_bytes, right + line * 64, apart, lines - line);
    end(unit, sums, Panels * 64);
  }
};

// run(UnitProduct) for a group of `panels` panels.
template <class Unit, int Terms, class Run>
MMB_OP void unit_product(int64_t panels, const Run& run) {
  if (panels == 4)
    run(UnitProduct<Unit, Terms, 4>());
  else if (panels == 3)
    run(UnitProduct<Unit, Terms, 3>());
  else if (panels == 2)
    run(UnitProduct<Unit, Terms, 2>());
  else
    run(UnitProduct<Unit, Terms, 1>());
}

// What linear_panels promises (matmul.h), for tokens of kTerms terms.
template <class Unit, int Terms>
[[gnu::noinline]] void unit_panels(const float* packed, int64_t tokens, const Matrix& w, Share panels, float* y,
                                   int64_t y_stride, float* scratch) {
  const int64_t lines = ceil_div(w.cols, 2), apart = lines * 64;
  const int64_t token_bytes = ceil_div(w.cols, kTileColumns) * kTileColumns * 2 * Terms;
  const TokenTiles tiles = unit_tiles(tokens);
  const int64_t rows = ceil_div(tokens, tiles.tiles);
  Unit unit(rows);
  const auto place = [&](int64_t p, int64_t line) { return static_cast<const char*>(w.data) + p * apart + line * 64; };

  const auto left = [&](int64_t tile, int64_t first) {
    const int64_t m = tiles.begin(tile), height = tiles.begin(tile + 1) - m;
    return reinterpret_cast<const char*>(packed) + m * token_bytes + first / 16 * height * 64 * Terms;
  };
  const auto height = [&](int64_t tile) { return tiles.begin(tile + 1) - tiles.begin(tile); };
  // Of sums [16][group][16] to where they belong; rows and outputs that do not exist are left out.
  const auto deliver = [&](const float* sums, int64_t tile, int64_t p, int64_t group) {
    const int64_t outputs = w.rows - p * kPanel, width = group * kPanel;
    for (int64_t i = 0; i < height(tile); ++i)
      memcpy(y + (tiles.begin(tile) + i) * y_stride + p * kPanel, sums + i * width,
             static_cast<size_t>(4 * (outputs < width ? outputs : width)));
  };

  if (tiles.tiles == 1) {
    for (int64_t p = panels.begin; p < panels.end; p += kTileSums) {
      const int64_t group = panels.end - p < kTileSums ? panels.end - p : kTileSums;
      unit_product<Unit, Terms>(group, [&](auto product) {
        product.run_first(unit, left(0, 0), tokens, place(p, 0), apart, lines, scratch, false);
      });
      deliver(scratch, 0, p, group);
    }
    return;
  }
  constexpr int64_t kSums = kTileRows * kPanel, kBlock = kBlockSteps * 16;
  for (int64_t t0 = 0; t0 < tiles.tiles; t0 += kNearTiles) {
    const int64_t t1 = t0 + kNearTiles < tiles.tiles ? t0 + kNearTiles : tiles.tiles;
    for (int64_t near = panels.begin; near < panels.end; near += kNearPanels) {
      const int64_t near_end = near + kNearPanels < panels.end ? near + kNearPanels : panels.end;
      const int64_t groups = ceil_div(near_end - near, kTileSums);
      const auto sums = [&](int64_t tile, int64_t p) {
        return scratch + ((tile - t0) * kNearPanels + (p - near)) * kSums;
      };
      const auto group_at = [&](int64_t p) { return near_end - p < kTileSums ? near_end - p : kTileSums; };
      for (int64_t first = 0; first < lines; first += kBlock) {
        const int64_t count = lines - first < kBlock ? lines - first : kBlock, steps = ceil_div(count, 16);
        for (int64_t p = near; p < near_end; p += kTileSums) {
          const int64_t group = group_at(p), index = (p - near) / kTileSums;
          const bool last = p + group == near_end;
          for (int64_t t = t0; t < t1; ++t) {
            if (t1 - t0 <= kFewTiles) {
              unit_product<Unit, Terms>(group, [&](auto product) {
                if (t == t0)
                  product.run_first(unit, left(t, first), height(t), place(p, first), apart, count, sums(t, p),
                                    first > 0);
                else
                  product.run(unit, left(t, first), height(t), place(p, first), apart, count, {}, {}, sums(t, p),
                              first > 0);
              });
              continue;
            }
            // Of the next group, or of the first one's next block: this tile's part of its panels' lines.
            const int64_t line = (t - t0) * group * count / (t1 - t0);
            const Lines right_ahead = part_of(place(last ? near + line / count : p + group + line / count,
                                                    (last ? first + kBlock : first) + line % count),
                                              group * count * 64, 0, t1 - t0, steps);
            const Lines left_ahead =
                part_of(left(t, first + kBlock), steps * Terms * height(t) * 64, index, groups, steps);
            unit_product<Unit, Terms>(group, [&](auto product) {
              product.run(unit, left(t, first), height(t), place(p, first), apart, count, left_ahead, right_ahead,
                          sums(t, p), first > 0);
            });
          }
        }
      }
      for (int64_t t = t0; t < t1; ++t)
        for (int64_t p = near; p < near_end; p += kTileSums) deliver(sums(t, p), t, p, group_at(p));
    }
  }
}

}  // namespace
}  // namespace MMB_IMPL
}  // namespace mmb
