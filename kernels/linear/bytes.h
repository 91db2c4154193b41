// Panels of a product of int8 weights, as they lie, with tokens in digits (matmul.h): three products of bytes, exact in int32,
// give a block's sums, which add up in f32 and meet their units and scales at the end. On a matrix unit at twice the rate of
// its three products of bf16; in dots of bytes at 1.33 times that of FMAs, and without widening.
// Bound: weights from memory up to 8 tokens (dots), some 90 on a matrix unit; the rate of bytes beyond.
// Blocking: 8 steps of 64 columns: a tile's digits (24 KB) stay in L1 while the lines of 32 panels (256 KB, in L2) pass by;
// 8 panels where there is one tile.
// Roof, 2 cores of a Xeon (November 2026), of a third of the rate of bytes. Dots, V3's 7168 to 2048: 8 tokens 0.75 (of memory),
// 32 and 128 0.84, 512 0.86; AVX2 0.65, 0.75, 0.74, 0.79: 1.2 to 1.7 times as fast as widened for FMAs. What is missing at 8:
// arithmetic takes as long as memory does, and they overlap in part. On the unit, V2-Lite's 2048 x 2048: 0.57, 32 0.37, 128
// 0.37, 512 0.41: 1.6 to 1.9 times as fast as by way of bf16. What is missing there: loads of tiles, four for three products,
// and sums that leave the unit every 512 columns.
#pragma once

#include "../matmul.h"

namespace mmb {
namespace MMB_IMPL {
namespace {

// What multiplies is an object with
//   begin(digits, height, steps)  the digits of a tile of tokens, of which the products after it are
//   run(right, lines, ahead, sums)
//       sums [digit][16][16] over the steps of 64 columns, of which `lines` lines of the panel exist; fetches `ahead` kFetches
//       times a step

template <class Unit>
class TileProducts {
 public:
  static constexpr int64_t kFetches = 1;

  MMB_OP explicit TileProducts(int64_t rows) : unit_(rows) {}
  MMB_OP void begin(const int8_t* digits, int64_t height, int64_t steps) {
    digits_ = digits;
    height_ = height;
    steps_ = steps;
  }
  MMB_OP void run(const char* right, int64_t lines, BlockAhead ahead, int32_t* sums) {
    product(unit_, digits_, height_, right, lines, steps_, ahead, sums);
  }

 private:
  [[gnu::noinline]] static void product(Unit& unit, const int8_t* digits, int64_t height, const char* right,
                                        int64_t lines, int64_t steps, BlockAhead ahead, int32_t* sums) {
    const int64_t digit_apart = height * kByteColumns;
    each_tile<3>([&](auto d) { unit.template zero<d>(); });
    for (int64_t step = 0; step < steps; ++step) {
      ahead.fetch();
      each_tile<3>([&](auto d) { unit.template load_left<d>(digits + d * digit_apart, kByteColumns); });
      const int64_t left = lines - step * 16;
      if (left >= 16) {
        unit.load_right(right, 64);
      } else {  // the last columns
        alignas(64) char padded[kTileBytes] = {};
        memcpy(padded, right, static_cast<size_t>(64 * left));
        unit.load_right(padded, 64);
      }
      each_tile<3>([&](auto d) { unit.template dot_signed<d, d>(); });
      digits += 3 * digit_apart;
      right += kTileBytes;
    }
    each_tile<3>([&](auto d) { unit.template store_sum<d>(sums + d * kTileRows * kPanel, 64); });
  }

  Unit unit_;
  const int8_t* digits_;
  int64_t height_, steps_;
};

// Dots of bytes want one operand unsigned: weights are w + 128, and what that adds is taken off where sums start.
// All digits of kRows tokens at a time, kTileVecs sums; a line of weights is loaded once for them, a token's four columns are
// broadcast as they are multiplied.
class DotProducts {
 public:
  static constexpr int64_t kFetches = 16;

  MMB_OP explicit DotProducts(int64_t) {}
  MMB_DOTS [[gnu::noinline]] void begin(const int8_t* digits, int64_t height, int64_t steps) {
    digits_ = digits;
    height_ = height;
    steps_ = steps;
    for (int64_t d = 0; d < 3; ++d)
      for (int64_t m = 0; m < height; ++m) start_[d][m] = -128 * sum_of(digits + (d * height + m) * kByteColumns);
  }
  MMB_OP void run(const char* right, int64_t lines, BlockAhead ahead, int32_t* sums) {
    const int64_t at_once = ceil_div(height_, ceil_div(height_, kRows));
    with_tiles<kRows>(at_once, [&](auto rows) {
      if (ahead.each > 0)
        product<rows, true>(0, right, lines, ahead, sums);
      else
        product<rows, false>(0, right, lines, ahead, sums);
    });
    for (int64_t first = at_once; first < height_; first += at_once)
      with_tiles<kRows>(min_of(at_once, height_ - first),
                        [&](auto rows) { product<rows, false>(first, right, lines, ahead, sums); });
  }

