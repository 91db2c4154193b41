#include "mmb/mla_project.h"

#include "mmb/random.h"
#include "op_test.h"

namespace mmb {
namespace {

MlaProject::Shape small(int64_t batch, int64_t new_tokens, int64_t context, int64_t q_lora_rank) {
  return {batch, new_tokens, context, 52, 3, q_lora_rank, 40, 24, 8};
}

// H = 2, one head of dn = 1, D = 2, R = 2; position 0, so that nothing turns; eps 0.
TEST(MlaProject, LiteralCase) {
  const PackedMatrix q_a(std::vector<float>{3, 0, 0, 2}, 2, 2, DType::bf16);
  const PackedMatrix q_b(std::vector<float>{1, 0, 0, 1, 1, 1}, 3, 2, DType::bf16);
  const PackedMatrix kv_a(std::vector<float>{7, 0, 0, 1, 5, 0, 0, 6}, 4, 2, DType::bf16);
  const float x[] = {1, 2}, q_a_norm[] = {5, 10}, kv_a_norm[] = {5, 10};
  const int64_t position = 0;
  const double inv_freq = 1;
  const Batch batch(1, 1, 2);
  for (const auto& kernel : MlaProject::kernels()) {
    if (!supported(kernel.impl)) continue;
    float q[3], cache[8] = {-1, -1, -1, -1};
    kernel.run({1, 1, 2, 2, 1, 2, 2, 1, 2}, {batch.view(), x, &position, q_a.matrix(), q_b.matrix(), q_a_norm,
                                             kv_a.matrix(), kv_a_norm, 0, &inv_freq, 1, q, cache, DType::f32, 2});
    // q_a x = (3, 4): the root mean square is 5/sqrt 2, so the norm gives (3, 8) * sqrt 2.
    EXPECT_FLOAT_EQ(q[0], 3 * std::sqrt(2.f)) << name(kernel.impl);
    EXPECT_FLOAT_EQ(q[1], 8 * std::sqrt(2.f)) << name(kernel.impl);
    EXPECT_FLOAT_EQ(q[2], 11 * std::sqrt(2.f)) << name(kernel.impl);
    // kv_a x = (7, 2 | 5, 12): the latent is normed, the rope key is not; the earlier row is untouched.
    EXPECT_FLOAT_EQ(cache[4], 35 / std::sqrt(26.5f)) << name(kernel.impl);
    EXPECT_FLOAT_EQ(cache[5], 20 / std::sqrt(26.5f)) << name(kernel.impl);
    EXPECT_FLOAT_EQ(cache[6], 5) << name(kernel.impl);
    EXPECT_FLOAT_EQ(cache[7], 12) << name(kernel.impl);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(cache[i], -1) << name(kernel.impl);
  }
}

TEST(MlaProject, KernelsMatchReference) {
  constexpr auto reference = reference::mla_project<double>;
  // A rank of 1 would leave the sign of a sum: its rounding, which the norm magnifies, has no bound. Nor has the sum that
  // cancels, where a result has few.
  for (int64_t q_lora_rank : {0, 7, 20}) {
    expect_kernels_match_reference<MlaProject, reference>(small(3, 1, 1, q_lora_rank));
    expect_kernels_match_reference<MlaProject, reference>(small(3, 1, 9, q_lora_rank));
    expect_kernels_match_reference<MlaProject, reference>(small(3, 2, 7, q_lora_rank));
    expect_kernels_match_reference<MlaProject, reference>(small(2, 17, 17, q_lora_rank));
  }
  expect_kernels_match_reference<MlaProject, reference>({3, 1, 5, 33, 1, 17, 15, 7, 2});
  // DeepSeek-V2-Lite's heads.
  expect_kernels_match_reference<MlaProject, reference>({2, 1, 3, 512, 16, 0, 512, 128, 64});
}

// With DeepSeek's latent, of four scales in fp8.
TEST(MlaProject, ScaledCachesMatchReference) {
  for (DType cache : {DType::fp8, DType::int8})
    for (MlaProject::Shape shape : {small(3, 2, 7, 20), MlaProject::Shape{2, 1, 3, 40, 2, 0, 512, 24, 64}}) {
      shape.cache = cache;
      expect_kernels_match_reference<MlaProject, reference::mla_project<double>>(shape);
    }
}

// Uneven prompts appended to uneven caches: each sequence alone gives the same, and rows that are not new stay as they
// are.
TEST(MlaProject, SequencesAreIndependent) {
  const MlaProject::Shape shape = small(1, 5, 11, 20);
  MlaProject::Problem problem(shape, DType::bf16, "panels", test_arena(), 5);
  const int64_t capacity = 12, width = 48, query = 3 * 32;
  const Batch uneven({1, 3, 1}, {4, 11, 1});
  const auto run = [&](const Kernel<MlaProject>& kernel, const Batch& batch, int64_t first, float* q, bf16* cache) {
    MlaProject::Args args = problem.args();
    args.sequences = batch.view();
    args.x += first * shape.hidden_size;
    args.positions += first;
    args.q = q;
    args.cache = cache;
    args.capacity = capacity;
    kernel.run(shape, args);
  };
  for (const auto& kernel : MlaProject::kernels()) {
    if (kernel.impl == Impl::reference || !supported(kernel.impl)) continue;
    std::vector<float> q(5 * query), alone_q(5 * query);
    std::vector<bf16> cache(3 * capacity * width, bf16{0x4242}), alone(cache);
    run(kernel, uneven, 0, q.data(), cache.data());
    run(kernel, Batch({1}, {4}), 0, alone_q.data(), alone.data());
    run(kernel, Batch({3}, {11}), 1, alone_q.data() + query, alone.data() + capacity * width);
    run(kernel, Batch({1}, {1}), 4, alone_q.data() + 4 * query, alone.data() + 2 * capacity * width);
    for (size_t i = 0; i < q.size(); ++i) ASSERT_NEAR(q[i], alone_q[i], 1e-5) << name(kernel.impl) << " " << i;
    for (size_t i = 0; i < cache.size(); ++i)
      ASSERT_NEAR(to_float(cache[i]), to_float(alone[i]), 0.02 * std::abs(to_float(alone[i])))
          << name(kernel.impl) << " " << i;
    const auto written = static_cast<int64_t>(
        std::count_if(cache.begin(), cache.end(), [](bf16 value) { return value.bits != 0x4242; }));
    EXPECT_EQ(written, 5 * width) << name(kernel.impl);
  }
}

TEST(MlaProject, FlopsAreCounted) {
  for (int64_t q_lora_rank : {0, 20}) {
    const auto shape = small(2, 3, 7, q_lora_rank);
    EXPECT_EQ((counted_flops<MlaProject, reference::mla_project<Counted>>(shape, "panels")),
              MlaProject::cost(shape, DType::f32, "panels").flops);
  }
}

TEST(MlaProject, DeepSeekV3Weights) {
  const Cost cost = MlaProject::cost({1, 1, 1, 7168, 128, 1536, 512, 128, 64}, DType::bf16, "panels");
  EXPECT_EQ(cost.flops, 2 * (7168 * 1536 + 1536 * 24576 + 7168 * 576));
  EXPECT_EQ(cost.kv_bytes, 1152);  // 70,272 bytes per token in 61 layers
}

}  // namespace
}  // namespace mmb
