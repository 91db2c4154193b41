#include "mmb/compare.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace mmb {

Comparison compare(std::span<const double> actual, std::span<const double> expected) {
  constexpr double kInfinite = std::numeric_limits<double>::infinity();
  if (actual.size() != expected.size() || actual.empty()) return {kInfinite, -1};
  double scale = 0;
  for (double e : expected) scale = std::max(scale, std::abs(e));
  if (scale == 0) scale = 1;
  Comparison result{0, 0};
  for (size_t i = 0; i < actual.size(); ++i) {
    if (!std::isfinite(actual[i]) || !std::isfinite(expected[i])) return {kInfinite, static_cast<int64_t>(i)};
    const double err = std::abs(actual[i] - expected[i]) / scale;
    if (err > result.max_err) result = {err, static_cast<int64_t>(i)};
  }
  return result;
}

double sum_tolerance(int64_t terms) {
  return (16 + std::sqrt(6 * static_cast<double>(terms))) * 0x1p-24;
}

}  // namespace mmb
