// Query rows: how the work of attention is cut into tiles and into parts for threads, and how the parts' results come together.
// A *query row* is one (new token, head) pair; the rows of one sequence and one key-value head read the same tokens. A *tile*
// is some of those rows.
// Split: the (query row, seen token) pairs of the batch in the order sequence, key-value head, tile, token are cut into equal
// parts, one for each thread. A cut inside a tile leaves partial results, which are combined at the end.
#pragma once

#include "mmb/sequences.h"
#include "prefetch.h"
#include "team.h"
#include "tiles.h"

namespace mmb {
namespace MMB_IMPL {

struct Attention {
  Sequences sequences;
  int64_t heads, kv_heads, dk, dv;
  const float* q;  // [N, heads, dk]
  float scale;
  float* out;         // [N, heads, dv]
  int64_t tile_rows;  // at the most: more rows share the cost of a block, but their q and o have to stay in L2
};

namespace {

constexpr int kAccumulators = kRegisters * 3 / 4;  // of a register tile
constexpr int64_t kPanelRows = 3 * kLanes;         // query rows side by side
constexpr int64_t kChunk = 64;     // tokens: cuts within a context are multiples of this; preparing and combining a
                                   // partial result costs as much as about 20 tokens
constexpr float kLowest = -1e30f;  // a score that loses; finite, so that differences are never NaN

// Where N keys are read, `stride` apart: the addresses of every third, the next two being one and two strides on.
template <class T, int N>
class Keys {
 public:
  MMB_OP Keys(const T* first, int64_t stride) : stride_(stride) {
    MMB_UNROLL
    for (int i = 0; i < kThirds; ++i) thirds_[i] = first + 3 * i * stride;
  }
  MMB_OP const T* at(int i) const { return thirds_[i / 3] + i % 3 * stride_; }
  MMB_OP void advance(int64_t elements) {
    MMB_UNROLL
    for (int i = 0; i < kThirds; ++i) thirds_[i] += elements;
  }
  // In every step: simd.h.
  MMB_OP void forget_origins() {
    MMB_UNROLL
    for (int i = 0; i < kThirds; ++i) forget_origin(thirds_[i]);
  }

 private:
  static constexpr int kThirds = static_cast<int>(ceil_div(N, 3));
  const T* thirds_[kThirds];
  int64_t stride_;
};

// A tile size that keeps q and o within 640 KiB: 128 rows of latent attention, 512 of a dense head.
MMB_OP int64_t tile_rows_for(int64_t dk, int64_t dv) {
  const int64_t fit = (int64_t{640} << 10) / 4 / (dk + dv) / kPanelRows * kPanelRows;
  return fit < kPanelRows ? kPanelRows : fit > 512 ? 512 : fit;
}

// Running results of a tile: o [rows][o_stride], unnormalised, relative to the maximum m; l the sum of weights.
struct Partial {
  float *o, *m, *l;
};

struct Tile {
  int64_t sequence, kv_head, row, rows;  // rows [row, row + rows) of the sequence's (token, head of the group) pairs
  int64_t tokens;                        // that the last row sees
};

struct Rows {
  const Attention& a;
  int64_t group, o_stride;

  MMB_OP explicit Rows(const Attention& problem)
      : a(problem), group(a.heads / a.kv_heads), o_stride(round_up(a.dv, kTileColumns)) {}

