#include "mmb/latent_attention.h"

#include <limits>

#include "mmb/random.h"
#include "op_test.h"

namespace mmb {
namespace {

constexpr auto expect_match = expect_kernels_match_reference<LatentAttention, reference::latent_attention<double>>;

TEST(LatentAttention, LiteralCase) {
  // Rows (latent, rope key): scores 0 * 1 + 0 and 2 * 1 + ln 3 - 2 = ln 3; the values are the latents 0 and 2.
  const float q[] = {1, 1}, cache[] = {0, 0, 2, 1.0986123f - 2};
  const int64_t first[] = {0, 1}, context[] = {2};
  for (const auto& kernel : LatentAttention::kernels()) {
    if (!supported(kernel.impl)) continue;
    float out = 0;
    kernel.run({1, 1, 2, 0, 1, 1, 1}, {{1, first, context}, q, cache, DType::f32, 2, 1, &out});
    EXPECT_FLOAT_EQ(out, 1.5f) << name(kernel.impl);
  }
}

TEST(LatentAttention, ContextsAndHeads) {
  for (int64_t context : {1, 2, 15, 16, 17, 95, 96, 97, 513, 1030})
    for (int64_t heads : {1, 3, 16, 33}) expect_match({1, 1, context, 0, heads, 32, 16}, 7);
}

TEST(LatentAttention, Dims) {
  for (auto [R, D] : {std::pair{8, 4}, {20, 6}, {40, 8}, {512, 64}}) expect_match({2, 1, 130, 50, 17, R, D}, 7);
}

TEST(LatentAttention, SeveralNewTokensAreCausal) {
  for (int64_t new_tokens : {2, 5, 40}) expect_match({2, new_tokens, 130, 60, 9, 24, 8}, 7);
}

TEST(LatentAttention, RowsThatNoTokenSeesAreNotRead) {
  const int64_t context[] = {70, 3}, first[] = {0, 2, 3}, capacity = 72, H = 5, R = 20, D = 4, N = 3;
  for (DType dtype : {DType::f32, DType::bf16}) {
    Buffer<uint8_t> cache(2 * capacity * (R + D) * size_of(dtype));
    for (int64_t i = 0; i < 2 * capacity; ++i)
      for (int64_t d = 0; d < R + D; ++d)
        set_element(cache.data(), dtype, i * (R + D) + d,
                    i % capacity < context[i / capacity]
                        ? static_cast<float>(uniform(5, static_cast<uint64_t>(i * 64 + d)) - 0.5)
                        : std::numeric_limits<float>::quiet_NaN());
    Buffer<float> q(N * H * (R + D)), out(N * H * R), expected(N * H * R);
    fill_normal(q, 1);
    LatentAttention::Args args{{2, first, context}, q.data(), cache.data(), dtype, capacity, 0.5f, expected.data()};
    const LatentAttention::Shape shape{1, N, capacity, 0, H, R, D};
    reference::latent_attention<double>(shape, args, {0, N * H});
    const std::vector<double> wanted(expected.begin(), expected.end());
    args.out = out.data();
    for (const auto& kernel : LatentAttention::kernels()) {
      if (!supported(kernel.impl)) continue;
      for (float& x : out) x = std::numeric_limits<float>::quiet_NaN();
      kernel.run(shape, args);
      EXPECT_LE(compare(std::vector<double>(out.begin(), out.end()), wanted).max_err, 64 * 0x1p-24)
          << name(kernel.impl);
      EXPECT_TRUE(out.intact());
    }
  }
}

TEST(LatentAttention, CostIsCounted) {
  const LatentAttention::Shape shape{2, 1, 40, 20, 6, 12, 4};
  const Cost cost = LatentAttention::cost(shape, DType::bf16, "flash");
  EXPECT_EQ((counted_flops<LatentAttention, reference::latent_attention<Counted>>(shape, "flash")), cost.flops);
  EXPECT_EQ(cost.kv_bytes, 60 * 16 * 2);
  EXPECT_EQ(LatentAttention::cost({1, 1, 4096, 0, 128, 512, 64}, DType::bf16, "flash").flops, 2.0 * 128 * 4096 * 1088);
}

}  // namespace
}  // namespace mmb
