// y[M, rows] = x[M, cols] * w^T over a range of w's panels: the matrix product that every projection, expert and router is
// made of. One micro-kernel: MR tokens x NP panels of accumulators in registers; a panel line is loaded (and widened) once
// for MR tokens, a token's value is broadcast once for NP panels.
//   Tile     MR*NP*kVecsPerPanel accumulators, 24 of 32 registers or 12 of 16: enough to hide the latency of an FMA (8 to 10
//            in flight), and at most one load per FMA.
//   Panels   few tokens: as many panels side by side as fit (4 for one token), each a stream of its own for the prefetchers.
//   Tokens   many: tiles of even height; columns in blocks that keep the widened lines of a panel group in L1/L2 while the
//            token tiles pass over it, so that widening costs 1/M of a load.
#pragma once

#include "mmb/kernel.h"
#include "simd.h"
#include "team.h"
#include "tiles.h"

// A level with a matrix unit leaves what the unit does not multiply to the level that lacks only the unit, where tokens are
// packed alike: register tiles take long to compile.
#ifndef MMB_PLAIN_LEVEL
#define MMB_PLAIN_LEVEL MMB_IMPL
#endif

namespace mmb {
namespace MMB_IMPL {
namespace {

constexpr int kTileVecs = kRegisters * 3 / 4;     // accumulators of a tile
constexpr int kMinPanels = kLanes == 16 ? 3 : 1;  // side by side, at full height
constexpr int kTileTokens = kTileVecs / (kMinPanels * kVecsPerPanel);
constexpr int kTallTokens = kTileVecs / kVecsPerPanel;        // of a tile of one panel
constexpr int kMaxPanels = 4;                                 // streams of weights: more of them read slower
constexpr int64_t kColumnBlock = kMinPanels > 1 ? 128 : 256;  // columns whose widened lines stay close

// Weights with scales are summed scale by scale, or in dots of digits, which takes twice the accumulators.
MMB_OP constexpr int sums_of(DType weights) {
  return is_scaled(weights) ? 2 : 1;
}
// All of them stay in registers.
MMB_OP constexpr bool sums_fit(int64_t tokens, int panels, DType weights) {
  return tokens * panels * kVecsPerPanel * sums_of(weights) <= kTileVecs;
}
// With 16 registers, sums of the scales before wait in memory where they do not fit.
MMB_OP constexpr bool fits_tall_tile(int64_t tokens, DType weights) {
  return kRegisters < 32 ? tokens <= kTallTokens : sums_fit(tokens, 1, weights);
}

MMB_OP constexpr int panels_beside(int tokens, DType weights) {
  int panels = kMaxPanels;
  while (panels > 1 && !sums_fit(tokens, panels, weights)) --panels;
  return panels;
}

// Token tiles of even height, at most kTileTokens: 32 tokens are 11 + 11 + 10, not 12 + 12 + 8. One tall tile where that is
// enough: it needs a load for every FMA, but meets the weights as they come from memory, without widening them first.
struct TokenTiles {
  int64_t tiles, height, taller;  // `taller` tiles have a token more
  MMB_OP TokenTiles(int64_t m, int64_t count) : tiles(count), height(m / count), taller(m % count) {}
  MMB_OP TokenTiles(int64_t m, DType weights)
      : TokenTiles(m, fits_tall_tile(m, weights) ? 1 : ceil_div(m, kTileTokens)) {}
  MMB_OP int64_t begin(int64_t tile) const { return tile * height + min_of(tile, taller); }
};

// Panels that tiles of `tokens` tokens have side by side.
MMB_OP int64_t panels_of_tile(int64_t tokens, DType weights) {
  return fits_tall_tile(tokens, weights) ? panels_beside(static_cast<int>(tokens), weights) : kMinPanels;
}

// Columns as packed tokens have them: whole groups (Digits).
MMB_OP constexpr int64_t padded_columns(int64_t cols) {
  return round_up(cols, kPanel);
}

// Where the packed columns of a block, of which `block` is the first, begin for the tile whose first token is `begin`.
MMB_OP int64_t packed_place(int64_t tokens, int64_t cols, int64_t block, int64_t begin) {
  return block * tokens + begin * min_of(kColumnBlock, padded_columns(cols) - block);
}

// Columns of x for the register tiles, [block of columns][tile][column][token of the tile]. Rows whose length is a multiple of
// 4 KiB, as most are, would fall into few sets of the caches, and so would tiles of all columns: this way what is read one
// after the other lies together.
template <class E>
[[gnu::noinline]] void pack_columns(const E* x, int64_t stride, const int32_t* rows, int64_t tokens, int64_t cols,
                                    DType weights, Share columns, float* packed) {
  constexpr int kGroups = static_cast<int>(ceil_div(kTallTokens, kLanes));
  const TokenTiles tiles(tokens, weights);
  for (int64_t tile = 0; tile < tiles.tiles; ++tile) {
    const int64_t begin = tiles.begin(tile), height = tiles.begin(tile + 1) - begin;
    for (int64_t k = columns.begin; k < columns.end; k += kLanes) {
      const int64_t block = k / kColumnBlock * kColumnBlock, stop = min_of(block + kColumnBlock, columns.end);
      float* out = packed + packed_place(tokens, cols, block, begin) + (k - block) * height;
      const float* end = out + (stop - k) * height;
      const int64_t count = min_of(stop - k, kLanes), exist = min_of(cols - k, kLanes);
      const auto columns_of = [&](int64_t m) {
        const E* row = x + (rows ? rows[begin + m] : begin + m) * stride + k - columns.begin;
        return exist == kLanes ? load(row) : load_partial(row, exist > 0 ? exist : 0);
      };
      if (height == 1) {  // a column after the other, as they are
        if (count == kLanes)
          store(out, columns_of(0));
        else
          store_partial(out, columns_of(0), count);
        continue;
      }
      Vec v[kGroups][kLanes] = {};
      MMB_UNROLL
      for (int m = 0; m < kTallTokens; ++m) {
        if (m < height) v[m / kLanes][m % kLanes] = columns_of(m);
      }
      MMB_UNROLL
      for (int g = 0; g < kGroups; ++g)
        if (g * kLanes < height) transpose(v[g]);
      // A vector reaches past its column's tokens, into columns that are written after it, except at the end.
      MMB_UNROLL
      for (int c = 0; c < kLanes; ++c) {
        if (c >= count) break;
        MMB_UNROLL
        for (int g = 0; g < kGroups; ++g) {
          const int64_t left = height - g * kLanes;
          float* to = out + g * kLanes;
          if (end - to >= kLanes && left > 0)
            store(to, v[g][c]);
          else if (left > 0)
            store_partial(to, v[g][c], left < kLanes ? left : kLanes);
        }
        out += height;
      }
    }
  }
}

// This CPU has the dots of bytes that kernels of the level use.
MMB_OP bool has_dots() {
  return kMayHaveDots && has_byte_dots(Impl::MMB_PLAIN_LEVEL);
}

// So few tokens, all in one tile, that integer weights meet them in dots of bytes; more do on a matrix unit.
constexpr int64_t kDotsTokens = kTallTokens / sums_of(DType::int8) < 4 ? kTallTokens / sums_of(DType::int8) : 4;

// The product of integer weights, which dots of bytes take as they lie, with tokens so few that FMAs would spend more on
// widening; where the CPU has them (has_dots).
MMB_OP constexpr bool on_dots(DType weights, int64_t tokens) {
  return kMayHaveDots && (weights == DType::int8 || weights == DType::int4) && tokens <= kDotsTokens;
}

// The product runs on the level's matrix unit, which fewer tokens would leave too empty to keep up with memory, or with
// widening.
MMB_OP constexpr bool on_tiles(DType weights, int64_t tokens) {
  return kHasTiles && ((weights == DType::bf16 && tokens >= 9) || (weights == DType::fp8 && tokens >= 13));
}
// More tokens than on_dots has meet int8 weights in products of bytes too (linear/bytes.h), with digits of whole rows.
constexpr bool kMayHaveBytes = kHasTiles || kMayHaveDots;
MMB_OP bool on_bytes(DType weights, int64_t tokens) {
  return kMayHaveBytes && weights == DType::int8 && tokens > kDotsTokens && (kHasTiles || has_dots());
}

// Token tiles of the matrix unit, of even height too.
MMB_OP TokenTiles unit_tiles(int64_t tokens) {
  return {tokens, ceil_div(tokens, kTileRows)};
}

// The same columns for the matrix unit: as bf16 terms (tiles.h), [tile][step of 32 columns][term][token of the tile][32].
// What is beyond the last column is zero.
template <class E>
[[gnu::noinline]] void pack_terms(const E* x, int64_t stride, const int32_t* rows, int64_t tokens, int64_t cols,
                                  Share columns, float* packed) {
  constexpr int kCount = kTerms<E>;
  const int64_t steps = ceil_div(cols, kTileColumns);
  const int64_t end = columns.end < cols ? columns.end : steps * kTileColumns;
  const TokenTiles tiles = unit_tiles(tokens);
  for (int64_t tile = 0; tile < tiles.tiles; ++tile) {
    const int64_t begin = tiles.begin(tile), height = tiles.begin(tile + 1) - begin;
    for (int64_t m = 0; m < height; ++m) {
      const E* row = x + (rows ? rows[begin + m] : begin + m) * stride - columns.begin;
      auto* out = reinterpret_cast<uint16_t*>(packed) + (begin * steps * kCount + m) * kTileColumns;
      for (int64_t k = columns.begin; k < end; k += kLanes) {
        const int64_t exist = cols - k;
        HalfBits terms[kCount];
        split(exist >= kLanes ? load(row + k) : exist > 0 ? load_partial(row + k, exist) : Vec{}, terms);
        MMB_UNROLL
        for (int i = 0; i < kCount; ++i)
          memcpy(out + (k / kTileColumns * kCount + i) * height * kTileColumns + k % kTileColumns, &terms[i],
                 sizeof terms[i]);
      }
    }
  }
}

// 16 columns of a token as integers of 23 bits times their unit, in digits to base 256 from -128 to 127. What is rounded is
// at the most 2^-23 of the largest of them, of which an f32 keeps 2^-24.
// The weights are the unsigned operand, as w + bias: what the bias adds is taken off where the sums of digits start.
// Digits go from high to low; beside int4, of every eight columns those of even number come first.
struct Digits {
  int8_t digit[3][kPanel];
  float unit;
  int32_t start[3];
};
static_assert(sizeof(Digits) == 4 * kPanel, "as many bytes as the columns in f32");
constexpr float kLargestDigits = 63.5f * 65536;  // what kToInteger can round, and three digits hold

// Of values of which the largest is `most`.
struct DigitScale {
  float unit, inverse;
  MMB_OP explicit DigitScale(float most)
      : unit(most > kLeast ? most / kLargestDigits : 0), inverse(most > kLeast ? kLargestDigits / most : 0) {}
};

// Digits of integers, from high to low.
MMB_OP void digits_of(VecInt rest, ByteBits (&digits)[3]) {
  MMB_UNROLL
  for (int d = 2; d >= 0; --d) {
    digits[d] = low_bytes(rest);
    rest = (rest + 128) >> 8;  // less the digit
  }
}
MMB_OP VecInt integers(Vec v, float inverse) {
  return (VecInt)fma(v, broadcast(inverse), broadcast(kToInteger)) - (VecInt)broadcast(kToInteger);
}

typedef uint8_t PanelBytes __attribute__((vector_size(kPanel)));
template <int... I>
MMB_OP PanelBytes even_then_odd(PanelBytes v, LaneList<I...>) {
  return __builtin_shufflevector(v, v, (I / 8 * 8 + I % 4 * 2 + I / 4 % 2)...);
}

// The same columns as digits: [group of 16 columns][token].
template <class E>
[[gnu::noinline]] void pack_digits(const E* x, int64_t stride, const int32_t* rows, int64_t tokens, int64_t cols,
                                   DType weights, Share columns, float* packed) {
  const int32_t bias = weights == DType::int8 ? 128 : 8;
  for (int64_t m = 0; m < tokens; ++m) {
    const E* row = x + (rows ? rows[m] : m) * stride - columns.begin;
    for (int64_t k = columns.begin; k < columns.end; k += kPanel) {
      Vec v[kVecsPerPanel], largest = {};
      MMB_UNROLL
      for (int i = 0; i < kVecsPerPanel; ++i) {
        const int64_t at = k + i * kLanes, exist = cols - at;
        v[i] = exist >= kLanes ? load(row + at) : exist > 0 ? load_partial(row + at, exist) : Vec{};
        largest = max(largest, magnitude(v[i]));
      }
      const DigitScale scale(reduce_max(largest));
      VecInt whole[kVecsPerPanel], total = {};
      MMB_UNROLL
      for (int i = 0; i < kVecsPerPanel; ++i) total += whole[i] = integers(v[i], scale.inverse);
      const int32_t sum = reduce_add(total);
      Digits& out = reinterpret_cast<Digits*>(packed)[k / kPanel * tokens + m];
      out.unit = scale.unit;
      out.start[0] = -bias * (sum >> 16);
      out.start[1] = -bias * (sum >> 8 & 255);
      out.start[2] = -bias * (sum & 255);
      MMB_UNROLL
      for (int i = 0; i < kVecsPerPanel; ++i) {
        ByteBits digits[3];
        digits_of(whole[i], digits);
        MMB_UNROLL
        for (int d = 0; d < 3; ++d) memcpy(out.digit[d] + i * kLanes, &digits[d], sizeof digits[d]);
      }
      if (weights == DType::int4) {
        MMB_UNROLL
        for (int d = 0; d < 3; ++d) {
          PanelBytes digit;
          memcpy(&digit, out.digit[d], sizeof digit);
          digit = even_then_odd(digit, std::make_integer_sequence<int, kPanel>());
          memcpy(out.digit[d], &digit, sizeof digit);
        }
      }
    }
  }
}

// Rows `own` as digits for products of bytes, [tile][step of 64 columns][digit][token of the tile][64], and behind all of them
// a unit for each row: what is rounded is at the most 2^-23 of the row's largest.
constexpr int64_t kByteColumns = 64;
MMB_OP constexpr int64_t digit_bytes(int64_t cols) {
  return 3 * round_up(cols, kByteColumns);
}
template <class E>
[[gnu::noinline]] void pack_digit_rows(const E* x, int64_t stride, const int32_t* rows, int64_t tokens, int64_t cols,
                                       Share own, float* packed) {
  auto* bytes = reinterpret_cast<int8_t*>(packed);
  float* units = packed + tokens * digit_bytes(cols) / 4;
  const TokenTiles tiles = unit_tiles(tokens);
  for (int64_t tile = 0; tile < tiles.tiles; ++tile) {
    const int64_t begin = tiles.begin(tile), end = tiles.begin(tile + 1), height = end - begin;
    for (int64_t m = begin > own.begin ? begin : own.begin; m < end && m < own.end; ++m) {
      const E* row = x + (rows ? rows[m] : m) * stride;
      const auto element = [&](int64_t k) {
        return cols - k >= kLanes ? load(row + k) : cols > k ? load_partial(row + k, cols - k) : Vec{};
      };
      Vec largest = {};
      for (int64_t k = 0; k < cols; k += kLanes) largest = max(largest, magnitude(element(k)));
      const DigitScale scale(reduce_max(largest));
      units[m] = scale.unit;
      int8_t* out = bytes + begin * digit_bytes(cols) + (m - begin) * kByteColumns;
      for (int64_t k = 0; k < round_up(cols, kByteColumns); k += kLanes) {
        ByteBits digits[3];
        digits_of(integers(element(k), scale.inverse), digits);
        MMB_UNROLL
        for (int d = 0; d < 3; ++d)
          memcpy(out + (k / kByteColumns * 3 + d) * height * kByteColumns + k % kByteColumns, &digits[d],
                 sizeof digits[d]);
      }
    }
  }
}

// ---- Tokens packed for a product with weights of type `weights`

// Floats of a token, at the most.
MMB_OP constexpr int64_t packed_row(int64_t cols) {
  return kHasTiles       ? round_up(cols, kByteColumns) * kTerms<float> / 2
         : kMayHaveBytes ? round_up(cols, kByteColumns)
                         : padded_columns(cols);
}

// Floats of all tokens; a tile of the matrix unit may read as many rows as the highest one has.
MMB_OP constexpr int64_t packed_size(int64_t tokens, int64_t cols) {
  return tokens * packed_row(cols) + (kHasTiles ? kTileBytes / 4 : 0);
}

// Columns [columns.begin, columns.end) of `cols`, and the padding behind the last; begin is a multiple of 16, and x points
// to it. For products of bytes all columns at once. `rows` picks the rows of x (null: all in order).
template <class E>
MMB_OP void pack(const E* x, int64_t stride, const int32_t* rows, int64_t tokens, int64_t cols, DType weights,
                 Share columns, float* packed) {
  if (columns.begin >= columns.end) return;
  if (columns.end >= cols) columns.end = padded_columns(cols);
  if (on_dots(weights, tokens) && has_dots())
    return pack_digits(x, stride, rows, tokens, cols, weights, columns, packed);
  if (on_bytes(weights, tokens)) return pack_digit_rows(x, stride, rows, tokens, cols, {0, tokens}, packed);
  if (on_tiles(weights, tokens))
    pack_terms(x, stride, rows, tokens, cols, columns, packed);
  else
    pack_columns(x, stride, rows, tokens, cols, weights, columns, packed);
}

// All columns of x, by the whole team; the caller puts the barrier.
template <class E>
MMB_OP void pack_tokens(const E* x, int64_t stride, const int32_t* rows, int64_t tokens, int64_t cols, DType weights,
                        float* packed) {
  if (on_bytes(weights, tokens)) return pack_digit_rows(x, stride, rows, tokens, cols, share(tokens), packed);
  const Share lines = share(ceil_div(cols, kPanel));
  const Share columns{lines.begin * kPanel, lines.end * kPanel < cols ? lines.end * kPanel : cols};
  pack(x + columns.begin, stride, rows, tokens, cols, weights, columns, packed);
}

// Sums in blocks: tiles of tokens and panels that are near each other. And the matrix unit's block of columns, in steps.
constexpr int64_t kNearTiles = 16, kNearPanels = 32, kBlockSteps = 4;

// Of a group of panels: its widened lines, in floats, and how many register tiles have sums behind them; all of it.
constexpr int64_t kWidened = kColumnBlock * kPanel * kMinPanels, kSumTiles = 64,
                  kGroupScratch = kWidened + kSumTiles * kTileTokens * kPanel * kMinPanels;

// Floats of own scratch that matmul needs: for widened lines and sums of register tiles; for sums of near tiles; on the matrix
// unit for those of one block and tile of tokens, and the block's lines in bf16.
constexpr int64_t kMatmulScratch =
    kHasTiles       ? kNearPanels * (kTileRows * kPanel * (kNearTiles + 1) + kBlockSteps * kTileBytes / 4)
    : kMayHaveBytes ? kNearPanels * kTileRows * kPanel * kNearTiles
                    : kGroupScratch;
static_assert(kMatmulScratch >= kGroupScratch);

}  // namespace

// Panels [begin, end) of y = x * w^T, by the calling thread alone, for x packed from type `x`. `y` is where the first row of
// panel `begin` goes, for the first token.
// Compiled once per level, in linear/simd.cpp.
void linear_panels(const float* packed, DType x, int64_t tokens, const Matrix& w, int64_t begin, int64_t end, float* y,
                   int64_t y_stride, float* scratch) noexcept;

namespace {

template <class E = float>
MMB_OP void matmul(const float* packed, int64_t tokens, const Matrix& w, Share panels, float* y, int64_t y_stride,
                   float* scratch) {
  linear_panels(packed, sizeof(E) == 4 ? DType::f32 : DType::bf16, tokens, w, panels.begin, panels.end, y, y_stride,
                scratch);
}

MMB_OP int64_t panel_count(const Matrix& w) {
  return ceil_div(w.rows, kPanel);
}

// This thread's share of the panels of y [tokens, w.rows].
template <class E = float>
MMB_OP void matmul_share(const float* packed, int64_t tokens, const Matrix& w, float* y, float* scratch) {
  const Share panels = share(panel_count(w));
  matmul<E>(packed, tokens, w, panels, y + panels.begin * kPanel, w.rows, scratch);
}

}  // namespace
}  // namespace MMB_IMPL
}  // namespace mmb
