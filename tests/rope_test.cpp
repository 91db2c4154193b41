#include "mmb/rope.h"

#include "mmb/random.h"
#include "op_test.h"

namespace mmb {
namespace {

std::vector<float> run(const Kernel<Rope>& kernel, std::vector<float> x, int64_t position, Rope::Pairs pairs,
                       const std::vector<double>& inv_freq, double factor = 1) {
  const auto dims = static_cast<int64_t>(x.size());
  kernel.run({1, 1, dims}, {x.data(), dims, dims, &position, inv_freq.data(), factor, pairs, x.data()});
  return x;
}

// A quarter turn of the first pair, half a turn of the second.
TEST(Rope, LiteralCase) {
  const double quarter = 1.5707963267948966;
  for (const auto& kernel : Rope::kernels()) {
    if (!supported(kernel.impl)) continue;
    const auto interleaved = run(kernel, {1, 2, 3, 4}, 5, Rope::Pairs::interleaved, {quarter / 5, 2 * quarter / 5});
    const auto half = run(kernel, {1, 2, 3, 4}, 5, Rope::Pairs::half, {quarter / 5, 2 * quarter / 5}, 2);
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_NEAR(interleaved[i], (std::vector<float>{-2, 1, -3, -4})[i], 1e-6) << name(kernel.impl) << " " << i;
      EXPECT_NEAR(half[i], (std::vector<float>{-6, -4, 2, -8})[i], 1e-6) << name(kernel.impl) << " " << i;
    }
  }
}

TEST(Rope, KernelsMatchReference) {
  for (int64_t dims : {2, 6, 8, 10, 14, 16, 18, 32, 34, 62, 64, 66, 128})
    for (int64_t tokens : {1, 2, 5})
      for (int64_t heads : {1, 3}) expect_kernels_match_reference<Rope, reference::rope<double>>({tokens, heads, dims});
}

// The rotated part of wider heads, in place: the rest stays as it is.
TEST(Rope, TouchesOnlyTheRotatedDims) {
  const int64_t tokens = 3, heads = 2, dims = 10, width = 17;
  std::vector<float> x(tokens * heads * width);
  fill_normal(x, 3);
  const int64_t positions[] = {0, 7, 100000};
  const std::vector<double> inv_freq = {1, 0.3, 0.1, 0.03, 0.01};
  for (auto pairs : {Rope::Pairs::interleaved, Rope::Pairs::half}) {
    std::vector<float> expected = x;
    const auto args = [&](std::vector<float>& y) {
      return Rope::Args{y.data() + 4, heads * width, width, positions, inv_freq.data(), 1, pairs, y.data() + 4};
    };
    for (int64_t head = 0; head < tokens * heads; ++head) {
      std::vector<float> rotated(expected.begin() + head * width + 4, expected.begin() + head * width + 4 + dims);
      rotated = run(Rope::kernels()[0], rotated, positions[head / heads], pairs, inv_freq);
      std::copy(rotated.begin(), rotated.end(), expected.begin() + head * width + 4);
    }
    for (const auto& kernel : Rope::kernels()) {
      if (!supported(kernel.impl)) continue;
      std::vector<float> y = x;
      kernel.run({tokens, heads, dims}, args(y));
      for (size_t i = 0; i < y.size(); ++i)
        EXPECT_NEAR(y[i], expected[i], 4e-6 * std::abs(expected[i]) + 1e-6) << name(kernel.impl) << " " << i;
    }
  }
}

// q . k depends on the distance of their positions alone, however far out they are.
TEST(Rope, ScoresDependOnDistance) {
  std::vector<float> q(64), k(64);
  fill_normal(q, 1);
  fill_normal(k, 2);
  std::vector<double> inv_freq(32);
  for (size_t i = 0; i < 32; ++i) inv_freq[i] = std::pow(10000, -static_cast<double>(i) / 32);
  for (const auto& kernel : Rope::kernels()) {
    if (!supported(kernel.impl)) continue;
    for (auto pairs : {Rope::Pairs::interleaved, Rope::Pairs::half}) {
      const auto score = [&](int64_t q_position, int64_t k_position) {
        const auto a = run(kernel, q, q_position, pairs, inv_freq), b = run(kernel, k, k_position, pairs, inv_freq);
        double sum = 0;
        for (size_t i = 0; i < 64; ++i) sum += static_cast<double>(a[i]) * b[i];
        return sum;
      };
      EXPECT_NEAR(score(1000000 + 37, 1000000), score(37, 0), 1e-5) << name(kernel.impl);
      EXPECT_GT(std::abs(score(38, 0) - score(37, 0)), 1e-3);
    }
  }
}

TEST(Rope, NoContraction) {
  EXPECT_EQ((counted_flops<Rope, reference::rope<Counted>>({2, 3, 8}, "half")),
            Rope::cost({2, 3, 8}, DType::f32, "half").flops);
}

Model model_of(RopeScaling scaling) {
  Model model;
  model.head_dim = 192;
  model.qk_rope_head_dim = 64;
  model.rope_scaling = scaling;
  return model;
}

TEST(RopeFrequencies, Plain) {
  const RopeFrequencies plain = rope_frequencies(model_of({}));
  ASSERT_EQ(plain.inv_freq.size(), 32u);
  EXPECT_EQ(plain.inv_freq[0], 1);
  EXPECT_NEAR(plain.inv_freq[16], 0.01, 1e-15);
  EXPECT_EQ(plain.attention_factor, 1);
  EXPECT_NEAR(softmax_scale(model_of({})), 1 / std::sqrt(192.0), 1e-15);
}

// DeepSeek-V3: beta 32 and 1 turns within 4096 tokens are dims 10.47 and 22.5, so the ramp goes from 10 to 23.
TEST(RopeFrequencies, YarnOfDeepSeekV3) {
  RopeScaling scaling;
  scaling.type = "yarn";
  scaling.factor = 40;
  scaling.original_max_position_embeddings = 4096;
  scaling.mscale = scaling.mscale_all_dim = 1;
  const RopeFrequencies plain = rope_frequencies(model_of({})), yarn = rope_frequencies(model_of(scaling));
  for (size_t i = 0; i <= 10; ++i) EXPECT_EQ(yarn.inv_freq[i], plain.inv_freq[i]) << i;
  EXPECT_NEAR(yarn.inv_freq[11] / plain.inv_freq[11], 1 - 1 / 13.0 + 1 / 13.0 / 40, 1e-12);
  for (size_t i = 23; i < 32; ++i) EXPECT_NEAR(yarn.inv_freq[i] / plain.inv_freq[i], 1 / 40.0, 1e-15) << i;
  EXPECT_EQ(yarn.attention_factor, 1);
  const double g = 0.1 * std::log(40) + 1;  // 1.3689
  EXPECT_NEAR(softmax_scale(model_of(scaling)), g * g / std::sqrt(192.0), 1e-12);

  scaling.mscale_all_dim = 0;  // nothing in the softmax scale: all of it multiplies cos and sin
  EXPECT_NEAR(rope_frequencies(model_of(scaling)).attention_factor, g, 1e-12);
  EXPECT_EQ(rope_frequencies(model_of(scaling)).softmax_factor, 1);
  scaling.attention_factor = 1.5;
  EXPECT_EQ(rope_frequencies(model_of(scaling)).attention_factor, 1.5);
}

// Llama-3.1: periods below 8192/4 tokens are kept, above 8192 they are 8 times as long.
TEST(RopeFrequencies, Llama3) {
  RopeScaling scaling;
  scaling.type = "llama3";
  scaling.factor = 8;
  scaling.original_max_position_embeddings = 8192;
  Model model = model_of(scaling);
  model.qk_rope_head_dim = 0;
  model.head_dim = 128;
  model.rope_theta = 5e5;
  const RopeFrequencies scaled = rope_frequencies(model);
  ASSERT_EQ(scaled.inv_freq.size(), 64u);
  for (size_t i = 0; i < 64; ++i) {
    const double plain = std::pow(5e5, -static_cast<double>(i) / 64), period = 2 * 3.14159265358979 / plain;
    const double ratio = scaled.inv_freq[i] / plain;
    if (period < 2048)
      EXPECT_NEAR(ratio, 1, 1e-12) << i;
    else if (period > 8192)
      EXPECT_NEAR(ratio, 0.125, 1e-12) << i;
    else
      EXPECT_NEAR(ratio, 0.125 + 0.875 * (8192 / period - 1) / 3, 1e-12) << i;
  }
}

}  // namespace
}  // namespace mmb
