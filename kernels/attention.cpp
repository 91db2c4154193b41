#include "mmb/attention.h"
#include "mmb/compare.h"

#include <cmath>

#include "mmb/random.h"

namespace mmb {

AttentionShape attention_shape(const Model& model, int64_t batch, int64_t new_tokens, int64_t context,
                               int64_t shortest) {
  MMB_REQUIRE(!model.is_mla(), model.file << ": kv_lora_rank " << model.kv_lora_rank);
  return {batch,
          new_tokens,
          context,
          shortest,
          model.need(&Model::num_attention_heads),
          model.need(&Model::num_key_value_heads),
          model.need(&Model::head_dim),
          model.need(&Model::v_head_dim)};
}

Cost attention_cost(const AttentionShape& s, DType dtype) {
  const Batch batch(s.batch, s.new_tokens, s.context, s.shortest);
  const auto nh = static_cast<double>(s.num_attention_heads), nkv = static_cast<double>(s.num_key_value_heads),
             dims = static_cast<double>(s.qk_head_dim + s.v_head_dim), pairs = static_cast<double>(batch.attended());
  const double flops = 2 * nh * dims * pairs;
  return {.flops = flops,
          .bf16_flops = bf16_flops(flops, dtype),
          .kv_bytes = static_cast<double>(batch.cached()) * nkv * dims * static_cast<double>(size_of(dtype)),
          .activation_bytes = 4 * static_cast<double>(batch.tokens()) * nh * dims,
          .exps = nh * pairs};
}

namespace {

const AttentionShape& checked(const AttentionShape& s) {
  MMB_REQUIRE(s.num_key_value_heads > 0 && s.num_attention_heads >= s.num_key_value_heads &&
                  s.num_attention_heads % s.num_key_value_heads == 0,
              "attention: heads " << s.num_attention_heads << ", key-value heads " << s.num_key_value_heads);
  MMB_REQUIRE(s.qk_head_dim > 0 && s.v_head_dim > 0,
              "attention: qk_head_dim " << s.qk_head_dim << ", v_head_dim " << s.v_head_dim);
  return s;
}

}  // namespace

AttentionProblem::AttentionProblem(const AttentionShape& shape, DType dtype, std::string_view, Arena& arena,
                                   uint64_t seed)
    : shape_(checked(shape)),
      arena_(arena),
      batch_(shape.batch, shape.new_tokens, shape.context, shape.shortest),
      q_(batch_.tokens() * shape.num_attention_heads * shape.qk_head_dim),
      out_(batch_.tokens() * shape.num_attention_heads * shape.v_head_dim),
      expected_(out_.size()) {
  const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(shape.qk_head_dim)));
  args_ = {batch_.view(), q_.data(), nullptr, nullptr, dtype, shape.context, scale, out_.data()};
  next();                                  // first, since what does not fit ends here
  fill_normal(q_, seed, 2 / Arena::kRms);  // with this scale, scores have a deviation of 2
}

void AttentionProblem::next() {
  const int64_t rows = shape_.batch * shape_.num_key_value_heads * shape_.context;
  args_.k = arena_.take(rows * shape_.qk_head_dim * size_of(args_.cache_dtype));
  args_.v = arena_.take(rows * shape_.v_head_dim * size_of(args_.cache_dtype));
  expected_args_ = args_;
  expected_args_.out = expected_.data();
}

std::vector<Output> AttentionProblem::outputs(const AttentionArgs& args, int64_t unit) const {
  const float* out = args.out + unit * shape_.v_head_dim;
  // The weights carry the rounding of scores of size 10: an absolute error there is a relative one here.
  return {{"out", {out, out + shape_.v_head_dim}, sum_tolerance(shape_.context) + 48 * 0x1p-24}};
}

}  // namespace mmb
