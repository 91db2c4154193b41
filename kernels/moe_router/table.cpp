#include <algorithm>
#include <limits>

#include "../reference.h"
#include "mmb/compare.h"
#include "mmb/moe_router.h"
#include "mmb/random.h"

namespace mmb {

std::span<const Kernel<MoeRouter>> MoeRouter::kernels() {
  static constexpr Kernel<MoeRouter> list[] = {
      {"topk", Impl::reference, reference::run<MoeRouter, reference::moe_router<double>>},
      MMB_KERNEL(MoeRouter, "topk", moe_router)};
  return list;
}

MoeRouter::Shape MoeRouter::shape(const Model& model, int64_t tokens) {
  if (model.mlp_bias) throw Error(model.file + ": mlp_bias: expected false, the router has no bias on its logits here");
  const bool grouped = model.topk_method != "greedy" && model.n_group > 1;
  return {.tokens = tokens,
          .hidden_size = model.need(&Model::hidden_size),
          .n_routed_experts = model.need(&Model::n_routed_experts),
          .num_experts_per_tok = model.need(&Model::num_experts_per_tok),
          .n_group = grouped ? model.n_group : 1,
          .topk_group = grouped ? model.topk_group : 1,
          .scoring = model.scoring_func == "sigmoid" ? Scoring::sigmoid : Scoring::softmax,
          .group_score = model.topk_method == "noaux_tc" ? GroupScore::top2_sum : GroupScore::maximum,
          .norm_topk_prob = model.norm_topk_prob,
          .routed_scaling_factor = static_cast<float>(model.routed_scaling_factor)};
}

std::string MoeRouter::key(const Shape& shape) {
  return "tokens:" + std::to_string(shape.tokens);
}

Cost MoeRouter::cost(const Shape& shape, DType, std::string_view) {
  const auto N = static_cast<double>(shape.tokens), H = static_cast<double>(shape.hidden_size),
             E = static_cast<double>(shape.n_routed_experts), K = static_cast<double>(shape.num_experts_per_tok);
  return {.flops = 2 * N * H * E,
          .weight_bytes = 4 * (E * H + (shape.scoring == Scoring::sigmoid ? E : 0)),
          .activation_bytes = 4 * N * (H + E + 2 * K),
          .exps = N * E};
}

MoeRouter::Problem::Problem(const Shape& shape, DType, std::string_view, Arena& arena, uint64_t seed)
    : shape_(shape),
      arena_(arena),
      x_(shape.tokens * shape.hidden_size),
      bias_(shape.n_routed_experts),
      scores_(shape.tokens * shape.n_routed_experts),
      weights_(shape.tokens * shape.num_experts_per_tok),
      expected_scores_(scores_.size()),
      expected_weights_(weights_.size()),
      indices_(weights_.size()),
      expected_indices_(weights_.size()) {
  const int64_t H = shape.hidden_size, E = shape.n_routed_experts, K = shape.num_experts_per_tok, G = shape.n_group;
  MMB_REQUIRE(shape.tokens > 0 && H > 0, name << ": " << key(shape) << ", hidden size " << H);
  MMB_REQUIRE(G > 0 && E > 0 && E % G == 0 && 0 < shape.topk_group && shape.topk_group <= G,
              name << ": " << E << " experts in " << G << " groups, " << shape.topk_group << " of them for a token");
  MMB_REQUIRE(G == 1 || shape.group_score == GroupScore::maximum || E / G >= 2,
              name << ": the two highest of " << E / G << " experts in a group");
  MMB_REQUIRE(0 < K && K <= E / G * shape.topk_group, name << ": " << K << " of " << E << " experts");
  fill_normal(x_, seed, 2 / (Arena::kRms * std::sqrt(H)));  // logits of deviation 2
  fill_normal(bias_, seed + 1, 0.1);
  args_ = {x_.data(),
           {nullptr, DType::f32, false, E, H},
           shape.scoring == Scoring::sigmoid ? bias_.data() : nullptr,
           scores_.data(),
           indices_.data(),
           weights_.data()};
  next();
}

void MoeRouter::Problem::next() {
  args_.gate.data = arena_.take(args_.gate.bytes());
  expected_args_ = args_;
  expected_args_.scores = expected_scores_.data();
  expected_args_.topk_indices = expected_indices_.data();
  expected_args_.topk_weights = expected_weights_.data();
}

// Which expert comes first is rounding's choice where two nearly tie. So both sides are judged by the reference's
// scores: the choice scores of the experts chosen are equal if only such pairs changed places, and the weights are
// compared with those that the reference's scores give to the same experts.
//
// A score, relative to itself, changes at most by what its logit does: a sum of deviation 2. But it is the largest that are
// chosen. The largest of E ends at about z = sqrt(2 ln E) deviations, and its partial sums, which round, have a mean square of
// 1/6 + z^2/3 on the way there, where those of any sum have 1/2.
std::vector<Output> MoeRouter::Problem::outputs(const Args& args, int64_t unit) const {
  const int64_t E = shape_.n_routed_experts, K = shape_.num_experts_per_tok;
  const double larger = std::sqrt((1 + 4 * std::log(E)) / 3),
               tolerance = 2 * std::max(1.0, larger) * sum_tolerance(shape_.hidden_size);
  const float* scores = args.scores + unit * E;
  const float* judge = expected_args_.scores + unit * E;
  const int32_t* indices = args.topk_indices + unit * K;
  Output choice{"choice scores", {}, tolerance}, weights{"weights over those of the same experts", {}, tolerance};
  double sum = kTinySum;
  for (int64_t k = 0; k < K; ++k) {
    const int32_t e = indices[k];
    const bool valid = e >= 0 && e < E && std::find(indices, indices + k, e) == indices + k;
    choice.values.push_back(valid ? judge[e] + (args.bias ? args.bias[e] : 0.0)
                                  : std::numeric_limits<double>::quiet_NaN());
    if (valid) sum += judge[e];
  }
  for (int64_t k = 0; k < K; ++k) {
    const double score = std::isnan(choice.values[static_cast<size_t>(k)]) ? 0.0 : judge[indices[k]];
    weights.values.push_back(args.topk_weights[unit * K + k] /
                             (score / (shape_.norm_topk_prob ? sum : 1) * shape_.routed_scaling_factor));
  }
  return {{"scores", {scores, scores + E}, tolerance}, choice, weights};
}

}  // namespace mmb
