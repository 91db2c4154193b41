// Bound: the cache from memory for MHA and small groups (heads / key-value heads FLOP per byte of a bf16 cache), the
// multiply rate for MQA, latent attention and prefill.
// Idea: a tile of query rows (query_rows.h) meets the tokens block by block. Three families of micro-kernels, by the rows of
// a tile:
//   panels  more rows than lanes (latent attention, prefill, large groups): lanes are rows. S^T[token][row] from packed q
//           and broadcast keys, so that the softmax is vertical and S^T is already the packed operand of P V; no cache is
//           ever transposed. Keys and values are f32 rows, widened once for all rows of the tile, just before their first
//           scores.
//   strips  as many rows as lanes, or half of that (GQA; of 8 lanes also twice): every four lanes, a strip, are four dims of
//           a row of their own. A key's four dims are broadcast to all of them, and four lanes are left to add where dots
//           add all. 8 lanes have shorter strips, of two dims, or of one for 16 rows, in two vectors: what broadcasts cost
//           more than adding lanes, 16 registers gain. Keys are widened beside the products, where stores are free: a pass
//           of its own takes a quarter of 16 rows' FMAs.
//   dots    fewer rows (MHA): lanes lie along the cached row. kLanes dot products are reduced together by a tree of
//           shuffles; rows are read as they are stored, once for all rows of the tile.
// In all, a vector of scores holds R rows x T = kLanes/R tokens (panels: T = 1), so softmax and P V are the same code.
// Blocking: 96 tokens. Panels: 8 tokens x 3 vectors of rows, then 8 rows x 3 vectors of the value; 128 rows of latent
// attention are 0.8 MB with their block, in L2. Strips: 12 tokens x 2 vectors or 6 x 4 (AVX2: 6 x 2); queries and two tiles
// of widened keys stay in L1, 288 dims of 16 rows at a time. Dots: 16 sums. After both, 16 rows x 1 vector of the value,
// which is widened once for all, or 8 x 2 (AVX2: 6 x 2 or 4 x 2, whole spans, of which no part is widened in vain).
// Causal: tokens come in blocks and rows in vectors and tiles; each meets the tokens that its last row sees.
// Roof, bf16 cache of 4096 tokens, 2 cores of a Xeon with 2 MB of L2, medians of 7, November 2026, AVX-512 (AVX2): MHA
// 0.90 (0.89), V3's MQA 0.83 (0.79), latents of 128 heads 0.89 (0.86), of 16 heads 0.80 (0.74 by panels), GQA of 8 rows 0.73
// (0.65 by strips of four), of 16 rows 0.73-0.77 (0.60 by panels); MHA prefill of 512 tokens 0.72 (0.69). Few rows share
// widening (6 % of their FMAs, 12 % for values of 8 rows) and the softmax (5 %), and of GQA's, whose bytes take as long as
// their FLOPs, 12 of L1's 16 fill buffers are with memory while tiles load from L2: strips reach 0.83 and P V 0.96 on a cache
// in L2, 0.78 and 0.74 on one in memory. MHA prefill: its FMA loops reach 0.95; a fifth goes to packing queries and writing
// results, whose rows are far apart (5 % each), to widening (4 %) and softmax (4 %). On a matrix unit: tiles.h.
// Zen 3: GQA of 8 rows is 1.05-1.13 times as fast in short strips as in strips of four; of 16 rows 1.15-1.25 times as in
// panels, latents of 16 heads 1.07-1.18.
// Split: query_rows.h.
#include "mmb/attention_decode.h"

#include "../attend.h"
#include "tiles.h"

namespace mmb::MMB_IMPL {
namespace {

constexpr int64_t kWideBytes = 32 << 10;          // of L1, for few rows' queries and the widened keys that meet them
constexpr int kValueRows = kLanes == 16 ? 8 : 4;  // rows of P V at a time, by 3 vectors of the value (NEON: 6)

MMB_OP Vec load_part(const float* p, int) {
  return load(p);
}
MMB_OP Vec load_part(const bf16* p, int part) {
  return load_column(p, 0, part);
}
MMB_OP Vec load_part(const int8* p, int part) {
  return load(p + part * kLanes);
}

// All parts of a span, which is loaded once.
MMB_OP void load_span(const float* p, Vec (&parts)[1]) {
  parts[0] = load(p);
}
MMB_OP void load_span(const bf16* p, Vec (&parts)[2]) {
  VecBits bits = column_bits(p, 0);
  forget_origin(bits);
  parts[0] = (Vec)(bits << 16);
  parts[1] = upper_halves(bits);
}
MMB_OP void load_span(const int8* p, Vec (&parts)[4]) {
  MMB_UNROLL
  for (int i = 0; i < 4; ++i) parts[i] = load_part(p, i);
}

// Whether rows of E come with scales beside them: one for the dims of the value and one for the others.
template <class E>
constexpr bool kIsScaled = sizeof(E) == 1;

// Tokens of R rows that a vector of scores has.
constexpr int tokens_beside(int R) {
  return R < kLanes ? kLanes / R : 1;
}

// ---- Micro-kernels

// Panels: s[token][row] for NV vectors of rows, of W that lie side by side (q: [dk][W vectors]), and kAccumulators / NV tokens.
template <int NV, int W>
[[gnu::noinline]] void scores(const float* q, int64_t dk, const float* k, int64_t k_stride, float* s, Prefetch ahead) {
  constexpr int kTokens = kAccumulators / NV;
  Keys<float, kTokens> keys(k, k_stride);
  Vec acc[kTokens][NV] = {};
  MMB_FEW_STEPS
  for (int64_t i = 0; i < dk; ++i) {
    ahead.fetch<1>();
    keys.forget_origins();
    Vec row[NV];
    MMB_UNROLL
    for (int v = 0; v < NV; ++v) row[v] = load(q + v * kLanes);
    MMB_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      const Vec key = broadcast(*keys.at(t));
      MMB_UNROLL
      for (int v = 0; v < NV; ++v) acc[t][v] = fma(key, row[v], acc[t][v]);
    }
    q += W * kLanes;
    keys.advance(1);
  }
  MMB_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    MMB_UNROLL
    for (int v = 0; v < NV; ++v) store(s + (t * W + v) * kLanes, acc[t][v]);
  }
}

