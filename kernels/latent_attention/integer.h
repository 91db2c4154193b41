// Latent attention over an int8 cache in dot products of bytes: u8 times s8, four at a time, summed in int32.
//   Scores   a head's query is rounded to int8, its latent and its rope part with a scale of each; the cache's rows are what
//            they are. A sum of either part times the token's scale and the query's is the score in f32.
//   Weights  exp2 of scores relative to the running maximum, times the token's scale, rounded to u8 in units of 1/255 of the
//            row's largest in the block. What they are divided by in the end is the sum of the unrounded.
//   Signs    one operand of a dot is unsigned: a key is stored as c + 128, and 128 times the query's sum is taken off. A scale
//            may be negative: its token's values are stored as ~c = -c - 1, and its weights' sum is added.
// Rounding: of a query element at most 1/254 of the part's largest, of a weight 1/510 of the block's largest; sums are exact
// up to 2^16 dims, and o is kept in f32. What becomes of it in the output: LatentAttention::tolerance (table.cpp).
// Bound: the dots: V3's 128 heads ask 2 * 128 * 1088 FLOPs of a row of 584 bytes.
// Blocking: 192 tokens: keys 108 KB and values 96 KB, laid out once for all rows of a tile; of 128 rows, q is 72 KB, o 256 KB,
// sums, scores and weights of a few tiles of rows 80 KB: in L2. Split: query_rows.h.
// Layouts, of 16 rows or dims side by side, so that a line is one operand of both a VNNI dot and a matrix unit:
//   q        s8 [tile of 16 rows][step of 4 dims][16 rows][4]; each part padded with zeros to whole multiples of 64 dims
//   keys     u8 [token][latent, then rope], padded likewise with anything
//   values   s8 [tile of 16 dims][step of 4 tokens][16 dims][4]
//   weights  u8 [tile of 16 rows][step of 4 tokens][16 rows][4]
#pragma once

#include "../query_rows.h"
#include "mmb/latent_attention.h"

