#include "mmb/moe_router.h"

#include "mmb/random.h"
#include "op_test.h"

namespace mmb {
namespace {

using Shape = MoeRouter::Shape;
constexpr auto kSoftmax = MoeRouter::Scoring::softmax, kSigmoid = MoeRouter::Scoring::sigmoid;
constexpr auto kMaximum = MoeRouter::GroupScore::maximum, kTop2Sum = MoeRouter::GroupScore::top2_sum;

// The router with an identity for a gate: x is the logits.
struct Routed {
  std::vector<int32_t> indices;
  std::vector<float> weights, scores;
};
Routed route(const Kernel<MoeRouter>& kernel, const Shape& shape, const std::vector<float>& logits,
             const float* bias = nullptr) {
  const int64_t E = shape.n_routed_experts, N = shape.tokens, K = shape.num_experts_per_tok;
  std::vector<float> identity(E * E);
  for (int64_t e = 0; e < E; ++e) identity[e * E + e] = 1;
  const PackedMatrix gate(identity, E, E, DType::f32);
  Routed r{std::vector<int32_t>(N * K), std::vector<float>(N * K), std::vector<float>(N * E)};
  kernel.run(shape, {logits.data(), gate.matrix(), bias, r.scores.data(), r.indices.data(), r.weights.data()});
  return r;
}

template <class Check>
void with_each_kernel(const Check& check) {
  for (const auto& kernel : MoeRouter::kernels()) {
    SCOPED_TRACE(name(kernel.impl));
    if (supported(kernel.impl)) check(kernel);
  }
}

using Indices = std::vector<int32_t>;

TEST(MoeRouter, LiteralSoftmax) {
  // e^logits are 1, 4, 2, 1: softmax 1/8, 1/2, 1/4, 1/8.
  const std::vector<float> logits = {0, std::log(4.f), std::log(2.f), 0};
  with_each_kernel([&](const auto& kernel) {
    Routed r = route(kernel, {1, 4, 4, 2, 1, 1, kSoftmax, kMaximum, false, 16}, logits);
    EXPECT_EQ(r.indices, (Indices{1, 2}));
    EXPECT_NEAR(r.weights[0], 8, 1e-5);
    EXPECT_NEAR(r.weights[1], 4, 1e-5);
    EXPECT_NEAR(r.scores[3], 0.125, 1e-6);
    r = route(kernel, {1, 4, 4, 2, 1, 1, kSoftmax, kMaximum, true, 1}, logits);
    EXPECT_NEAR(r.weights[0], 2. / 3, 1e-6);
    EXPECT_NEAR(r.weights[1], 1. / 3, 1e-6);
  });
}

TEST(MoeRouter, LargeLogitsDoNotOverflow) {
  with_each_kernel([&](const auto& kernel) {
    const Routed softmax = route(kernel, {1, 4, 4, 2, 1, 1, kSoftmax, kMaximum, true, 1}, {100, 300, -300, 300});
    EXPECT_EQ(softmax.indices, (Indices{1, 3}));
    EXPECT_EQ(softmax.weights, (std::vector<float>{0.5, 0.5}));
    EXPECT_NEAR(softmax.scores[0], 0, 1e-30);
    const Routed sigmoid = route(kernel, {1, 4, 4, 2, 1, 1, kSigmoid, kMaximum, true, 1}, {0, 300, -300, 300});
    EXPECT_EQ(sigmoid.indices, (Indices{1, 3}));
    EXPECT_EQ(sigmoid.weights, (std::vector<float>{0.5, 0.5}));
    EXPECT_NEAR(sigmoid.scores[2], 0, 1e-30);
  });
}

// Over all of e^x's range: the ratio of two softmax scores is e to the power of their logits' difference.
TEST(MoeRouter, TheExponentialIsAccurate) {
  with_each_kernel([&](const auto& kernel) {
    double worst = 0;
    for (float l = -87; l <= 0; l += 0.0437f) {
      const Routed r = route(kernel, {1, 2, 2, 1, 1, 1, kSoftmax, kMaximum, true, 1}, {0, l});
      worst = std::max(worst, std::abs(r.scores[1] / r.scores[0] / std::exp(static_cast<double>(l)) - 1));
    }
    EXPECT_LE(worst, 3e-7 + 3 * 0x1p-24);  // the bound of simd.h; two divisions and one here
    for (float l = -60; l <= 60; l += 0.0437f) {
      const Routed r = route(kernel, {1, 1, 1, 1, 1, 1, kSigmoid, kMaximum, true, 1}, {l});
      worst = std::max(worst, std::abs(r.scores[0] * (1 + std::exp(-static_cast<double>(l))) - 1));
    }
    EXPECT_LE(worst, 3e-7 + 3 * 0x1p-24);
  });
}

TEST(MoeRouter, LiteralSigmoidWithBiasAndGroups) {
  // Scores 0.8 0.2 | 0.5 0.5 | 0.9 0.1 | 0.2 0.2; with the bias 0.8 0.2 | 0.5 0.5 | 0.9 0.1 | 0.2 0.9.
  // Sums of a group's two highest: 1.0, 1.0, 1.0, 1.1: groups 3 and, of equals, 0 are kept.
  const auto logit = [](double p) { return static_cast<float>(std::log(p / (1 - p))); };
  const std::vector<float> logits = {logit(0.8), logit(0.2), 0, 0, logit(0.9), logit(0.1), logit(0.2), logit(0.2)};
  const float bias[] = {0.01f, 0, 0, 0, 0, 0, 0, 0.7f};
  with_each_kernel([&](const auto& kernel) {
    Routed r = route(kernel, {1, 8, 8, 3, 4, 2, kSigmoid, kTop2Sum, true, 2.5}, logits, bias);
    EXPECT_EQ(r.indices, (Indices{7, 0, 1}));  // 0.9, 0.81, and 1 before 6 at 0.2
    // Weights are of the unbiased scores 0.2, 0.8, 0.2.
    EXPECT_NEAR(r.weights[0], 2.5 * 0.2 / 1.2, 1e-5);
    EXPECT_NEAR(r.weights[1], 2.5 * 0.8 / 1.2, 1e-5);
    EXPECT_NEAR(r.weights[2], 2.5 * 0.2 / 1.2, 1e-5);
    // By their maxima groups 2 and 3 are kept.
    r = route(kernel, {1, 8, 8, 3, 4, 2, kSigmoid, kMaximum, false, 1}, logits, bias);
    EXPECT_EQ(Indices({r.indices[0] + r.indices[1], r.indices[2]}), (Indices{4 + 7, 6}));
  });
}

TEST(MoeRouter, MaskedGroupsStayOutWhenBiasedScoresAreNegative) {
  // Choice scores -1.5 -1.9 | -1.6 -1.7: the second group is kept; a mask of 0 would let the first one's experts in.
  const std::vector<float> logits = {0, 0, 0, 0};
  const float bias[] = {-2, -2.4f, -2.1f, -2.2f};
  with_each_kernel([&](const auto& kernel) {
    EXPECT_EQ(route(kernel, {1, 4, 4, 2, 2, 1, kSigmoid, kTop2Sum, true, 1}, logits, bias).indices, (Indices{2, 3}));
  });
}

TEST(MoeRouter, TiesGoToTheLowestIndex) {
  with_each_kernel([&](const auto& kernel) {
    for (auto scoring : {kSoftmax, kSigmoid})
      for (int i = 0; i < 64; ++i) {
        const std::vector<float> alike(5, static_cast<float>(-6 + 0.1 * uniform(1, static_cast<uint64_t>(i))));
        EXPECT_EQ(route(kernel, {1, 5, 5, 2, 1, 1, scoring, kMaximum, true, 1}, alike).indices, (Indices{0, 1})) << i;
      }
    for (int64_t E : {2, 5, 16, 17, 40, 100}) {
      const int64_t K = std::min<int64_t>(E, 6);
      std::vector<float> logits(E, 1);
      logits[E - 1] = logits[E / 2] = 2;
      const Routed r = route(kernel, {1, E, E, K, 1, 1, kSoftmax, kMaximum, true, 1}, logits);
      Indices expected = {static_cast<int32_t>(E / 2)};
      if (E / 2 != E - 1) expected.push_back(static_cast<int32_t>(E - 1));
      for (int32_t e = 0; static_cast<int64_t>(expected.size()) < K; ++e)
        if (e != E / 2 && e != E - 1) expected.push_back(e);
      EXPECT_EQ(r.indices, expected) << E;
    }
    // Groups too: of four alike the first two.
    EXPECT_EQ(route(kernel, {1, 8, 8, 4, 4, 2, kSigmoid, kTop2Sum, true, 1}, std::vector<float>(8, 0)).indices,
              (Indices{0, 1, 2, 3}));
  });
}

TEST(MoeRouter, ScoresThatVanishGiveWeightsOfZero) {
  with_each_kernel([&](const auto& kernel) {
    for (float w : route(kernel, {1, 3, 3, 2, 1, 1, kSigmoid, kMaximum, true, 1}, {-200, -200, -200}).weights)
      EXPECT_NEAR(w, 0, 1e-15);
  });
}

TEST(MoeRouter, NanScoresStayInBounds) {
  with_each_kernel([&](const auto& kernel) {
    if (kernel.impl == Impl::reference) return;
    for (int64_t G : {1, 4})
      for (int32_t e :
           route(kernel, {1, 40, 40, 8, G, G, kSigmoid, kTop2Sum, true, 1}, std::vector<float>(40, NAN)).indices)
        EXPECT_TRUE(e >= 0 && e < 40) << e;
  });
}

TEST(MoeRouter, KernelsMatchReference) {
  for (int64_t tokens : {1, 2, 3, 7, 13, 40}) {
    for (const Shape& shape : {
             Shape{tokens, 64, 256, 8, 8, 4, kSigmoid, kTop2Sum, true, 2.5},  // DeepSeek-V3
             Shape{tokens, 64, 160, 6, 8, 3, kSoftmax, kMaximum, false, 16},  // DeepSeek-V2
             Shape{tokens, 67, 64, 6, 1, 1, kSoftmax, kMaximum, false, 1},    // DeepSeek-V2-Lite
             Shape{tokens, 33, 8, 2, 1, 1, kSoftmax, kMaximum, true, 1},      // Mixtral
             Shape{tokens, 96, 128, 8, 1, 1, kSoftmax, kMaximum, true, 1},    // Qwen3
             Shape{tokens, 15, 39, 5, 3, 2, kSigmoid, kTop2Sum, false, 1},    // no multiple of any vector
             Shape{tokens, 1, 1, 1, 1, 1, kSigmoid, kMaximum, true, 1},
             Shape{tokens, 20, 36, 36, 18, 18, kSoftmax, kTop2Sum, true, 1},  // every expert chosen
         })
      expect_kernels_match_reference<MoeRouter, reference::moe_router<double>>(shape);
  }
  expect_kernels_match_reference<MoeRouter, reference::moe_router<double>>(
      {1, 7168, 256, 8, 8, 4, kSigmoid, kTop2Sum, true, 2.5});
}

// Of 600 problems like these one differs by more than what a sum that ends at its deviation may.
TEST(MoeRouter, WeightsOfTheLargestLogitsDifferMost) {
  const Shape shape{8, 2048, 64, 6, 1, 1, kSoftmax, kMaximum, false, 1};
  with_each_kernel([&](const Kernel<MoeRouter>& kernel) {
    for (uint64_t seed : {809, 985, 1942}) {
      Arena arena(int64_t{1} << 20);
      MoeRouter::Problem problem(shape, DType::f32, "topk", arena, seed);
      reference::moe_router<double>(shape, problem.expected(), {0, shape.tokens});
      kernel.run(shape, problem.args());
      expect_equal<MoeRouter>(problem, shape, "seed " + std::to_string(seed));
    }
  });
}

// What the comparison forgives and what it does not.
TEST(MoeRouter, OnlyNearTiesMayChangePlaces) {
  const Shape shape{1, 20, 12, 3, 1, 1, kSigmoid, kTop2Sum, true, 1};
  MoeRouter::Problem problem(shape, DType::f32, "topk", test_arena(), 7);
  const auto& args = problem.args();
  const auto error = [&](size_t output) {
    return compare(problem.outputs(args, 0)[output].values, problem.outputs(problem.expected(), 0)[output].values)
        .max_err;
  };
  reference::moe_router<double>(shape, problem.expected(), {0, 1});
  reference::moe_router<double>(shape, args, {0, 1});
  EXPECT_EQ(error(1), 0);
  EXPECT_LT(error(2), 1e-6);
  // A tie: the reference sees two equal choice scores, the kernel chose the other one.
  const int32_t second = args.topk_indices[1], third = args.topk_indices[2];
  const float* bias = args.bias;
  problem.expected().scores[second] = problem.expected().scores[third] + bias[third] - bias[second];
  std::swap(args.topk_indices[1], args.topk_indices[2]);
  EXPECT_LT(error(1), 1e-6);
  // An expert that no token chose; one expert twice; an index that is none.
  for (int32_t wrong : {(second + 1) % 12 == third ? (second + 2) % 12 : (second + 1) % 12, second, -1, 12}) {
    args.topk_indices[2] = wrong;
    if (wrong == args.topk_indices[0]) continue;
    args.topk_indices[1] = third;
    EXPECT_GT(wrong == second ? 1.0 : error(1), 1e-3) << wrong;
  }
  args.topk_indices[1] = args.topk_indices[2] = second;
  EXPECT_GT(error(1), 1);
  // A weight that is off.
  std::copy_n(problem.expected().topk_indices, 3, args.topk_indices);
  args.topk_weights[0] *= 1.01f;
  EXPECT_GT(error(2), 1e-3);
}

TEST(MoeRouter, FlopsAreCounted) {
  const Shape shape{3, 19, 21, 4, 3, 2, kSigmoid, kTop2Sum, true, 1};
  EXPECT_EQ((counted_flops<MoeRouter, reference::moe_router<Counted>>(shape, "topk")),
            MoeRouter::cost(shape, DType::f32, "topk").flops);
}

TEST(MoeRouter, ImpossibleShapesAreRefused) {
  const Shape good{1, 8, 8, 2, 4, 2, kSigmoid, kTop2Sum, true, 1};
  const auto refused = [](const Shape& shape) {
    EXPECT_THROW(MoeRouter::Problem(shape, DType::f32, "topk", test_arena(), 1), Error);
  };
  Shape bad = good;
  bad.num_experts_per_tok = 5;  // two groups hold four
  refused(bad);
  bad = good;
  bad.n_group = 3;
  refused(bad);
  bad = good;
  bad.n_group = 8;  // no two experts in a group
  refused(bad);
  bad = good;
  bad.topk_group = 0;
  refused(bad);
}

}  // namespace
}  // namespace mmb
