// Panels of a product on a matrix unit, with weights that lie in lines of bf16 or become such exactly.
// Bound: weights from memory up to about 70 tokens on a unit of 1.1 TFLOP/s a core (f32 activations), the unit beyond.
// Idea: the left operand is 16 tokens, the right one 16 lines of a panel as they lie; 4 panels side by side, so that four
// chains of sums hide the unit's latency, share the tokens' terms. A step of 32 columns reads 3 + 4 tiles for 12 products.
// Blocking: one tile of tokens: sums stay in the unit over all columns, weights come from memory, prefetched in 4 streams.
// More: blocks of 4 steps. A tile's terms (12 KB) stay in L1 while the lines of 32 panels (128 KB, in L2) pass by, each
// followed by its sums; what the next block needs is prefetched beside.
// Roof, as linear/simd.cpp's: 32 tokens 0.42-0.50, 128 tokens 0.33-0.54 of three products for each: 1.6 to 3.7 times as fast
// as AVX-512. What is missing: software prefetches hold the buffers of L1 that the unit's loads need, so that memory and unit
// overlap in part only; sums wait in stores, a quarter of the time; packing the terms takes an eighth.
// fp8 is whole in bf16 without its scales. A block's lines are widened once for all tiles of tokens, into 128 KB of scratch;
// its sums start from zero, and are scaled as they join the others.
// int8: bytes.h.
#pragma once

#include "../matmul.h"

