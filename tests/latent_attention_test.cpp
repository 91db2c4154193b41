#include "mmb/latent_attention.h"

#include <cmath>
#include <limits>

#include "mmb/accounting.h"
#include "mmb/random.h"
#include "op_test.h"

namespace mmb {
namespace {

constexpr auto expect_match = expect_kernels_match_reference<LatentAttention, reference::latent_attention<double>>;

constexpr LatentRow row_of(const LatentAttention::Shape& shape, DType dtype) {
  return {dtype, shape.kv_lora_rank, shape.qk_rope_head_dim};
}

// Rows of f32 values as a cache of `dtype`.
Buffer<uint8_t> stored(const std::vector<float>& values, const LatentRow& row) {
  const int64_t width = row.latent + row.rope, count = static_cast<int64_t>(values.size()) / width;
  Buffer<uint8_t> cache(count * row.bytes());
  for (int64_t t = 0; t < count; ++t) row.store(values.data() + t * width, cache.data() + t * row.bytes());
  return cache;
}

TEST(LatentAttention, LiteralCase) {
  // Rows of a latent (0, 0) or (2, -2) and a rope key: scores 0 and 2 * 1 + (ln 3 - 2) * 1 = ln 3, so that the latents have
  // weights 1/4 and 3/4.
  constexpr float kRope = 1.0986123f - 2;
  const float q[] = {1, 0, 1, 0};
  const int64_t first[] = {0, 1}, context[] = {2};
  const LatentAttention::Shape shape{1, 1, 2, 0, 1, 2, 2};
  for (DType dtype : types<LatentAttention>()) {
    const Buffer<uint8_t> cache = stored({0, 0, 0, 0, 2, -2, kRope, 0}, row_of(shape, dtype));
    // As the cache rounds it: fp8's rope key is bf16, int8's with a scale of its own.
    const float rounding =
                    static_cast<float>(row_of(shape, dtype).at(cache.data() + row_of(shape, dtype).bytes(), 2)) - kRope,
                weight = 3 * std::exp(rounding) / (1 + 3 * std::exp(rounding));
    for (const auto& kernel : LatentAttention::kernels()) {
      if (!supported(kernel.impl) || !takes(kernel, shape, dtype)) continue;
      float out[2] = {};
      kernel.run(shape, {{1, first, context}, q, cache.data(), dtype, 2, 1, out});
      EXPECT_NEAR(out[0], 2 * weight, 2e-6) << name(kernel.impl) << ' ' << name(dtype);
      EXPECT_NEAR(out[1], -2 * weight, 2e-6) << name(kernel.impl) << ' ' << name(dtype);
    }
  }
}

TEST(LatentAttention, RowsAreStoredToHalfAStep) {
  const LatentAttention::Shape shape{1, 1, 1, 0, 1, 300, 10};  // three scales of fp8, the last of 44 elements
  std::vector<float> values(310);
  fill_normal(values, 3);
  for (size_t i = 300; i < 310; ++i) values[i] *= 20;
  values[5] = 0;
  for (DType dtype : types<LatentAttention>()) {
    const LatentRow row = row_of(shape, dtype);
    const Buffer<uint8_t> cache = stored(values, row);
    EXPECT_TRUE(cache.intact());
    for (int64_t i = 0; i < 310; ++i) {
      double largest = 0;
      for (int64_t j = i < 300 ? 0 : 300; j < (i < 300 ? 300 : 310); ++j)
        largest = std::max<double>(largest, std::abs(values[static_cast<size_t>(j)]));
      const double value = values[static_cast<size_t>(i)],
                   step = dtype == DType::f32                ? 0
                          : dtype == DType::int8             ? largest / 127
                          : dtype == DType::bf16 || i >= 300 ? std::abs(value) / 128
                                                             : std::max(std::abs(value) / 8, largest / 448 / 512);
      EXPECT_LE(std::abs(row.at(cache.data(), i) - value), step / 2 * (1 + 1e-6)) << name(dtype) << ' ' << i;
    }
    const Buffer<uint8_t> zeros = stored(std::vector<float>(310), row);
    for (int64_t i = 0; i < 310; ++i) EXPECT_EQ(row.at(zeros.data(), i), 0);
  }
}

// A token alone is its own output: the error is the largest rounding of a latent. In steps of the largest of 512, half a
// step of int8 is 1 / 254; a bf16 of the largest's size is rounded by up to 1 / 256, or 1 / 512 where it begins a power of
// two; an fp8 from 256 on by up to 16, of 448.
TEST(LatentAttention, OneTokensStorageErrorIsHalfAStep) {
  const auto storage_err = [](DType dtype, uint64_t seed) { return LatentRow{dtype, 512, 64}.storage_err(1, seed); };
  for (uint64_t seed : {1, 2, 3}) {
    EXPECT_EQ(storage_err(DType::f32, seed), 0);
    EXPECT_LE(storage_err(DType::int8, seed), 1.001 / 254);
    EXPECT_GE(storage_err(DType::int8, seed), 0.95 / 254);
    EXPECT_LE(storage_err(DType::bf16, seed), 1.001 / 256);
    EXPECT_GE(storage_err(DType::bf16, seed), 0.85 / 512);
    EXPECT_LE(storage_err(DType::fp8, seed), 16.01 / 448);
    EXPECT_GE(storage_err(DType::fp8, seed), 0.85 * 8 / 448);
  }
}

// Elements deviate by 1, and their rounding by r: a step over the square root of 12. int8's step is the largest of 512 over
// 127, or 3.04 / 127; of floats with m bits behind the point, elements a root mean square of 1.47 from the power of two below
// them, it is 2^-m / 1.47. An output moves by its latents' rounding, and by what moves the scores, which deviate by 2 and so
// move by 2r: together by sqrt(5) r of an output, but for bf16 rope keys, a ninth of fp8's scores. The largest of both, where
// few tokens count: within a factor of 1.6.
TEST(LatentAttention, StorageErrorIsThatOfTheStep) {
  const double fp8 = 0.125 / 1.47, bf16 = fp8 / 16;
  for (const auto& [dtype, step, share] :
       {std::tuple{DType::int8, 3.04 / 127, 1.0}, {DType::bf16, bf16, 1.0}, {DType::fp8, fp8, 8.0 / 9}}) {
    const LatentRow row{dtype, 512, 64};
    double mean = 0;
    for (uint64_t seed : {1, 2, 3, 4}) mean += row.storage_err(300, seed) / 4;
    const double expected = std::sqrt((1 + 4 * share) / 12) * step;
    EXPECT_GT(mean, expected / 1.6) << name(dtype);
    EXPECT_LT(mean, expected * 1.6) << name(dtype);
  }
}

TEST(LatentAttention, StorageErrorOfLongContextsIsThatOf1024Tokens) {
  const LatentRow row{DType::int8, 8, 4};
  EXPECT_EQ(row.storage_err(int64_t{1} << 40, 7), row.storage_err(1024, 7));
  EXPECT_NE(row.storage_err(1023, 7), row.storage_err(1024, 7));
}

// One definition of a token's bytes: the layout's, the accounts', the cost's, and what a Problem takes of memory.
TEST(LatentAttention, BytesAreTheAccounts) {
  const Model v3 = load_model("DeepSeek-V3");
  for (const auto& [dtype, cache_dtype, bytes] : {std::tuple{DType::f32, "f32", 2304},
                                                  {DType::bf16, "bf16", 1152},
                                                  {DType::fp8, "fp8_flashmla", 656},
                                                  {DType::int8, "int8", 576 + 8}}) {
    const LatentAttention::Shape shape{2, 1, 64, 0, 3, v3.kv_lora_rank, v3.qk_rope_head_dim};
    EXPECT_EQ(row_of(shape, dtype).bytes(), bytes);
    EXPECT_EQ(LatentAttention::cost(shape, dtype, "flash").kv_bytes, 2 * 64 * bytes);
    const int64_t before = test_arena().taken();
    const LatentAttention::Problem problem(shape, dtype, "flash", test_arena(), 1);
    EXPECT_EQ(test_arena().taken() - before, 2 * 64 * bytes);
    if (dtype != DType::int8) {  // whose scales the accounts, which are about elements, leave out
      EXPECT_EQ(kv_bytes(v3, cache_dtype), bytes);
    }
  }
  EXPECT_EQ(61 * row_of({1, 1, 1, 0, 1, 512, 64}, DType::fp8).bytes(), 40016);
}

TEST(LatentAttention, ContextsAndHeads) {
  for (int64_t context : {1, 2, 15, 16, 17, 95, 96, 97, 513, 1030})
    for (int64_t heads : {1, 3, 16, 33}) expect_match({1, 1, context, 0, heads, 32, 16}, 7);
  for (int64_t context : {1, 5, 6, 7, 96, 97, 200})
    for (int64_t heads : {9, 12, 16}) expect_match({1, 1, context, 0, heads, 64, 128}, 7);
}

TEST(LatentAttention, Dims) {
  for (auto [R, D] : {std::pair{8, 4}, {20, 6}, {37, 5}, {40, 8}, {192, 64}, {512, 64}})
    for (int64_t heads : {2, 4, 8, 16, 17}) expect_match({2, 1, 130, 50, heads, R, D}, 7);
}

TEST(LatentAttention, SeveralNewTokensAreCausal) {
  for (int64_t new_tokens : {2, 5, 40}) expect_match({2, new_tokens, 130, 60, 9, 24, 8}, 7);
}

TEST(LatentAttention, RowsThatNoTokenSeesAreNotRead) {
  const int64_t context[] = {70, 3}, first[] = {0, 2, 3}, capacity = 72, H = 5, R = 20, D = 4, N = 3;
  const LatentAttention::Shape shape{1, N, capacity, 0, H, R, D};
  std::vector<float> values(2 * capacity * (R + D));
  fill_normal(values, 5, 0.3);
  for (DType dtype : types<LatentAttention>()) {
    const LatentRow row = row_of(shape, dtype);
    Buffer<uint8_t> cache = stored(values, row);
    for (int64_t i = 0; i < 2 * capacity; ++i)
      if (i % capacity >= context[i / capacity])  // NaN in every type and scale
        std::memset(cache.data() + i * row.bytes(), 0xff, static_cast<size_t>(row.bytes()));
    Buffer<float> q(N * H * (R + D)), out(N * H * R), expected(N * H * R);
    fill_normal(q, 1);
    LatentAttention::Args args{{2, first, context}, q.data(), cache.data(), dtype, capacity, 0.5f, expected.data()};
    reference::latent_attention<double>(shape, args, {0, N * H});
    const std::vector<double> wanted(expected.begin(), expected.end());
    args.out = out.data();
    for (const auto& kernel : LatentAttention::kernels()) {
      if (!supported(kernel.impl) || !takes(kernel, shape, dtype)) continue;
      for (float& x : out) x = std::numeric_limits<float>::quiet_NaN();
      kernel.run(shape, args);
      EXPECT_LE(compare(std::vector<double>(out.begin(), out.end()), wanted).max_err,
                LatentAttention::tolerance(shape, kernel.algo))
          << name(kernel.impl) << ' ' << name(dtype);
      EXPECT_TRUE(out.intact());
    }
  }
}

// Algo `integer` rounds nothing where queries are whole numbers with a largest of 127 in each part, scales of one size, and
// weights 0 or 1: all tokens alike, or one alone that counts. Rows that no token sees are NaN; a scale has either sign.
void expect_exact_integers(int64_t heads, int64_t R, int64_t D, int64_t context, float scale) {
  const LatentAttention::Shape shape{1, 1, context, 0, heads, R, D};
  const LatentRow row = row_of(shape, DType::int8);
  const auto random = [&](uint64_t seed, int64_t i, int64_t most) {  // -most .. most
    return static_cast<int>(std::floor(uniform(seed, static_cast<uint64_t>(i)) * static_cast<double>(2 * most + 1))) -
           static_cast<int>(most);
  };
  Buffer<uint8_t> cache((context + 3) * row.bytes());  // NaN
  for (int64_t t = 0; t < context; ++t) {
    uint8_t* token = cache.data() + t * row.bytes();
    for (int64_t i = 0; i < R + D; ++i)
      token[i] = static_cast<uint8_t>(random(1, t * (R + D) + i, 128));  // 128 is -128
    const float scales[] = {random(2, t, 1) < 0 ? -0.25f : 0.25f, random(3, t, 1) < 0 ? -2.f : 2.f};
    std::memcpy(token + row.scales(), scales, sizeof scales);
  }
  Buffer<float> q(heads * (R + D)), out(heads * R), expected(heads * R);
  for (int64_t i = 0; i < q.size(); ++i) q[i] = static_cast<float>(random(4, i, 127));
  for (int64_t h = 0; h < heads; ++h) q[h * (R + D) + h % R] = q[h * (R + D) + R + h % D] = h % 2 ? -127 : 127;
  const int64_t first[] = {0, 1};
  LatentAttention::Args args{{1, first, &context}, q.data(), cache.data(),   DType::int8,
                             context + 3,          scale,    expected.data()};
  reference::latent_attention<double>(shape, args, {0, heads});
  args.out = out.data();
  for (const auto& kernel : LatentAttention::kernels()) {
    if (kernel.algo != std::string_view("integer") || !supported(kernel.impl) || !takes(kernel, shape, DType::int8))
      continue;
    const int saved = omp_get_max_threads();
    for (int threads : {1, 3}) {
      omp_set_num_threads(threads);
      for (float& x : out) x = std::numeric_limits<float>::quiet_NaN();
      kernel.run(shape, args);
      expect_close({out.begin(), out.end()}, {expected.begin(), expected.end()}, 64 * 0x1p-24,
                   std::string(name(kernel.impl)) + ' ' + LatentAttention::key(shape) + " heads " +
                       std::to_string(heads) + " dims " + std::to_string(R) + ' ' + std::to_string(D) + " scale " +
                       std::to_string(scale));
      EXPECT_TRUE(out.intact());
    }
    omp_set_num_threads(saved);
  }
}

TEST(LatentAttention, IntegersAreExactWhereNothingIsRounded) {
  for (float scale : {0.f, 100.f}) {
    for (int64_t context : {1, 3, 4, 63, 64, 65, 191, 192, 193, 700}) expect_exact_integers(5, 40, 8, context, scale);
    for (int64_t heads : {1, 15, 16, 17, 48, 49, 100, 129}) expect_exact_integers(heads, 40, 8, 210, scale);
    for (auto [R, D] : {std::pair{8, 4}, {20, 6}, {37, 5}, {64, 64}, {66, 2}, {512, 64}})
      expect_exact_integers(20, R, D, 130, scale);
  }
}

// The weights of a row's far tokens, and all of a block's, may be too small for numbers.
TEST(LatentAttention, IntegersOfFarTokens) {
  const int64_t context = 500, heads = 17, first[] = {0, 1};
  const LatentAttention::Shape shape{1, 1, context, 0, heads, 32, 4};
  for (int64_t near : {0, 250, 499}) {
    std::vector<float> values(context * 36);
    fill_normal(values, 3);
    for (int64_t t = 0; t < context; ++t) values[t * 36 + 32] = t == near ? 2.f : -2.f;
    const Buffer<uint8_t> cache = stored(values, row_of(shape, DType::int8));
    Buffer<float> q(heads * 36), out(heads * 32), expected(heads * 32);
    for (int64_t i = 0; i < q.size(); ++i) q[i] = i % 36 == 32 ? 1.f : 0.f;
    LatentAttention::Args args{{1, first, &context}, q.data(), cache.data(), DType::int8, context, 1e4f,
                               expected.data()};
    reference::latent_attention<double>(shape, args, {0, heads});
    args.out = out.data();
    for (const auto& kernel : LatentAttention::kernels()) {
      if (kernel.algo != std::string_view("integer") || !supported(kernel.impl) || !takes(kernel, shape, DType::int8))
        continue;
      kernel.run(shape, args);
      expect_close({out.begin(), out.end()}, {expected.begin(), expected.end()}, 64 * 0x1p-24, name(kernel.impl));
    }
  }
}

TEST(LatentAttention, CostIsCounted) {
  const LatentAttention::Shape shape{2, 1, 40, 20, 6, 12, 4};
  const Cost cost = LatentAttention::cost(shape, DType::bf16, "flash");
  EXPECT_EQ((counted_flops<LatentAttention, reference::latent_attention<Counted>>(shape, "flash")), cost.flops);
  EXPECT_EQ(cost.kv_bytes, 60 * 16 * 2);
  EXPECT_EQ(LatentAttention::cost(shape, DType::fp8, "flash").kv_bytes, 60 * (12 + 4 + 8));
  EXPECT_EQ(LatentAttention::cost(shape, DType::int8, "flash").kv_bytes, 60 * (12 + 4 + 8));
  EXPECT_EQ(LatentAttention::cost(shape, DType::int8, "flash").int8_flops, 0);
  EXPECT_EQ(LatentAttention::cost(shape, DType::int8, "integer").int8_flops, cost.flops);
  EXPECT_EQ(LatentAttention::cost({1, 1, 4096, 0, 128, 512, 64}, DType::bf16, "flash").flops, 2.0 * 128 * 4096 * 1088);
}

}  // namespace
}  // namespace mmb