// A block of `count` tokens from `begin` on in f32, widened a tile at a time, just before its scores: those find it in L1.
struct WideBlock {
  const Loader& loader;
  int64_t begin, count;
  Block block = loader.wide(begin, count);
  int64_t widened = 0;

  MMB_OP void widen(int64_t tokens) {
    tokens = min_of(tokens, count);
    if (tokens <= widened) return;
    loader.widen(begin, widened, tokens);
    widened = tokens;
  }
};

// Of a block, of which the last of W vectors of rows sees `visible` tokens: the scores of those that any row of a vector sees.
template <int W, int NV = W>
MMB_OP void score_panel(const float* q, int64_t dk, WideBlock& wide, const int32_t* limit, int64_t first,
                        int64_t visible, float* s, Memory ahead) {
  constexpr int kTokens = kAccumulators / NV, kSkip = W - NV;
  // Those before the first of the remaining vectors stops.
  const int64_t end = min_of(visible, limit[(kSkip + 1) * kLanes - 1] - wide.begin);
  const int64_t ahead_of_token = ahead.bytes / visible, step = ahead_of_token * kTokens / dk;
  for (; first < end; first += kTokens) {
    if (first > kBlock - kTokens) first = kBlock - kTokens;
    wide.widen(first + kTokens);
    const int64_t stride = wide.block.k_stride;
    scores<NV, W>(q + kSkip * kLanes, dk, static_cast<const float*>(wide.block.k) + first * stride, stride,
                  s + (first * W + kSkip) * kLanes, {ahead.data + first * ahead_of_token, step});
  }
  if constexpr (NV > 1) score_panel<W, NV - 1>(q, dk, wide, limit, first, visible, s, ahead);
}

// Vectors of scores that dots makes at once.
constexpr int kDotVecs = kDotTokens / kLanes;

// Dots: scores of R rows (q: [spans][parts][R][kLanes]) and `tokens` tokens, kDotVecs * T at a time, T = kLanes / R; lane
// r*T + j of a vector is row r, token j of T.
template <class E, int R, class Fetch>
[[gnu::noinline]] void dots(const float* q, int64_t spans, const E* k, int64_t k_stride, int64_t tokens, float* s,
                            Fetch ahead) {
  constexpr int T = kLanes / R, kTokens = kDotVecs * T, kWidth = kSpan<E> * kLanes;
  for (int64_t first = 0; first < tokens; first += kTokens) {
    Vec acc[kDotVecs][kLanes] = {};
    for (int64_t i = 0; i < spans; ++i) {
      ahead.template fetch<ceil_div(kTokens * kWidth * sizeof(E), 64)>();
      MMB_UNROLL
      for (int part = 0; part < kSpan<E>; ++part) {
        const float* from = q + (i * kSpan<E> + part) * R * kLanes;
        Vec row[R];
        MMB_UNROLL
        for (int r = 0; r < R; ++r) row[r] = load(from + r * kLanes);
        MMB_UNROLL
        for (int t = 0; t < kTokens; ++t) {
          const Vec key = load_part(k + t * k_stride + i * kWidth, part);
          MMB_UNROLL
          for (int r = 0; r < R; ++r) acc[t / T][r * T + t % T] = fma(key, row[r], acc[t / T][r * T + t % T]);
        }
      }
    }
    MMB_UNROLL
    for (int g = 0; g < kDotVecs; ++g, s += kLanes) store(s, sums(acc[g]));
    k += kTokens * k_stride;
  }
}

// Strips: of how many dims; the tokens that meet R rows at once, in two vectors of rows or, where there are many lanes, four.
template <class E, int R>
struct StripTile {
  static constexpr int kDims = kLanes >= 16 ? 4 : 2 * kLanes / R, kVecs = kDims * R / kLanes,
                       kTokens = kAccumulators / kVecs, kWidth = kSpan<E> * kLanes, kSpanFloats = kTokens * kWidth,
                       kLines =
                           static_cast<int>(ceil_div(kTokens * kWidth * sizeof(E), 64)),  // of a span of all tokens
      kStreams = kLines % 3 == 0 ? 3 : kLines;
  // Spans at a time: as many as leave queries, and keys of two tiles, in L1.
  static constexpr int64_t kMostSpans = kWideBytes / 4 / (R * kWidth + 2 * kSpanFloats);
  // From a tile's keys to the next one's: half a page past whole pages. A load waits for an earlier store that has the lower
  // 12 bits of its address.
  static constexpr int64_t kTile = 4 * kMostSpans * kSpanFloats, kApart = round_up(kTile + 2048, 4096) - 2048;
  static_assert(kApart + kTile <= kWideBytes);
};

