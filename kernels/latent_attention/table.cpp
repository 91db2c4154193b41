#include <algorithm>
#include <cmath>

#include "../reference.h"
#include "mmb/compare.h"
#include "mmb/latent_attention.h"
#include "mmb/random.h"

namespace mmb {

std::span<const Kernel<LatentAttention>> LatentAttention::kernels() {
  [[maybe_unused]] constexpr auto int8_alone = [](const Shape&, DType dtype) { return dtype == DType::int8; };
  static constexpr Kernel<LatentAttention> list[] = {
      {"flash", Impl::reference, reference::run<LatentAttention, reference::latent_attention<double>>},
      MMB_KERNEL(LatentAttention, "flash", latent_attention)  //
      MMB_DOT_KERNEL(LatentAttention, "integer", latent_attention_integer, int8_alone)};
  return list;
}

namespace {

// The scales of a row's two kinds; of f32 and bf16 1.
struct Scale {
  int64_t index;  // in the row's scales; -1: none
  double largest;
};

Scale scale_of(const LatentRow& row, int64_t element) {
  if (row.dtype == DType::int8) return {element < row.latent ? 0 : 1, 127};
  if (row.dtype == DType::fp8 && element < row.latent) return {element / kScaleBlock, 448};
  return {-1, 1};
}

}  // namespace

double LatentRow::at(const void* row, int64_t index) const {
  const auto* bytes = static_cast<const char*>(row);
  if (dtype == DType::fp8 && index >= latent) return element(bytes + fp8_rope(), DType::bf16, index - latent);
  const double value = element(row, dtype, index);
  const Scale scale = scale_of(*this, index);
  if (scale.index < 0) return value;
  float stored;
  std::memcpy(&stored, bytes + scales() + 4 * scale.index, 4);
  return value * stored;
}

void LatentRow::store(const float* values, void* row) const {
  auto* bytes = static_cast<char*>(row);
  std::vector<float> units(static_cast<size_t>(scale_bytes() / 4));
  for (int64_t i = 0; i < latent + rope; ++i) {
    const Scale scale = scale_of(*this, i);
    if (scale.index < 0) continue;
    float& unit = units[static_cast<size_t>(scale.index)];
    unit = std::max(unit, std::abs(values[i]) / static_cast<float>(scale.largest));
  }
  for (int64_t i = 0; i < latent + rope; ++i) {
    const Scale scale = scale_of(*this, i);
    const float unit = scale.index < 0 ? 1 : units[static_cast<size_t>(scale.index)];
    const float value = unit > 0 ? values[i] / unit : 0;
    if (dtype == DType::fp8 && i >= latent)
      set_element(bytes + fp8_rope(), DType::bf16, i - latent, value);
    else
      set_element(row, dtype, i, value);
  }
  if (!units.empty()) std::memcpy(bytes + scales(), units.data(), static_cast<size_t>(scale_bytes()));
}

double LatentRow::storage_err(int64_t context, uint64_t seed) const {
  // Errors of tokens add up as the tokens' own parts do: more of them change the time alone, 50 ms for V3's rows.
  constexpr int64_t kHeads = 4, kMostTokens = 1024;
  const int64_t tokens = std::min(context, kMostTokens), width = latent + rope;
  Buffer<float> q(kHeads * width), values(tokens * width);
  fill_normal(q, seed, 2);
  fill_normal(values, seed + 1);
  Buffer<uint8_t> cache(tokens * bytes());
  for (int64_t t = 0; t < tokens; ++t) store(values.data() + t * width, cache.data() + t * bytes());
  const Batch batch(1, 1, tokens);
  const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(width)));
  const auto attend = [&](DType type, const void* rows) {
    Buffer<float> out(kHeads * latent);
    reference::latent_attention<double>({1, 1, tokens, 0, kHeads, latent, rope},
                                        {batch.view(), q.data(), rows, type, tokens, scale, out.data()}, {0, kHeads});
    return std::vector<double>(out.begin(), out.end());
  };
  return compare(attend(dtype, cache.data()), attend(DType::f32, values.data())).max_err;
}

std::string cache_key(DType cache) {
  return is_scaled(cache) ? std::string("/cache:") + name(cache) : "";
}

namespace {

LatentRow row_of(const LatentAttention::Shape& shape, DType dtype) {
  return {dtype, shape.kv_lora_rank, shape.qk_rope_head_dim};
}

}  // namespace

std::string LatentAttention::key(const Shape& shape) {
  return context_key(shape.batch, shape.new_tokens, shape.context, shape.shortest);
}

