// y += down (silu(gate x) * up x) for a list of FFNs, each over tokens of its own: what slabs of a dense FFN and routed
// experts have in common.
//   Up     all (FFN, panel of gate and up) pairs are one list, cut where the summed cost is even: a skewed routing
//          leaves no thread idle. A panel costs its tokens' multiplies, or its bytes where the tokens are few.
//   Down   every thread owns the same outputs of all FFNs and walks the FFNs in order, so that outputs are summed
//          without atomics, without buffers per FFN, and in one order whatever the number of threads.
#pragma once

#include "matmul.h"
#include "mmb/dense_ffn.h"

namespace mmb {
namespace MMB_IMPL {
namespace {

// An FFN and the tokens that it is applied to.
struct FfnWork {
  const Expert* ffn;
  int64_t first, tokens;  // entries [first, first + tokens) of all (FFN, token) pairs, sorted by FFN
  const int32_t* rows;    // the tokens' rows of x and y; null: all in order
  const float* weights;   // of the FFN's output, one a token; null: 1
};

// What a panel costs, in tokens: those it is multiplied with, or, where they are fewer, as many as could be while it
// comes from memory (the machine's balance: about 10 in bf16, twice that in f32, a quarter in int4).
MMB_OP int64_t panel_cost(const FfnWork& work) {
  const int64_t streaming = 5 * bits_of(work.ffn->gate.dtype) / 8;
  return work.tokens > streaming ? work.tokens : streaming;
}

// Own scratch: two results of a panel group over all tokens of an FFN, and matmul's.
struct FfnScratch {
  float *a, *b, *widened;
};

MMB_OP int64_t panels_at_once(int64_t tokens, DType weights) {
  return on_tiles(weights, tokens) || on_bytes(weights, tokens) ? kNearPanels : panels_of_tile(tokens, weights);
}

// hidden = silu(gate x) * up x for `panels` of one FFN; x and hidden are packed, but for products of bytes, which want a row's
// largest first: those are rows.
MMB_OP void up_panels(const FfnWork& work, Share panels, const float* x, float* hidden, float* rows,
                      const FfnScratch& own) {
  const Expert& ffn = *work.ffn;
  const int64_t M = work.tokens, I = ffn.gate.rows;
  const int64_t beside = panels_at_once(M, ffn.gate.dtype), W = beside * kPanel;
  for (int64_t p = panels.begin; p < panels.end; p += beside) {
    const Share group{p, p + beside < panels.end ? p + beside : panels.end};
    matmul(x, M, ffn.gate, group, own.a, W, own.widened);
    matmul(x, M, ffn.up, group, own.b, W, own.widened);
    for (int64_t i = 0; i < M * W; i += kLanes) store(own.a + i, silu(load(own.a + i)) * load(own.b + i));
    const int64_t begin = p * kPanel, end = group.end * kPanel;
    const Share columns{begin, end < I ? end : I};
    if (on_bytes(ffn.down.dtype, M))
      for (int64_t m = 0; m < M; ++m)
        memcpy(rows + m * I + begin, own.a + m * W, static_cast<size_t>(4 * (columns.end - begin)));
    else
      pack(own.a, W, nullptr, M, I, ffn.down.dtype, columns, hidden);
  }
}

// y += weight * down hidden for `panels` of one FFN's outputs.
MMB_OP void down_panels(const FfnWork& work, Share panels, const float* hidden, float* y, const FfnScratch& own) {
  const Matrix& down = work.ffn->down;
  const int64_t M = work.tokens, H = down.rows;
  const int64_t beside = panels_at_once(M, down.dtype), W = beside * kPanel;
  for (int64_t p = panels.begin; p < panels.end; p += beside) {
    const Share group{p, p + beside < panels.end ? p + beside : panels.end};
    matmul(hidden, M, down, group, own.a, W, own.widened);
    const int64_t begin = p * kPanel, width = (group.end * kPanel < H ? group.end * kPanel : H) - begin;
    for (int64_t m = 0; m < M; ++m) {
      const Vec weight = broadcast(work.weights ? work.weights[m] : 1.f);
      float* to = y + (work.rows ? work.rows[m] : m) * H + begin;
      const float* from = own.a + m * W;
      int64_t i = 0;
      for (; i + kLanes <= width; i += kLanes) store(to + i, fma(weight, load(from + i), load(to + i)));
      if (i < width) {
        const int64_t n = width - i;
        store_partial(to + i, fma(weight, load_partial(from + i, n), load_partial(to + i, n)), n);
      }
    }
  }
}

// y = 0 where the calling thread will add outputs.
MMB_OP void clear_own_outputs(float* y, int64_t tokens, int64_t H) {
  const Share panels = share(ceil_div(H, kPanel));
  const int64_t begin = panels.begin * kPanel, end = panels.end * kPanel < H ? panels.end * kPanel : H;
  if (begin < end)
    for (int64_t n = 0; n < tokens; ++n) memset(y + n * H + begin, 0, static_cast<size_t>(4 * (end - begin)));
}

// y += the outputs of all `works`, by the whole team. `x` has the tokens of each work packed, one work after the other;
// `hidden` has room for as many of `width` columns, the widest intermediate size.
MMB_OP void add_ffns(const FfnWork* works, int64_t count, const float* x, float* hidden, int64_t width, int64_t H,
                     float* y) {
  int64_t most = 0, total = 0;
  bool in_rows = false;
  for (int64_t i = 0; i < count; ++i) {
    if (works[i].tokens > most) most = works[i].tokens;
    in_rows = in_rows || on_bytes(works[i].ffn->down.dtype, works[i].tokens);
    total += panel_count(works[i].ffn->gate) * panel_cost(works[i]);
  }
  Scratch scratch;
  const int64_t results = most * (kMayHaveBytes ? kNearPanels : kMaxPanels) * kPanel;
  FfnScratch own;
  own.a = scratch.own<float>(2 * results + kMatmulScratch);
  own.b = own.a + results;
  own.widened = own.b + results;
  const int64_t entries = works[count - 1].first + works[count - 1].tokens - works[0].first;
  auto* rows = scratch.shared<float>(in_rows ? entries * width : 0);

  const Share costs = share(total);
  int64_t before = 0;  // cost of the works before this one
  for (int64_t i = 0; i < count; ++i) {
    const FfnWork& work = works[i];
    const int64_t panels = panel_count(work.ffn->gate), cost = panel_cost(work), first = work.first - works[0].first;
    // A panel belongs to the thread in whose share its cost begins.
    const auto panel_at = [&](int64_t sum) {
      const int64_t panel = sum > before ? ceil_div(sum - before, cost) : 0;
      return panel < panels ? panel : panels;
    };
    up_panels(work, {panel_at(costs.begin), panel_at(costs.end)}, x + first * packed_row(H),
              hidden + first * packed_row(width), rows + first * width, own);
    before += panels * cost;
  }
  barrier();
  if (in_rows) {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t first = works[i].first - works[0].first, M = works[i].tokens, I = works[i].ffn->gate.rows;
      if (on_bytes(works[i].ffn->down.dtype, M))
        pack_digit_rows(rows + first * width, I, nullptr, M, I, share(M), hidden + first * packed_row(width));
    }
    barrier();
  }
  const Share outputs = share(ceil_div(H, kPanel));
  for (int64_t i = 0; i < count; ++i)
    down_panels(works[i], outputs, hidden + (works[i].first - works[0].first) * packed_row(width), y, own);
  barrier();
}

}  // namespace
}  // namespace MMB_IMPL
}  // namespace mmb