// Scores of R rows as those of dots: q is [dims / kDims][vectors][kLanes], a strip being kDims lanes with as many dims of a
// row (pack_strips). A key's kDims dims meet them all, and only so many lanes are left to add. Keys are widened a tile ahead,
// a few lines at every step, so that they come from L2 beside the products; where tokens are left over, the last one stands
// for those that lack. `dims`: of the block's keys; the value has the first dv of all. `wide` has kWideBytes; `add`: to what
// s has.
template <class E, int R>
[[gnu::noinline]] void strips(const float* q, const Block& block, Share dims, int64_t dv, int64_t tokens, bool add,
                              float* s, float* wide, Streams<StripTile<E, R>::kStreams> ahead) {
  using Strips = StripTile<E, R>;
  constexpr int T = tokens_beside(R), kDims = Strips::kDims, NV = Strips::kVecs, kTokens = Strips::kTokens,
                kWidth = Strips::kWidth, kSteps = kWidth / kDims, kFetches = Strips::kLines / Strips::kStreams;
  const int64_t spans = (dims.end - dims.begin) / kWidth, k_stride = block.k_stride;
  const E* k = static_cast<const E*>(block.k) + dims.begin;
  float* next_wide = wide + Strips::kApart / 4;
  // Of the next tile: keys, and the scales of their first group.
  const E* keys[kTokens];
  [[maybe_unused]] const float* scales[kTokens];
  [[maybe_unused]] const int64_t first_group = (dv - dims.begin) / kWidth;  // spans
  const auto find_keys = [&](int64_t first) {
    MMB_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      const int64_t token = min_of(first + t, tokens - 1);
      keys[t] = k + token * k_stride;
      if constexpr (kIsScaled<E>) scales[t] = block.scales + token;
    }
  };
  const auto widen = [&](int t, int64_t i, float* out) {
    Vec key[kSpan<E>];
    load_span(keys[t] + i * kWidth, key);
    MMB_UNROLL
    for (int part = 0; part < kSpan<E>; ++part) {
      if constexpr (kIsScaled<E>) key[part] *= broadcast(scales[t][i < first_group ? 0 : kBlock]);
      store(out + i * Strips::kSpanFloats + t * kWidth + part * kLanes, key[part]);
    }
  };
  find_keys(0);
  for (int64_t i = 0; i < spans; ++i) {
    MMB_UNROLL
    for (int t = 0; t < kTokens; ++t) widen(t, i, wide);
  }
  for (int64_t first = 0; first < tokens; first += kTokens, s += kTokens * R) {
    find_keys(first + kTokens);
    Vec acc[kTokens][NV] = {};
    for (int64_t i = 0; i < spans; ++i) {
      MMB_UNROLL
      for (int step = 0; step < kSteps; ++step) {
        MMB_UNROLL
        for (int t = step * kTokens / kSteps; t < (step + 1) * kTokens / kSteps; ++t) widen(t, i, next_wide);
        if (step * kFetches % kSteps < kFetches) ahead.template fetch<Strips::kStreams>();
        Vec row[NV];
        MMB_UNROLL
        for (int v = 0; v < NV; ++v) row[v] = load(q + ((i * kSteps + step) * NV + v) * kLanes);
        MMB_UNROLL
        for (int t = 0; t < kTokens; ++t) {
          const Vec key = load_strip<kDims>(wide + i * Strips::kSpanFloats + t * kWidth + kDims * step);
          MMB_UNROLL
          for (int v = 0; v < NV; ++v) acc[t][v] = fma(key, row[v], acc[t][v]);
        }
      }
    }
    MMB_UNROLL
    for (int t = 0; t < kTokens; t += T) {
      MMB_UNROLL
      for (int v = 0; v < NV * T / kDims; ++v) {
        Vec parts[kDims];
        MMB_UNROLL
        for (int i = 0; i < kDims; ++i) parts[i] = acc[t + i % T][v + i / T];
        float* out = s + t * R + v * kLanes;
        store(out, add ? load(out) + sums(parts) : sums(parts));
      }
    }
    std::swap(wide, next_wide);
  }
}

// One step of the online softmax: `vectors` vectors of scores, `stride` floats apart, become weights relative to the new
// maximum m; l is the sum of weights so far (in lanes), alpha what earlier sums must be multiplied by. Lane r*T + j of
// vector i is token i*T + j of row r; kMasked: it counts if i*T < limit[lane].
template <int T, bool kMasked>
MMB_OP void softmax_step(float* s, int64_t stride, int64_t vectors, VecInt limit, float* m, float* l, float* alpha) {
  const Vec before = load(m);
  Vec bests[] = {before, before, before, before};  // no maximum waits for the last one
  for (int64_t i = 0; i < vectors; i += 4) {
    MMB_UNROLL
    for (int c = 0; c < 4; ++c) {
      const int64_t at = min_of(i + c, vectors - 1);
      Vec x = load(s + at * stride);
      if constexpr (kMasked) x = VecInt{} + static_cast<int32_t>(at * T) < limit ? x : broadcast(kLowest);
      bests[c] = max(x, bests[c]);
    }
  }
  const Vec best = max_of_lanes<T>(max(max(bests[0], bests[1]), max(bests[2], bests[3])));
  Vec sum = {};
  for (int64_t i = 0; i < vectors; ++i) {
    Vec p = exp2(load(s + i * stride) - best);
    if constexpr (kMasked) p = VecInt{} + static_cast<int32_t>(i * T) < limit ? p : Vec{};
    store(s + i * stride, p);
    sum += p;
  }
  const Vec scale = exp2(before - best);
  store(m, best);
  store(l, fma(load(l), scale, sum));
  store(alpha, scale);
}

template <int T>
MMB_OP void softmax(float* s, int64_t stride, int64_t vectors, bool masked, VecInt limit, float* m, float* l,
                    float* alpha) {
  if (masked)
    softmax_step<T, true>(s, stride, vectors, limit, m, l, alpha);
  else
    softmax_step<T, false>(s, stride, vectors, limit, m, l, alpha);
}