  MMB_OP int64_t new_tokens(int64_t b) const { return a.sequences.first[b + 1] - a.sequences.first[b]; }
  MMB_OP int64_t count(int64_t b) const { return new_tokens(b) * group; }
  // Tokens that row `row` of sequence b sees.
  MMB_OP int64_t limit(int64_t b, int64_t row) const {
    return a.sequences.context[b] - new_tokens(b) + row / group + 1;
  }
  // The (token, head) pair that row `row` is, as an index into q's and out's rows.
  MMB_OP int64_t index(int64_t b, int64_t kv_head, int64_t row) const {
    return (a.sequences.first[b] + row / group) * a.heads + kv_head * group + row % group;
  }
  // Rows of a tile of sequence b: even tiles of whole panels.
  MMB_OP int64_t tile_height(int64_t b) const {
    return round_up(ceil_div(count(b), ceil_div(count(b), a.tile_rows)), kPanelRows);
  }
  // Rows of the largest tile.
  MMB_OP int64_t most() const {
    int64_t most = 1;
    for (int64_t b = 0; b < a.sequences.batch; ++b) most = tile_height(b) > most ? tile_height(b) : most;
    return most;
  }
  MMB_OP int64_t tiles(int64_t b) const { return ceil_div(count(b), tile_height(b)); }
  // Item `item` of sequence b: key-value head, then tile.
  MMB_OP Tile tile(int64_t b, int64_t item) const {
    const int64_t row = item % tiles(b) * tile_height(b), rows = min_of(tile_height(b), count(b) - row);
    return {b, item / tiles(b), row, rows, limit(b, row + rows - 1)};
  }
  // (row, seen token) pairs of the first `row` rows with the first `tokens` tokens.
  MMB_OP int64_t pairs(int64_t b, int64_t row, int64_t tokens) const {
    const int64_t past = a.sequences.context[b] - new_tokens(b), news = row / group,
                  beyond = min_of(tokens - past, news),
                  rising = beyond > 0 ? beyond : 0;  // new tokens that see fewer than `tokens`, or as many
    return group * (past * rising + rising * (rising + 1) / 2 + (news - rising) * tokens) +
           row % group * min_of(past + news + 1, tokens);
  }
  MMB_OP int64_t pairs(const Tile& tile, int64_t tokens) const {
    return pairs(tile.sequence, tile.row + tile.rows, tokens) - pairs(tile.sequence, tile.row, tokens);
  }
};

// The query of row `row` of a tile.
MMB_OP const float* query(const Rows& rows, const Tile& tile, int64_t row) {
  return rows.a.q + rows.index(tile.sequence, tile.kv_head, tile.row + row) * rows.a.dk;
}

// Those of N rows from `first` on, times the scale; zeros for absent rows and dims.
template <int N>
class Queries {
 public:
  MMB_OP Queries(const Rows& rows, const Tile& tile, int64_t first)
      : dk_(rows.a.dk), scale_(broadcast(rows.a.scale * kLog2e)) {
    for (int r = 0; r < N; ++r) rows_[r] = first + r < tile.rows ? query(rows, tile, first + r) : nullptr;
  }
  // Dims [i, i + kLanes) of row r.
  MMB_OP Vec load(int r, int64_t i) const {
    const int64_t left = rows_[r] ? dk_ - i : 0;
    if (left >= kLanes) return scale_ * MMB_IMPL::load(rows_[r] + i);
    return left > 0 ? scale_ * load_partial(rows_[r] + i, left) : Vec{};
  }

 private:
  int64_t dk_;
  Vec scale_;
  const float* rows_[N];
};

// Zero results for `lanes` lanes of T tokens each; lane r*T + j stops at its row's limit less j.
MMB_OP void begin_rows(const Rows& rows, const Tile& tile, int64_t lanes, int T, int32_t* limit, const Partial& p) {
  for (int64_t i = 0; i < lanes; i += kLanes) {
    store(p.m + i, broadcast(kLowest));
    store(p.l + i, Vec{});
  }
  for (int64_t i = 0; i < lanes / T * rows.o_stride; i += kLanes) store(p.o + i, Vec{});
  for (int64_t i = 0; i < lanes; ++i) {
    const int64_t row = min_of(i / T, tile.rows - 1);
    limit[i] = static_cast<int32_t>(rows.limit(tile.sequence, tile.row + row) - i % T);
  }
}

MMB_OP VecInt limits(const int32_t* limit, int64_t begin) {
  return load_ints(limit) - static_cast<int32_t>(begin);
}

// out = sum_i w_i o_i / sum_i w_i l_i with w_i = 2^(m_i - max m), for row `row` of a tile in `count` parts.
template <class Part>
MMB_OP void combine(const Rows& rows, const Tile& tile, int64_t row, int64_t count, const Part& part_at) {
  float best = kLowest;
  for (int64_t i = 0; i < count; ++i) best = part_at(i).m[row] > best ? part_at(i).m[row] : best;
  const auto weight_of = [&](int64_t i) {
    return count == 1 ? broadcast(1) : exp2(broadcast(part_at(i).m[row] - best));
  };
  Vec total = {};
  for (int64_t i = 0; i < count; ++i) total += weight_of(i) * part_at(i).l[row];
  const auto out_of = [&](int64_t r) {
    return rows.a.out + rows.index(tile.sequence, tile.kv_head, tile.row + min_of(r, tile.rows - 1)) * rows.a.dv;
  };
  float *const out = out_of(row), *const later = out_of(row + 4);  // a prompt's rows are far apart
  for (int64_t d = 0; d < rows.a.dv; d += 16) __builtin_prefetch(later + d, 1);
  for (int64_t i = 0; i < count; ++i) {
    const Vec weight = weight_of(i) / total;
    const float* o = part_at(i).o + row * rows.o_stride;
    for (int64_t d = 0; d < rows.a.dv; d += kLanes) {
      const int64_t n = min_of(kLanes, rows.a.dv - d);
      const Vec sum = fma(weight, load(o + d), i == 0 ? Vec{} : load_partial(out + d, n));
      store_partial(out + d, sum, n);
    }
  }
}

// A place in the order of work: `tokens` tokens into an item of a sequence.
struct Place {
  int64_t sequence, item, token;

