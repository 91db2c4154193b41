// Seeded inputs, the same on every machine and for any number of threads.
#pragma once

#include <cstdint>
#include <span>

namespace mmb {

// Normal values of mean 0 and the given deviation (Box-Muller over splitmix64; not std::normal_distribution, whose values
// differ between standard libraries).
void fill_normal(std::span<float> out, uint64_t seed, double deviation = 1.0);

// The `index`-th of the uniform values in [0, 1) that belong to `seed`.
double uniform(uint64_t seed, uint64_t index);

}  // namespace mmb
