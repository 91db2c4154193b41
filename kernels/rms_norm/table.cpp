#include "../reference.h"
#include "mmb/random.h"
#include "mmb/rms_norm.h"

namespace mmb {

std::span<const Kernel<RmsNorm>> RmsNorm::kernels() {
  static constexpr Kernel<RmsNorm> list[] = {
      {"two_pass", Impl::reference, reference::run<RmsNorm, reference::rms_norm<double>>},
      MMB_KERNEL(RmsNorm, "two_pass", rms_norm)};
  return list;
}

std::string RmsNorm::key(const Shape& shape) {
  return "tokens:" + std::to_string(shape.tokens) + "/hidden_size:" + std::to_string(shape.hidden_size);
}

Cost RmsNorm::cost(const Shape& shape, DType, std::string_view) {
  const auto N = static_cast<double>(shape.tokens), H = static_cast<double>(shape.hidden_size);
  return {.weight_bytes = 4 * H, .activation_bytes = 4 * 2 * N * H};
}

RmsNorm::Problem::Problem(const Shape& shape, DType, std::string_view, Arena&, uint64_t seed)
    : shape_(shape),
      x_(shape.tokens * shape.hidden_size),
      weight_(shape.hidden_size),
      y_(x_.size()),
      expected_(x_.size()) {
  MMB_REQUIRE(shape.tokens > 0 && shape.hidden_size > 0, name << ": " << key(shape));
  fill_normal(x_, seed);
  fill_normal(weight_, seed + 1);
  args_ = {x_.data(), weight_.data(), 1e-6f, y_.data()};
  expected_args_ = args_;
  expected_args_.y = expected_.data();
}

std::vector<Output> RmsNorm::Problem::outputs(const Args& args, int64_t unit) const {
  const float* y = args.y + unit * shape_.hidden_size;
  // Rounding of the sum of squares and of the three factors.
  return {{"y", {y, y + shape_.hidden_size}, 16 * 0x1p-24}};
}

}  // namespace mmb
