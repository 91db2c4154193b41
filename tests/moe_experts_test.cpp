#include "mmb/moe_experts.h"

#include <numeric>
#include <set>

#include "mmb/accounting.h"
#include "op_test.h"

namespace mmb {
namespace {

using Shape = MoeExperts::Shape;

constexpr Routing kUniform, kZipf = {.skew = 1}, kIdentical = {.overlap = 1}, kBoth = {.skew = 1.2, .overlap = 0.38},
                            kRoutings[] = {kUniform, kZipf, kBoth, kIdentical};

template <class Check>
void with_each_kernel(const Check& check) {
  for (const auto& kernel : MoeExperts::kernels()) {
    SCOPED_TRACE(name(kernel.impl));
    if (supported(kernel.impl)) check(kernel);
  }
}

// What `kernel` makes of a problem's arguments, changed.
std::vector<float> run(const Kernel<MoeExperts>& kernel, const Shape& shape, MoeExperts::Args args) {
  std::vector<float> y(shape.tokens * shape.hidden_size, NAN);
  args.y = y.data();
  kernel.run(shape, args);
  return y;
}

TEST(MoeExperts, LiteralCase) {
  // Expert e: gate 1, up e+1, down 1; the shared one twice as wide, ups 10 and 20. x = 2.
  std::vector<PackedMatrix> matrices;
  const auto matrix = [&](std::vector<float> values, int64_t rows, int64_t cols) {
    return matrices.emplace_back(values, rows, cols, DType::bf16).matrix();
  };
  const Matrix one = matrix({1}, 1, 1);
  const Expert experts[] = {{one, one, one}, {}, {one, matrix({3}, 1, 1), one}};
  const Expert shared{matrix({1, 1}, 2, 1), matrix({10, 20}, 2, 1), matrix({1, 1}, 1, 2)};
  const float x = 2, weights[] = {0.5f, 0.25f};
  const int32_t indices[] = {2, 0};
  const float silu = 2 / (1 + std::exp(-2.f));
  with_each_kernel([&](const auto& kernel) {
    EXPECT_FLOAT_EQ(run(kernel, {1, 1, 1, 3, 2, 2}, {&x, indices, weights, experts, shared, nullptr})[0],
                    silu * 2 * (0.5f * 3 + 0.25f * 1 + 10 + 20));
    EXPECT_FLOAT_EQ(run(kernel, {1, 1, 1, 3, 2, 0}, {&x, indices, weights, experts, {}, nullptr})[0],
                    silu * 2 * (0.5f * 3 + 0.25f * 1));
  });
}

TEST(MoeExperts, KernelsMatchReference) {
  for (const Routing& routing : {kUniform, kBoth, kIdentical}) {
    for (int64_t tokens : {1, 2, 3, 7, 12, 13, 40}) {
      expect_kernels_match_reference<MoeExperts, reference::moe_experts<double>>({tokens, 67, 33, 9, 3, 50, routing});
      expect_kernels_match_reference<MoeExperts, reference::moe_experts<double>>({tokens, 16, 20, 64, 6, 0, routing});
    }
  }
  for (const Shape& shape : {Shape{5, 1, 1, 1, 1, 1}, Shape{5, 35, 1, 4, 4, 0}, Shape{29, 300, 17, 2, 1, 3},
                             Shape{64, 40, 24, 32, 4, 24, kUniform, 8, 2}, Shape{1, 2048, 1408, 64, 6, 2816}})
    expect_kernels_match_reference<MoeExperts, reference::moe_experts<double>>(shape);
}

// More gathered tokens than one wave holds: of all experts, and of one. A few tokens of each are checked.
TEST(MoeExperts, WavesMatchReference) {
  constexpr int64_t kWaveFloats = int64_t{4} << 20;
  const Shape all{80, 16384, 2, 6, 3, 1}, one{300, 16384, 2, 1, 1, 0};
  ASSERT_GT(all.tokens * (all.num_experts_per_tok + 1) * all.hidden_size, kWaveFloats);
  ASSERT_GT(one.tokens * one.hidden_size, kWaveFloats);
  with_each_kernel([&](const auto& kernel) {
    if (kernel.impl == Impl::reference) return;
    for (const Shape& shape : {all, one}) {
      MoeExperts::Problem problem(shape, DType::f32, kernel.algo, test_arena(), 7);
      kernel.run(shape, problem.args());
      for (int64_t unit : {int64_t{0}, shape.tokens / 2, shape.tokens - 1}) {
        reference::moe_experts<double>(shape, problem.expected(), {unit, unit + 1});
        const Output y = problem.outputs(problem.args(), unit)[0];
        EXPECT_LE(compare(y.values, problem.outputs(problem.expected(), unit)[0].values).max_err, y.tolerance) << unit;
      }
    }
  });
}

TEST(MoeExperts, ThreadsGiveTheSameBits) {
  const Shape shape{13, 67, 33, 9, 3, 50, kZipf};
  MoeExperts::Problem problem(shape, DType::bf16, "grouped", test_arena(), 7);
  const int saved = omp_get_max_threads();
  with_each_kernel([&](const auto& kernel) {
    omp_set_num_threads(1);
    const std::vector<float> one = run(kernel, shape, problem.args());
    for (int threads : {2, 3, 7}) {
      omp_set_num_threads(threads);
      EXPECT_EQ(run(kernel, shape, problem.args()), one) << threads;
    }
  });
  omp_set_num_threads(saved);
}

TEST(MoeExperts, IdenticalExpertsEqualADenseFfn) {
  const Shape shape{13, 35, 30, 8, 3, 0};
  MoeExperts::Problem problem(shape, DType::f32, "grouped", test_arena(), 7);
  MoeExperts::Args args = problem.args();
  const Expert dense = take_expert(test_arena(), 35, 30, DType::f32);
  const std::vector<Expert> experts(8, dense);
  std::vector<float> weights(13 * 3), y(13 * 35);
  for (int64_t n = 0; n < 13; ++n) weights[3 * n] = 0.5f, weights[3 * n + 1] = 0.375f, weights[3 * n + 2] = 0.125f;
  args.experts = experts.data();
  args.topk_weights = weights.data();
  reference::dense_ffn<double>({13, 35, 30}, {args.x, &dense, 1, y.data()}, {0, 13});
  with_each_kernel([&](const auto& kernel) { expect_close(run(kernel, shape, args), y, 64 * 0x1p-24, "identical"); });
}

TEST(MoeExperts, EveryExpertChosenIsTheWeightedSumOfDenseFfns) {
  const int64_t N = 4, H = 19, I = 18, E = 5;
  const Shape shape{N, H, I, E, E, 0};
  MoeExperts::Problem problem(shape, DType::bf16, "grouped", test_arena(), 7);
  const MoeExperts::Args& args = problem.args();
  std::vector<float> sum(N * H), one(N * H);
  for (int64_t e = 0; e < E; ++e) {
    reference::dense_ffn<double>({N, H, I}, {args.x, args.experts + e, 1, one.data()}, {0, N});
    for (int64_t i = 0; i < N * E; ++i)
      if (args.topk_indices[i] == e)
        for (int64_t h = 0; h < H; ++h) sum[i / E * H + h] += args.topk_weights[i] * one[i / E * H + h];
  }
  with_each_kernel([&](const auto& kernel) { expect_close(run(kernel, shape, args), sum, 64 * 0x1p-24, "all"); });
}

TEST(MoeExperts, TokenOrderAndBatchDoNotMatter) {
  const int64_t N = 13, H = 35, K = 3;
  const Shape shape{N, H, 30, 8, K, 20};
  MoeExperts::Problem problem(shape, DType::bf16, "grouped", test_arena(), 7);
  const MoeExperts::Args& args = problem.args();
  std::vector<float> x, weights;
  std::vector<int32_t> indices;
  for (int64_t n = N - 1; n >= 0; --n) {
    x.insert(x.end(), args.x + n * H, args.x + (n + 1) * H);
    weights.insert(weights.end(), args.topk_weights + n * K, args.topk_weights + (n + 1) * K);
    indices.insert(indices.end(), args.topk_indices + n * K, args.topk_indices + (n + 1) * K);
  }
  with_each_kernel([&](const auto& kernel) {
    const std::vector<float> batch = run(kernel, shape, args);
    std::vector<float> reversed =
        run(kernel, shape, {x.data(), indices.data(), weights.data(), args.experts, args.shared, nullptr});
    std::vector<float> restored, single;
    for (int64_t n = N - 1; n >= 0; --n)
      restored.insert(restored.end(), reversed.begin() + n * H, reversed.begin() + (n + 1) * H);
    Shape one = shape;
    one.tokens = 1;
    for (int64_t n = 0; n < N; ++n) {
      const std::vector<float> y = run(
          kernel, one,
          {args.x + n * H, args.topk_indices + n * K, args.topk_weights + n * K, args.experts, args.shared, nullptr});
      single.insert(single.end(), y.begin(), y.end());
    }
    expect_close(restored, batch, 16 * 0x1p-24, "reversed");
    expect_close(single, batch, 64 * 0x1p-24, "one by one");
  });
}

TEST(MoeExperts, AnExpertTwiceInATokenCountsTwice) {
  const Shape shape{3, 20, 18, 2, 2, 0};
  MoeExperts::Problem problem(shape, DType::f32, "grouped", test_arena(), 7);
  MoeExperts::Args args = problem.args();
  const std::vector<int32_t> indices(6, 1);
  args.topk_indices = indices.data();
  std::vector<float> expected(60);
  args.y = expected.data();
  reference::moe_experts<double>(shape, args, {0, 3});
  with_each_kernel(
      [&](const auto& kernel) { expect_close(run(kernel, shape, args), expected, 64 * 0x1p-24, "twice"); });
}

TEST(MoeExperts, OnlyTouchedExpertsHaveWeights) {
  const Shape shape{4, 16, 16, 64, 2, 0};
  MoeExperts::Problem problem(shape, DType::f32, "grouped", test_arena(), 7);
  const auto route = MoeExperts::route(shape);
  const std::set<int32_t> touched(route.begin(), route.end());
  std::set<const void*> slots;
  for (int32_t e = 0; e < 64; ++e) {
    const Expert& expert = problem.args().experts[e];
    EXPECT_EQ(expert.gate.data != nullptr, touched.contains(e)) << e;
    for (const void* slot : {expert.gate.data, expert.up.data, expert.down.data})
      if (slot) slots.insert(slot);
  }
  EXPECT_EQ(slots.size(), 3 * touched.size());
  const void* before = problem.args().experts[*touched.begin()].gate.data;
  problem.next();
  EXPECT_NE(problem.args().experts[*touched.begin()].gate.data, before);
}

TEST(MoeExperts, RoutingIsDistinctAndWithinGroups) {
  for (const Routing& routing : kRoutings) {
    const auto indices = MoeExperts::route({50, 1, 1, 64, 6, 0, routing, 8, 3});
    ASSERT_EQ(indices.size(), 300u);
    for (size_t n = 0; n < 50; ++n) {
      const std::set<int32_t> experts(indices.begin() + 6 * n, indices.begin() + 6 * (n + 1));
      std::set<int32_t> groups;
      for (int32_t e : experts) {
        EXPECT_TRUE(e >= 0 && e < 64);
        groups.insert(e / 8);
      }
      EXPECT_EQ(experts.size(), 6u);
      EXPECT_LE(groups.size(), 3u);
    }
  }
}

MoeExperts::Load load_of(const Shape& shape) {
  return MoeExperts::load(shape, MoeExperts::route(shape));
}

// The mean over layers, and how far it may be from what is expected: 4 standard errors.
struct Mean {
  double value, tolerance;
};
template <class Sample>
Mean mean_over_layers(Shape shape, int64_t layers, const Sample& sample) {
  double sum = 0, squares = 0;
  for (shape.routing.layer = 0; shape.routing.layer < layers; ++shape.routing.layer) {
    const double x = sample(load_of(shape));
    sum += x;
    squares += x * x;
  }
  const auto n = static_cast<double>(layers);
  return {sum / n, 4 * std::sqrt((squares / n - sum / n * sum / n) / n)};
}

TEST(MoeExperts, UniformRoutingTouchesTheExpectedNumberOfExperts) {
  // E (1 - (1 - K/E)^N), groups or none.
  for (const Shape& shape :
       {Shape{8, 1, 1, 64, 6, 0}, Shape{32, 1, 1, 64, 6, 0}, Shape{2, 1, 1, 256, 8, 0, kUniform, 8, 4},
        Shape{32, 1, 1, 256, 8, 0, kUniform, 8, 4}, Shape{8, 1, 1, 160, 6, 0, kUniform, 8, 3}}) {
    const double expected = experts_touched(shape.n_routed_experts, shape.num_experts_per_tok, shape.tokens);
    const Mean mean =
        mean_over_layers(shape, 300, [](const auto& load) { return static_cast<double>(load.experts_touched); });
    EXPECT_LT(mean.tolerance, 0.02 * expected);
    EXPECT_NEAR(mean.value, expected, mean.tolerance);
    // The draw that rows are timed with is a typical one.
    EXPECT_NEAR(static_cast<double>(load_of(shape).experts_touched), expected, 0.06 * expected);
  }
}

TEST(MoeExperts, OverlapIsTheShareThatATokenKeeps) {
  for (const auto& [E, K] : {std::pair<int64_t, int64_t>{256, 8}, {64, 6}, {8, 2}})
    for (const double overlap : {0.0, 0.1, 0.38, 0.9}) {
      // k kept, and those that come again among the K-k drawn from the E-k others.
      double expected = 0, ways = 1;
      for (int64_t k = 0; k <= K; ++k) {
        const auto kept = static_cast<double>(k), drawn = static_cast<double>(K - k);
        expected += ways * std::pow(overlap, kept) * std::pow(1 - overlap, drawn) *
                    (kept + drawn * drawn / (static_cast<double>(E) - kept)) / static_cast<double>(K);
        ways *= drawn / (kept + 1);
      }
      const Shape shape{50, 1, 1, E, K, 0, {.overlap = overlap}};
      const Mean mean = mean_over_layers(shape, 100, [](const auto& load) { return load.overlap; });
      EXPECT_LT(mean.tolerance, 0.02);
      EXPECT_NEAR(mean.value, expected, mean.tolerance) << K << " of " << E << ", overlap " << overlap;
      if (E == 256 && overlap == 0.38) {
        EXPECT_NEAR(expected, 0.39, 0.005);  // as the header has it
      }
    }
  const auto identical = load_of({50, 1, 1, 64, 6, 0, kIdentical, 8, 3});
  EXPECT_EQ(identical.overlap, 1);
  EXPECT_EQ(identical.experts_touched, 6);
  EXPECT_EQ(identical.max, 50);
  EXPECT_EQ(identical.mean, 50);
}

// The first expert that each token draws is the one of rank r with probability as 1/r^s.
TEST(MoeExperts, SkewIsZipfs) {
  const int64_t N = 20000, E = 12, K = 3;
  for (const double skew : {0.5, 1.0, 2.0}) {
    const auto indices = MoeExperts::route({N, 1, 1, E, K, 0, {.skew = skew}});
    std::vector<double> first(E), rate(E);
    for (int64_t n = 0; n < N; ++n) ++first[indices[n * K]];
    std::sort(first.rbegin(), first.rend());
    for (int64_t r = 0; r < E; ++r) rate[r] = std::pow(static_cast<double>(r + 1), -skew);
    const double sum = std::accumulate(rate.begin(), rate.end(), 0.0);
    for (int64_t r = 0; r < E; ++r) {
      const double p = rate[r] / sum, expected = p * static_cast<double>(N);
      EXPECT_NEAR(first[r], expected, 4 * std::sqrt(expected * (1 - p))) << skew << ", rank " << r;
    }
  }
}

TEST(MoeExperts, SkewLoadsTheBusiestAndOverlapKeepsTheLoads) {
  for (const int64_t groups : {1, 8}) {
    const auto load = [&](const Routing& routing) {
      return load_of({128, 1, 1, 256, 8, 0, routing, groups, (groups + 1) / 2});
    };
    const auto u = load(kUniform), z = load(kZipf), steep = load({.skew = 2}), kept = load({.overlap = 0.38});
    EXPECT_LT(10 * z.experts_touched, 9 * u.experts_touched);
    EXPECT_LT(10 * steep.experts_touched, 7 * z.experts_touched);
    EXPECT_GT(z.max, 3 * u.max);
    EXPECT_LT(kept.experts_touched, u.experts_touched);
    EXPECT_LT(kept.max, z.max / 2);
    EXPECT_DOUBLE_EQ(z.mean * static_cast<double>(z.experts_touched), 128 * 8);
  }
}

// Else the popular ones would all be in the first group, and layers would agree on them.
TEST(MoeExperts, PopularExpertsAreAnywhere) {
  std::set<int32_t> groups;
  for (int64_t layer = 0; layer < 20; ++layer) {
    const auto indices = MoeExperts::route({200, 1, 1, 64, 6, 0, {.skew = 3, .layer = layer}, 8, 3});
    std::vector<int64_t> tokens(64);
    for (int32_t e : indices) ++tokens[e];
    groups.insert(static_cast<int32_t>(std::max_element(tokens.begin(), tokens.end()) - tokens.begin()) / 8);
  }
  EXPECT_GE(groups.size(), 5u);
}

TEST(MoeExperts, ATraceIsReplayed) {
  const Trace trace{.name = "t",
                    .file = "t.txt",
                    .n_routed_experts = 8,
                    .num_experts_per_tok = 2,
                    .tokens = 3,
                    .topk_indices = {7, 0, 1, 2, 0, 6}};
  Shape shape{2, 67, 33, 8, 2, 50, {.trace = &trace}};
  EXPECT_EQ(MoeExperts::route(shape), (std::vector<int32_t>{7, 0, 1, 2}));
  EXPECT_EQ(MoeExperts::key(shape), "tokens:2/routing:t");
  EXPECT_EQ(load_of(shape).experts_touched, 4);
  expect_kernels_match_reference<MoeExperts, reference::moe_experts<double>>(shape);
  shape.routing.layer = 1;  // from the third line on, round and round
  EXPECT_EQ(MoeExperts::route(shape), (std::vector<int32_t>{0, 6, 7, 0}));
  shape.routing.layer = 0;
  shape.tokens = 3;
  EXPECT_EQ(MoeExperts::route(shape), trace.topk_indices);
  shape.tokens = 4;
  EXPECT_THROW(MoeExperts::route(shape), TraceError);
  EXPECT_THROW(MoeExperts::route({1, 67, 33, 9, 2, 50, {.trace = &trace}}), Error);
  EXPECT_THROW(MoeExperts::route({1, 67, 33, 8, 3, 50, {.trace = &trace}}), Error);
}

TEST(MoeExperts, LoadLiteral) {
  const std::vector<int32_t> indices = {0, 3, 2, 0, 0, 3};  // 3, 1 and 2 tokens; each token shares one with the last
  const auto load = MoeExperts::load({3, 1, 1, 5, 2, 0}, indices);
  EXPECT_EQ(load.experts_touched, 3);
  EXPECT_EQ(load.max, 3);
  EXPECT_DOUBLE_EQ(load.mean, 2);
  EXPECT_DOUBLE_EQ(load.overlap, 0.5);
}

TEST(MoeExperts, Costs) {
  const Shape shape{3, 19, 21, 8, 4, 5};
  EXPECT_EQ((counted_flops<MoeExperts, reference::moe_experts<Counted>>(shape, "grouped")),
            MoeExperts::cost(shape, DType::f32, "grouped").flops);
  // DeepSeek-V3, one token: nine experts of 3 * 7168 * 2048 bf16 weights.
  EXPECT_EQ(MoeExperts::cost({1, 7168, 2048, 256, 8, 2048}, DType::bf16, "grouped").weight_bytes, 9 * 88080384.0);
  const Shape many{8, 7168, 2048, 256, 8, 2048};
  const auto touched = static_cast<double>(MoeExperts::load(many, MoeExperts::route(many)).experts_touched);
  EXPECT_EQ(MoeExperts::cost(many, DType::bf16, "grouped").weight_bytes, (touched + 1) * 88080384);
}

TEST(MoeExperts, ImpossibleShapesAreRefused) {
  for (const Shape& bad : {Shape{1, 8, 8, 4, 5, 0}, Shape{1, 8, 8, 4, 0, 0}, Shape{0, 8, 8, 4, 2, 0},
                           Shape{1, 8, 8, 9, 2, 0, kUniform, 2, 1}, Shape{1, 8, 8, 8, 3, 0, kUniform, 4, 1}})
    EXPECT_THROW(MoeExperts::Problem(bad, DType::f32, "grouped", test_arena(), 1), Error);
}

}  // namespace
}  // namespace mmb
