#include "mmb/random.h"

#include <cmath>

namespace mmb {

double uniform(uint64_t seed, uint64_t index) {
  uint64_t z = (seed * 0xd1342543de82ef95u + index + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  return static_cast<double>(z >> 11) * 0x1p-53;
}

void fill_normal(std::span<float> out, uint64_t seed, double deviation) {
  constexpr double kTwoPi = 6.283185307179586;
#pragma omp parallel for schedule(static)
  for (size_t i = 0; i < out.size(); ++i) {
    const double radius = std::sqrt(-2 * std::log(1 - uniform(seed, 2 * i)));
    out[i] = static_cast<float>(deviation * radius * std::cos(kTwoPi * uniform(seed, 2 * i + 1)));
  }
}

}  // namespace mmb
