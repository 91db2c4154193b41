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

const char* name(Routing routing) {
  switch (routing) {
    case Routing::uniform:
      return "uniform";
    case Routing::zipf:
      return "zipf";
    case Routing::identical:
      return "identical";
  }
  return "unknown";
}

namespace {

// `count` of the indices of `rates`, without repetition, each the next with probability proportional to its rate: the
// first to arrive of exponential waiting times.
std::vector<int32_t> draw(const std::vector<double>& rates, int64_t count, uint64_t seed) {
  std::vector<double> arrival(rates.size());
  for (size_t i = 0; i < rates.size(); ++i) arrival[i] = -std::log(1 - uniform(seed, i)) / rates[i];
  std::vector<int32_t> indices(rates.size());
  std::iota(indices.begin(), indices.end(), 0);
  std::partial_sort(indices.begin(), indices.begin() + count, indices.end(), [&](int32_t a, int32_t b) {
    return arrival[static_cast<size_t>(a)] < arrival[static_cast<size_t>(b)];
  });
  indices.resize(static_cast<size_t>(count));
  return indices;
}

}  // namespace

MoeExperts::Shape MoeExperts::shape(const Model& model, int64_t tokens, Routing routing) {
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

std::vector<int32_t> MoeExperts::route(const Shape& shape) {
  const int64_t K = shape.num_experts_per_tok, size = shape.n_routed_experts / shape.n_group;
  std::vector<double> rates(static_cast<size_t>(shape.n_routed_experts), 1.0);
  if (shape.routing == Routing::zipf)
    for (size_t e = 0; e < rates.size(); ++e) rates[e] = 1 / static_cast<double>(e + 1);
  std::vector<double> group_rates;
  for (auto group = rates.begin(); group != rates.end(); group += size)
    group_rates.push_back(std::accumulate(group, group + size, 0.0));

  std::vector<int32_t> indices;
  for (int64_t n = 0; n < shape.tokens; ++n) {
    const auto seed = static_cast<uint64_t>(shape.routing == Routing::identical ? 0 : n);
    const auto groups = draw(group_rates, shape.topk_group, 2 * seed);
    std::vector<double> group_members;
    for (int32_t g : groups)
      group_members.insert(group_members.end(), rates.begin() + g * size, rates.begin() + (g + 1) * size);
    for (int32_t i : draw(group_members, K, 2 * seed + 1))
      indices.push_back(static_cast<int32_t>(groups[static_cast<size_t>(i / size)] * size + i % size));
  }
  return indices;
}

MoeExperts::Load MoeExperts::load(const Shape& shape, std::span<const int32_t> topk_indices) {
  std::vector<int64_t> tokens(static_cast<size_t>(shape.n_routed_experts));
  for (int32_t e : topk_indices) ++tokens[static_cast<size_t>(e)];
  const int64_t touched = std::count_if(tokens.begin(), tokens.end(), [](int64_t t) { return t > 0; });
  return {touched, static_cast<double>(*std::max_element(tokens.begin(), tokens.end()) * touched) /
                       static_cast<double>(topk_indices.size())};
}

std::string MoeExperts::key(const Shape& shape) {
  return "tokens:" + std::to_string(shape.tokens) + "/routing:" + mmb::name(shape.routing);
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
