// Bound: weights from memory up to the machine's balance (about 10 tokens in bf16), multiply rate beyond.
// Blocking: up to 24 tokens are one tile: 24 accumulators of 32 registers, weights widened as they come from memory, in 4
// streams. More: tiles of 8 x 3 panels over blocks of 128 columns, whose widened lines (24 KB) the first tile of tokens leaves
// to the others (AVX2: 6 x 1, 256 columns, 16 KB); in passes over all panels, of as many blocks as have 1 MiB of tokens.
// Between the blocks of a pass the sums of a group of panels lie side by side (512 tokens: 96 KB, in L2).
// Roof, DeepSeek-V3's 7168 to 2048 in bf16, 2 cores of a Xeon with 2 MB of L2, medians of 7, November 2026: AVX-512 1 token
// 0.94, 8 tokens 0.83, 32 tokens 0.87, 128 and 512 tokens 0.89 (f32 0.89); AVX2 0.95, 0.69, 0.77, 0.81, 0.81. A tile with all
// operands in L1 reaches 0.95 of the register peak. At 512 tokens tokens from L2 take 7 %, half of which fetching them to L1
// gains, sums that are added to y after a pass 3 %, and packing 2 %. AVX2 at 8 tokens: two tiles of 4 x 2 vectors have just as
// many sums as hide an FMA's latency. On the matrix unit: tiles.h.
// Integer weights take three (int8) or two (int4) instructions to widen beside every FMA of a token, as many as fit into the
// time of memory. Up to 4 tokens (AVX2: 3) they meet the tokens' digits in dots of bytes as they lie (Digits, matmul.h), in a
// third or half of the instructions: V3's experts, 1 token, int8 0.90-0.94, int4 0.82-0.84; AVX2 0.91 and 0.80, 1.3 and 2.2
// times as fast as by FMA. More tokens meet int8 in products of bytes too: bytes.h. fp8, by FMA: 0.84; AVX2 0.71, of 19
// instructions for 32 weights.
// AVX2's 16 registers, on a core of Zen 3 with weights in L2, of the register peak: bf16 4 to 6 tokens 0.94-0.98, 8 0.91, 12 to
// 32 0.91-0.93; int8 without dots 0.74 (4) and 0.83 (6), int4 0.70 and 0.74, fp8 0.58 and 0.63: at least an instruction beside
// every FMA.
// Idea: matmul.h. The tokens are laid out for the tiles once, by the whole team; then each thread streams its own panels.
// Rounded: the same with activations in bf16, of which a matrix unit needs one product where f32 takes three.
// Split: panels of outputs, evenly and in order over the threads, so that weights stay with the thread that reads them.
#include "mmb/linear.h"

#include "../matmul.h"
#include "bytes.h"
#include "tiles.h"

namespace mmb::MMB_PLAIN_LEVEL {
void linear_panels(const float* packed, DType x, int64_t tokens, const Matrix& w, int64_t begin, int64_t end, float* y,
                   int64_t y_stride, float* scratch) noexcept;
}