  MMB_OP bool same_item(const Place& o) const { return sequence == o.sequence && item == o.item; }
  MMB_OP bool operator==(const Place& o) const { return same_item(o) && token == o.token; }
};

// Where part `index` of `parts` equal parts of all pairs begins.
MMB_OP Place cut(const Rows& rows, int64_t index, int64_t parts) {
  const Sequences& s = rows.a.sequences;
  int64_t total = 0;
  for (int64_t b = 0; b < s.batch; ++b) total += rows.a.kv_heads * rows.pairs(b, rows.count(b), s.context[b]);
  int64_t left = index < parts ? total * index / parts : total;
  for (int64_t b = 0; b < s.batch; ++b) {
    const int64_t head = rows.pairs(b, rows.count(b), s.context[b]), tiles = rows.tiles(b);
    if (left >= head * rows.a.kv_heads) {
      left -= head * rows.a.kv_heads;
      continue;
    }
    int64_t item = left / head * tiles;
    left %= head;
    for (;; ++item) {
      const Tile tile = rows.tile(b, item);
      const int64_t pairs = rows.pairs(tile, tile.tokens);
      if (left < pairs) {
        int64_t low = 0, high = tile.tokens;  // the first token at which `left` pairs are done
        while (low < high) {
          const int64_t middle = (low + high) / 2;
          if (rows.pairs(tile, middle) < left)
            low = middle + 1;
          else
            high = middle;
        }
        const int64_t token = (low + kChunk / 2) / kChunk * kChunk;
        if (token == 0 || token + kChunk / 2 <= tile.tokens) return {b, item, token};
        const bool last = item + 1 == rows.a.kv_heads * tiles;
        return last ? Place{b + 1, 0, 0} : Place{b, item + 1, 0};
      }
      left -= pairs;
    }
  }
  return {s.batch, 0, 0};
}

// All of it: work(tile, begin, end, partial) leaves the results of a tile's rows over tokens [begin, end). `most`: rows that a
// partial has room for, rows.most() at the least. Called by every thread of a team.
template <class Work>
MMB_OP void attend_tiles(const Rows& rows, int64_t most, const Work& work) {
  const int64_t threads = thread_count(), self = thread_index();
  Scratch scratch;
  auto* places = scratch.shared<Place>(threads + 1);
  // Each thread's two partial results: of the tile that it shares with the thread before it, and of any other.
  const int64_t partial_size = round_up(most * (rows.o_stride + 2), 1024);
  auto* partials = scratch.shared<float>(2 * threads * partial_size);
  const auto partial = [&](int64_t thread, int64_t which) {
    float* o = partials + (2 * thread + which) * partial_size;
    return Partial{o, o + most * rows.o_stride, o + most * (rows.o_stride + 1)};
  };

  const Place end = cut(rows, self + 1, threads);
  Place at = cut(rows, self, threads);
  places[self] = at;
  places[threads] = {rows.a.sequences.batch, 0, 0};
  while (!(at == end && at.token == 0)) {
    const Tile tile = rows.tile(at.sequence, at.item);
    // With the next thread; a cut at the same token leaves this one an empty part.
    const bool shared = at.same_item(end);
    const int64_t stop = shared ? end.token : tile.tokens;
    const Partial p = partial(self, at.token == 0);
    work(tile, at.token, stop, p);
    if (shared) break;
    if (at.token == 0)
      for (int64_t row = 0; row < tile.rows; ++row) combine(rows, tile, row, 1, [&](int64_t) { return p; });
    const bool last = at.item + 1 == rows.a.kv_heads * rows.tiles(at.sequence);
    at = last ? Place{at.sequence + 1, 0, 0} : Place{at.sequence, at.item + 1, 0};
  }
  barrier();

  // A tile that begins in thread t - 1 and is cut at the beginnings of threads t .. t + n - 1 has n + 1 parts.
  for (int64_t t = 1; t < threads; ++t) {
    if (places[t].token == 0 || (places[t - 1].same_item(places[t]) && places[t - 1].token > 0)) continue;
    int64_t n = 0;
    while (places[t + n].same_item(places[t])) ++n;
    const Tile tile = rows.tile(places[t].sequence, places[t].item);
    const Share part_rows = share(tile.rows);
    for (int64_t row = part_rows.begin; row < part_rows.end; ++row)
      combine(rows, tile, row, n + 1, [&](int64_t i) { return partial(t - 1 + i, i == 0); });
  }
  barrier();
}

}  // namespace
}  // namespace MMB_IMPL
}  // namespace mmb
