#include "mmb/attention_decode.h"

#include "attention_test.h"

namespace mmb {
namespace {

constexpr auto expect_match = expect_kernels_match_reference<AttentionDecode, reference::attention_decode<double>>;
constexpr auto expect_case = expect_case_matches_reference<AttentionDecode, reference::attention_decode<double>>;

TEST(AttentionDecode, LiteralCase) {
  // Scores 0 and ln 3: weights 1/4 and 3/4.
  const float q[] = {1}, k[] = {0, 1.0986123f}, v[] = {4, 8};
  const int64_t first[] = {0, 1}, context[] = {2};
  for (const auto& kernel : AttentionDecode::kernels()) {
    if (!supported(kernel.impl)) continue;
    float out = 0;
    kernel.run({1, 1, 2, 0, 1, 1, 1, 1}, {{1, first, context}, q, k, v, DType::f32, 2, 1, &out});
    EXPECT_FLOAT_EQ(out, 7) << name(kernel.impl);
  }
}

// Over all of the exponential's range: the ratio of two weights is e to the power of their scores' difference, of which f32
// keeps 2^-24 three times.
TEST(AttentionDecode, WeightsAreExponentialsOfScores) {
  const float k[] = {1, 0}, v[] = {1, 0, 0, 1};
  const int64_t first[] = {0, 1}, context[] = {2};
  for (const auto& kernel : AttentionDecode::kernels()) {
    if (!supported(kernel.impl)) continue;
    for (float score = -85; score <= 85; score += 0.0137f) {
      float out[2] = {};
      kernel.run({1, 1, 2, 0, 1, 1, 1, 2}, {{1, first, context}, &score, k, v, DType::f32, 2, 1, out});
      ASSERT_LE(std::abs(out[0] / out[1] / std::exp(static_cast<double>(score)) - 1),
                1e-6 + 3 * 0x1p-24 * std::abs(score))
          << name(kernel.impl) << ' ' << score;
    }
  }
}

TEST(AttentionDecode, ContextsAndGroups) {
  for (int64_t context : {1, 2, 15, 16, 17, 95, 96, 97, 513, 1030})
    for (int64_t group : {1, 2, 3, 8, 16, 128}) {
      const int64_t kv_heads = group > 8 ? 1 : 2;
      expect_match({1, 1, context, 0, group * kv_heads, kv_heads, 16, 16}, 7);
    }
}

TEST(AttentionDecode, Dims) {
  for (auto [dk, dv] : {std::pair{8, 12}, {12, 8}, {48, 20}, {128, 128}, {192, 128}, {256, 24}, {500, 40}})
    for (int64_t group : {1, 3, 5, 16, 32}) expect_match({2, 1, 130, 40, 2 * group, 2, dk, dv}, 7);
}

TEST(AttentionDecode, UnevenLengthsAndUnseenRows) {
  for (int64_t group : {1, 4, 40})
    expect_case({group, 1, 20, 12}, {1, 1, 1, 1}, {1, 700, 33, 96}, 1, 0.25f, 64 * 0x1p-24);
}

TEST(AttentionDecode, ScoresOfTwoHundred) {
  // exp turns a relative error of 2^-24 in a score of 200 into 200 * 2^-24 in a weight.
  for (int64_t group : {1, 24}) expect_case({group, 1, 16, 16}, {1}, {200}, 4, 4.f, 2000 * 0x1p-24);
}

TEST(AttentionDecode, EqualScoresGiveTheMeanOfTheValues) {
  AttentionCase test({3, 1, 8, 8}, {1}, {100}, DType::f32);
  for (float& x : test.q()) x = 0;
  std::vector<double> mean(24, 0);
  for (int64_t t = 0; t < 100; ++t)
    for (int64_t h = 0; h < 3; ++h)
      for (int64_t d = 0; d < 8; ++d)
        mean[static_cast<size_t>(h * 8 + d)] += element(test.v(), DType::f32, t * 8 + d) / 100;
  for (const auto& kernel : AttentionDecode::kernels()) {
    if (!supported(kernel.impl)) continue;
    EXPECT_LE(compare(test.run(kernel.run), mean).max_err, 64 * 0x1p-24) << name(kernel.impl);
  }
}

TEST(AttentionDecode, OrderOfTokensDoesNotMatter) {
  AttentionCase test({2, 1, 16, 16}, {1}, {301}, DType::f32);
  for (const auto& kernel : AttentionDecode::kernels()) {
    if (!supported(kernel.impl)) continue;
    const auto forward = test.run(kernel.run);
    for (void* cache : {test.k(), test.v()}) {
      auto* rows = static_cast<float*>(cache);
      for (int64_t t = 0; t < 150; ++t) std::swap_ranges(rows + t * 16, rows + t * 16 + 16, rows + (300 - t) * 16);
    }
    EXPECT_LE(compare(test.run(kernel.run), forward).max_err, 64 * 0x1p-24) << name(kernel.impl);
  }
}

TEST(AttentionDecode, CostIsCounted) {
  const AttentionDecode::Shape shape{2, 1, 40, 20, 6, 2, 12, 8};
  const Cost cost = AttentionDecode::cost(shape, DType::bf16, "flash");
  EXPECT_EQ((counted_flops<AttentionDecode, reference::attention_decode<Counted>>(shape, "flash")), cost.flops);
  EXPECT_EQ(cost.kv_bytes, 60 * 2 * (12 + 8) * 2);
}

}  // namespace
}  // namespace mmb