namespace mmb::MMB_IMPL {
namespace {

template <class T>
constexpr int64_t kColumns = line_columns(kTypeOf<T>);  // of a line
template <class T>
constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
// Columns that have one scale; for int8, whose rows have one, what is summed before it.
template <class T>
[[maybe_unused]] constexpr int64_t kScaled = kTypeOf<T> == DType::int4  ? kScaleGroup
                                             : kTypeOf<T> == DType::fp8 ? kScaleBlock
                                                                        : int64_t{1} << 40;

// The scales of a matrix.
struct Scales {
  const void* data = nullptr;
  int64_t cols = 0;
  MMB_OP Scales() {}
  MMB_OP explicit Scales(const Matrix& w) : data(w.scales()), cols(w.cols) {}
};

// A group of panels: panel p's lines start at base + p * stride elements.
template <class T>
struct PanelGroup {
  const T* base;
  int64_t stride;
  Scales scales = {};  // of scaled elements, where panel 0 is `panel`
  int64_t panel = 0;
};

// The scales of outputs [v * kLanes, (v + 1) * kLanes) of the group's panel p, from its line `line` on.
template <class T>
MMB_OP Vec scale_of(const PanelGroup<T>& group, int64_t p, int v, int64_t line) {
  const int64_t row = (group.panel + p) * kPanel + v * kLanes, column = line * kColumns<T>;
  if constexpr (kTypeOf<T> == DType::fp8) {
    const int64_t blocks = ceil_div(group.scales.cols, kScaleBlock);
    const auto* scales = static_cast<const float*>(group.scales.data);
    return broadcast(kFp8Unit * scales[row / kScaleBlock * blocks + column / kScaleBlock]);
  } else if constexpr (kTypeOf<T> == DType::int8) {
    return load(static_cast<const float*>(group.scales.data) + row);
  } else {
    const int64_t groups = ceil_div(group.scales.cols, kScaleGroup);
    const auto* scales = static_cast<const uint16_t*>(group.scales.data);
    return load_f16(scales + ((group.panel + p) * groups + column / kScaleGroup) * kPanel + v * kLanes);
  }
}

// The sums of a tile of int8, whose rows have one scale.
template <class T, int MR, int N>
MMB_OP void scale_rows(Vec (&acc)[MR][N], const PanelGroup<T>& w) {
  MMB_UNROLL
  for (int v = 0; v < N; ++v) {
    const Vec scale = scale_of(w, v / kVecsPerPanel, v % kVecsPerPanel, 0);
    MMB_UNROLL
    for (int m = 0; m < MR; ++m) acc[m][v] *= scale;
  }
}

// Widened lines: [panel][column of a block][16].
MMB_OP float* widened_column(float* wide, int64_t p, int64_t column) {
  return wide + (p * kColumnBlock + column) * kPanel;
}

// Where a tile's lines come from: memory, if it is the only tile; or near, where tiles before it have prefetched them. Whether it
// leaves them widened to those after it.
enum class Source { memory, near, near_to_keep };

// One line of the tile's panels for all tokens, as many columns at a time as leave all sums in registers: one on the stack
// halves the speed. To be kept: leaves the columns at `wide`.
template <class T, int MR, int NP, Source kSource>
MMB_OP void step(Vec (&acc)[MR][NP * kVecsPerPanel], const float*& x, const T* line, int64_t stride, float*& wide) {
  constexpr int kVecs = NP * kVecsPerPanel, kLineColumns = kColumns<T>;
  // So many vectors, beside the sums, an element of x and a mask.
  constexpr auto fit = [](int vectors) { return MR * kVecs + vectors + 2 < kRegisters; };
  // Whether all columns fit (int4: they are many). If not, what they are widened from stays, if it fits beside one column of
  // what is fewer: vectors of the panels, for one token after the other, or tokens.
  constexpr bool kWhole = kLineColumns <= 4 && fit(kLineColumns * kVecs), kByTokens = kWhole || MR >= kVecs,
                 kFull = !kWhole && !fit(kVecs + (kByTokens ? kVecs : 1));
  // Those that are widened together: c, c + kApart and so on.
  constexpr int kTogether = kWhole ? kLineColumns : kTypeOf<T> == DType::fp8 ? 2 : 1, kApart = kLineColumns / kTogether;
  const auto multiply = [&](auto load) {
    MMB_UNROLL
    for (int c = 0; c < kApart; ++c) {
      if constexpr (kFull) forget_origin(line);  // it is loaded again
      Vec w[kVecs][kTogether];
      const auto load_part = [&](int v) {
        load(line + v / kVecsPerPanel * stride, v % kVecsPerPanel, c, w[v]);
        if constexpr (kSource == Source::near_to_keep) {
          MMB_UNROLL
          for (int i = 0; i < kTogether; ++i)
            store(widened_column(wide, v / kVecsPerPanel, c + i * kApart) + v % kVecsPerPanel * kLanes, w[v][i]);
        }
      };
      const auto token = [&](int m, int i) { return broadcast(x[(c + i * kApart) * MR + m]); };
      if constexpr (kByTokens) {
        MMB_UNROLL
        for (int v = 0; v < kVecs; ++v) load_part(v);
        MMB_UNROLL
        for (int i = 0; i < kTogether; ++i) {
          MMB_UNROLL
          for (int m = 0; m < MR; ++m) {
            const Vec a = token(m, i);
            MMB_UNROLL
            for (int v = 0; v < kVecs; ++v) acc[m][v] = fma(a, w[v][i], acc[m][v]);
          }
        }
      } else {
        MMB_UNROLL
        for (int v = 0; v < kVecs; ++v) {
          load_part(v);
          MMB_UNROLL
          for (int i = 0; i < kTogether; ++i) {
            MMB_UNROLL
            for (int m = 0; m < MR; ++m) acc[m][v] = fma(token(m, i), w[v][i], acc[m][v]);
          }
        }
      }
    }
    if constexpr (kSource == Source::near_to_keep) wide += kLineColumns * kPanel;
    x += kLineColumns * MR;
  };
  if constexpr (kTypeOf<T> == DType::fp8) {
    Fp8Screen screen;  // one for all panels: a branch for each would keep the columns in memory
    MMB_UNROLL
    for (int v = 0; v < kVecs; ++v) screen.add(column_bits(line + v / kVecsPerPanel * stride, v % kVecsPerPanel));
    if (__builtin_expect(screen.all_normal(), 1))
      return multiply([](const T* p, int v, int c, Vec(&w)[kTogether]) { load_normal_columns<kFull>(p, v, c, w); });
    multiply([](const T* p, int v, int c, Vec(&w)[kTogether]) {
      Vec columns[kLineColumns];
      load_columns(p, v, columns);
      MMB_UNROLL
      for (int i = 0; i < kTogether; ++i) w[i] = columns[c + i * kApart];
    });
  } else {
    multiply([](const T* p, int v, int c, Vec(&w)[kTogether]) {
      MMB_UNROLL
      for (int i = 0; i < kTogether; ++i) w[i] = load_column<kFull>(p, v, c + i * kApart);
    });
  }
}

// Weights to prefetch while a tile computes: for every line of the tile a place in each panel of the group, from line `turn`
// on behind `then`.
struct Ahead {
  const char* place;
  int64_t stride, step;  // bytes from panel to panel, from line to line
  int64_t turn;
  const char* then = nullptr;
  int64_t tokens = 0;  // and tokens, so many floats behind those of a column
};

// Where the tile goes.
struct Destination {
  float* y;
  int64_t stride;   // floats from token to token
  int64_t outputs;  // columns that exist
  bool add;         // to what is there
  // Of one block of columns among several: the tile's sums so far, side by side, where y's rows may be far apart and compete
  // for few sets of a cache.
  float* sums = nullptr;
  bool begun = false, done = true;  // whether sums has something; whether they go to y now
};

// Sums [tokens][vectors] to where they belong. Rolled up, for all tiles: inside them it would be a third of their code.
[[gnu::noinline, maybe_unused]] void write(const float* sums, int64_t tokens, int64_t vectors, const Destination& out) {
  for (int64_t m = 0; m < tokens; ++m) {
    for (int64_t v = 0; v < vectors; ++v, sums += kLanes) {
      float* y = out.y + m * out.stride + v * kLanes;
      const int64_t n = out.outputs - v * kLanes;
      if (n >= kLanes)
        store(y, out.add ? load(y) + load(sums) : load(sums));
      else if (n > 0)
        store_partial(y, out.add ? load_partial(y, n) + load(sums) : load(sums), n);
    }
  }
}

template <int MR, int N>
MMB_OP void store_tile(Vec (&acc)[MR][N], const Destination& out) {
  if (out.begun) {
    MMB_UNROLL
    for (int m = 0; m < MR; ++m) {
      MMB_UNROLL
      for (int v = 0; v < N; ++v) acc[m][v] += load(out.sums + (m * N + v) * kLanes);
    }
  }
  alignas(64) float own[MR * N * kLanes];
  float* const sums = out.done ? own : out.sums;
  MMB_UNROLL
  for (int m = 0; m < MR; ++m) {
    MMB_UNROLL
    for (int v = 0; v < N; ++v) store(sums + (m * N + v) * kLanes, acc[m][v]);
  }
  if (out.done) write(sums, MR, N, out);
}

// Whether tokens wait for weights in memory more than for arithmetic, and gain by prefetching into L2 first (kernel.h).
MMB_OP constexpr bool waits_for_memory(int tokens, DType weights) {
  return tokens <= 4 || weights == DType::f32 || kLanes < 16;
}

// MR tokens x NP panels over `lines` lines. What it needs comes by reference and is copied where registers take it: copied onto
// the stack for every call it was 7 % of a product of 32 tokens.
template <class T, int MR, int NP, Source kSource>
[[gnu::noinline]] void tile(const float* x, const PanelGroup<T>& group, int64_t lines, const Ahead& places,
                            const Destination& out, float* wide) {
  const PanelGroup<T> w = group;
  const Ahead ahead = places;
  constexpr int kVecs = NP * kVecsPerPanel;
  if (out.begun && out.done) {
    MMB_ONE_COPY
    for (int m = 0; m < MR; ++m) {
      MMB_UNROLL
      for (int v = 0; v < kVecs; ++v) __builtin_prefetch(out.y + m * out.stride + v * kLanes, 1);
    }
  }
  Vec acc[MR][kVecs] = {};
  const auto run = [&](Vec(&sums)[MR][kVecs], int64_t begin, int64_t end) {
    int64_t i = begin;
    MMB_ONE_COPY
    for (int then = 0; then < 2; ++then) {
      const int64_t stop = then || end < ahead.turn ? end : ahead.turn;
      const char* place = then ? ahead.then + (i - ahead.turn) * ahead.step : ahead.place + i * ahead.step;
      const auto one = [&] {
        MMB_UNROLL
        for (int p = 0; p < NP; ++p) {
          if constexpr (kSource == Source::memory && waits_for_memory(MR, kTypeOf<T>)) {
            prefetch_l2(place + p * ahead.stride);
            prefetch(w.base + (i + kNearLines / NP) * kLine<T> + p * w.stride);
          } else {
            prefetch(place + p * ahead.stride);
          }
        }
        if (ahead.tokens > 0) prefetch(x + ahead.tokens);
        step<T, MR, NP, kSource>(sums, x, w.base + i * kLine<T>, w.stride, wide);
        place += ahead.step;
      };
      if constexpr (kColumns<T> < 4) {
        MMB_FEW_STEPS
        for (; i < stop; ++i) one();
      } else {
        MMB_ONE_COPY
        for (; i < stop; ++i) one();
      }
    }
  };
  if constexpr (kTypeOf<T> == DType::fp8 || kTypeOf<T> == DType::int4) {
    constexpr bool kFit = sums_fit(MR, NP, kTypeOf<T>);
    constexpr int64_t kLines = kScaled<T> / kColumns<T>;
    [[maybe_unused]] Vec before[MR][kVecs] = {};  // of scales before, or at `wide`
    for (int64_t first = 0; first < lines; first += kLines) {
      const bool last = first + kLines >= lines;
      run(acc, first, last ? lines : first + kLines);
      MMB_UNROLL
      for (int v = 0; v < kVecs; ++v) {
        const Vec scale = scale_of(w, v / kVecsPerPanel, v % kVecsPerPanel, first);
        MMB_UNROLL
        for (int m = 0; m < MR; ++m) {
          float* waiting = wide + (m * kVecs + v) * kLanes;
          const Vec sum = fma(scale, acc[m][v], kFit ? before[m][v] : first > 0 ? load(waiting) : Vec{});
          acc[m][v] = last ? sum : Vec{};
          if (kFit)
            before[m][v] = sum;
          else if (!last)
            store(waiting, sum);
        }
      }
    }
  } else {
    run(acc, 0, lines);
    if constexpr (kTypeOf<T> == DType::int8) scale_rows(acc, w);
  }
  store_tile(acc, out);
}

// Four columns of integer weights to a vector, as bytes w + bias, from as many lines as exist of the group's; a vector's part
// of each begins at `line`.
MMB_OP void load_group(const int8* line, int64_t lines, VecInt (&w)[4]) {
  MMB_UNROLL
  for (int i = 0; i < 4; ++i) w[i] = i < lines ? load_ints(line + i * 64) ^ static_cast<int32_t>(0x80808080) : VecInt{};
}
MMB_OP void load_group(const int4* line, int64_t lines, VecInt (&w)[4]) {
  MMB_UNROLL
  for (int i = 0; i < 2; ++i) {
    const VecInt pairs = i < lines ? load_ints(line + i * 64) : VecInt{};
    w[2 * i] = (pairs & 0x0f0f0f0f) ^ 0x08080808;
    w[2 * i + 1] = (pairs >> 4 & 0x0f0f0f0f) ^ 0x08080808;
  }
}

// Line `first` of the panels and what follows in its group of columns, of which `lines` lines exist.
template <class T, int MR, int N>
MMB_DOTS MMB_OP void dot_step(Vec (&acc)[MR][N], const Digits* x, const PanelGroup<T>& w, int64_t first,
                              int64_t lines) {
  MMB_UNROLL
  for (int v = 0; v < N; ++v) {
    const int p = v / kVecsPerPanel, part = v % kVecsPerPanel;
    VecInt bytes[4];
    load_group(w.base + p * w.stride + first * kLine<T> + part * 4 * kLanes, lines, bytes);
    [[maybe_unused]] Vec scale;
    if constexpr (kTypeOf<T> == DType::int4) scale = scale_of(w, p, part, first);
    MMB_UNROLL
    for (int m = 0; m < MR; ++m) {
      VecInt sums[3][1];
      MMB_UNROLL
      for (int d = 0; d < 3; ++d) {
        sums[d][0] = VecInt{} + x[m].start[d];
        MMB_UNROLL
        for (int i = 0; i < 4; ++i) dot_four(sums[d], {bytes[i]}, x[m].digit[d] + 4 * i);
      }
      const Vec high = __builtin_convertvector(sums[0][0], Vec),
                low = __builtin_convertvector((sums[1][0] << 8) + sums[2][0], Vec),
                sum = fma(high, broadcast(65536), low);
      if constexpr (kTypeOf<T> == DType::int4)
        acc[m][v] = fma(scale * x[m].unit, sum, acc[m][v]);
      else
        acc[m][v] = fma(broadcast(x[m].unit), sum, acc[m][v]);
    }
  }
}

// The same tile for tokens in digits.
template <class T, int MR, int NP>
MMB_DOTS [[gnu::noinline]] void dot_tile(const float* packed, const PanelGroup<T>& group, int64_t lines,
                                         const Ahead& places, const Destination& out) {
  const PanelGroup<T> w = group;
  const Ahead ahead = places;
  constexpr int64_t kLines = kPanel / kColumns<T>;
  const auto* x = reinterpret_cast<const Digits*>(packed);
  Vec acc[MR][NP * kVecsPerPanel] = {};
  int64_t i = 0;
  for (; i + kLines <= lines; i += kLines, x += MR) {
    const char* place = i < ahead.turn ? ahead.place + i * ahead.step : ahead.then + (i - ahead.turn) * ahead.step;
    MMB_UNROLL
    for (int p = 0; p < NP; ++p) {
      MMB_UNROLL
      for (int64_t line = 0; line < kLines; ++line) {
        prefetch_l2(place + p * ahead.stride + line * ahead.step);
        prefetch(w.base + p * w.stride + (i + line + kNearLines / NP) * kLine<T>);
      }
    }
    dot_step(acc, x, w, i, kLines);
  }
  if (i < lines) dot_step(acc, x, w, i, lines - i);
  if constexpr (kTypeOf<T> == DType::int8) scale_rows(acc, w);
  store_tile(acc, out);
}

// Runs tile<height, NP>, or dot_tile; heights above what NP panels allow do not occur.
template <class T, int NP, Source kSource, int MR>
MMB_OP void tile_of_height(int64_t height, const float* x, const PanelGroup<T>& w, int64_t lines, const Ahead& ahead,
                           const Destination& out, float* wide) {
  if (height == MR) {
    if constexpr (on_dots(kTypeOf<T>, MR))
      if (has_dots()) return dot_tile<T, MR, NP>(x, w, lines, ahead, out);
    tile<T, MR, NP, kSource>(x, w, lines, ahead, out, wide);
  } else if constexpr ((NP == 1 ? fits_tall_tile(MR + 1, kTypeOf<T>) : sums_fit(MR + 1, NP, kTypeOf<T>)) &&
                       (kSource == Source::memory || MR < kTileTokens))
    tile_of_height<T, NP, kSource, MR + 1>(height, x, w, lines, ahead, out, wide);
}

// Of several tiles each has half of kTileTokens at the least and kMinPanels panels at the most. `wide` gets lines to keep, or
// sums that wait.
template <Source kSource, class T>
MMB_OP void tile_of(int64_t height, int64_t panels, const float* x, const PanelGroup<T>& w, int64_t lines,
                    const Ahead& ahead, const Destination& out, float* wide) {
  constexpr bool kOnly = kSource == Source::memory;
  with_tiles<kOnly ? panels_beside(1, kTypeOf<T>) : kMinPanels>(panels, [&](auto group) {
    tile_of_height<T, group, kSource, kOnly ? 1 : kTileTokens / 2>(height, x, w, lines, ahead, out, wide);
  });
}

// Leaves lines [first, first + count) of a group's panels as f32 columns, scaled.
template <class T>
MMB_OP void widen(const PanelGroup<T>& w, int64_t panels, int64_t first, int64_t count, float* wide) {
  constexpr int64_t q = kColumns<T>, kLines = kScaled<T> / q;
  for (int64_t p = 0; p < panels; ++p) {
    for (int64_t from = 0; from < count; from += kLines) {
      const int64_t to = count - from < kLines ? count : from + kLines;
      MMB_UNROLL
      for (int v = 0; v < kVecsPerPanel; ++v) {
        const Vec scale = scale_of(w, p, v, first + from);
        for (int64_t i = from; i < to; ++i) {
          Vec columns[q];
          load_columns(w.base + p * w.stride + (first + i) * kLine<T>, v, columns);
          MMB_UNROLL
          for (int c = 0; c < q; ++c) store(widened_column(wide, p, i * q + c) + v * kLanes, scale * columns[c]);
        }
      }
    }
  }
}

// fp8 weights for a matrix unit (tiles.h): bf16 holds what they do, so that only their sums are scaled.
template <class T>
class ScaledLines {
 public:
  MMB_OP explicit ScaledLines(const Matrix& w)
      : base_(static_cast<const T*>(w.data)), lines_(ceil_div(w.cols, kColumns<T>)), scales_(w) {}

