#include "mmb/fma_peak.h"

#include "op_test.h"

namespace mmb {
namespace {

TEST(FmaPeak, LiteralCase) {
  const float x[] = {1, -2, 0};
  float y[3];
  for (const auto& kernel : FmaPeak::kernels()) {
    if (!supported(kernel.impl)) continue;
    const int64_t products = FmaPeak::products(kernel.algo);
    kernel.run({3, 3}, {x, 2, 1, products, y});
    for (int i = 0; i < 3; ++i)  // 1 -> 3 -> 7 -> 15, or 1 + 3 * products * 2
      EXPECT_EQ(y[i], products ? x[i] + 6 * static_cast<float>(products) : 8 * x[i] + 7)
          << kernel.algo << name(kernel.impl);
  }
}

TEST(FmaPeak, KernelsMatchReference) {
  for (int64_t elements : {1, 17, 48, 97, 385, 3 * 384 + 5})
    for (int64_t steps : {1, 1000})
      expect_kernels_match_reference<FmaPeak, reference::fma_peak<double>>({elements, steps});
}

// The tolerance is worth nothing unless it sees a single step that was left out.
TEST(FmaPeak, OneStepTooFewIsSeen) {
  for (const char* algo : {"fma_f32", "dot_int8"})
    for (int64_t steps : {2, 10, 1000}) {
      FmaPeak::Problem problem({16, steps}, DType::f32, algo, test_arena(), 7);
      reference::fma_peak<double>({16, steps}, problem.expected(), {0, 16});
      reference::fma_peak<double>({16, steps - 1}, problem.args(), {0, 16});
      for (int64_t i = 0; i < 16; ++i) {
        const Output actual = problem.outputs(problem.args(), i)[0],
                     expected = problem.outputs(problem.expected(), i)[0];
        EXPECT_GT(compare(actual.values, expected.values).max_err, 2 * expected.tolerance) << steps;
      }
    }
}

TEST(FmaPeak, FlopsAreCounted) {
  for (const char* algo : {"fma_f32", "fma_f16", "dot_bf16", "dot_int8", "tile_bf16", "tile_int8"})
    EXPECT_EQ((counted_flops<FmaPeak, reference::fma_peak<Counted>>({17, 9}, algo)),
              FmaPeak::cost({17, 9}, DType::f32, algo).flops)
        << algo;
}

}  // namespace
}  // namespace mmb
