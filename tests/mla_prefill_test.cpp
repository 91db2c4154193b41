#include "mmb/mla_prefill.h"

#include "mla_test.h"

namespace mmb {
namespace {

TEST(MlaPrefill, KernelsMatchReference) {
  for (int64_t new_tokens : {2, 5, 33})
    for (const MlaPrefill::Shape& shape : mla_ladder(new_tokens))
      expect_kernels_match_reference<MlaPrefill, reference::mla_prefill<double>>(shape);
  expect_kernels_match_reference<MlaPrefill, reference::mla_prefill<double>>(mla_small(1, 100, 100));
  expect_kernels_match_reference<MlaPrefill, reference::mla_prefill<double>>(mla_small(1, 40, 210));
}

TEST(MlaPrefill, EveryAlgoGivesTheSame) {
  for (DType dtype : {DType::f32, DType::bf16})
    for (const MlaCase& c : {MlaCase({4}, {4}, dtype), MlaCase({1, 40, 3}, {130, 40, 64}, dtype)})
      expect_same_from_every_algo<MlaPrefill>(c);
}

TEST(MlaPrefill, OneTokenIsADecodeStep) {
  const MlaCase c({1, 1}, {97, 20}, DType::bf16);
  for (const auto& prefill : MlaPrefill::kernels())
    for (const auto& decode : MlaDecode::kernels()) {
      if (prefill.impl != decode.impl || !c.runs(prefill) || !c.runs(decode)) continue;
      EXPECT_LE(compare(c.run(prefill), c.run(decode)).max_err, 1e-5) << prefill.algo << " " << name(prefill.impl);
    }
}

// What comes after a token does not reach it: the first half of a prompt alone gives the same outputs.
TEST(MlaPrefill, IsCausal) {
  const MlaCase whole({48}, {48}, DType::bf16), half({24}, {24}, DType::bf16);
  for (const auto& kernel : MlaPrefill::kernels()) {
    if (!whole.runs(kernel)) continue;
    std::vector<double> first = whole.run(kernel);
    const std::vector<double> alone = half.run(kernel);
    first.resize(alone.size());
    EXPECT_LE(compare(first, alone).max_err, 1e-5) << kernel.algo << " " << name(kernel.impl);
  }
}

TEST(MlaPrefill, FlopsAreCounted) {
  const MlaPrefill::Shape shape = mla_small(2, 3, 9, 5);
  EXPECT_EQ((counted_flops<MlaPrefill, reference::mla_prefill<Counted>>(shape, "absorbed")),
            MlaPrefill::cost(shape, DType::f32, "absorbed").flops);
  EXPECT_EQ((counted_flops<MlaPrefill, reference::mla_prefill_expanded<Counted>>(shape, "expanded")),
            MlaPrefill::cost(shape, DType::f32, "expanded").flops);
}

TEST(MlaPrefill, KeySaysWhatWasCachedBefore) {
  EXPECT_EQ(MlaPrefill::key(mla_small(1, 128, 640)), "batch:1/q:128/past:512");
  EXPECT_EQ(MlaPrefill::key(mla_small(4, 8, 16, 8)), "batch:4/q:8/past:0..8");
}

// The last number of new tokens for which absorbing needs fewer FLOPs: about U + U^2/(2Z) = 171 on Z cached ones, and none
// where nothing is cached.
TEST(MlaPrefill, Crossover) {
  const auto absorbing_pays = [](int64_t new_tokens, int64_t past) {
    const MlaPrefill::Shape shape{1, new_tokens, past + new_tokens, 0, 128, 512, 128, 64, 128};
    return MlaPrefill::cost(shape, DType::bf16, "absorbed").flops <
           MlaPrefill::cost(shape, DType::bf16, "expanded").flops;
  };
  for (const auto& [past, last] : {std::pair{64, 96}, {512, 148}, {4096, 167}}) {
    EXPECT_TRUE(absorbing_pays(last, past)) << past;
    EXPECT_FALSE(absorbing_pays(last + 1, past)) << past;
  }
  EXPECT_FALSE(absorbing_pays(1, 0));
}

}  // namespace
}  // namespace mmb