// o = alpha * o + P V for ROWS rows and NV vectors of the value from vector V0 of a span on. Weight of (token t, row r):
// p[t / T * stride + r*T + t % T].
template <class E, int ROWS, int V0, int NV, int T, class Fetch>
[[gnu::noinline]] void mix(const float* p, int64_t p_stride, const float* alpha, const E* v, int64_t v_stride,
                           int64_t tokens, float* o, int64_t o_stride, Fetch ahead) {
  constexpr int kParts = kSpan<E>, kSpanBytes = kParts * kLanes * static_cast<int>(sizeof(E)),
                kSpans = ceil_div(V0 + NV, kParts) - ceil_div(V0, kParts),  // that begin here
      kFetch = Fetch::template steps<kSpanBytes>(), kTokens = T > kFetch ? T : kFetch;
  Vec acc[ROWS][NV];
  MMB_UNROLL
  for (int r = 0; r < ROWS; ++r) {
    const Vec a = broadcast(alpha[r * T]);
    MMB_UNROLL
    for (int n = 0; n < NV; ++n) acc[r][n] = a * load(o + r * o_stride + n * kLanes);
  }
  const auto mix_token = [&](int64_t t) {
    const float* weight = p + t / T * p_stride + t % T;
    Vec value[NV];
    MMB_UNROLL
    for (int n = 0; n < NV; ++n) value[n] = load_part(v + (V0 + n) / kParts * kParts * kLanes, (V0 + n) % kParts);
    MMB_UNROLL
    for (int r = 0; r < ROWS; ++r) {
      const Vec w = broadcast(weight[r * T]);
      MMB_UNROLL
      for (int n = 0; n < NV; ++n) acc[r][n] = fma(w, value[n], acc[r][n]);
    }
    v += v_stride;
  };
  for (; tokens >= kTokens; tokens -= kTokens, p += kTokens / T * p_stride) {
    MMB_FEW_STEPS
    for (int first = 0; first < kTokens; first += kFetch) {
      ahead.template fetch<kFetch * kSpans * kSpanBytes / 64>();
      MMB_UNROLL
      for (int t = 0; t < kFetch; ++t) mix_token(first + t);
    }
  }
  for (int64_t t = 0; t < tokens; ++t) mix_token(t);
  MMB_UNROLL
  for (int r = 0; r < ROWS; ++r) {
    MMB_UNROLL
    for (int n = 0; n < NV; ++n) store(o + r * o_stride + n * kLanes, acc[r][n]);
  }
}

constexpr int kEnoughSums = 8;  // to hide the latency of an FMA

// Rows of P V at a time, of R with values of E, in even tiles. Of values to widen, whole spans: by as many rows as leave two
// vectors their sums; 16 lanes, whose FMAs read weights from memory, have 16 rows share the widening of one.
template <class E>
constexpr int mix_rows(int R) {
  const int most = kSpan<E> == 1 ? kValueRows : kLanes == 16 ? 16 : kAccumulators / 2;
  return static_cast<int>(ceil_div(R, ceil_div(R, most)));
}

// Vectors of the value at a time, at the most: whole spans if they give enough sums.
template <class E>
constexpr int max_vectors(int rows) {
  const int most = kAccumulators / rows < 8 ? kAccumulators / rows : 8, whole = most / kSpan<E> * kSpan<E>;
  return whole * rows >= kEnoughSums ? whole : most;
}
// Slices of the value are multiples of it.
template <class E>
constexpr int slice_unit(int rows) {
  return max_vectors<E>(rows) % kSpan<E> == 0 ? kSpan<E> : 1;
}

// mix for the slice of `width` vectors from vector `first` of the value on.
template <class E, int ROWS, int T, int V0 = 0, int NV = max_vectors<E>(ROWS), class Fetch>
MMB_OP void mix_slice(int64_t first, int64_t width, const float* p, int64_t p_stride, const float* alpha, const E* v,
                      int64_t v_stride, int64_t tokens, float* o, int64_t o_stride, Fetch ahead) {
  constexpr int kUnit = slice_unit<E>(ROWS);
  if (first % kSpan<E> == V0 && width == NV) {
    mix<E, ROWS, V0, NV, T>(p, p_stride, alpha, v + (first - V0) * kLanes, v_stride, tokens, o + first * kLanes,
                            o_stride, ahead);
  } else if (first % kSpan<E> == V0) {
    if constexpr (NV > kUnit)
      mix_slice<E, ROWS, T, V0, NV - kUnit>(first, width, p, p_stride, alpha, v, v_stride, tokens, o, o_stride, ahead);
  } else if constexpr (V0 + kUnit < kSpan<E>) {
    mix_slice<E, ROWS, T, V0 + kUnit, NV>(first, width, p, p_stride, alpha, v, v_stride, tokens, o, o_stride, ahead);
  }
}

// f(row, rows) for each tile of R rows that meets values of E: the first one, and how many.
template <class E, int R, class F>
MMB_OP void each_mix_tile(const F& f) {
  constexpr int kRows = mix_rows<E>(R);
  for (int row = 0; row + kRows <= R; row += kRows) f(row, std::integral_constant<int, kRows>());
  if constexpr (R % kRows) f(R / kRows * kRows, std::integral_constant<int, R % kRows>());
}

// ---- A tile of query rows

// What one thread needs while it works on a tile.
struct Workspace {
  float* q;                                    // packed
  float* s;                                    // scores, then weights, of one block
  float* alpha;                                // per lane
  int32_t* limit;                              // per lane: tokens that the row sees
  float* wide;                                 // widened keys of few rows, kWideBytes
  bf16 *weights = nullptr, *values = nullptr;  // of one block, as the matrix unit's operands
};

