#include <cmath>

#include "../reference.h"
#include "mmb/compare.h"
#include "mmb/mla_prefill.h"
#include "mmb/random.h"

namespace mmb {

// To expand the latents for one new token or for many is one kernel.
std::span<const Kernel<MlaDecode>> MlaDecode::kernels() {
  static constexpr auto kReference = reference::run<MlaDecode, reference::mla_decode<double>>;
  static constexpr Kernel<MlaDecode> list[] = {
      {"absorbed", Impl::reference, kReference},
      {"expanded", Impl::reference, kReference, over_plain<Shape>},
      {"reexpanded", Impl::reference, reference::run<MlaDecode, reference::mla_prefill_expanded<double>>,
       over_plain<Shape>},
      MMB_KERNEL(MlaDecode, "absorbed", mla_decode_absorbed)                       //
      MMB_DOT_KERNEL(MlaDecode, "integer", mla_decode_absorbed, over_int8<Shape>)  //
      MMB_KERNEL(MlaDecode, "expanded", mla_decode_expanded, over_plain<Shape>)    //
      MMB_KERNEL(MlaDecode, "reexpanded", mla_prefill_expanded, over_plain<Shape>)};
  return list;
}

MlaDecode::Shape MlaDecode::shape(const Model& model, int64_t batch, int64_t new_tokens, int64_t context,
                                  int64_t shortest, DType cache) {
  return {.batch = batch,
          .new_tokens = new_tokens,
          .context = context,
          .shortest = shortest,
          .num_attention_heads = model.need(&Model::num_attention_heads),
          .kv_lora_rank = model.need(&Model::kv_lora_rank),
          .qk_nope_head_dim = model.need(&Model::qk_nope_head_dim),
          .qk_rope_head_dim = model.need(&Model::qk_rope_head_dim),
          .v_head_dim = model.need(&Model::v_head_dim),
          .cache = cache};
}

std::string MlaDecode::key(const Shape& shape) {
  return context_key(shape.batch, shape.new_tokens, shape.context, shape.shortest) + cache_key(shape.cache);
}

Cost MlaDecode::cost(const Shape& shape, DType dtype, std::string_view algo) {
  const Batch batch(shape.batch, shape.new_tokens, shape.context, shape.shortest);
  const auto N = static_cast<double>(batch.tokens()), T = static_cast<double>(batch.cached()),
             P = static_cast<double>(batch.attended()), size = static_cast<double>(size_of(cache_type(dtype))),
             nh = static_cast<double>(shape.num_attention_heads), R = static_cast<double>(shape.kv_lora_rank),
             dn = static_cast<double>(shape.qk_nope_head_dim), D = static_cast<double>(shape.qk_rope_head_dim),
             dv = static_cast<double>(shape.v_head_dim);
  const double weights = nh * R * (dn + dv);
  Cost cost{.activation_bytes = 4 * N * nh * (dn + D + dv), .exps = nh * P};
  if (algo == "expanded") {
    cost.flops = useful_flops(shape);
    cost.bf16_flops = bf16_flops(cost.flops, cache_type(dtype));
    cost.kv_bytes = T * nh * (dn + D + dv) * size;
  } else {
    // Keys and values that are expanded on the way are f32.
    const bool absorbed = algo != "reexpanded", integer = algo == "integer";
    const double core = absorbed ? 2 * nh * (2 * R + D) * P : useful_flops(shape),
                 projection = 2 * (absorbed ? N : T) * weights;
    cost.flops = core + projection;
    cost.bf16_flops =
        bf16_flops(projection, dtype) + (absorbed && !integer ? bf16_flops(core, cached_row(shape, dtype).dtype) : 0);
    cost.int8_flops = integer ? core : 0;
    cost.digit_flops = digit_flops(projection, dtype);
    cost.weight_bytes = weight_bytes(shape.qk_nope_head_dim, shape.kv_lora_rank, dtype, shape.num_attention_heads) +
                        weight_bytes(shape.v_head_dim, shape.kv_lora_rank, dtype, shape.num_attention_heads);
    cost.kv_bytes = T * static_cast<double>(cached_row(shape, dtype).bytes());
  }
  return cost;
}

double MlaDecode::useful_flops(const Shape& shape) {
  const Batch batch(shape.batch, shape.new_tokens, shape.context, shape.shortest);
  const int64_t dims = shape.qk_nope_head_dim + shape.qk_rope_head_dim + shape.v_head_dim;
  return 2 * static_cast<double>(shape.num_attention_heads * dims) * static_cast<double>(batch.attended());
}

namespace {

const MlaDecode::Shape& checked(const MlaDecode::Shape& s) {
  MMB_REQUIRE(s.num_attention_heads > 0 && s.kv_lora_rank > 0 && s.qk_nope_head_dim > 0 && s.qk_rope_head_dim > 0 &&
                  s.v_head_dim > 0,
              "multi-head latent attention: num_attention_heads "
                  << s.num_attention_heads << ", kv_lora_rank " << s.kv_lora_rank << ", qk_nope_head_dim "
                  << s.qk_nope_head_dim << ", qk_rope_head_dim " << s.qk_rope_head_dim << ", v_head_dim "
                  << s.v_head_dim);
  return s;
}

}  // namespace

MlaDecode::Problem::Problem(const Shape& shape, DType dtype, std::string_view algo, Arena& arena, uint64_t seed)
    : shape_(checked(shape)),
      arena_(arena),
      expanded_(algo == "expanded"),
      // As in attention.cpp, between two products: to the latent and from it.
      tolerance_(sum_tolerance(shape.context + shape.qk_nope_head_dim + shape.kv_lora_rank) + 64 * 0x1p-24 +
                 LatentAttention::rounding(algo, dtype)),
      batch_(shape.batch, shape.new_tokens, shape.context, shape.shortest),
      q_(batch_.tokens() * shape.num_attention_heads * (shape.qk_nope_head_dim + shape.qk_rope_head_dim)),
      out_(batch_.tokens() * shape.num_attention_heads * shape.v_head_dim),
      expected_(out_.size()) {
  const int64_t R = shape.kv_lora_rank, dn = shape.qk_nope_head_dim, D = shape.qk_rope_head_dim;
  // An expanded key's deviation is that of its cached values, or that of R products of these and weights.
  const LatentRow row = cached_row(shape, dtype);
  const double latent = Arena::rms(row.dtype), rope = Arena::rms(row.rope_type()),
               nope = expanded_ ? latent : latent * Arena::rms(dtype) * std::sqrt(static_cast<double>(R));
  const double score = std::sqrt(nope * nope * static_cast<double>(dn) + rope * rope * static_cast<double>(D));
  const double scale = 1 / std::sqrt(static_cast<double>(dn + D));
  const bool integer = algo == "integer", transposed = algo == "absorbed" || integer;
  args_ = {.sequences = batch_.view(),
           .q = q_.data(),
           .cache = nullptr,
           .k = nullptr,
           .v = nullptr,
           .cache_dtype = row.dtype,
           .capacity = shape.context,
           .w_uk = {nullptr, dtype, transposed, dn, R},
           .w_uv = {nullptr, dtype, false, shape.v_head_dim, R},
           .scale = static_cast<float>(scale),
           .out = out_.data(),
           .integer = integer};
  next();                                      // first, since what does not fit ends here
  fill_normal(q_, seed, 2 / (score * scale));  // scores of deviation 2
}

void MlaDecode::Problem::next() {
  const int64_t nh = shape_.num_attention_heads, D = shape_.qk_rope_head_dim;
  const int64_t rows = shape_.batch * shape_.context, size = size_of(args_.cache_dtype);
  if (expanded_) {
    args_.k = arena_.take(rows * nh * (shape_.qk_nope_head_dim + D) * size);
    args_.v = arena_.take(rows * nh * shape_.v_head_dim * size);
  } else {
    args_.cache = arena_.take(rows * cached_row(shape_, args_.w_uv.dtype).bytes());
    args_.w_uk.data = arena_.take(nh * args_.w_uk.bytes());
    args_.w_uv.data = arena_.take(nh * args_.w_uv.bytes());
  }
  expected_args_ = args_;
  expected_args_.out = expected_.data();
}

std::vector<Output> MlaDecode::Problem::outputs(const Args& args, int64_t unit) const {
  const float* out = args.out + unit * shape_.v_head_dim;
  return {{"out", {out, out + shape_.v_head_dim}, tolerance_}};
}

}  // namespace mmb