 private:
  static constexpr int kRows = kTileVecs / (3 * kVecsPerPanel);

  // Of a token's digits in all steps.
  MMB_DOTS MMB_OP int32_t sum_of(const int8_t* digits) const {
    const VecInt ones = VecInt{} + 0x01010101;
    VecInt sum = {};
    for (int64_t step = 0; step < steps_; ++step, digits += 3 * height_ * kByteColumns) {
      MMB_UNROLL
      for (int v = 0; v < kByteColumns; v += 4 * kLanes) sum = dot(sum, ones, load_ints(digits + v));
    }
    return reduce_add(sum);
  }

  // `Lines` lines of weights, four columns each; `columns` are a token's first ones, of each digit. Beside each, if anything,
  // a line of another of the places ahead.
  template <int Rows, int Lines, bool kAhead>
  MMB_DOTS MMB_OP static void add_lines(VecInt (&acc)[3][Rows][kVecsPerPanel], const char* line, const int8_t* columns,
                                        int64_t apart, const BlockAhead& ahead) {
    const int8_t* of_digit[3] = {columns, columns + apart, columns + 2 * apart};
    MMB_UNROLL
    for (int d = 0; d < 3; ++d) forget_origin(of_digit[d]);
    MMB_UNROLL
    for (int i = 0; i < Lines; ++i) {
      if constexpr (kAhead) prefetch_beside(acc[0][0][0], ahead.next + i * ahead.apart);
      VecInt w[kVecsPerPanel];
      MMB_UNROLL
      for (int v = 0; v < kVecsPerPanel; ++v)
        w[v] = load_ints(line + i * 64 + v * 4 * kLanes) ^ static_cast<int32_t>(0x80808080);
      MMB_UNROLL
      for (int d = 0; d < 3; ++d) {
        MMB_UNROLL
        for (int m = 0; m < Rows; ++m) dot_four(acc[d][m], w, of_digit[d] + m * kByteColumns + 4 * i);
      }
    }
  }

  // Tokens [first, first + Rows) of the tile.
  template <int Rows, bool kAhead>
  MMB_DOTS [[gnu::noinline]] void product(int64_t first, const char* right, int64_t lines, BlockAhead ahead,
                                          int32_t* sums) const {
    VecInt acc[3][Rows][kVecsPerPanel];
    MMB_UNROLL
    for (int d = 0; d < 3; ++d) {
      MMB_UNROLL
      for (int m = 0; m < Rows; ++m) {
        MMB_UNROLL
        for (int v = 0; v < kVecsPerPanel; ++v) acc[d][m][v] = VecInt{} + start_[d][first + m];
      }
    }
    const int8_t* digits = digits_ + first * kByteColumns;
    const int64_t apart = height_ * kByteColumns, count = min_of(lines, 16 * steps_);
    const auto columns = [&](int64_t line) { return digits + line / 16 * 3 * apart + line % 16 * 4; };
    int64_t line = 0;
    constexpr int kLines = BlockAhead::kStreams;
    for (; line + kLines <= count; line += kLines) {
      add_lines<Rows, kLines, kAhead>(acc, right + line * 64, columns(line), apart, ahead);
      ahead.next += 64;
      if constexpr (kAhead)
        for (int64_t i = kLines; i < kLines * ahead.each; ++i) ahead.fetch_line();
    }
    for (; line < count; ++line) add_lines<Rows, 1, false>(acc, right + line * 64, columns(line), apart, ahead);
    MMB_UNROLL
    for (int d = 0; d < 3; ++d) {
      MMB_UNROLL
      for (int m = 0; m < Rows; ++m) memcpy(sums + (d * kTileRows + first + m) * kPanel, acc[d][m], sizeof acc[d][m]);
    }
  }

