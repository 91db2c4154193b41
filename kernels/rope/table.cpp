#include "../reference.h"
#include "mmb/layer_problem.h"
#include "mmb/random.h"
#include "mmb/rope.h"

namespace mmb {

std::span<const Kernel<Rope>> Rope::kernels() {
  static constexpr auto kReference = reference::run<Rope, reference::rope<double>>;
  static constexpr Kernel<Rope> list[] = {{"interleaved", Impl::reference, kReference},
                                          {"half", Impl::reference, kReference},
                                          MMB_KERNEL(Rope, "interleaved", rope) MMB_KERNEL(Rope, "half", rope)};
  return list;
}

Rope::Shape Rope::shape(const Model& model, int64_t tokens) {
  return {tokens, model.need(&Model::num_attention_heads), model.rotary_dim()};
}

std::string Rope::key(const Shape& shape) {
  return "tokens:" + std::to_string(shape.tokens) + "/heads:" + std::to_string(shape.heads) +
         "/dims:" + std::to_string(shape.dims);
}

Cost Rope::cost(const Shape& shape, DType, std::string_view) {
  const auto N = static_cast<double>(shape.tokens), nh = static_cast<double>(shape.heads),
             D = static_cast<double>(shape.dims);
  return {.activation_bytes = 4 * 2 * N * nh * D};
}

Rope::Problem::Problem(const Shape& shape, DType, std::string_view algo, Arena&, uint64_t seed)
    : shape_(shape),
      x_(shape.tokens * shape.heads * shape.dims),
      y_(x_.size()),
      expected_(x_.size()),
      positions_(shape.tokens),
      inv_freq_(plain_inv_freq(shape.dims)) {
  MMB_REQUIRE(shape.tokens > 0 && shape.heads > 0 && shape.dims > 0 && shape.dims % 2 == 0, name << ": " << key(shape));
  fill_normal(x_, seed);
  constexpr double kLongest = 163840;  // DeepSeek-V3's max_position_embeddings
  for (int64_t n = 0; n < shape.tokens; ++n)
    positions_[n] = static_cast<int64_t>(kLongest * uniform(seed, static_cast<uint64_t>(n)));
  args_ = {x_.data(),
           shape.heads * shape.dims,
           shape.dims,
           positions_.data(),
           inv_freq_.data(),
           1.25,
           algo == "half" ? Pairs::half : Pairs::interleaved,
           y_.data()};
  expected_args_ = args_;
  expected_args_.y = expected_.data();
}

std::vector<Output> Rope::Problem::outputs(const Args& args, int64_t unit) const {
  const int64_t width = shape_.heads * shape_.dims;
  const float* y = args.y + unit * width;
  // Two rounded products of rounded sines and cosines.
  return {{"y", {y, y + width}, 4 * 0x1p-24}};
}

}  // namespace mmb