namespace mmb {
namespace MMB_IMPL {
namespace {

constexpr int64_t kTokens = 192;                             // of a block; a multiple of every tile of tokens
constexpr int64_t kWide = 64;                                // dims that parts are padded to, tokens that weights are
constexpr int64_t kLine = 16;                                // rows, or dims, side by side
constexpr int64_t kSums = kTokens * kLine;                   // sums, scores or weights of a tile of rows
constexpr int64_t kValueTile = kTokens * kLine;              // bytes
constexpr int kLineVecs = static_cast<int>(kLine) / kLanes;  // of four bytes to a row or dim
constexpr float kFarthest = -100;               // from the maximum: weights times scales stay normal numbers
constexpr uint32_t kIntegerBits = 0x4b400000u;  // of kToInteger

// Vector `vec` of rows, or dims, of tiles `apart` bytes apart.
MMB_OP int64_t place_of(int64_t vec, int64_t apart) {
  return vec / kLineVecs * apart + vec % kLineVecs * 4 * kLanes;
}

// Padded dims of the two parts of a row.
struct Parts {
  int64_t latent, rope;
  MMB_OP explicit Parts(const LatentRow& row) : latent(round_up(row.latent, kWide)), rope(round_up(row.rope, kWide)) {}
  MMB_OP int64_t width() const { return latent + rope; }
};

// What the rows of a tile need beside q, in arrays of a float or int32 for each row.
struct RowFacts {
  float *latent_unit, *rope_unit;      // of a sum in scores, which are times log2(e)
  int32_t *latent_start, *rope_start;  // -128 times the query's sum: where its sums start
  int32_t* limit;                      // tokens that it sees
};

// Of a few tiles of rows and one block, an element for each row but of the weights.
struct Mixing {
  uint32_t* weights;    // kSums bytes for each tile
  float *alpha, *unit;  // what earlier results must be multiplied by, what a sum of products with rounded weights is
  int32_t* start;       // the weights of tokens with negative scales
};

struct TokenBlock {
  uint8_t* keys;
  int8_t* values;
  float *latent_scale, *rope_scale;
  uint32_t* negative;  // for every four tokens: bytes of ones for those whose values are stored as ~c
};

struct Workspace {
  int8_t* q;
  RowFacts facts;
  TokenBlock block;
  int32_t *latent_sums, *rope_sums;  // [3 tiles of rows][token][16]
  Mixing mixing;
};

// ---- Queries

// One part of one row, rounded: `count` elements of `padded`. Returns its unit and the sum of what it stored.
MMB_OP float round_part(const float* q, int64_t count, int64_t padded, int8_t* out, int32_t& sum) {
  const auto element = [&](int64_t i) {
    return count - i >= kLanes ? load(q + i) : count > i ? load_partial(q + i, count - i) : Vec{};
  };
  Vec largest = {};
  for (int64_t i = 0; i < count; i += kLanes) largest = max(largest, magnitude(element(i)));
  const float most = reduce_max(largest), inverse = most > kLeast ? 127 / most : 0;
  Vec total = {};
  for (int64_t i = 0; i < padded; i += kLanes) {
    const Vec shifted = fma(element(i), broadcast(inverse), broadcast(kToInteger));
    const ByteBits bytes = low_bytes((VecInt)shifted);
    memcpy(out + i, &bytes, sizeof bytes);
    total += shifted - kToInteger;
  }
  sum = static_cast<int32_t>(reduce_add(total));
  return most / 127;
}

// The queries of a tile; absent rows are zero. `lines` has room for kLine padded rows.
MMB_OP void round_queries(const Rows& rows, const Tile& tile, const LatentRow& row, const Parts& parts, int8_t* lines,
                          const Workspace& w) {
  const float to_log2 = rows.a.scale * kLog2e;
  const int64_t width = parts.width();
  for (int64_t first = 0; first < round_up(tile.rows, kLine); first += kLine) {
    for (int64_t r = 0; r < kLine; ++r) {
      int8_t* line = lines + r * width;
      const int64_t index = first + r, exist = index < tile.rows;
      const float* q = query(rows, tile, exist ? index : 0);
      int32_t sums[2];
      w.facts.latent_unit[index] = to_log2 * round_part(q, exist * row.latent, parts.latent, line, sums[0]);
      w.facts.rope_unit[index] =
          to_log2 * round_part(q + row.latent, exist * row.rope, parts.rope, line + parts.latent, sums[1]);
      w.facts.latent_start[index] = -128 * sums[0];
      w.facts.rope_start[index] = -128 * sums[1];
    }
    int8_t* out = w.q + first * width;
    for (int64_t i = 0; i < width; i += 4 * kLanes) {
      for (int64_t r = 0; r < kLine; r += kLanes) {
        Vec v[kLanes];
        MMB_UNROLL
        for (int lane = 0; lane < kLanes; ++lane) memcpy(&v[lane], lines + (r + lane) * width + i, sizeof(Vec));
        transpose(v);
        MMB_UNROLL
        for (int lane = 0; lane < kLanes; ++lane) memcpy(out + (i + 4 * lane) * kLine + 4 * r, &v[lane], sizeof(Vec));
      }
    }
  }
}

// ---- A block of tokens

// Tokens of `rows`; those from `count` to the next multiple of kWide are zero values.
[[gnu::noinline]] void lay_out(const LatentRow& row, const Parts& parts, const uint8_t* rows, int64_t count,
                               const TokenBlock& block) {
  const int64_t bytes = row.bytes(), width = parts.width();
  for (int64_t t = 0; t < round_up(count, kWide); t += 4) {
    const int64_t exist = count - t;
    uint32_t negative = 0;
    for (int64_t j = 0; j < 4 && j < exist; ++j) {
      float scales[2];
      memcpy(scales, rows + (t + j) * bytes + row.scales(), sizeof scales);
      block.latent_scale[t + j] = scales[0];
      block.rope_scale[t + j] = scales[1];
      if (scales[0] < 0) negative |= 0xffu << 8 * j;
    }
    block.negative[t / 4] = negative;
    const auto elements = [&](int64_t j, int64_t i, int64_t end) {
      return load_bytes(rows + (t + j) * bytes + i, j < exist ? end - i : 0);
    };
    uint8_t* const keys = block.keys + t * width;
    const auto store_key = [&](int64_t j, int64_t i, VecBytes v) {
      v ^= 0x80;
      memcpy(keys + j * width + i, &v, sizeof v);
    };
    for (int64_t vec = 0; vec < parts.latent / kLanes; vec += 4) {
      const int64_t i = vec * kLanes;
      VecBytes v[4];
      MMB_UNROLL
      for (int j = 0; j < 4; ++j) {
        v[j] = elements(j, i, row.latent);
        store_key(j, i, v[j]);
        v[j] ^= static_cast<uint8_t>(negative >> 8 * j);
      }
      interleave(v);
      int8_t* const to = block.values + place_of(vec, kValueTile) + t * kLine;
      MMB_UNROLL
      for (int j = 0; j < 4; ++j) memcpy(to + place_of(j, kValueTile), &v[j], sizeof v[j]);
    }
    for (int64_t i = 0; i < parts.rope; i += 4 * kLanes)
      for (int64_t j = 0; j < 4; ++j)
        store_key(j, parts.latent + i, elements(j, row.latent + i, row.latent + row.rope));
  }
}

// ---- Softmax

// One step of the online softmax for kLanes rows: their sums become weights of `tokens` tokens, of which a row sees those
// below its `limit`, and of `padded` in all, a multiple of four.
template <bool kMasked>
MMB_OP void weigh_rows(int32_t* latent, const int32_t* rope, int64_t tokens, int64_t padded, const TokenBlock& block,
                       Vec latent_unit, Vec rope_unit, VecInt limit, float* m, float* l, uint32_t* weights,
                       float* alpha, float* unit, int32_t* start) {
  const auto sum = [](const int32_t* p) { return __builtin_convertvector(load_ints(p), Vec); };
  auto* s = reinterpret_cast<float*>(latent);
  const Vec before = load(m);
  Vec best = before;
  for (int64_t t = 0; t < tokens; ++t) {
    Vec x = fma(sum(latent + t * kLine), latent_unit * block.latent_scale[t],
                sum(rope + t * kLine) * (rope_unit * block.rope_scale[t]));
    if constexpr (kMasked) x = VecInt{} + static_cast<int32_t>(t) < limit ? x : broadcast(kLowest);
    store(s + t * kLine, x);
    best = max(x, best);
  }
  Vec total = {}, largest = {};
  for (int64_t t = 0; t < tokens; ++t) {
    Vec p = exp2(max(load(s + t * kLine) - best, broadcast(kFarthest)));
    if constexpr (kMasked) p = VecInt{} + static_cast<int32_t>(t) < limit ? p : Vec{};
    total += p;
    p *= block.latent_scale[t] < 0 ? -block.latent_scale[t] : block.latent_scale[t];
    store(s + t * kLine, p);
    largest = max(p, largest);
  }
  for (int64_t t = tokens; t < padded; ++t) store(s + t * kLine, Vec{});
  const Vec scale = exp2(before - best), kept = largest > kLeast ? largest : Vec{},
            inverse = largest > kLeast ? 255.f / largest : Vec{};
  store(m, best);
  store(l, fma(load(l), scale, total));
  store(alpha, scale);
  store(unit, kept * (1.f / 255));
  VecBits turned = {};  // 16 bits for the tokens of even number, and 16 for those of odd
  for (int64_t t = 0; t < padded; t += 4) {
    VecBits four = {};
    MMB_UNROLL
    for (int j = 0; j < 4; ++j)
      four += ((VecBits)fma(load(s + (t + j) * kLine), inverse, broadcast(kToInteger)) - kIntegerBits) << (8 * j);
    memcpy(weights + t / 4 * kLine, &four, sizeof four);
    four &= block.negative[t / 4];
    turned += (four & 0x00ff00ffu) + (four >> 8 & 0x00ff00ffu);
  }
  turned = (turned & 0xffffu) + (turned >> 16);
  memcpy(start, &turned, sizeof turned);
}
static_assert(kTokens / 4 * 2 * 255 < 65536, "sums of weights fit in 16 bits");

// `tiles` tiles of rows from `row` on, of which the last row sees `visible` tokens of the block.
MMB_OP void weigh(int64_t row, int64_t tiles, int64_t begin, int64_t visible, const Workspace& w, const Partial& p) {
  for (int64_t i = 0; i < tiles * kLine; i += kLanes) {
    const int32_t* limit = w.facts.limit + row + i;
    const int64_t at = i / kLine * kSums + i % kLine;
    const auto step = [&](auto masked) {
      weigh_rows<masked>(w.latent_sums + at, w.rope_sums + at, visible, round_up(visible, kWide), w.block,
                         load(w.facts.latent_unit + row + i), load(w.facts.rope_unit + row + i), limits(limit, begin),
                         p.m + row + i, p.l + row + i, w.mixing.weights + i / kLine * kSums / 4 + i % kLine,
                         w.mixing.alpha + i, w.mixing.unit + i, w.mixing.start + i);
    };
    if (limit[0] < begin + visible)
      step(std::true_type());
    else
      step(std::false_type());
  }
}

// ---- A tile of query rows

// Dots, a level's arithmetic, takes up to kRowTiles tiles of rows at a time:
//   scores<n>(q, apart, dims, keys, stride, start, tokens, sums, ahead)
//       sums[i][token][16] = start[i] + q[i] keys, the q of n tiles `apart` bytes apart; prefetches `ahead`
//   mix(mixing, values, dims, tokens, rows, o, stride)
//       o = alpha * o + unit * (start + weights values) for `rows` rows; dims are a multiple of 16
template <class Dots>
MMB_OP void attend_tile(Dots& dots, const Rows& rows, const Tile& tile, const LatentRow& row, const uint8_t* cache,
                        int64_t begin, int64_t end, const Workspace& w, const Partial& partial) {
  const Parts parts(row);
  const int64_t width = parts.width(), row_tiles = ceil_div(tile.rows, kLine), dims = round_up(row.latent, kLine);
  round_queries(rows, tile, row, parts, reinterpret_cast<int8_t*>(w.block.keys), w);
  begin_rows(rows, tile, row_tiles * kLine, 1, w.facts.limit, partial);
  for (int64_t t = begin; t < end; t += kTokens) {
    const int64_t count = min_of(kTokens, end - t), next = min_of(kTokens, end - t - count);
    const uint8_t* first = cache + t * row.bytes();
    lay_out(row, parts, first, count, w.block);
    const Memory ahead{reinterpret_cast<const char*>(first) + count * row.bytes(), next * row.bytes()};
    const int64_t groups = ceil_div(row_tiles, Dots::kRowTiles);
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t i = group * Dots::kRowTiles;
      const int64_t first_row = i * kLine, tiles = min_of(Dots::kRowTiles, row_tiles - i),
                    visible = min_of(count, w.facts.limit[(i + tiles) * kLine - 1] - t);
      if (visible <= 0) continue;
      with_tiles<Dots::kRowTiles>(tiles, [&](auto n) {
        const int8_t* q = w.q + first_row * width;
        dots.template scores<n>(q, kLine * width, parts.latent, w.block.keys, width, w.facts.latent_start + first_row,
                                visible, w.latent_sums, part(ahead, group, groups));
        dots.template scores<n>(q + parts.latent * kLine, kLine * width, parts.rope, w.block.keys + parts.latent, width,
                                w.facts.rope_start + first_row, visible, w.rope_sums, Memory{ahead.data, 0});
      });
      weigh(first_row, tiles, t, visible, w, partial);
      dots.mix(w.mixing, w.block.values, dims, round_up(visible, kWide), min_of(tiles * kLine, tile.rows - first_row),
               partial.o + first_row * rows.o_stride, rows.o_stride);
    }
  }
}

template <class Dots>
MMB_OP void attend_integers(const LatentAttention::Shape& shape, const LatentAttention::Args& args) {
  const int64_t R = shape.kv_lora_rank, D = shape.qk_rope_head_dim;
  const LatentRow row{args.cache_dtype, R, D};
  const Attention attention{args.sequences, shape.num_attention_heads, 1, R + D, R, args.q, args.scale,
                            args.out,       tile_rows_for(R + D, R)};
  const Rows rows(attention);
  const int64_t most = round_up(rows.most(), kLine), width = Parts(row).width();
  Scratch scratch;
  const Workspace w{
      .q = scratch.own<int8_t>(most * width),
      .facts = {scratch.own<float>(most), scratch.own<float>(most), scratch.own<int32_t>(most),
                scratch.own<int32_t>(most), scratch.own<int32_t>(most)},
      .block = {scratch.own<uint8_t>(kTokens * width), scratch.own<int8_t>(kTokens * round_up(R, kWide)),
                scratch.own<float>(kTokens), scratch.own<float>(kTokens), scratch.own<uint32_t>(kTokens / 4)},
      .latent_sums = scratch.own<int32_t>(Dots::kRowTiles * kSums),
      .rope_sums = scratch.own<int32_t>(Dots::kRowTiles * kSums),
      .mixing = {scratch.own<uint32_t>(Dots::kRowTiles * kSums / 4), scratch.own<float>(Dots::kRowTiles * kLine),
                 scratch.own<float>(Dots::kRowTiles * kLine), scratch.own<int32_t>(Dots::kRowTiles * kLine)}};
  Dots dots;
  attend_tiles(rows, most, [&](const Tile& tile, int64_t begin, int64_t end, const Partial& partial) {
    const auto* cache = static_cast<const uint8_t*>(args.cache) + tile.sequence * args.capacity * row.bytes();
    attend_tile(dots, rows, tile, row, cache, begin, end, w, partial);
  });
}

}  // namespace
}  // namespace MMB_IMPL
}  // namespace mmb