namespace mmb {
namespace MMB_IMPL {
namespace {

// For each of `groups` groups of panels, the sums [16][Panels][16] of one tile of tokens over `lines` lines. `left` is
// [step][term][height][32], panel p's lines begin at right + p * apart, and the sums of a group follow those of the one
// before. Prefetched beside: left_ahead, and of every panel's next lines a part like right_ahead of the first one's; or,
// with kAhead, a tile of lines before each that is loaded, so many bytes ahead.
template <class Unit, int Terms, int Panels, int64_t kAhead>
[[gnu::noinline]] void unit_product(Unit& unit, const char* left, int64_t height, const char* right, int64_t apart,
                                    int64_t lines, int64_t groups, Lines left_ahead, Lines right_ahead, float* sums,
                                    bool add) {
  constexpr int64_t kRow = Panels * 64;
  const int64_t term_bytes = height * kTileColumns * 2;
  for (int64_t g = 0; g < groups; ++g) {
    const char* terms = left;
    const char* ahead = right_ahead.next;
    const auto step = [&](auto whole, const char* group, int64_t from_panel_to_panel) {
      left_ahead.fetch();
      each_tile<Terms>([&](auto term) { unit.template load_left<term>(terms + term * term_bytes, 64); });
      each_tile<Panels>([&](auto p) {
        constexpr int kPanelIndex = p;
        const char* tile = group + p * from_panel_to_panel;
        if constexpr (whole && kAhead > 0) {
          MMB_UNROLL
          for (int i = 0; i < 16; ++i) prefetch(tile + kAhead + i * 64);
        } else if constexpr (whole) {
          Lines{ahead + p * apart, right_ahead.each}.fetch();
        }
        unit.load_right(tile, 64);
        each_tile<Terms>([&](auto term) { unit.template dot<kPanelIndex, term>(); });
      });
      terms += Terms * term_bytes;
      ahead += right_ahead.each * 64;
    };
    each_tile<Panels>([&](auto p) {
      if (add)
        unit.template load_sum<p>(sums + p * kPanel, kRow);
      else
        unit.template zero<p>();
    });
    int64_t line = 0;
    for (; line + 16 <= lines; line += 16) step(std::true_type(), right + line * 64, apart);
    if (line < lines) {  // the last columns
      alignas(64) char padded[Panels * kTileBytes] = {};
      for (int p = 0; p < Panels; ++p)
        memcpy(padded + p * kTileBytes, right + p * apart + line * 64, static_cast<size_t>(64 * (lines - line)));
      step(std::false_type(), padded, kTileBytes);
    }
    each_tile<Panels>([&](auto p) { unit.template store_sum<p>(sums + p * kPanel, kRow); });
    right += Panels * apart;
    right_ahead.next += Panels * apart;
    sums += Panels * kTileRows * kPanel;
  }
}

// Weights that lie in lines of bf16.
struct InPlace {};

// sums = scale * block, or sums += that, of one panel: `height` rows `stride` floats apart.
template <class Weights>
MMB_OP void add_scaled(const Weights& weights, int64_t p, int64_t step, int64_t height, int64_t stride,
                       const float* block, float* sums, bool add) {
  MMB_UNROLL
  for (int v = 0; v < kVecsPerPanel; ++v) {
    const Vec scale = weights.scale(p, v, step);
    for (int64_t i = 0; i < height; ++i) {
      float* to = sums + i * stride + v * kLanes;
      const Vec own = load(block + i * stride + v * kLanes);
      store(to, add ? fma(scale, own, load(to)) : scale * own);
    }
  }
}

// What linear_panels promises (matmul.h), for tokens of `Terms` terms. Other weights than InPlace have
//   widen(p, step, steps, lines)  lines of bf16 for columns [32 step, 32 (step + steps)) of panel p, without their scale
//   scale(p, v, step)             of outputs [v * kLanes, (v + 1) * kLanes) of panel p, the same for a block of columns
template <class Unit, int Terms, class Weights>
[[gnu::noinline]] void unit_panels(const float* packed, int64_t tokens, const Matrix& w, const Weights& weights,
                                   Share panels, float* y, int64_t y_stride, float* scratch) {
  constexpr bool kInPlace = std::is_same_v<Weights, InPlace>;
  constexpr int64_t kSums = kTileRows * kPanel, kBlockBytes = kBlockSteps * kTileBytes;
  const int64_t lines = ceil_div(w.cols, 2), apart = lines * 64, token_bytes = ceil_div(w.cols, 32) * 64 * Terms;
  const TokenTiles tiles = unit_tiles(tokens);
  // One tile of tokens needs its sums once: they stay in the unit over all columns.
  const bool one = kInPlace && tiles.tiles == 1;
  const int64_t block = one ? round_up(lines, 16) : kBlockSteps * 16;
  Unit unit(ceil_div(tokens, tiles.tiles));

  const auto height = [&](int64_t tile) { return tiles.begin(tile + 1) - tiles.begin(tile); };
  const auto left = [&](int64_t tile, int64_t line) {
    return reinterpret_cast<const char*>(packed) + tiles.begin(tile) * token_bytes +
           line / 16 * height(tile) * 64 * Terms;
  };
  const auto right = [&](int64_t p, int64_t line) { return static_cast<const char*>(w.data) + p * apart + line * 64; };
  // Of one block: its sums for one tile of tokens, and its lines.
  [[maybe_unused]] float* block_sums = scratch + kNearTiles * kNearPanels * kSums;
  [[maybe_unused]] char* widened = reinterpret_cast<char*>(block_sums + kNearPanels * kSums);

  for (int64_t t0 = 0; t0 < tiles.tiles; t0 += kNearTiles) {
    const int64_t t1 = min_of(t0 + kNearTiles, tiles.tiles);
    for (int64_t p0 = panels.begin; p0 < panels.end; p0 += kNearPanels) {
      const int64_t p1 = min_of(p0 + kNearPanels, panels.end), rest = (p1 - p0) % kTileSums,
                    groups = ceil_div(p1 - p0, kTileSums);
      const auto sums = [&](int64_t tile, int64_t p) {
        return scratch + ((tile - t0) * kNearPanels + (p - p0)) * kSums;
      };
      for (int64_t first = 0; first < lines; first += block) {
        const int64_t count = min_of(block, lines - first), steps = ceil_div(count, 16);
        // What comes after this block: the next one, or the first one of the panels after these.
        const bool last = first + block >= lines;
        const int64_t after = last ? 0 : first + block;
        if constexpr (!kInPlace)
          for (int64_t p = p0; p < p1; ++p) weights.widen(p, first / 16, steps, widened + (p - p0) * kBlockBytes);
        for (int64_t t = t0; t < t1; ++t) {
          const Lines left_ahead =
              one ? Lines() : part_of(left(t, after), steps * Terms * height(t) * 64, 0, 1, steps * groups);
          const Lines right_ahead = part_of(right(last ? p1 : p0, after), count * 64, t - t0, t1 - t0, steps);
          const auto product = [&](auto n, int64_t p, int64_t count_of_groups) {
            constexpr int64_t kAhead = 128 / n * 64;  // over all streams what memory delivers in twice its latency
            if constexpr (kInPlace) {
              const auto run = one ? unit_product<Unit, Terms, n, kAhead> : unit_product<Unit, Terms, n, 0>;
              run(unit, left(t, first), height(t), right(p, first), apart, count, count_of_groups, left_ahead,
                  {right_ahead.next + (p - p0) * apart, right_ahead.each}, sums(t, p), first > 0);
            } else {
              float* own = block_sums + (p - p0) * kSums;
              unit_product<Unit, Terms, n, 0>(unit, left(t, first), height(t), widened + (p - p0) * kBlockBytes,
                                              kBlockBytes, steps * 16, count_of_groups, left_ahead, Lines(), own,
                                              false);
              for (int64_t i = 0; i < count_of_groups * n; ++i) {
                const int64_t at = i / n * n * kSums + i % n * kPanel;
                add_scaled(weights, p + i, first / 16, height(t), n * kPanel, own + at, sums(t, p) + at, first > 0);
              }
            }
          };
          if (p1 - p0 > rest) product(std::integral_constant<int, kTileSums>(), p0, (p1 - p0) / kTileSums);
          if (rest > 0) with_tiles<kTileSums - 1>(rest, [&](auto n) { product(n, p1 - rest, 1); });
        }
      }
      // To where they belong, but for rows and outputs that do not exist.
      for (int64_t t = t0; t < t1; ++t) {
        for (int64_t p = p0; p < p1; p += kTileSums) {
          const int64_t width = min_of(kTileSums, p1 - p) * kPanel, outputs = w.rows - p * kPanel;
          for (int64_t i = 0; i < height(t); ++i)
            memcpy(y + (tiles.begin(t) + i) * y_stride + (p - panels.begin) * kPanel, sums(t, p) + i * width,
                   static_cast<size_t>(4 * (outputs < width ? outputs : width)));
        }
      }
    }
  }
}

}  // namespace
}  // namespace MMB_IMPL
}  // namespace mmb
