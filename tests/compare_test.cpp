// The comparator is tested with wrong answers: each of them must be an error.
#include "mmb/compare.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace mmb {
namespace {

const std::vector<double> kExpected = {1, -2, 0.5, 4, 0, -0.25};

Comparison against_expected(std::vector<double> actual) {
  return compare(actual, kExpected);
}

TEST(Compare, EqualIsZero) {
  EXPECT_EQ(against_expected(kExpected).max_err, 0);
  EXPECT_EQ(against_expected(kExpected).worst_index, 0);
}

TEST(Compare, ErrorIsRelativeToTheLargestExpected) {
  auto actual = kExpected;
  actual[2] += 0.4;
  EXPECT_DOUBLE_EQ(against_expected(actual).max_err, 0.1);
  EXPECT_EQ(against_expected(actual).worst_index, 2);
}

TEST(Compare, NotANumberAnywhereIsInfinite) {
  for (double bad : {std::nan(""), std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity()})
    for (size_t i = 0; i < kExpected.size(); ++i) {
      auto actual = kExpected;
      actual[i] = bad;
      EXPECT_TRUE(std::isinf(against_expected(actual).max_err));
      EXPECT_EQ(against_expected(actual).worst_index, static_cast<int64_t>(i));
      EXPECT_TRUE(std::isinf(compare(kExpected, actual).max_err));
      EXPECT_TRUE(std::isinf(compare(actual, actual).max_err));
    }
}

TEST(Compare, WrongAnswers) {
  auto flipped = kExpected, zeroed = std::vector<double>(kExpected.size(), 0), swapped = kExpected;
  for (double& v : flipped) v = -v;
  std::swap(swapped[0], swapped[3]);
  EXPECT_DOUBLE_EQ(against_expected(flipped).max_err, 2);
  EXPECT_DOUBLE_EQ(against_expected(zeroed).max_err, 1);
  EXPECT_DOUBLE_EQ(against_expected(swapped).max_err, 0.75);
}

TEST(Compare, NothingOrADifferentLengthIsInfinite) {
  EXPECT_TRUE(std::isinf(compare({}, {}).max_err));
  EXPECT_TRUE(std::isinf(against_expected({1, -2}).max_err));
}

TEST(Compare, AllZeroExpectedHasScaleOne) {
  const std::vector<double> zeros(3, 0), small = {0, 1e-3, 0};
  EXPECT_EQ(compare(zeros, zeros).max_err, 0);
  EXPECT_EQ(compare(small, zeros).max_err, 1e-3);
}

}  // namespace
}  // namespace mmb