// The panel of kPanelRows rows from `row` on, [dk][rows]; the last one has kLanes rows where that is enough.
MMB_OP void pack_panel(const Rows& rows, const Tile& tile, int64_t row, float* packed) {
  const int64_t dk = rows.a.dk, width = min_of(kPanelRows, round_up(tile.rows - row, kLanes));
  for (int64_t lane = 0; lane < width; lane += kLanes) {
    const Queries<kLanes> queries(rows, tile, row + lane);
    for (int64_t i = 0; i < dk; i += kLanes) {
      const int64_t columns = min_of(kLanes, dk - i);
      Vec v[kLanes];
      MMB_UNROLL
      for (int r = 0; r < kLanes; ++r) v[r] = queries.load(r, i);
      transpose(v);
      float* out = packed + i * width + lane;
      for (int64_t c = 0; c < columns; ++c) store(out + c * width, v[c]);
    }
  }
}

// As dots reads them; absent rows are zero.
template <class E, int R>
MMB_OP void pack_rows(const Rows& rows, const Tile& tile, float* packed) {
  constexpr int kWidth = kSpan<E> * kLanes;
  const Queries<R> queries(rows, tile, 0);
  for (int64_t i = 0; i < rows.a.dk; i += kWidth, packed += R * kWidth) {
    for (int r = 0; r < R; ++r) {
      Vec v[kSpan<E>];
      MMB_UNROLL
      for (int part = 0; part < kSpan<E>; ++part) v[part] = queries.load(r, i + part * kLanes);
      if constexpr (kSpan<E> == 2) unzip(v[0], v[1], v[0], v[1], Lanes());
      MMB_UNROLL
      for (int part = 0; part < kSpan<E>; ++part) store(packed + (part * R + r) * kLanes, v[part]);
    }
  }
}

// As strips reads them, dims in the order of pack_rows: of every kLanes rows one after the other in as many vectors as their
// strips fill. Absent rows are zero.
template <class E, int R>
MMB_OP void pack_strips(const Rows& rows, const Tile& tile, float* packed) {
  constexpr int kDims = StripTile<E, R>::kDims, NV = StripTile<E, R>::kVecs, kEach = R > kLanes ? kDims : NV;
  pack_rows<E, R>(rows, tile, packed);
  for (int64_t i = 0; i < round_up(rows.a.dk, kSpan<E> * kLanes); i += kLanes, packed += R * kLanes) {
    float lines[R * kLanes];
    memcpy(lines, packed, sizeof lines);
    for (int r = 0; r < R; ++r)
      for (int strip = 0; strip < kLanes / kDims; ++strip)
        memcpy(packed + (strip * NV + r / kLanes * kEach + r % kEach) * kLanes + r % kLanes / kEach * kDims,
               lines + r * kLanes + strip * kDims, 4 * kDims);
  }
}

// One panel of NV vectors of rows, of which `real` exist, over a block. Rows that see fewer tokens come first.
template <int NV>
MMB_OP void panel_step(const Rows& rows, int64_t real, const float* q, WideBlock& wide, const int32_t* limit,
                       const Workspace& w, const Partial& p, Memory k_ahead, Memory v_ahead) {
  constexpr int kWidth = NV * kLanes;
  const int64_t begin = wide.begin;
  const auto seen_by = [&](int64_t row) { return min_of(wide.count, limit[row] - begin); };
  const int64_t visible = seen_by(kWidth - 1);
  if (visible <= 0) return;
  score_panel<NV>(q, rows.a.dk, wide, limit, 0, visible, w.s, k_ahead);
  for (int64_t i = 0; i < kWidth; i += kLanes) {
    const int64_t seen = seen_by(i + kLanes - 1);
    if (seen > 0)
      softmax<1>(w.s + i, kWidth, seen, limit[i] < begin + seen, limits(limit + i, begin), p.m + i, p.l + i,
                 w.alpha + i);
  }
  const auto* v = static_cast<const float*>(wide.block.v);
  constexpr int kRows = mix_rows<float>(kWidth);
  const int64_t vectors = ceil_div(rows.a.dv, kLanes), slices = ceil_div(vectors, max_vectors<float>(kRows)),
                row_tiles = ceil_div(real, kRows), ahead = v_ahead.bytes / (slices * row_tiles), step = ahead / visible;
  for (int64_t i = 0; i < slices; ++i) {
    const int64_t first = vectors * i / slices, width = vectors * (i + 1) / slices - first;
    each_mix_tile<float, kWidth>([&](int64_t row, auto of) {
      const int64_t seen = row < real ? seen_by(row + of - 1) : 0;
      if (seen <= 0) return;
      mix_slice<float, of, 1>(first, width, w.s + row, kWidth, w.alpha + row, v, wide.block.v_stride, seen,
                              p.o + row * rows.o_stride, rows.o_stride,
                              Prefetch{v_ahead.data + (i * row_tiles + row / kRows) * ahead, step});
    });
  }
}

