#include "mmb/moe_layer.h"

#include <set>

#include "op_test.h"

namespace mmb {
namespace {

using Scoring = MoeRouter::Scoring;
using GroupScore = MoeRouter::GroupScore;

// Small layers with the routers of the families, and sizes that are no multiple of anything.
std::vector<MoeLayer::Shape> layers(int64_t tokens, const Routing& routing = {}) {
  return {
      {{tokens, 80, 64, 8, 8, 4, Scoring::sigmoid, GroupScore::top2_sum, true, 2.5},
       {tokens, 80, 24, 64, 8, 24, routing, 8, 4}},  // DeepSeek-V3
      {{tokens, 50, 40, 6, 8, 3, Scoring::softmax, GroupScore::maximum, false, 16},
       {tokens, 50, 17, 40, 6, 34, routing, 8, 3}},  // DeepSeek-V2
      {{tokens, 33, 8, 2, 1, 1, Scoring::softmax, GroupScore::maximum, true, 1},
       {tokens, 33, 31, 8, 2, 0, routing}},  // Mixtral
  };
}

TEST(MoeLayer, KernelsMatchReference) {
  for (int64_t tokens : {1, 3, 13, 40})
    for (const Routing& routing : {Routing{}, Routing{.skew = 1, .overlap = 0.5}, Routing{.overlap = 1}})
      for (const MoeLayer::Shape& shape : layers(tokens, routing))
        expect_kernels_match_reference<MoeLayer, reference::moe_layer<double>>(shape);
}

// The router, given the problem's tokens, chooses what the cost and the weights count on.
TEST(MoeLayer, TheRouterChoosesTheRoutingOfTheShape) {
  for (const MoeLayer::Shape& shape : layers(13, {.skew = 1.5, .overlap = 0.3})) {
    MoeLayer::Problem problem(shape, DType::bf16, "grouped", test_arena(), 7);
    const int64_t K = shape.router.num_experts_per_tok, E = shape.router.n_routed_experts;
    const auto expected = MoeExperts::route(shape.experts);
    const auto& args = problem.args();
    for (const auto& kernel : MoeRouter::kernels()) {
      if (!supported(kernel.impl)) continue;
      std::vector<float> scores(13 * E), weights(13 * K);
      std::vector<int32_t> indices(13 * K);
      kernel.run(shape.router, {args.x, args.gate, args.bias, scores.data(), indices.data(), weights.data()});
      for (int64_t n = 0; n < 13; ++n)
        EXPECT_EQ(std::set<int32_t>(&indices[n * K], &indices[n * K] + K),
                  std::set<int32_t>(&expected[n * K], &expected[n * K] + K))
            << name(kernel.impl);
    }
  }
}

TEST(MoeLayer, ShapesOfModels) {
  const MoeLayer::Shape v3 = MoeLayer::shape(load_model("DeepSeek-V3"), 8, {.skew = 1});
  EXPECT_EQ(v3.router.hidden_size, 7168);
  EXPECT_EQ(v3.router.n_routed_experts, 256);
  EXPECT_EQ(v3.router.num_experts_per_tok, 8);
  EXPECT_EQ(v3.router.n_group, 8);
  EXPECT_EQ(v3.router.topk_group, 4);
  EXPECT_EQ(v3.router.scoring, Scoring::sigmoid);
  EXPECT_EQ(v3.router.group_score, GroupScore::top2_sum);
  EXPECT_TRUE(v3.router.norm_topk_prob);
  EXPECT_EQ(v3.router.routed_scaling_factor, 2.5f);
  EXPECT_EQ(v3.experts.moe_intermediate_size, 2048);
  EXPECT_EQ(v3.experts.shared_intermediate_size, 2048);
  EXPECT_EQ(v3.experts.topk_group, 4);
  EXPECT_EQ(MoeLayer::key(v3), "tokens:8/routing:zipf1");

  const MoeRouter::Shape v2 = MoeRouter::shape(load_model("DeepSeek-V2"), 1);
  EXPECT_EQ(v2.topk_group, 3);
  EXPECT_EQ(v2.group_score, GroupScore::maximum);
  EXPECT_FALSE(v2.norm_topk_prob);
  EXPECT_EQ(v2.routed_scaling_factor, 16);

  const MoeLayer::Shape lite = MoeLayer::shape(load_model("DeepSeek-V2-Lite"), 1);
  EXPECT_EQ(lite.router.n_group, 1);
  EXPECT_EQ(lite.router.topk_group, 1);
  EXPECT_EQ(lite.experts.shared_intermediate_size, 2816);

  const MoeLayer::Shape mixtral = MoeLayer::shape(load_model("Mixtral-8x7B"), 1);
  EXPECT_TRUE(mixtral.router.norm_topk_prob);
  EXPECT_EQ(mixtral.experts.moe_intermediate_size, 14336);
  EXPECT_EQ(mixtral.experts.shared_intermediate_size, 0);
  EXPECT_THROW(MoeLayer::shape(load_model("Llama-3.1-8B"), 1), Error);
}

TEST(MoeLayer, CostIsThatOfItsParts) {
  for (const MoeLayer::Shape& shape : layers(3)) {
    EXPECT_EQ((counted_flops<MoeLayer, reference::moe_layer<Counted>>(shape, "grouped")),
              MoeLayer::cost(shape, DType::f32, "grouped").flops);
  }
}

TEST(MoeLayer, RouterAndExpertsThatDifferAreRefused) {
  MoeLayer::Shape shape = layers(2)[0];
  shape.experts.n_routed_experts = 32;
  EXPECT_THROW(MoeLayer::Problem(shape, DType::f32, "grouped", test_arena(), 1), Error);
}

}  // namespace
}  // namespace mmb
