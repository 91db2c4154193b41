#include "../reference.h"
#include "mmb/compare.h"
#include "mmb/linear.h"
#include "mmb/random.h"

namespace mmb {

std::span<const Kernel<Linear>> Linear::kernels() {
  static constexpr Kernel<Linear> list[] = {
      {"panels", Impl::reference, reference::run<Linear, reference::linear<double>>},
      MMB_KERNEL(Linear, "panels", linear)};
  return list;
}

std::string Linear::key(const Shape& shape) {
  return "tokens:" + std::to_string(shape.tokens) + "/in_features:" + std::to_string(shape.in_features) +
         "/out_features:" + std::to_string(shape.out_features);
}

Cost Linear::cost(const Shape& shape, DType dtype, std::string_view) {
  const auto N = static_cast<double>(shape.tokens), K = static_cast<double>(shape.in_features),
             M = static_cast<double>(shape.out_features);
  const double flops = 2 * N * M * K;
  return {.flops = flops,
          .bf16_flops = bf16_flops(flops, dtype),
          .weight_bytes = M * K * static_cast<double>(size_of(dtype)),
          .activation_bytes = 4 * N * (K + M)};
}

Linear::Problem::Problem(const Shape& shape, DType dtype, std::string_view, Arena& arena, uint64_t seed)
    : arena_(arena), x_(shape.tokens * shape.in_features), y_(shape.tokens * shape.out_features), expected_(y_.size()) {
  MMB_REQUIRE(shape.tokens > 0 && shape.in_features > 0 && shape.out_features > 0, name << ": " << key(shape));
  fill_normal(x_, seed);
  args_ = {x_.data(), {nullptr, dtype, false, shape.out_features, shape.in_features}, y_.data()};
  next();
}

void Linear::Problem::next() {
  args_.w.data = arena_.take(args_.w.bytes());
  expected_args_ = args_;
  expected_args_.y = expected_.data();
}

std::vector<Output> Linear::Problem::outputs(const Args& args, int64_t unit) const {
  return {{"y", {args.y[unit]}, sum_tolerance(args.w.cols)}};
}

}  // namespace mmb