MMB_OP void panels(const Rows& rows, const Tile& tile, const Loader& loader, int64_t begin, int64_t end,
                   const Workspace& w, const Partial& partial) {
  const int64_t lanes = round_up(tile.rows, kLanes), count_panels = ceil_div(tile.rows, kPanelRows);
  begin_rows(rows, tile, lanes, 1, w.limit, partial);
  for (int64_t t = begin; t < end; t += kBlock) {
    const int64_t count = min_of(kBlock, end - t), next = min_of(kBlock, end - t - count);
    WideBlock wide{loader, t, count};
    const Ahead ahead = loader.ahead(t + count, next);
    for (int64_t i = 0; i < count_panels; ++i) {
      const int64_t row = i * kPanelRows, real = min_of(kPanelRows, tile.rows - row);
      float* q = w.q + row * rows.a.dk;
      if (t == begin) pack_panel(rows, tile, row, q);
      const Partial p{partial.o + row * rows.o_stride, partial.m + row, partial.l + row};
      const Memory k_ahead = part(ahead.k, i, count_panels), v_ahead = part(ahead.v, i, count_panels);
      if (real > 2 * kLanes)
        panel_step<3>(rows, real, q, wide, w.limit + row, w, p, k_ahead, v_ahead);
      else if (real > kLanes)
        panel_step<2>(rows, real, q, wide, w.limit + row, w, p, k_ahead, v_ahead);
      else
        panel_step<1>(rows, real, q, wide, w.limit + row, w, p, k_ahead, v_ahead);
    }
  }
}

template <class E, int R>
MMB_OP void few_rows(const Rows& rows, const Tile& tile, const Loader& loader, int64_t begin, int64_t end,
                     const Workspace& w, const Partial& partial) {
  constexpr int T = tokens_beside(R), kRows = mix_rows<E>(R), kWidth = kSpan<E> * kLanes;
  constexpr int64_t kUnit = slice_unit<E>(kRows);
  const int64_t k_spans = ceil_div(rows.a.dk, kWidth), v_spans = ceil_div(rows.a.dv, kWidth),
                units = v_spans * kSpan<E> / kUnit, slices = ceil_div(units * kUnit, max_vectors<E>(kRows));
  VecInt offset;
  for (int lane = 0; lane < kLanes; ++lane) offset[lane] = lane % T;
  constexpr bool kStrips = kLanes > 4 && 2 * R >= kLanes;  // of four lanes, strips are dots
  if constexpr (kStrips)
    pack_strips<E, R>(rows, tile, w.q);
  else
    pack_rows<E, R>(rows, tile, w.q);
  begin_rows(rows, tile, R * T, T, w.limit, partial);
  for (int64_t t = begin; t < end; t += kBlock) {
    const int64_t count = min_of(kBlock, end - t), vectors = ceil_div(count, T);
    const Block block = kIsScaled<E> ? loader.unscaled(t, count) : loader.stored(t, count);
    const auto* k = static_cast<const E*>(block.k);
    const auto* v = static_cast<const E*>(block.v);
    // What to prefetch beside part `index` of `parts` of the keys or values. Dots read in order and wait for memory; beside
    // strips there is time to fetch the next block, from several places.
    const Ahead next = loader.ahead(t + count, kBlock);
    const auto fetches = [&](const E* block_data, const Memory& memory, int64_t index, int64_t parts) {
      const int64_t done = memory.bytes * index / parts;
      if constexpr (kStrips) {
        constexpr int kStreams = kWidth * static_cast<int>(sizeof(E)) / 16;
        return streams<kStreams>(memory, done);
      } else {
        return Sequence{reinterpret_cast<const char*>(block_data) + done};
      }
    };
    if constexpr (kStrips) {
      const int64_t k_slices = ceil_div(k_spans, StripTile<E, R>::kMostSpans);
      for (int64_t i = 0; i < k_slices; ++i) {
        const Share dims{k_spans * i / k_slices * kWidth, k_spans * (i + 1) / k_slices * kWidth};
        strips<E, R>(w.q + dims.begin * R, block, dims, rows.a.dv, count, i > 0, w.s, w.wide,
                     streams<StripTile<E, R>::kStreams>(next.k, next.k.bytes * i / k_slices));
      }
    } else
      dots<E, R>(w.q, k_spans, k, block.k_stride, count, w.s, fetches(k, next.k, 0, 1));
    const VecInt present = static_cast<int32_t>(count) - offset;
    for (int64_t i = 0; i < R * T; i += kLanes) {
      const VecInt seen = limits(w.limit + i, t);
      softmax<T>(w.s + i, R * T, vectors, vectors * T > count || w.limit[i] < t + count,
                 seen < present ? seen : present, partial.m + i, partial.l + i, w.alpha + i);
    }
    if constexpr (kIsScaled<E>) {
      static_assert(T == 1);
      for (int64_t i = 0; i < count; ++i) store(w.s + i * kLanes, block.scales[i] * load(w.s + i * kLanes));
    }
    for (int64_t i = 0; i < slices; ++i) {
      const int64_t first = units * i / slices * kUnit, width = units * (i + 1) / slices * kUnit - first;
      each_mix_tile<E, R>([&](int64_t r, auto of) {
        const auto mix = [&](auto ahead) {
          mix_slice<E, of, T>(first, width, w.s + r * T, R * T, w.alpha + r * T, v, block.v_stride, count,
                              partial.o + r * rows.o_stride, rows.o_stride, ahead);
        };
        if (r == 0)
          mix(fetches(v, next.v, i, slices));
        else if constexpr (R > kRows)
          if (r < tile.rows) mix(NoPrefetch());
      });
    }
  }
  if constexpr (kSpan<E> == 2) {
    for (float* o = partial.o; o < partial.o + R * rows.o_stride; o += kWidth) {
      Vec a = load(o), b = load(o + kLanes);
      zip(a, b, a, b, Lanes());
      store(o, a);
      store(o + kLanes, b);
    }
  }
  if constexpr (T > 1) {
    const Vec l = sum_of_lanes<T>(load(partial.l)), m = load(partial.m);
    for (int64_t r = 0; r < R; ++r) {
      partial.l[r] = l[r * T];
      partial.m[r] = m[r * T];
    }
  }
}

