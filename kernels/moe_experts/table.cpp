#include <algorithm>
#include <numeric>

#include "../reference.h"
#include "mmb/compare.h"
#include "mmb/moe_experts.h"
#include "mmb/moe_router.h"
#include "mmb/random.h"

namespace mmb {

std::span<const Kernel<MoeExperts>> MoeExperts::kernels() {
  static constexpr Kernel<MoeExperts> list[] = {
      {"grouped", Impl::reference, reference::run<MoeExperts, reference::moe_experts<double>>},
      MMB_KERNEL(MoeExperts, "grouped", moe_experts)};
  return list;
}

namespace {

// Of the `index`-th thing drawn for token `token` of a layer; the ranks of its experts are token -1's.
double draw(const Routing& routing, int64_t token, int64_t index) {
  // A typical seed: 2 to 32 tokens of layer 0 in DeepSeek-V2-Lite, V2, V3 and Qwen3-MoE touch as many experts as is expected
  // within 5.4 % under uniform routing, and within 14 % under skew 1 or overlap 0.38.
  constexpr uint64_t kSeed = 181000, kTokens = uint64_t{1} << 32;
  return uniform(kSeed + static_cast<uint64_t>(routing.layer) * kTokens + static_cast<uint64_t>(token),
                 static_cast<uint64_t>(index));
}

// The probability of each expert to be drawn first, times a constant.
std::vector<double> rates(const MoeExperts::Shape& shape) {
  const int64_t E = shape.n_routed_experts;
  std::vector<int32_t> by_rank(static_cast<size_t>(E));
  std::iota(by_rank.begin(), by_rank.end(), 0);
  for (int64_t r = E - 1; r > 0; --r)
    std::swap(by_rank[static_cast<size_t>(r)],
              by_rank[static_cast<size_t>(draw(shape.routing, -1, r) * static_cast<double>(r + 1))]);
  std::vector<double> rates(by_rank.size());
  for (size_t r = 0; r < rates.size(); ++r)
    rates[static_cast<size_t>(by_rank[r])] = std::pow(static_cast<double>(r + 1), -shape.routing.skew);
  return rates;
}

// The K experts that arrive first, in order, of those in the topk_group groups whose first experts do.
std::vector<int32_t> first_experts(const MoeExperts::Shape& shape, const std::vector<double>& arrivals) {
  const int64_t E = shape.n_routed_experts, size = E / shape.n_group;
  const auto earlier = [&](int32_t a, int32_t b) {
    const double at = arrivals[static_cast<size_t>(a)], bt = arrivals[static_cast<size_t>(b)];
    return at < bt || (at == bt && a < b);
  };
  std::vector<int32_t> experts(static_cast<size_t>(E)), chosen;
  std::iota(experts.begin(), experts.end(), 0);
  std::sort(experts.begin(), experts.end(), earlier);
  std::vector<int64_t> groups;
  for (int32_t e : experts) {
    const bool known = std::count(groups.begin(), groups.end(), e / size) > 0;
    if (!known && static_cast<int64_t>(groups.size()) == shape.topk_group) continue;
    if (!known) groups.push_back(e / size);
    chosen.push_back(e);
    if (static_cast<int64_t>(chosen.size()) == shape.num_experts_per_tok) break;
  }
  return chosen;
}

// The lines of a trace that a shape's tokens take.
std::vector<int32_t> replay(const MoeExperts::Shape& shape) {
  const Trace& trace = *shape.routing.trace;
  const int64_t N = shape.tokens, K = shape.num_experts_per_tok;
  MMB_REQUIRE(trace.n_routed_experts == shape.n_routed_experts && trace.num_experts_per_tok == K,
              trace.file << ": " << trace.num_experts_per_tok << " of " << trace.n_routed_experts << " experts");
  if (N > trace.tokens)
    throw TraceError(trace.file + ": expected a line of experts for each of " + std::to_string(N) + " tokens, got " +
                     std::to_string(trace.tokens));
  std::vector<int32_t> indices;
  for (int64_t n = 0; n < N; ++n) {
    const auto line = trace.topk_indices.begin() + (shape.routing.layer * N + n) % trace.tokens * K;
    indices.insert(indices.end(), line, line + K);
  }
  return indices;
}

}  // namespace

MoeExperts::Shape MoeExperts::shape(const Model& model, int64_t tokens, const Routing& routing) {
  if (model.shared_expert_gate)
    throw Error(model.file + ": shared_expert_gate: expected false, the shared expert is not weighted here");
  const MoeRouter::Shape router = MoeRouter::shape(model, tokens);
  return {.tokens = tokens,
          .hidden_size = router.hidden_size,
          .moe_intermediate_size = model.need(&Model::moe_intermediate_size),
          .n_routed_experts = router.n_routed_experts,
          .num_experts_per_tok = router.num_experts_per_tok,
          .shared_intermediate_size = model.shared_expert_intermediate_size,
          .routing = routing,
          .n_group = router.n_group,
          .topk_group = router.topk_group};
}

// Drawing without repetition, each time by rate, is waiting for the first to arrive of exponential times. What a token
// keeps has been there from the start.
std::vector<int32_t> MoeExperts::route(const Shape& shape) {
  const Routing& routing = shape.routing;
  if (routing.trace) return replay(shape);
  const int64_t N = shape.tokens, E = shape.n_routed_experts;
  const std::vector<double> rate = rates(shape);
  std::vector<double> arrivals(rate.size());
  std::vector<int32_t> indices, token;
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t e = 0; e < E; ++e)
      arrivals[static_cast<size_t>(e)] = -std::log(1 - draw(routing, n, e)) / rate[static_cast<size_t>(e)];
    for (int32_t e : token)
      if (draw(routing, n, E + e) < routing.overlap) arrivals[static_cast<size_t>(e)] = -1;
    token = first_experts(shape, arrivals);
    indices.insert(indices.end(), token.begin(), token.end());
  }
  return indices;
}

