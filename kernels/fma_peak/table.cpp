#include <cmath>

#include "../reference.h"
#include "mmb/fma_peak.h"
#include "mmb/random.h"

namespace mmb {

std::span<const Kernel<FmaPeak>> FmaPeak::kernels() {
  static constexpr Kernel<FmaPeak> list[] = {
      {"chains", Impl::reference, reference::run<FmaPeak, reference::fma_peak<double>>},
      MMB_KERNEL(FmaPeak, "chains", fma_peak)};
  return list;
}

std::string FmaPeak::key(const Shape& shape) {
  return "elements:" + std::to_string(shape.elements) + "/steps:" + std::to_string(shape.steps);
}

Cost FmaPeak::cost(const Shape& shape, DType, std::string_view) {
  const auto E = static_cast<double>(shape.elements);
  return {.flops = 2 * E * static_cast<double>(shape.steps), .activation_bytes = 4 * 2 * E};
}

FmaPeak::Problem::Problem(const Shape& shape, DType, std::string_view, Arena&, uint64_t seed)
    : steps_(shape.steps), x_(shape.elements), y_(shape.elements), expected_(shape.elements) {
  MMB_REQUIRE(shape.elements > 0 && shape.steps > 0, name << ": " << key(shape));
  for (int64_t i = 0; i < shape.elements; ++i) x_[i] = static_cast<float>(1 + uniform(seed, static_cast<uint64_t>(i)));
  // From [1, 2) towards the fixed point 1/2, 1/e of the way left: y lies in [0.68, 1.06].
  const double a = std::exp(-1 / static_cast<double>(shape.steps));
  args_ = {x_.data(), static_cast<float>(a), static_cast<float>((1 - a) / 2), y_.data()};
  expected_args_ = args_;
  expected_args_.y = expected_.data();
}

std::vector<Output> FmaPeak::Problem::outputs(const Args& args, int64_t unit) const {
  // Half an epsilon for the product and half for the sum, in every step, and all of one sign: v creeps.
  return {{"y", {args.y[unit]}, 2 * static_cast<double>(steps_) * 0x1p-24}};
}

}  // namespace mmb
