#include "mmb/kernel.h"

#include <gtest/gtest.h>

#include "mmb/rms_norm.h"

namespace mmb {
namespace {

class Levels : public testing::TestWithParam<Impl> {};

// A level that this machine lacks shows as a skipped test: nothing else says that its kernels were not tested.
TEST_P(Levels, RunHere) {
  const Impl level = GetParam();
  if (!supported(level)) GTEST_SKIP() << "no " << name(level) << " on this machine: its kernels were not tested";
  EXPECT_GE(best_impl(), level) << name(best_impl());
  const float x[] = {2, 2}, weight[] = {1, 3};
  float y[] = {0, 0};
  for (const Kernel<RmsNorm>& kernel : RmsNorm::kernels())
    if (kernel.impl == level) kernel.run({1, 2}, {x, weight, 0, y});
  EXPECT_FLOAT_EQ(y[0], 1);
  EXPECT_FLOAT_EQ(y[1], 3);
}

#define LEVEL(level, ...) Impl::level,
INSTANTIATE_TEST_SUITE_P(Built, Levels, testing::Values(MMB_LEVELS(LEVEL) Impl::reference),
                         [](const auto& test) { return name(test.param); });

TEST(Kernel, TheBestLevelIsSupported) {
  EXPECT_TRUE(supported(best_impl()));
}

}  // namespace
}  // namespace mmb
