// Bound: the f32 gate from memory (7.3 MB for DeepSeek-V3: 0.2 ms at 33 GB/s); choosing takes about a microsecond a
// token.
// Idea: logits by matmul.h; the largest of 256 scores is 16 vectors and one reduction, so K of them are K such passes.
// Groups are scored one value at a time: E compares, and the groups' chains overlap.
// Split: panels of experts for the logits, then tokens.
#include "mmb/moe_router.h"

#include "../matmul.h"

namespace mmb::MMB_IMPL {
namespace {

constexpr float kMasked = -INFINITY;

// The lowest index of the largest of `count` values, a multiple of kLanes. NaN is never larger.
MMB_OP int64_t argmax(const float* values, int64_t count) {
  Vec best = load(values);
  VecInt index, at;
  MMB_UNROLL
  for (int l = 0; l < kLanes; ++l) index[l] = l;
  at = index;
  for (int64_t i = kLanes; i < count; i += kLanes) {
    at += kLanes;
    const Vec v = load(values + i);
    const VecInt better = v > best;
    index = better ? at : index;
    best = better ? v : best;
  }
  int lane = 0;
  for (int l = 1; l < kLanes; ++l)
    if (best[l] > best[lane] || (best[l] == best[lane] && index[l] < index[lane])) lane = l;
  return index[lane];
}

// scores = sigmoid or softmax of the E logits that are in their place.
MMB_OP void score(MoeRouter::Scoring scoring, float* scores, int64_t E) {
  const auto each = [&](auto f) {
    int64_t i = 0;
    for (; i + kLanes <= E; i += kLanes) store(scores + i, f(load(scores + i)));
    if (i < E) store_partial(scores + i, f(load_partial(scores + i, E - i)), E - i);
  };
  if (scoring == MoeRouter::Scoring::sigmoid) {
    each([](Vec l) { return sigmoid(l); });
  } else {
    float largest = scores[0];
    for (int64_t e = 1; e < E; ++e) largest = scores[e] > largest ? scores[e] : largest;
    each([=](Vec l) { return exp(l - largest); });
    float sum = 0;
    for (int64_t e = 0; e < E; ++e) sum += scores[e];
    each([=](Vec s) { return s / sum; });
  }
}

// kept = choice in the topk_group best groups, masked elsewhere. `groups` is scratch for their scores.
MMB_OP void keep_groups(const MoeRouter::Shape& s, const float* choice, float* groups, float* kept) {
  const int64_t size = s.n_routed_experts / s.n_group, padded = round_up(s.n_group, kLanes);
  for (int64_t g = 0; g < padded; ++g) groups[g] = kMasked;
  for (int64_t g = 0; g < s.n_group; ++g) {
    const float* c = choice + g * size;
    float first = c[0], second = kMasked;
    for (int64_t i = 1; i < size; ++i) {
      const float lower = c[i] < first ? c[i] : first;
      second = lower > second ? lower : second;
      first = c[i] > first ? c[i] : first;
    }
    groups[g] = s.group_score == MoeRouter::GroupScore::maximum ? first : first + second;
  }
  for (int64_t e = 0; e < round_up(s.n_routed_experts, kLanes); ++e) kept[e] = kMasked;
  for (int64_t i = 0; i < s.topk_group; ++i) {
    const int64_t g = argmax(groups, padded);
    groups[g] = kMasked;
    memcpy(kept + g * size, choice + g * size, static_cast<size_t>(4 * size));
  }
}

// Chooses the experts of one token from its scores. `choice` is scratch: [2 * padded experts + padded groups].
MMB_OP void choose(const MoeRouter::Shape& s, const float* scores, const float* bias, const int32_t* replay,
                   int32_t* indices, float* weights, float* choice) {
  const int64_t E = s.n_routed_experts, K = s.num_experts_per_tok, padded = round_up(E, kLanes);
  for (int64_t e = 0; e < E; ++e) choice[e] = bias ? scores[e] + bias[e] : scores[e];
  for (int64_t e = E; e < padded; ++e) choice[e] = kMasked;
  if (s.n_group > 1) {
    keep_groups(s, choice, choice + 2 * padded, choice + padded);
    choice += padded;
  }
  float sum = MoeRouter::kTinySum;
  for (int64_t k = 0; k < K; ++k) {
    int64_t e = argmax(choice, padded);
    choice[e] = kMasked;
    if (replay) e = replay[k];
    indices[k] = static_cast<int32_t>(e);
    weights[k] = scores[e];
    sum += scores[e];
  }
  const float scale = s.routed_scaling_factor / (s.norm_topk_prob ? sum : 1.f);
  for (int64_t k = 0; k < K; ++k) weights[k] *= scale;
}

}  // namespace

void moe_router(const MoeRouter::Shape& shape, const MoeRouter::Args& args) noexcept {
  const int64_t N = shape.tokens, H = shape.hidden_size, E = shape.n_routed_experts, K = shape.num_experts_per_tok;
  team([&] {
    Scratch scratch;
    auto* packed = scratch.shared<float>(packed_size(N, H));
    pack_tokens(args.x, H, nullptr, N, H, args.gate.dtype, packed);
    barrier();
    matmul_share(packed, N, args.gate, args.scores, scratch.own<float>(kMatmulScratch));
    barrier();

    auto* choice = scratch.own<float>(2 * round_up(E, kLanes) + round_up(shape.n_group, kLanes));
    const Share tokens = share(N);
    for (int64_t n = tokens.begin; n < tokens.end; ++n) {
      score(shape.scoring, args.scores + n * E, E);
      choose(shape, args.scores + n * E, args.bias, args.replay ? args.replay + n * K : nullptr,
             args.topk_indices + n * K, args.topk_weights + n * K, choice);
    }
    barrier();
  });
}

}  // namespace mmb::MMB_IMPL
