#include "../reference.h"

#include "mmb/linear.h"
#include "mmb/mla_layer.h"
#include "mmb/mla_prefill.h"
#include "mmb/random.h"

namespace mmb {
namespace {

// Where the two parts of a row are rounded in steps of their own, those of the latent are the larger.
double rounding_of_cache(const LatentRow& row) {
  return layer_tolerance(row.dtype, row.rope_type() == row.dtype ? std::min(row.latent, row.rope) : row.latent);
}

const MlaLayer::Shape& checked(const MlaLayer::Shape& s) {
  MMB_REQUIRE(s.hidden_size > 0 && s.num_attention_heads > 0 && s.q_lora_rank >= 0,
              "mla_layer: hidden_size " << s.hidden_size << ", num_attention_heads " << s.num_attention_heads
                                        << ", q_lora_rank " << s.q_lora_rank);
  MMB_REQUIRE(s.kv_lora_rank > 0 && s.qk_nope_head_dim > 0 && s.qk_rope_head_dim > 0 && s.qk_rope_head_dim % 2 == 0 &&
                  s.v_head_dim > 0,
              "mla_layer: kv_lora_rank " << s.kv_lora_rank << ", qk_nope_head_dim " << s.qk_nope_head_dim
                                         << ", qk_rope_head_dim " << s.qk_rope_head_dim << ", v_head_dim "
                                         << s.v_head_dim);
  return s;
}

}  // namespace

std::span<const Kernel<MlaLayer>> MlaLayer::kernels() {
  static constexpr Kernel<MlaLayer> list[] = {
      {"absorbed", Impl::reference, reference::run<MlaLayer, reference::mla_layer_absorbed<double>>},
      {"expanded", Impl::reference, reference::run<MlaLayer, reference::mla_layer_expanded<double>>, over_plain<Shape>},
      MMB_KERNEL(MlaLayer, "absorbed", mla_layer_absorbed)                       //
      MMB_DOT_KERNEL(MlaLayer, "integer", mla_layer_absorbed, over_int8<Shape>)  //
      MMB_KERNEL(MlaLayer, "expanded", mla_layer_expanded, over_plain<Shape>)};
  return list;
}

MlaLayer::Shape MlaLayer::shape(const Model& model, int64_t batch, int64_t new_tokens, int64_t context, DType cache) {
  MMB_REQUIRE(!model.attention_bias && !model.attention_output_bias, model.file << ": attention_bias");
  return {.batch = batch,
          .new_tokens = new_tokens,
          .context = context,
          .shortest = 0,
          .hidden_size = model.need(&Model::hidden_size),
          .num_attention_heads = model.need(&Model::num_attention_heads),
          .q_lora_rank = model.q_lora_rank,
          .kv_lora_rank = model.need(&Model::kv_lora_rank),
          .qk_nope_head_dim = model.need(&Model::qk_nope_head_dim),
          .qk_rope_head_dim = model.need(&Model::qk_rope_head_dim),
          .v_head_dim = model.need(&Model::v_head_dim),
          .cache = cache};
}

MlaProject::Shape MlaLayer::projection(const Shape& s) {
  return {s.batch,       s.new_tokens,   s.context,          s.hidden_size,      s.num_attention_heads,
          s.q_lora_rank, s.kv_lora_rank, s.qk_nope_head_dim, s.qk_rope_head_dim, s.cache};
}

MlaDecode::Shape MlaLayer::attention(const Shape& s) {
  return {s.batch,        s.new_tokens,       s.context,          s.shortest,   s.num_attention_heads,
          s.kv_lora_rank, s.qk_nope_head_dim, s.qk_rope_head_dim, s.v_head_dim, s.cache};
}

std::string MlaLayer::key(const Shape& shape) {
  return shape.new_tokens == 1 ? MlaDecode::key(attention(shape)) : MlaPrefill::key(attention(shape));
}

std::vector<Component> MlaLayer::parts(const Shape& shape, DType dtype, std::string_view algo) {
  Component project = part_of<MlaProject>(projection(shape), dtype);
  project.cost.kv_bytes = 0;  // the rows that it appends are among those that attention reads
  return {project,
          shape.new_tokens == 1 ? part_of<MlaDecode>(attention(shape), dtype, algo == "expanded" ? "reexpanded" : algo)
                                : part_of<MlaPrefill>(attention(shape), dtype, algo),
          part_of<Linear>({units(shape), shape.num_attention_heads * shape.v_head_dim, shape.hidden_size}, dtype)};
}

Cost MlaLayer::cost(const Shape& shape, DType dtype, std::string_view algo) {
  return sum(parts(shape, dtype, algo));
}

MlaLayer::Problem::Problem(const Shape& shape, DType dtype, std::string_view algo, Arena& arena, uint64_t seed,
                           bool lends)
    : shape_(checked(shape)),
      arena_(arena),
      batch_(shape.batch, shape.new_tokens, shape.context, shape.shortest),
      q_a_norm_(shape.q_lora_rank),
      kv_a_norm_(shape.kv_lora_rank),
      positions_(positions_of(batch_.view())),
      inv_freq_(plain_inv_freq(shape.qk_rope_head_dim)),
      cache_(arena, batch_.view(), 1, shape.context, cached_row(shape, dtype).bytes()),
      tolerance_(rounding_of_cache(cached_row(shape, dtype)) + LatentAttention::rounding(algo, dtype)) {
  const int64_t H = shape.hidden_size, Q = shape.q_lora_rank, R = shape.kv_lora_rank, nh = shape.num_attention_heads,
                dn = shape.qk_nope_head_dim, D = shape.qk_rope_head_dim, dv = shape.v_head_dim;
  // With inputs of this size new queries and latents have the deviation of the arena's values, f32 and cached. The part of a
  // score from the latents is a sum of dn * R products of three such values, that from the rope keys one of D products of two.
  constexpr double kDeviation = Arena::kRms;
  const LatentRow row = cached_row(shape, dtype);
  const double weight = Arena::rms(dtype), unit = kDeviation / weight, latent = Arena::rms(row.dtype),
               rope = Arena::rms(row.rope_type());
  if (!lends) {
    for (Buffer<float>* rows : {&x_, &y_, &expected_}) *rows = Buffer<float>(batch_.tokens() * H);
    fill_normal(x_, seed, unit / std::sqrt(static_cast<double>(H)));
  }
  fill_normal(q_a_norm_, seed + 1, unit / std::sqrt(static_cast<double>(std::max<int64_t>(Q, 1))));
  fill_normal(kv_a_norm_, seed + 2, latent);
  const double deviation =
      kDeviation * std::hypot(weight * latent * std::sqrt(dn * R), rope * std::sqrt(static_cast<double>(D)));

  const auto matrix = [&](int64_t rows, int64_t cols) { return Matrix{nullptr, dtype, false, rows, cols}; };
  args_ = {.sequences = batch_.view(),
           .x = x_.data(),
           .positions = positions_.data(),
           .q_a = matrix(Q, H),
           .q_b = matrix(nh * (dn + D), Q > 0 ? Q : H),
           .q_a_norm = q_a_norm_.data(),
           .kv_a = matrix(R + D, H),
           .kv_a_norm = kv_a_norm_.data(),
           .eps = 1e-6f,
           .inv_freq = inv_freq_.data(),
           .attention_factor = 1.25,
           .cache = nullptr,
           .cache_dtype = cache_type(dtype, shape.cache),
           .capacity = shape.context,
           .w_uk = {nullptr, dtype, algo != "expanded", dn, R},
           .w_uv = matrix(dv, R),
           .scale = static_cast<float>(2 / deviation),
           .o = matrix(H, nh * dv),
           .y = y_.data(),
           .integer = algo == "integer"};
  take();
}

void MlaLayer::Problem::take() {
  for (Matrix* w : {&args_.q_a, &args_.q_b, &args_.kv_a, &args_.o}) w->data = arena_.take(w->bytes());
  for (Matrix* w : {&args_.w_uk, &args_.w_uv}) w->data = arena_.take(shape_.num_attention_heads * w->bytes());
  args_.cache = cache_.data();
}

void MlaLayer::Problem::next() {
  cache_.next();
  take();
}

const MlaLayer::Args& MlaLayer::Problem::expected() const {
  expected_args_ = args_;
  expected_args_.cache = cache_.copy();
  expected_args_.y = expected_.data();
  return expected_args_;
}

std::vector<Output> MlaLayer::Problem::outputs(const Args& args, int64_t unit) const {
  const float* y = args.y + unit * shape_.hidden_size;
  return {{"y", {y, y + shape_.hidden_size}, tolerance_}};
}

}  // namespace mmb