Cost LatentAttention::cost(const Shape& shape, DType dtype, std::string_view algo) {
  const Batch batch(shape.batch, shape.new_tokens, shape.context, shape.shortest);
  const auto H = static_cast<double>(shape.num_attention_heads), R = static_cast<double>(shape.kv_lora_rank),
             D = static_cast<double>(shape.qk_rope_head_dim), pairs = static_cast<double>(batch.attended());
  const double flops = 2 * H * (2 * R + D) * pairs;
  return {.flops = flops,
          .bf16_flops = algo == "integer" ? 0 : bf16_flops(flops, dtype),
          .int8_flops = algo == "integer" ? flops : 0,
          .kv_bytes = static_cast<double>(batch.cached() * row_of(shape, dtype).bytes()),
          .activation_bytes = 4 * static_cast<double>(batch.tokens()) * H * (2 * R + D),
          .exps = H * pairs};
}

namespace {

const LatentAttention::Shape& checked(const LatentAttention::Shape& s) {
  MMB_REQUIRE(s.num_attention_heads > 0 && s.kv_lora_rank > 0 && s.qk_rope_head_dim > 0,
              "latent_attention: heads " << s.num_attention_heads << ", kv_lora_rank " << s.kv_lora_rank
                                         << ", qk_rope_head_dim " << s.qk_rope_head_dim);
  return s;
}

}  // namespace

// What algo `integer` rounds has even errors. A query element's, of at most 1/254 of the largest, has a deviation of
// 1/(127 sqrt(12)) of it, and so has a score relative to what scores deviate by, times the largest query in deviations: here
// 2 and 4.5, times 2.3 for tokens of the largest scale, and as much for queries from weights with such scales. A weight's, of
// at most 1/510 of the largest in its block, adds up over the tokens of a block as the square root of their number. Errors of
// tokens add up as the tokens' own parts do.
double LatentAttention::rounding(std::string_view algo, DType weights) {
  if (algo != "integer") return 0;
  constexpr double kScores = 2, kLargestScale = 2.3, kBlock = 192;
  const double largest_query = is_scaled(weights) ? 4.5 * kLargestScale : 4.5;
  return (kScores * largest_query * kLargestScale / 127 + std::sqrt(kBlock) / 255) / std::sqrt(12.0);
}

double LatentAttention::tolerance(const Shape& shape, std::string_view algo) {
  // As in attention.cpp, but that a score has as many products as a long context has tokens.
  return sum_tolerance(shape.context + shape.kv_lora_rank + shape.qk_rope_head_dim) + 48 * 0x1p-24 + rounding(algo);
}

LatentAttention::Problem::Problem(const Shape& shape, DType dtype, std::string_view algo, Arena& arena, uint64_t seed)
    : shape_(checked(shape)),
      arena_(arena),
      batch_(shape.batch, shape.new_tokens, shape.context, shape.shortest),
      tolerance_(LatentAttention::tolerance(shape, algo)),
      q_(batch_.tokens() * shape.num_attention_heads * (shape.kv_lora_rank + shape.qk_rope_head_dim)),
      out_(batch_.tokens() * shape.num_attention_heads * shape.kv_lora_rank),
      expected_(out_.size()) {
  const int64_t R = shape.kv_lora_rank, row = R + shape.qk_rope_head_dim;
  // With this scale, scores have a deviation of 2, to which every element of a row adds alike.
  fill_normal(q_, seed, 2);
  const auto latent = static_cast<float>(Arena::rms(dtype)),
             rope = static_cast<float>(Arena::rms(row_of(shape, dtype).rope_type()));
  for (int64_t i = 0; i < q_.size(); ++i) q_[i] /= i % row < R ? latent : rope;
  args_ = {batch_.view(), q_.data(),     nullptr,
           dtype,         shape.context, static_cast<float>(1 / std::sqrt(static_cast<double>(row))),
           out_.data()};
  next();
}

void LatentAttention::Problem::next() {
  args_.cache = arena_.take(shape_.batch * shape_.context * row_of(shape_, args_.cache_dtype).bytes());
  expected_args_ = args_;
  expected_args_.out = expected_.data();
}

std::vector<Output> LatentAttention::Problem::outputs(const Args& args, int64_t unit) const {
  const float* out = args.out + unit * shape_.kv_lora_rank;
  return {{"out", {out, out + shape_.kv_lora_rank}, tolerance_}};
}

}  // namespace mmb
