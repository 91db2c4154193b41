#include "mmb/rms_norm.h"

#include "op_test.h"

namespace mmb {
namespace {

TEST(RmsNorm, LiteralCase) {
  // mean of squares of (3, 4) is 12.5; eps 0 keeps the arithmetic plain.
  const float x[] = {3, 4}, weight[] = {1, 2};
  float y[2];
  reference::rms_norm<double>({1, 2}, {x, weight, 0, y}, {0, 1});
  EXPECT_FLOAT_EQ(y[0], 3 / std::sqrt(12.5f));
  EXPECT_FLOAT_EQ(y[1], 8 / std::sqrt(12.5f));
}

TEST(RmsNorm, KernelsMatchReference) {
  for (int64_t hidden_size : {1, 3, 4, 15, 16, 17, 63, 64, 65, 1536, 7168})
    for (int64_t tokens : {1, 2, 5})
      expect_kernels_match_reference<RmsNorm, reference::rms_norm<double>>({tokens, hidden_size});
}

TEST(RmsNorm, ZeroTokenStaysZero) {
  std::vector<float> x(40, 0), weight(40, 3), y(40, 1);
  for (const auto& kernel : RmsNorm::kernels()) {
    if (!supported(kernel.impl)) continue;
    kernel.run({1, 40}, {x.data(), weight.data(), 1e-6f, y.data()});
    for (float v : y) EXPECT_EQ(v, 0) << name(kernel.impl);
  }
}

TEST(RmsNorm, NoContractionWithWeights) {
  EXPECT_EQ((counted_flops<RmsNorm, reference::rms_norm<Counted>>({3, 40}, "two_pass")),
            RmsNorm::cost({3, 40}, DType::f32, "two_pass").flops);
}

}  // namespace
}  // namespace mmb