  const int8_t* digits_;
  int64_t height_, steps_;
  int32_t start_[3][kTileRows];
};

// sums = what products [digit][16][16] amount to, or sums += that, for `height` rows.
MMB_OP void add_digits(const int32_t* products, int64_t height, float* sums, bool add) {
  constexpr int64_t kSums = kTileRows * kPanel;
  for (int64_t i = 0; i < height * kPanel; i += kLanes) {
    const auto product = [&](int d) { return __builtin_convertvector(load_ints(products + d * kSums + i), Vec); };
    const Vec sum = fma(fma(product(0), broadcast(256), product(1)), broadcast(256), product(2));
    store(sums + i, add ? load(sums + i) + sum : sum);
  }
}

// What linear_panels promises.
template <class Products>
[[gnu::noinline]] void byte_panels(const float* packed, int64_t tokens, const Matrix& w, Share panels, float* y,
                                   int64_t y_stride, float* scratch) {
  constexpr int64_t kSums = kTileRows * kPanel, kSteps = 8;
  const int64_t lines = ceil_div(w.cols, 4), steps = ceil_div(lines, 16);
  const auto* digits = reinterpret_cast<const int8_t*>(packed);
  const float* units = packed + tokens * digit_bytes(w.cols) / 4;
  const TokenTiles tiles = unit_tiles(tokens);
  // The first block of a call is not prefetched: where it meets one tile alone, it is as small as the streams allow.
  const int64_t near = tiles.tiles == 1 ? BlockAhead::kStreams : kNearPanels;
  Products products(ceil_div(tokens, tiles.tiles));
  const auto line = [&](int64_t p, int64_t step) {
    return static_cast<const char*>(w.data) + (p * lines + step * 16) * 64;
  };
  for (int64_t t0 = 0; t0 < tiles.tiles; t0 += kNearTiles) {
    const int64_t t1 = min_of(t0 + kNearTiles, tiles.tiles);
    for (int64_t p0 = panels.begin; p0 < panels.end; p0 += near) {
      const int64_t p1 = min_of(p0 + near, panels.end);
      const auto sums = [&](int64_t t, int64_t p) { return scratch + ((t - t0) * kNearPanels + p - p0) * kSums; };
      for (int64_t step = 0; step < steps; step += kSteps) {
        const int64_t count = min_of(kSteps, steps - step);
        const bool last = step + kSteps >= steps;
        // As many tiles as have a line to fetch each time do so.
        const int64_t fetches = count * Products::kFetches, fetching = min_of(t1 - t0, ceil_div(kSteps * 16, fetches)),
                      lines_each = ceil_div(kSteps * 16, fetching * fetches);
        for (int64_t t = t0; t < t1; ++t) {
          const int64_t each = t - t0 < fetching ? lines_each : 0;
          const int64_t begin = tiles.begin(t), height = tiles.begin(t + 1) - begin;
          const int8_t* left = digits + begin * digit_bytes(w.cols) + step * 3 * height * kByteColumns;
          products.begin(left, height, count);
          for (int64_t p = p0; p < p1; ++p) {
            // What comes after this block: the next one, or the first one of the panels after these. Of as many panels as
            // there are streams, this one's part.
            const int64_t first = p - (p - p0) % BlockAhead::kStreams, visit = (p - first) * fetching + t - t0;
            const BlockAhead ahead = block_ahead_at(last ? line(first + p1 - p0, 0) : line(first, step + kSteps),
                                                    lines * 64, visit * fetches * each, each);
            alignas(64) int32_t digit_sums[3][kTileRows][kPanel];
            products.run(line(p, step), lines - step * 16, ahead, digit_sums[0][0]);
            add_digits(digit_sums[0][0], height, sums(t, p), step > 0);
          }
        }
      }
      const auto* scales = static_cast<const float*>(w.scales());
      for (int64_t t = t0; t < t1; ++t)
        for (int64_t p = p0; p < p1; ++p)
          for (int64_t v = 0; v < kPanel; v += kLanes) {
            const int64_t output = p * kPanel + v, exist = w.rows - output;
            if (exist <= 0) continue;
            const Vec scale = load(scales + output);
            for (int64_t m = tiles.begin(t); m < tiles.begin(t + 1); ++m) {
              const Vec value = load(sums(t, p) + (m - tiles.begin(t)) * kPanel + v) * (units[m] * scale);
              float* to = y + m * y_stride + output - panels.begin * kPanel;
              if (exist >= kLanes)
                store(to, value);
              else
                store_partial(to, value, exist);
            }
          }
    }
  }
}

}  // namespace
}  // namespace MMB_IMPL
}  // namespace mmb