// Queries as unit_scores reads them, [tile of 16 rows][step][term][16 pairs of dims][16 rows][2]; absent rows and dims are
// zero.
MMB_OP void pack_query_terms(const Rows& rows, const Tile& tile, bf16* packed) {
  const int64_t steps = ceil_div(rows.a.dk, kTileColumns);
  for (int64_t row = 0; row < round_up(tile.rows, kTileRows); row += kLanes) {
    const Queries<kLanes> queries(rows, tile, row);
    bf16* tile_of_rows = packed + row / kTileRows * steps * kQueryTerms * kTileElements + row % kTileRows * 2;
    for (int64_t i = 0; i < steps * kTileColumns; i += kLanes) {
      Vec v[kLanes];
      MMB_UNROLL
      for (int r = 0; r < kLanes; ++r) v[r] = queries.load(r, i);
      transpose(v);
      bf16* out = tile_of_rows + i / kTileColumns * kQueryTerms * kTileElements + i % kTileColumns * kTileRows;
      MMB_UNROLL
      for (int c = 0; c < kLanes; c += 2) {
        HalfBits even[kQueryTerms], odd[kQueryTerms];
        split(v[c], even);
        split(v[c + 1], odd);
        MMB_UNROLL
        for (int term = 0; term < kQueryTerms; ++term) {
          const VecBits pair =
              __builtin_convertvector(even[term], VecBits) | __builtin_convertvector(odd[term], VecBits) << 16;
          memcpy(out + term * kTileElements + c * kTileRows, &pair, sizeof pair);
        }
      }
    }
  }
}

// o *= alpha for 16 rows; most blocks change no row's maximum.
MMB_OP void rescale(const float* alpha, float* o, int64_t o_stride) {
  for (int64_t r = 0; r < kTileRows; ++r, o += o_stride) {
    if (alpha[r] == 1.f) continue;
    const Vec a = broadcast(alpha[r]);
    for (int64_t i = 0; i < o_stride; i += kLanes) store(o + i, a * load(o + i));
  }
}

// f(index, first dim, dims) for each group of a key's dims that shares a scale: those of values, then the others.
template <class F>
MMB_OP void each_group(const Block& block, int64_t dk, int64_t dv, const F& f) {
  if (!block.scales) return f(0, 0, dk);
  const int64_t groups = ceil_div(dv, block.group);
  for (int64_t g = 0; g < groups; ++g) f(g, g * block.group, min_of(block.group, dv - g * block.group));
  if (dk > dv) f(groups, dv, dk - dv);
}

// 16 rows at a time on the matrix unit (tiles.h).
template <class Unit>
MMB_OP void unit_rows(const Rows& rows, const Tile& tile, const Loader& loader, int64_t begin, int64_t end,
                      const Workspace& w, const Partial& partial) {
  const int64_t steps = ceil_div(rows.a.dk, kTileColumns), dim_tiles = ceil_div(rows.a.dv, kTileRows),
                row_tiles = ceil_div(tile.rows, kTileRows), dim_groups = ceil_div(dim_tiles, kTileSums);
  auto* q = reinterpret_cast<bf16*>(w.q);
  pack_query_terms(rows, tile, q);
  begin_rows(rows, tile, row_tiles * kTileRows, 1, w.limit, partial);
  Unit unit(kTileRows);
  for (int64_t t = begin; t < end; t += kBlock) {
    const int64_t count = min_of(kBlock, end - t), next = min_of(kBlock, end - t - count);
    const Block block = loader.unscaled(t, count);
    const auto* k = static_cast<const bf16*>(block.k);
    const Ahead ahead = loader.ahead(t + count, next);
    pair_values(static_cast<const bf16*>(block.v), block.v_stride, rows.a.dv, count, w.values,
                block_ahead(ahead.v, round_up(count, kTileColumns) / 2));
    const int64_t score_steps = ceil_div(count, 3 * kTileRows) * steps,
                  mix_steps = dim_groups * ceil_div(count, kTileColumns);
    BlockAhead k_ahead = block_ahead(ahead.k, row_tiles * (score_steps + mix_steps));
    for (int64_t r = 0; r < row_tiles; ++r) {
      const int64_t row = r * kTileRows, visible = min_of(count, w.limit[row + kTileRows - 1] - t);
      if (visible <= 0) continue;
      const int64_t token_tiles = ceil_div(visible, kTileRows), value_steps = ceil_div(visible, kTileColumns);
      for (int64_t i = 0; i < token_tiles; i += 3)
        with_tiles<3>(min_of(3, token_tiles - i), [&](auto tiles) {
          alignas(64) float part[tiles * kTileRows * kTileRows];
          float* s = w.s + i * kTileRows * kTileRows;
          each_group(block, rows.a.dk, rows.a.dv, [&](int64_t g, int64_t dim, int64_t dims) {
            unit_scores<Unit, tiles>(unit, q + (r * steps + dim / kTileColumns) * kQueryTerms * kTileElements,
                                     ceil_div(dims, kTileColumns), k + i * kTileRows * block.k_stride + dim,
                                     block.k_stride, block.scales ? part : s, k_ahead);
            if (block.scales)
              add_scaled_scores(part, block.scales + g * kBlock + i * kTileRows, tiles * kTileRows, g == 0, s);
          });
        });
      for (int64_t i = 0; i < kTileRows; i += kLanes)
        softmax<1>(w.s + i, kTileRows, visible, w.limit[row + i] < t + visible, limits(w.limit + row + i, t),
                   partial.m + row + i, partial.l + row + i, w.alpha + i);
      for (int64_t i = visible * kTileRows; i < value_steps * kTileColumns * kTileRows; i += kLanes)
        store(w.s + i, Vec{});
      float* o = partial.o + row * rows.o_stride;
      rescale(w.alpha, o, rows.o_stride);
      each_group(block, rows.a.dv, rows.a.dv, [&](int64_t g, int64_t dim, int64_t dims) {
        split_weights(w.s, block.scales ? block.scales + g * kBlock : nullptr, value_steps * kTileColumns, w.weights);
        const int64_t last = ceil_div(dim + dims, kTileRows);
        for (int64_t i = dim / kTileRows; i < last; i += kTileSums)
          with_tiles<kTileSums>(min_of(kTileSums, last - i), [&](auto tiles) {
            unit_mix<Unit, tiles>(unit, w.weights, w.values + i * kTileElements, dim_tiles * kTileElements, value_steps,
                                  o + i * kTileRows, rows.o_stride, k_ahead);
          });
      });
    }
  }
}

