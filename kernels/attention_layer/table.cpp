#include "../reference.h"
#include "mmb/attention_decode.h"
#include "mmb/attention_layer.h"
#include "mmb/attention_prefill.h"
#include "mmb/linear.h"
#include "mmb/random.h"
#include "mmb/rms_norm.h"

namespace mmb {
namespace {

const AttentionLayer::Shape& checked(const AttentionLayer::Shape& s) {
  MMB_REQUIRE(s.hidden_size > 0 && s.q_lora_rank >= 0,
              "attention_layer: hidden_size " << s.hidden_size << ", q_lora_rank " << s.q_lora_rank);
  MMB_REQUIRE(
      s.num_key_value_heads > 0 && s.num_attention_heads > 0 && s.num_attention_heads % s.num_key_value_heads == 0,
      "attention_layer: num_attention_heads " << s.num_attention_heads << ", num_key_value_heads "
                                              << s.num_key_value_heads);
  MMB_REQUIRE(s.qk_head_dim > 0 && s.v_head_dim > 0 && s.rotary_dim >= 0 && s.rotary_dim <= s.qk_head_dim &&
                  s.rotary_dim % 2 == 0,
              "attention_layer: qk_head_dim " << s.qk_head_dim << ", v_head_dim " << s.v_head_dim << ", rotary_dim "
                                              << s.rotary_dim);
  return s;
}

}  // namespace

std::span<const Kernel<AttentionLayer>> AttentionLayer::kernels() {
  static constexpr Kernel<AttentionLayer> list[] = {
      {"composed", Impl::reference, reference::run<AttentionLayer, reference::attention_layer<double>>},
      MMB_KERNEL(AttentionLayer, "composed", attention_layer)};
  return list;
}

AttentionLayer::Shape AttentionLayer::shape(const Model& model, int64_t batch, int64_t new_tokens, int64_t context) {
  MMB_REQUIRE(!model.is_mla(), model.file << ": kv_lora_rank");
  MMB_REQUIRE(!model.attention_sinks, model.file << ": attention_sinks");
  return {.batch = batch,
          .new_tokens = new_tokens,
          .context = context,
          .shortest = 0,
          .hidden_size = model.need(&Model::hidden_size),
          .q_lora_rank = model.q_lora_rank,
          .num_attention_heads = model.need(&Model::num_attention_heads),
          .num_key_value_heads = model.need(&Model::num_key_value_heads),
          .qk_head_dim = model.need(&Model::head_dim),
          .v_head_dim = model.need(&Model::v_head_dim),
          .rotary_dim = model.rotary_dim(),
          .pairs = model.rope_interleave ? Rope::Pairs::interleaved : Rope::Pairs::half,
          .bias = model.attention_bias,
          .output_bias = model.attention_output_bias,
          .qk_norm = model.qk_norm};
}

AttentionShape AttentionLayer::attention(const Shape& s) {
  return {s.batch,       s.new_tokens, s.context, s.shortest, s.num_attention_heads, s.num_key_value_heads,
          s.qk_head_dim, s.v_head_dim};
}

std::string AttentionLayer::key(const Shape& shape) {
  return shape.new_tokens == 1 ? AttentionDecode::key(attention(shape)) : AttentionPrefill::key(attention(shape));
}

std::vector<Component> AttentionLayer::parts(const Shape& shape, DType dtype, std::string_view) {
  const int64_t N = units(shape), H = shape.hidden_size, Q = shape.q_lora_rank, nh = shape.num_attention_heads,
                nkv = shape.num_key_value_heads, dk = shape.qk_head_dim, dv = shape.v_head_dim;
  const char* pairs = shape.pairs == Rope::Pairs::half ? "half" : "interleaved";
  const auto linear = [&](int64_t in, int64_t out) { return part_of<Linear>({N, in, out}, dtype); };
  const auto norm = [&](int64_t tokens, int64_t width) { return part_of<RmsNorm>({tokens, width}, dtype); };
  const auto rope = [&](int64_t heads) { return part_of<Rope>({N, heads, shape.rotary_dim}, dtype, pairs); };
  std::vector<Component> parts;
  if (Q > 0) {
    parts = {linear(H, Q), norm(N, Q), linear(Q, nh * dk)};
  } else {
    parts = {linear(H, nh * dk)};
  }
  parts.push_back(linear(H, nkv * dk));
  parts.push_back(linear(H, nkv * dv));
  if (shape.qk_norm) {
    parts.push_back(norm(N * nh, dk));
    parts.push_back(norm(N * nkv, dk));
  }
  parts.push_back(rope(nh));
  parts.push_back(rope(nkv));
  parts.push_back(shape.new_tokens == 1 ? part_of<AttentionDecode>(attention(shape), cache_type(dtype))
                                        : part_of<AttentionPrefill>(attention(shape), cache_type(dtype)));
  parts.push_back(linear(nh * dv, H));
  return parts;
}

Cost AttentionLayer::cost(const Shape& shape, DType dtype, std::string_view algo) {
  return sum(parts(shape, dtype, algo));
}

AttentionLayer::Problem::Problem(const Shape& shape, DType dtype, std::string_view, Arena& arena, uint64_t seed,
                                 bool lends)
    : shape_(checked(shape)),
      arena_(arena),
      batch_(shape.batch, shape.new_tokens, shape.context, shape.shortest),
      q_a_norm_(shape.q_lora_rank),
      qkv_bias_(shape.num_attention_heads * (2 * shape.qk_head_dim + shape.v_head_dim)),
      o_bias_(shape.hidden_size),
      qk_norm_(2 * shape.qk_head_dim),
      positions_(positions_of(batch_.view())),
      inv_freq_(plain_inv_freq(shape.rotary_dim)),
      k_(arena, batch_.view(), shape.num_key_value_heads, shape.context,
         shape.qk_head_dim * size_of(cache_type(dtype))),
      v_(arena, batch_.view(), shape.num_key_value_heads, shape.context,
         shape.v_head_dim * size_of(cache_type(dtype))) {
  const int64_t H = shape.hidden_size, Q = shape.q_lora_rank, nh = shape.num_attention_heads,
                nkv = shape.num_key_value_heads, dk = shape.qk_head_dim, dv = shape.v_head_dim;
  // With inputs of this size new queries, keys and values have the deviation of the arena's values, and scores have a
  // deviation of 2 with this scale.
  constexpr double kDeviation = Arena::kRms;
  const double unit = kDeviation / Arena::rms(dtype);
  if (!lends) {
    for (Buffer<float>* rows : {&x_, &y_, &expected_}) *rows = Buffer<float>(batch_.tokens() * H);
    fill_normal(x_, seed, unit / std::sqrt(static_cast<double>(H)));
  }
  fill_normal(q_a_norm_, seed + 1, unit / std::sqrt(static_cast<double>(std::max<int64_t>(Q, 1))));
  fill_normal(qkv_bias_, seed + 2, kDeviation);
  fill_normal(o_bias_, seed + 3, kDeviation * kDeviation);
  fill_normal(qk_norm_, seed + 4, kDeviation);
  const double scale = 2 / (kDeviation * kDeviation * std::sqrt(static_cast<double>(dk)));

  const auto matrix = [&](int64_t rows, int64_t cols) { return Matrix{nullptr, dtype, false, rows, cols}; };
  args_ = {.sequences = batch_.view(),
           .x = x_.data(),
           .positions = positions_.data(),
           .q_a = matrix(Q, H),
           .q = matrix(nh * dk, Q > 0 ? Q : H),
           .k = matrix(nkv * dk, H),
           .v = matrix(nkv * dv, H),
           .o = matrix(H, nh * dv),
           .q_a_norm = q_a_norm_.data(),
           .q_bias = qkv_bias_.data(),
           .k_bias = qkv_bias_.data() + nh * dk,
           .v_bias = qkv_bias_.data() + 2 * nh * dk,
           .o_bias = o_bias_.data(),
           .q_norm = qk_norm_.data(),
           .k_norm = qk_norm_.data() + dk,
           .eps = 1e-6f,
           .inv_freq = inv_freq_.data(),
           .attention_factor = 1.25,
           .k_cache = nullptr,
           .v_cache = nullptr,
           .cache_dtype = cache_type(dtype),
           .capacity = shape.context,
           .scale = static_cast<float>(scale),
           .y = y_.data()};
  take();
}

void AttentionLayer::Problem::take() {
  for (Matrix* w : {&args_.q_a, &args_.q, &args_.k, &args_.v, &args_.o}) w->data = arena_.take(w->bytes());
  args_.k_cache = k_.data();
  args_.v_cache = v_.data();
}

void AttentionLayer::Problem::next() {
  k_.next();
  v_.next();
  take();
}

const AttentionLayer::Args& AttentionLayer::Problem::expected() const {
  expected_args_ = args_;
  expected_args_.k_cache = k_.copy();
  expected_args_.v_cache = v_.copy();
  expected_args_.y = expected_.data();
  return expected_args_;
}

double AttentionLayer::Problem::tolerance() const {
  return layer_tolerance(args_.cache_dtype, std::min(shape_.qk_head_dim, shape_.v_head_dim));
}

std::vector<Output> AttentionLayer::Problem::outputs(const Args& args, int64_t unit) const {
  const int64_t H = shape_.hidden_size;
  const float* y = args.y + unit * H;
  return {{"y", {y, y + H}, tolerance()}};
}

}  // namespace mmb