  MMB_OP void widen(int64_t p, int64_t step, int64_t steps, char* lines) const {
    constexpr int64_t q = kColumns<T>, kEach = kTileColumns / q;
    const T* base = base_ + p * lines_ * kLine<T>;
    const int64_t begin = step * kEach, end = begin + steps * kEach;
    for (int64_t i = begin; i < end; ++i) {
      prefetch(base + (i + end - begin) * kLine<T>);  // the next block
      MMB_UNROLL
      for (int v = 0; v < kVecsPerPanel; ++v) {
        Vec columns[q] = {};
        if (i < lines_) load_columns(base + i * kLine<T>, v, columns);
        MMB_UNROLL
        for (int c = 0; c < q; c += 2) {
          const VecBits pair = (VecBits)columns[c] >> 16 | ((VecBits)columns[c + 1] & 0xffff0000u);
          memcpy(lines + ((i - begin) * q + c) / 2 * 64 + 4 * kLanes * v, &pair, sizeof pair);
        }
      }
    }
  }
  MMB_OP Vec scale(int64_t p, int v, int64_t step) const {
    return scale_of(PanelGroup<T>{nullptr, 0, scales_, p}, 0, v, step * (kTileColumns / kColumns<T>));
  }

 private:
  const T* base_;
  int64_t lines_;
  Scales scales_;
};

// What linear_panels promises, in register tiles.
template <class T>
MMB_OP void tile_panels(const float* packed, int64_t tokens, const Matrix& w, Share panels, float* y, int64_t y_stride,
                        float* scratch) {
  constexpr int64_t q = kColumns<T>, kBlock = kColumnBlock / q;
  constexpr int64_t kManyTiles = 12;                    // whose tokens do not stay in L1
  [[maybe_unused]] constexpr int64_t kTilesToKeep = 3;  // fewer widen lines as fast as they would load them
  const int64_t lines = ceil_div(w.cols, q), stride = lines * kLine<T>;
  const TokenTiles tiles(tokens, kTypeOf<T>);
  const int64_t beside = panels_of_tile(tokens, kTypeOf<T>);

  const auto group_at = [&](int64_t p) { return beside < panels.end - p ? beside : panels.end - p; };
  const auto base = [&](int64_t p) { return static_cast<const T*>(w.data) + p * stride; };
  const auto place = [&](int64_t p, int64_t line) { return reinterpret_cast<const char*>(base(p)) + line * 64; };
  Scales scales;
  if constexpr (is_scaled(kTypeOf<T>)) scales = Scales(w);
  const auto rows = [&](int64_t p) { return y + (p - panels.begin) * kPanel; };

  if (fits_tall_tile(tokens, kTypeOf<T>)) {
    for (int64_t p = panels.begin; p < panels.end; p += group_at(p)) {
      // The last lines prefetch the first ones of the next group, which short panels (a head's) consist of. Into L1 at once
      // half as far ahead as kFarLines: it is small.
      const bool waits = waits_for_memory(static_cast<int>(tokens), kTypeOf<T>);
      const int64_t group = group_at(p), ahead = min_of((waits ? far_lines : 2 * kNearLines) / group, lines);
      tile_of<Source::memory>(tokens, group, packed, PanelGroup<T>{base(p), stride, scales, p}, lines,
                              {place(p, ahead), lines * 64, 64, lines - ahead, place(p + group, 0)},
                              {rows(p), y_stride, w.rows - p * kPanel, false}, scratch);
    }
    return;
  }

  // Tiles whose sums stay near, and columns whose tokens stay in L2 while all panels meet them, a group's blocks one after the
  // other.
  const int64_t some = min_of(tiles.tiles, kSumTiles);
  constexpr int64_t kNear = 1 << 20;
  const int64_t near_blocks = kNear / (4 * kColumnBlock * tiles.begin(some)),
                pass = kBlock * (near_blocks > 1 ? near_blocks : 1);
  float* const sums = scratch + kWidened;
  for (int64_t t0 = 0; t0 < tiles.tiles; t0 += some) {
    const int64_t t1 = min_of(t0 + some, tiles.tiles), m0 = tiles.begin(t0);
    for (int64_t begin = 0; begin < lines; begin += pass) {
      const int64_t end = min_of(begin + pass, lines);
      // The tiles pass over the block of lines at `first` of the group at `p`; between them they prefetch what comes next.
      const auto meet = [&](int64_t p, int64_t first, const char* next) {
        const int64_t group = group_at(p), count = min_of(kBlock, lines - first);
        // Tile t over the block, of so many lines as it meets them.
        const auto run = [&](auto of, int64_t t, const auto& block, int64_t block_lines) {
          const int64_t m = tiles.begin(t), height = tiles.begin(t + 1) - m;
          const Ahead ahead{next + kBlock * (t - t0) / (t1 - t0) * 64,
                            lines * 64,
                            64 * count / block_lines / (t1 - t0),
                            block_lines,
                            nullptr,
                            t1 - t0 >= kManyTiles ? height * count * q : 0};
          const Destination out{rows(p) + m * y_stride,           y_stride,      w.rows - p * kPanel,  begin > 0,
                                sums + (m - m0) * group * kPanel, first > begin, first + kBlock >= end};
          tile_of<of>(height, group, packed + packed_place(tokens, w.cols, first * q, m), block, block_lines, ahead,
                      out, scratch);
        };
        constexpr std::integral_constant<Source, Source::near> near;
        [[maybe_unused]] constexpr std::integral_constant<Source, Source::near_to_keep> near_to_keep;
        const auto meet_tiles = [&](int64_t from, const auto& block, int64_t block_lines) {
          for (int64_t t = from; t < t1; ++t) run(near, t, block, block_lines);
        };
        const PanelGroup<T> stored{base(p) + first * kLine<T>, stride};
        const PanelGroup<float> wide{scratch, kColumnBlock * kPanel};
        if constexpr (is_scaled(kTypeOf<T>)) {
          widen(PanelGroup<T>{base(p), stride, scales, p}, group, first, count, scratch);
          meet_tiles(t0, wide, count * q);
        } else if constexpr (kTypeOf<T> == DType::f32) {
          meet_tiles(t0, stored, count);
        } else if (t1 - t0 < kTilesToKeep) {
          meet_tiles(t0, stored, count);
        } else {
          run(near_to_keep, t0, stored, count);
          meet_tiles(t0 + 1, wide, count * q);
        }
      };
      for (int64_t p = panels.begin; p < panels.end; p += group_at(p)) {
        const bool last = p + group_at(p) >= panels.end;
        for (int64_t first = begin; first < end; first += kBlock)
          meet(p, first,
               first + kBlock < end ? place(p, first + kBlock)
               : !last              ? place(p + group_at(p), begin)
               : end < lines        ? place(panels.begin, end)
               : t1 < tiles.tiles   ? place(panels.begin, 0)
                                    : place(panels.end, 0));
      }
    }
  }
}

// What linear_panels promises, of elements T.
template <class T>
MMB_OP void panels_of(const float* packed, [[maybe_unused]] DType x, int64_t tokens, const Matrix& w, Share panels,
                      float* y, int64_t y_stride, float* scratch) {
  if constexpr (kMayHaveBytes && kTypeOf<T> == DType::int8) {
    using Products = std::conditional_t<kHasTiles, TileProducts<TileUnit>, DotProducts>;
    if (on_bytes(w.dtype, tokens)) return byte_panels<Products>(packed, tokens, w, panels, y, y_stride, scratch);
  } else if constexpr (kHasTiles && kTypeOf<T> != DType::f32 && kTypeOf<T> != DType::int4) {
    if (on_tiles(w.dtype, tokens)) {
      const auto run = [&](const auto& weights) {
        if (x == DType::f32)
          unit_panels<TileUnit, kTerms<float>>(packed, tokens, w, weights, panels, y, y_stride, scratch);
        else
          unit_panels<TileUnit, kTerms<bf16>>(packed, tokens, w, weights, panels, y, y_stride, scratch);
      };
      if constexpr (kTypeOf<T> == DType::bf16)
        return run(InPlace());
      else
        return run(ScaledLines<T>(w));
    }
  }
  if constexpr (kHasTiles)
    MMB_PLAIN_LEVEL::linear_panels(packed, x, tokens, w, panels.begin, panels.end, y, y_stride, scratch);
  else
    tile_panels<T>(packed, tokens, w, panels, y, y_stride, scratch);
}

}  // namespace

void linear_panels(const float* packed, DType x, int64_t tokens, const Matrix& w, int64_t begin, int64_t end, float* y,
                   int64_t y_stride, float* scratch) noexcept {
  const Share panels{begin, end};
  switch (w.dtype) {
    case DType::f32:
      return panels_of<float>(packed, x, tokens, w, panels, y, y_stride, scratch);
    case DType::bf16:
      return panels_of<bf16>(packed, x, tokens, w, panels, y, y_stride, scratch);
    case DType::fp8:
      return panels_of<fp8>(packed, x, tokens, w, panels, y, y_stride, scratch);
    case DType::int8:
      return panels_of<int8>(packed, x, tokens, w, panels, y, y_stride, scratch);
    case DType::int4:
      return panels_of<int4>(packed, x, tokens, w, panels, y, y_stride, scratch);
  }
}

namespace {

template <class E>
MMB_OP void multiply(const Linear::Shape& shape, const E* x, const Linear::Args& args) {
  const int64_t N = shape.tokens, K = shape.in_features;
  Scratch scratch;
  auto* packed = scratch.shared<float>(packed_size(N, K));
  pack_tokens(x, K, nullptr, N, K, args.w.dtype, packed);
  barrier();
  matmul_share<E>(packed, N, args.w, args.y, scratch.own<float>(kMatmulScratch));
  barrier();
}

}  // namespace

void linear(const Linear::Shape& shape, const Linear::Args& args) noexcept {
  team([&] { multiply(shape, args.x, args); });
}

void linear_rounded(const Linear::Shape& shape, const Linear::Args& args) noexcept {
  team([&] {
    const int64_t count = shape.tokens * shape.in_features;
    Scratch scratch;
    auto* x = scratch.shared<bf16>(count);
    const Share vectors = share(ceil_div(count, kLanes));
    for (int64_t i = vectors.begin * kLanes; i < vectors.end * kLanes; i += kLanes) {
      const int64_t n = count - i;
      if (n >= kLanes)
        store(x + i, load(args.x + i));
      else
        store_partial(x + i, load_partial(args.x + i, n), n);
    }
    barrier();
    multiply(shape, x, args);
  });
}

}  // namespace mmb::MMB_IMPL