// Rows that are few. 8 lanes take twice as many in strips, but of f32, which panels need not widen (strips: 0.88 to 0.97 of
// their speed).
template <class E>
constexpr int kFewRows = kLanes == 8 && kSpan<E> > 1 ? 16 : kLanes;

template <class E>
MMB_OP void few_rows(const Rows& rows, const Tile& tile, const Loader& loader, int64_t begin, int64_t end,
                     const Workspace& w, const Partial& p) {
  if constexpr (kFewRows<E> >= 16)
    if (tile.rows > 8) return few_rows<E, 16>(rows, tile, loader, begin, end, w, p);
  if constexpr (kFewRows<E> >= 8)
    if (tile.rows > 4) return few_rows<E, 8>(rows, tile, loader, begin, end, w, p);
  if (tile.rows > 2) return few_rows<E, 4>(rows, tile, loader, begin, end, w, p);
  if (tile.rows > 1) return few_rows<E, 2>(rows, tile, loader, begin, end, w, p);
  few_rows<E, 1>(rows, tile, loader, begin, end, w, p);
}

constexpr int64_t kMostLanes = kPanelRows > kTileRows ? kPanelRows : kTileRows;  // rows side by side, in any kernel
constexpr int64_t kUnitRows = 9;  // fewer fill the tiles so little that dots are faster

// Tokens [begin, end) for the rows of a tile.
template <class Unit>
MMB_OP void attend_tile(const Rows& rows, const Tile& tile, const Loader& loader, int64_t begin, int64_t end,
                        const Workspace& w, const Partial& p) {
  loader.select(tile.sequence, tile.kv_head);
  if constexpr (kHasTiles)
    if (tile.rows >= kUnitRows && loader.unscaled_type == DType::bf16)
      return unit_rows<Unit>(rows, tile, loader, begin, end, w, p);
  if constexpr (!kHasTiles && kLanes == 16)  // of fewer rows mix widens values several times
    if (tile.rows > kLanes / 2 && tile.rows <= kLanes && loader.unscaled_type == DType::int8)
      return few_rows<int8, kLanes>(rows, tile, loader, begin, end, w, p);
  const bool f32 = loader.stored_type == DType::f32;
  if (tile.rows > (f32 ? kFewRows<float> : kFewRows<bf16>))
    panels(rows, tile, loader, begin, end, w, p);
  else if (f32)
    few_rows<float>(rows, tile, loader, begin, end, w, p);
  else
    few_rows<bf16>(rows, tile, loader, begin, end, w, p);
}

template <class T>
MMB_OP void attend_cache(const AttentionShape& shape, const AttentionArgs& args) {
  const int64_t nkv = shape.num_key_value_heads, dk = shape.qk_head_dim, dv = shape.v_head_dim;
  Scratch scratch;
  Cache<T> cache{static_cast<const T*>(args.k),
                 static_cast<const T*>(args.v),
                 nkv,
                 args.capacity,
                 dk,
                 dv,
                 dk,
                 dv,
                 scratch.own<float>(cache_scratch(dk, dv))};
  attend({args.sequences, shape.num_attention_heads, nkv, dk, dv, args.q, args.scale, args.out, tile_rows_for(dk, dv)},
         cache);
}

}  // namespace

void attention_decode_core(const Attention& problem, const Loader& loader) noexcept {
  const Rows rows(problem);
  const int64_t most = round_up(rows.most(), kMostLanes);

  Scratch scratch;
  Workspace work{.q = scratch.own<float>(most * round_up(problem.dk, kTileColumns) * kTerms<float> / 2),
                 .s = scratch.own<float>(kBlock * kMostLanes),
                 .alpha = scratch.own<float>(kMostLanes),
                 .limit = scratch.own<int32_t>(most),
                 .wide = scratch.own<float>(kWideBytes / 4)};
  if constexpr (kHasTiles) {
    work.weights = scratch.own<bf16>(kBlock * kTileRows * kTerms<float>);
    work.values = scratch.own<bf16>(kBlock * round_up(problem.dv, kTileRows));
  }
  attend_tiles(rows, most, [&](const Tile& tile, int64_t begin, int64_t end, const Partial& partial) {
    attend_tile<TileUnit>(rows, tile, loader, begin, end, work, partial);
  });
}

void attention_decode(const AttentionShape& shape, const AttentionArgs& args) noexcept {
  team([&] {
    if (args.cache_dtype == DType::f32)
      attend_cache<float>(shape, args);
    else
      attend_cache<bf16>(shape, args);
  });
}

}  // namespace mmb::MMB_IMPL
