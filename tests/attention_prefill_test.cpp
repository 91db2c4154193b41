#include "mmb/attention_prefill.h"

#include "attention_test.h"
#include "mmb/attention_decode.h"

namespace mmb {
namespace {

constexpr auto expect_match = expect_kernels_match_reference<AttentionPrefill, reference::attention_prefill<double>>;
constexpr auto expect_case = expect_case_matches_reference<AttentionPrefill, reference::attention_prefill<double>>;

TEST(AttentionPrefill, LiteralCase) {
  // The first token sees itself; the second both, with weights 1/4 and 3/4.
  const float q[] = {5, 1}, k[] = {0, 1.0986123f}, v[] = {4, 8};
  const int64_t first[] = {0, 2}, context[] = {2};
  for (const auto& kernel : AttentionPrefill::kernels()) {
    if (!supported(kernel.impl)) continue;
    float out[2] = {};
    kernel.run({1, 2, 2, 0, 1, 1, 1, 1}, {{1, first, context}, q, k, v, DType::f32, 2, 1, out});
    EXPECT_FLOAT_EQ(out[0], 4) << name(kernel.impl);
    EXPECT_FLOAT_EQ(out[1], 7) << name(kernel.impl);
  }
}

TEST(AttentionPrefill, NewTokensOnCachedOnes) {
  for (int64_t past : {0, 1, 95, 130})
    for (int64_t new_tokens : {1, 2, 17, 96, 133})
      for (int64_t group : {1, 4}) expect_match({1, new_tokens, past + new_tokens, 0, 2 * group, 2, 16, 12}, 7);
}

TEST(AttentionPrefill, Dims) {
  for (auto [dk, dv] : {std::pair{8, 20}, {128, 128}, {192, 128}}) expect_match({1, 40, 70, 0, 4, 2, dk, dv}, 7);
}

TEST(AttentionPrefill, UnevenLengthsAndUnseenRows) {
  expect_case({4, 2, 20, 12}, {1, 50, 7, 100}, {1, 350, 107, 100}, 1, 0.25f, 64 * 0x1p-24);
}

TEST(AttentionPrefill, ScoresOfTwoHundred) {
  expect_case({2, 1, 16, 16}, {60}, {200}, 4, 4.f, 2000 * 0x1p-24);
}

TEST(AttentionPrefill, OneTokenIsDecode) {
  for (int64_t group : {1, 20}) {
    const AttentionCase test({group, 1, 24, 16}, {1, 1}, {150, 37}, DType::bf16);
    for (const auto& kernel : AttentionPrefill::kernels()) {
      if (!supported(kernel.impl)) continue;
      for (const auto& decode : AttentionDecode::kernels()) {
        if (decode.impl != kernel.impl) continue;
        EXPECT_LE(compare(test.run(kernel.run), test.run(decode.run)).max_err, 64 * 0x1p-24) << name(kernel.impl);
      }
    }
  }
}

TEST(AttentionPrefill, CostIsCountedForUnmaskedPairsOnly) {
  const AttentionPrefill::Shape shape{2, 5, 12, 9, 6, 2, 12, 8};
  const Cost cost = AttentionPrefill::cost(shape, DType::bf16, "flash");
  EXPECT_EQ((counted_flops<AttentionPrefill, reference::attention_prefill<Counted>>(shape, "flash")), cost.flops);
  EXPECT_EQ(cost.flops, 2 * 6 * 20 * ((5 + 6 + 7 + 8 + 9) + (8 + 9 + 10 + 11 + 12)));
}

}  // namespace
}  // namespace mmb
