#include "../reference.h"
#include "mmb/compare.h"
#include "mmb/layer_problem.h"
#include "mmb/mla_project.h"
#include "mmb/random.h"

namespace mmb {

std::span<const Kernel<MlaProject>> MlaProject::kernels() {
  static constexpr Kernel<MlaProject> list[] = {
      {"panels", Impl::reference, reference::run<MlaProject, reference::mla_project<double>>},
      MMB_KERNEL(MlaProject, "panels", mla_project)};
  return list;
}

MlaProject::Shape MlaProject::shape(const Model& model, int64_t batch, int64_t new_tokens, int64_t context,
                                    DType cache) {
  return {.batch = batch,
          .new_tokens = new_tokens,
          .context = context,
          .hidden_size = model.need(&Model::hidden_size),
          .num_attention_heads = model.need(&Model::num_attention_heads),
          .q_lora_rank = model.q_lora_rank,
          .kv_lora_rank = model.need(&Model::kv_lora_rank),
          .qk_nope_head_dim = model.need(&Model::qk_nope_head_dim),
          .qk_rope_head_dim = model.need(&Model::qk_rope_head_dim),
          .cache = cache};
}

// The context only says where in the cache the latents go.
std::string MlaProject::key(const Shape& shape) {
  return batch_key(shape.batch, shape.new_tokens) + cache_key(shape.cache);
}

namespace {

int64_t query_width(const MlaProject::Shape& s) {
  return s.num_attention_heads * (s.qk_nope_head_dim + s.qk_rope_head_dim);
}
int64_t latent_width(const MlaProject::Shape& s) {
  return s.kv_lora_rank + s.qk_rope_head_dim;
}
int64_t q_b_width(const MlaProject::Shape& s) {
  return s.q_lora_rank > 0 ? s.q_lora_rank : s.hidden_size;
}

}  // namespace

Cost MlaProject::cost(const Shape& shape, DType dtype, std::string_view) {
  const auto N = static_cast<double>(units(shape)), H = static_cast<double>(shape.hidden_size),
             Q = static_cast<double>(shape.q_lora_rank), R = static_cast<double>(shape.kv_lora_rank),
             query = static_cast<double>(query_width(shape)), latent = static_cast<double>(latent_width(shape));
  const double weights = H * Q + static_cast<double>(q_b_width(shape)) * query + H * latent;
  const double flops = 2 * N * weights;
  return {.flops = flops,
          .bf16_flops = bf16_flops(flops, dtype),
          .digit_flops = digit_flops(flops, dtype),
          .weight_bytes = weight_bytes(shape.q_lora_rank, shape.hidden_size, dtype) +
                          weight_bytes(query_width(shape), q_b_width(shape), dtype) +
                          weight_bytes(latent_width(shape), shape.hidden_size, dtype) + 4 * (Q + R),
          .kv_bytes = N * static_cast<double>(cached_row(shape, dtype).bytes()),
          .activation_bytes = 4 * N * (H + query)};
}

MlaProject::Problem::Problem(const Shape& shape, DType dtype, std::string_view, Arena& arena, uint64_t seed)
    : shape_(shape), arena_(arena), batch_(shape.batch, shape.new_tokens, shape.context) {
  MMB_REQUIRE(
      shape.hidden_size > 0 && shape.num_attention_heads > 0 && shape.q_lora_rank >= 0 && shape.kv_lora_rank > 0 &&
          shape.qk_nope_head_dim > 0 && shape.qk_rope_head_dim > 0 && shape.qk_rope_head_dim % 2 == 0,
      name << ": hidden_size " << shape.hidden_size << ", num_attention_heads " << shape.num_attention_heads
           << ", q_lora_rank " << shape.q_lora_rank << ", kv_lora_rank " << shape.kv_lora_rank << ", qk_nope_head_dim "
           << shape.qk_nope_head_dim << ", qk_rope_head_dim " << shape.qk_rope_head_dim);
  const int64_t N = batch_.tokens();
  const auto normal = [&](int64_t count, uint64_t offset) {
    Buffer<float> buffer(count);
    fill_normal(buffer, seed + offset);
    return buffer;
  };
  x_ = normal(N * shape.hidden_size, 0);
  q_a_norm_ = normal(shape.q_lora_rank, 1);
  kv_a_norm_ = normal(shape.kv_lora_rank, 2);
  q_ = Buffer<float>(N * query_width(shape));
  expected_q_ = Buffer<float>(q_.size());
  cache_ = Buffer<uint8_t>(shape.batch * shape.context * cached_row(shape, dtype).bytes());
  expected_cache_ = Buffer<uint8_t>(cache_.size());
  positions_ = positions_of(batch_.view());
  inv_freq_ = plain_inv_freq(shape.qk_rope_head_dim);

  const auto matrix = [&](int64_t rows, int64_t cols) { return Matrix{nullptr, dtype, false, rows, cols}; };
  args_ = {.sequences = batch_.view(),
           .x = x_.data(),
           .positions = positions_.data(),
           .q_a = matrix(shape.q_lora_rank, shape.hidden_size),
           .q_b = matrix(query_width(shape), q_b_width(shape)),
           .q_a_norm = q_a_norm_.data(),
           .kv_a = matrix(latent_width(shape), shape.hidden_size),
           .kv_a_norm = kv_a_norm_.data(),
           .eps = 1e-6f,
           .inv_freq = inv_freq_.data(),
           .attention_factor = 1.25,
           .q = q_.data(),
           .cache = cache_.data(),
           .cache_dtype = cache_type(dtype, shape.cache),
           .capacity = shape.context};
  next();
}

void MlaProject::Problem::next() {
  for (Matrix* w : {&args_.q_a, &args_.q_b, &args_.kv_a}) w->data = arena_.take(w->bytes());
  expected_args_ = args_;
  expected_args_.q = expected_q_.data();
  expected_args_.cache = expected_cache_.data();
}

namespace {

// From a value of the type to the next, relative to the largest: 127 steps of int8; 8 from one power of two to the next of
// fp8, of which the largest is 448.
double largest_step(DType dtype) {
  switch (dtype) {
    case DType::bf16:
      return 0x1p-7;
    case DType::fp8:
      return 32. / 448;
    case DType::int8:
      return 1. / 127;
    default:
      return 0;
  }
}

}  // namespace

std::vector<Output> MlaProject::Problem::outputs(const Args& args, int64_t unit) const {
  const int64_t R = shape_.kv_lora_rank, width = latent_width(shape_);
  const float* q = args.q + unit * query_width(shape_);
  const int64_t b = unit / shape_.new_tokens, i = unit % shape_.new_tokens;
  const LatentRow row{args.cache_dtype, R, width - R};
  const int64_t slot = b * args.capacity + shape_.context - shape_.new_tokens + i;
  std::vector<double> cached;
  for (int64_t c = 0; c < width; ++c)
    cached.push_back(row.at(static_cast<const char*>(args.cache) + slot * row.bytes(), c));
  // Two products in f32, and a norm that magnifies what a token with a small latent lost; a value between two of the
  // cache's may be rounded to either.
  const double accumulated = 8 * sum_tolerance(shape_.hidden_size + shape_.q_lora_rank),
               latent_step = largest_step(row.dtype), rope_step = largest_step(row.rope_type());
  return {{"q", {q, q + query_width(shape_)}, accumulated},
          {"latent", {cached.begin(), cached.begin() + R}, accumulated + latent_step},
          {"k_pe", {cached.begin() + R, cached.end()}, accumulated + rope_step}};
}

}  // namespace mmb
