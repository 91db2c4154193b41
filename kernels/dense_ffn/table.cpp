#include <algorithm>

#include "../reference.h"
#include "mmb/compare.h"
#include "mmb/dense_ffn.h"
#include "mmb/random.h"

namespace mmb {

std::span<const Kernel<DenseFfn>> DenseFfn::kernels() {
  static constexpr Kernel<DenseFfn> list[] = {
      {"panels", Impl::reference, reference::run<DenseFfn, reference::dense_ffn<double>>},
      MMB_KERNEL(DenseFfn, "panels", dense_ffn)};
  return list;
}

DenseFfn::Shape DenseFfn::shape(const Model& model, int64_t layer, int64_t tokens) {
  if (model.mlp_bias) throw Error(model.file + ": mlp_bias: expected false, FFNs have no biases here");
  if (model.is_moe_layer(layer))
    throw Error(model.file + ": layer " + std::to_string(layer) + ": expected one without experts");
  return {tokens, model.need(&Model::hidden_size), model.layers.at(static_cast<size_t>(layer)).intermediate_size};
}

std::string DenseFfn::key(const Shape& shape) {
  return "tokens:" + std::to_string(shape.tokens) + "/intermediate_size:" + std::to_string(shape.intermediate_size);
}

Cost DenseFfn::cost(const Shape& shape, DType dtype, std::string_view) {
  const auto N = static_cast<double>(shape.tokens), H = static_cast<double>(shape.hidden_size),
             I = static_cast<double>(shape.intermediate_size);
  const double flops = 6 * N * H * I;
  return {.flops = flops,
          .bf16_flops = bf16_flops(flops, dtype),
          .digit_flops = digit_flops(flops, dtype),
          .weight_bytes = ffn_bytes(shape.hidden_size, shape.intermediate_size, dtype),
          .activation_bytes = 4 * 2 * N * H,
          .exps = N * I};
}

double ffn_bytes(int64_t hidden_size, int64_t intermediate_size, DType dtype) {
  return weight_bytes(intermediate_size, hidden_size, dtype, 2) + weight_bytes(hidden_size, intermediate_size, dtype);
}

Expert take_expert(Arena& arena, int64_t hidden_size, int64_t intermediate_size, DType dtype) {
  const auto take = [&](int64_t rows, int64_t cols) {
    return Matrix{arena.take(matrix_bytes(rows, cols, dtype)), dtype, false, rows, cols};
  };
  Expert expert;
  expert.gate = take(intermediate_size, hidden_size);
  expert.up = take(intermediate_size, hidden_size);
  expert.down = take(hidden_size, intermediate_size);
  return expert;
}

DenseFfn::Problem::Problem(const Shape& shape, DType dtype, std::string_view, Arena& arena, uint64_t seed)
    : shape_(shape),
      dtype_(dtype),
      arena_(arena),
      x_(shape.tokens * shape.hidden_size),
      y_(x_.size()),
      expected_(x_.size()) {
  const int64_t H = shape.hidden_size, I = shape.intermediate_size;
  MMB_REQUIRE(shape.tokens > 0 && H > 0 && I > 0, name << ": " << key(shape) << ", hidden size " << H);
  // The gate's arguments then have a deviation of 2, well into the curve of silu.
  fill_normal(x_, seed, 2 / (Arena::rms(dtype) * std::sqrt(H)));
  const int64_t most = std::max<int64_t>(arena.bytes() / 4 / (3 * matrix_bytes(kPanel, H, dtype)), 1) * kPanel;
  const int64_t width = round_up(ceil_div(I, ceil_div(I, most)), kPanel);
  slabs_.resize(static_cast<size_t>(ceil_div(I, width)));
  for (size_t i = 0; i < slabs_.size(); ++i) slabs_[i].gate.rows = std::min(width, I - static_cast<int64_t>(i) * width);
  args_ = {x_.data(), slabs_.data(), static_cast<int64_t>(slabs_.size()), y_.data()};
  expected_args_ = args_;
  expected_args_.y = expected_.data();
  next();
}

void DenseFfn::Problem::next() {
  for (Expert& slab : slabs_) slab = take_expert(arena_, shape_.hidden_size, slab.gate.rows, dtype_);
}

std::vector<Output> DenseFfn::Problem::outputs(const Args& args, int64_t unit) const {
  const float* y = args.y + unit * shape_.hidden_size;
  // Gate and up are multiplied, and may be smaller than their sums' deviation.
  return {{"y", {y, y + shape_.hidden_size}, 2 * sum_tolerance(shape_.hidden_size + shape_.intermediate_size)}};
}

}  // namespace mmb
