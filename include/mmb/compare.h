// The one comparator: is an actual result the expected one?
#pragma once

#include <cstdint>
#include <span>

namespace mmb {

struct Comparison {
  double max_err = 0;        // largest |actual - expected| / scale; infinite for NaN, infinity or a different length
  int64_t worst_index = -1;  // where; -1 if nothing was compared
};

// Scale is the largest |expected|, so that one figure covers a tensor whose elements cancel to different degrees; a tensor
// that is expected to be all zero has scale 1. Nothing to compare, NaN or infinity on either side, or different lengths: an
// infinite error.
Comparison compare(std::span<const double> actual, std::span<const double> expected);

// What an f32 sum of `terms` random products may differ by, relative to its size. The rounding of the partial sums adds up
// like a random walk, to sqrt(terms / 6) units of rounding: six of these deviations, and 16 units for what is no sum.
double sum_tolerance(int64_t terms);

}  // namespace mmb
