#include <cmath>

#include "../reference.h"
#include "mmb/compare.h"
#include "mmb/latent_attention.h"
#include "mmb/random.h"

namespace mmb {

std::span<const Kernel<LatentAttention>> LatentAttention::kernels() {
  static constexpr Kernel<LatentAttention> list[] = {
      {"flash", Impl::reference, reference::run<LatentAttention, reference::latent_attention<double>>},
      MMB_KERNEL(LatentAttention, "flash", latent_attention)};
  return list;
}

std::string LatentAttention::key(const Shape& shape) {
  return "batch:" + std::to_string(shape.batch) + "/q:" + std::to_string(shape.new_tokens) +
         "/ctx:" + length_key(shape.context, shape.shortest);
}

Cost LatentAttention::cost(const Shape& shape, DType dtype, std::string_view) {
  const Batch batch(shape.batch, shape.new_tokens, shape.context, shape.shortest);
  const auto H = static_cast<double>(shape.num_attention_heads), R = static_cast<double>(shape.kv_lora_rank),
             D = static_cast<double>(shape.qk_rope_head_dim), pairs = static_cast<double>(batch.attended());
  const double flops = 2 * H * (2 * R + D) * pairs;
  return {.flops = flops,
          .bf16_flops = bf16_flops(flops, dtype),
          .kv_bytes = static_cast<double>(batch.cached()) * (R + D) * static_cast<double>(size_of(dtype)),
          .activation_bytes = 4 * static_cast<double>(batch.tokens()) * H * (2 * R + D),
          .exps = H * pairs};
}

namespace {

const LatentAttention::Shape& checked(const LatentAttention::Shape& s) {
  MMB_REQUIRE(s.num_attention_heads > 0 && s.kv_lora_rank > 0 && s.qk_rope_head_dim >= 0,
              "latent_attention: heads " << s.num_attention_heads << ", kv_lora_rank " << s.kv_lora_rank
                                         << ", qk_rope_head_dim " << s.qk_rope_head_dim);
  return s;
}

}  // namespace

LatentAttention::Problem::Problem(const Shape& shape, DType dtype, std::string_view, Arena& arena, uint64_t seed)
    : shape_(checked(shape)),
      arena_(arena),
      batch_(shape.batch, shape.new_tokens, shape.context, shape.shortest),
      q_(batch_.tokens() * shape.num_attention_heads * (shape.kv_lora_rank + shape.qk_rope_head_dim)),
      out_(batch_.tokens() * shape.num_attention_heads * shape.kv_lora_rank),
      expected_(out_.size()) {
  // With this scale, scores have a deviation of 2.
  fill_normal(q_, seed, 2 / Arena::kRms);
  const double row = static_cast<double>(shape.kv_lora_rank + shape.qk_rope_head_dim);
  args_ = {batch_.view(), q_.data(), nullptr, dtype, shape.context, static_cast<float>(1 / std::sqrt(row)),
           out_.data()};
  next();
}

void LatentAttention::Problem::next() {
  const int64_t row = shape_.kv_lora_rank + shape_.qk_rope_head_dim;
  args_.cache = arena_.take(shape_.batch * shape_.context * row * size_of(args_.cache_dtype));
  expected_args_ = args_;
  expected_args_.out = expected_.data();
}

std::vector<Output> LatentAttention::Problem::outputs(const Args& args, int64_t unit) const {
  const float* out = args.out + unit * shape_.kv_lora_rank;
  return {{"out", {out, out + shape_.kv_lora_rank}, sum_tolerance(shape_.context) + 48 * 0x1p-24}};  // attention.cpp
}

}  // namespace mmb