MoeExperts::Load MoeExperts::load(const Shape& shape, std::span<const int32_t> topk_indices) {
  const auto K = static_cast<size_t>(shape.num_experts_per_tok), chosen = topk_indices.size();
  std::vector<int64_t> tokens(static_cast<size_t>(shape.n_routed_experts));
  int64_t shared = 0;
  for (size_t i = 0; i < chosen; ++i) {
    ++tokens[static_cast<size_t>(topk_indices[i])];
    const size_t token = i / K * K;
    if (token > 0) shared += std::ranges::count(topk_indices.subspan(token - K, K), topk_indices[i]);
  }
  const int64_t touched = std::count_if(tokens.begin(), tokens.end(), [](int64_t t) { return t > 0; });
  return {.experts_touched = touched,
          .max = *std::max_element(tokens.begin(), tokens.end()),
          .mean = static_cast<double>(chosen) / static_cast<double>(touched),
          .overlap = chosen > K ? static_cast<double>(shared) / static_cast<double>(chosen - K) : 0};
}

std::string MoeExperts::key(const Shape& shape) {
  return "tokens:" + std::to_string(shape.tokens) + "/" + mmb::key(shape.routing);
}

Cost MoeExperts::cost(const Shape& shape, DType dtype, std::string_view) {
  const auto N = static_cast<double>(shape.tokens), H = static_cast<double>(shape.hidden_size),
             I = static_cast<double>(shape.moe_intermediate_size),
             Is = static_cast<double>(shape.shared_intermediate_size),
             K = static_cast<double>(shape.num_experts_per_tok),
             touched = static_cast<double>(load(shape, route(shape)).experts_touched);
  const double flops = 6 * N * H * (K * I + Is);
  return {.flops = flops,
          .bf16_flops = bf16_flops(flops, dtype),
          .digit_flops = digit_flops(flops, dtype),
          .weight_bytes = touched * ffn_bytes(shape.hidden_size, shape.moe_intermediate_size, dtype) +
                          ffn_bytes(shape.hidden_size, shape.shared_intermediate_size, dtype),
          .activation_bytes = 8 * N * (H + K),
          .exps = N * (K * I + Is)};
}

MoeExperts::Problem::Problem(const Shape& shape, DType dtype, std::string_view, Arena& arena, uint64_t seed)
    : shape_(shape),
      dtype_(dtype),
      arena_(arena),
      x_(shape.tokens * shape.hidden_size),
      weights_(shape.tokens * shape.num_experts_per_tok),
      y_(x_.size()),
      expected_(x_.size()) {
  const int64_t H = shape.hidden_size, E = shape.n_routed_experts, K = shape.num_experts_per_tok, G = shape.n_group;
  MMB_REQUIRE(shape.tokens > 0 && H > 0 && shape.moe_intermediate_size > 0 && shape.shared_intermediate_size >= 0,
              name << ": " << key(shape) << ", hidden size " << H << ", intermediate sizes "
                   << shape.moe_intermediate_size << " and " << shape.shared_intermediate_size);
  MMB_REQUIRE(G > 0 && E > 0 && E % G == 0 && 0 < shape.topk_group && shape.topk_group <= G,
              name << ": " << E << " experts in " << G << " groups, " << shape.topk_group << " of them for a token");
  MMB_REQUIRE(0 < K && K <= E / G * shape.topk_group, name << ": " << K << " of " << E << " experts");
  fill_normal(x_, seed, 2 / (Arena::rms(dtype) * std::sqrt(H)));
  for (int64_t i = 0; i < weights_.size(); ++i)
    weights_[i] = static_cast<float>(0.1 + uniform(seed + 1, static_cast<uint64_t>(i)));
  indices_ = route(shape);
  touched_.resize(static_cast<size_t>(E));
  for (int32_t e : indices_) touched_[static_cast<size_t>(e)] = true;
  experts_.resize(static_cast<size_t>(E));
  args_ = {x_.data(), indices_.data(), weights_.data(), experts_.data(), {}, y_.data()};
  next();
}

void MoeExperts::Problem::next() {
  for (size_t e = 0; e < experts_.size(); ++e)
    if (touched_[e]) experts_[e] = take_expert(arena_, shape_.hidden_size, shape_.moe_intermediate_size, dtype_);
  if (shape_.shared_intermediate_size > 0)
    args_.shared = take_expert(arena_, shape_.hidden_size, shape_.shared_intermediate_size, dtype_);
  expected_args_ = args_;
  expected_args_.y = expected_.data();
}

std::vector<Output> MoeExperts::Problem::outputs(const Args& args, int64_t unit) const {
  const float* y = args.y + unit * shape_.hidden_size;
  // Gate and up are multiplied, and may be smaller than their sums' deviation.
  return {{"y", {y, y + shape_.hidden_size}, 2 * sum_tolerance(shape_.hidden_size + shape_.moe_intermediate_size)}};
}

}  // namespace mmb
