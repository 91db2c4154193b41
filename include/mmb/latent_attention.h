// latent_attention: the core of one absorbed decode step of multi-head latent attention. All heads read the same row per
// token, the latent and then the rotated key; the latent is the value too.
//   s[n,h,t] = scale * (q[n,h,:] . c[b,t,:]);   o[n,h,:] = sum_t softmax_t(s[n,h,:])[t] * c[b,t,:R]
//   over the tokens t that new token n of sequence b sees (sequences.h); more than one new token: speculative decoding
// Shapes  q [N, H, R + D] f32: latent part, rope part · c [B, capacity] rows of LatentRow · o [N, H, R] f32
// Algos   flash · integer (int8 caches alone, where the CPU has dots of bytes): q and the weights are rounded to 8 bits for them
// Cost    flops = 2*H*(2R + D)*(pairs of a new token and a token it sees), integer's of int8 both;  exps = H*pairs;
//         bytes = cached tokens*row + 4*N*H*(2R + D);  row = (R + D)*size(cache); fp8 R + 4*ceil(R/128) + 2D, int8 R + D + 8,
//         and what LatentRow pads
// Bound   about 2*H FLOP per cache element: 242 FLOP/B at H = 128 in bf16 (compute), 30 at H = 16
// Traps   the scale comes from qk_nope_head_dim + qk_rope_head_dim (192), not from R + D (576): the caller gives it
// Source  DeepSeek-V2, arXiv:2405.04434, section 2.1 and appendix C; the fp8 row: FlashMLA's (github.com/deepseek-ai/FlashMLA)
#pragma once

#include "mmb/kernel.h"
#include "mmb/sequences.h"

namespace mmb {

// A cached token: R elements of latent, D of rope key, and what else the cache's type needs.
//   f32, bf16  the elements alone
//   fp8        R fp8, one f32 scale for every kScaleBlock of them, D bf16, unscaled: V3's 656 bytes. The rope key stays bf16,
//              as its rounding would move every score
//   int8       R int8, D int8, two f32 scales, one of each part: V3's 584 bytes. A latent is normalized and a rope key is
//              not: with one scale the larger part would leave the other few of its 255 steps
// Scales, and the next row, begin at multiples of 4 bytes.
struct LatentRow {
  DType dtype;
  int64_t latent, rope;

  [[gnu::always_inline]] constexpr int64_t scales() const {  // the byte where they begin
    return round_up(dtype == DType::int8 ? latent + rope : latent, 4);
  }
  [[gnu::always_inline]] constexpr int64_t scale_bytes() const {
    return dtype == DType::fp8 ? 4 * ceil_div(latent, kScaleBlock) : dtype == DType::int8 ? 8 : 0;
  }
  [[gnu::always_inline]] constexpr DType rope_type() const { return dtype == DType::fp8 ? DType::bf16 : dtype; }
  [[gnu::always_inline]] constexpr int64_t fp8_rope() const {  // where it begins
    return scales() + scale_bytes();
  }
  [[gnu::always_inline]] constexpr int64_t bytes() const {
    if (!is_scaled(dtype)) return (latent + rope) * size_of(dtype);
    return round_up(scales() + scale_bytes() + (dtype == DType::fp8 ? 2 * rope : 0), 4);
  }
  // Element `index` of the row at `row`, and the row of `latent + rope` values, each scale being what makes the largest of its
  // elements the largest of the type.
  double at(const void* row, int64_t index) const;
  void store(const float* values, void* row) const;
  // What it costs to store f32 values so, whatever kernels then round: the error of attention to `context` such rows of normal
  // values, of 1024 at the most, relative to the largest output over the values themselves; queries as Problem makes them.
  double storage_err(int64_t context, uint64_t seed) const;
  auto operator<=>(const LatentRow&) const = default;
};
// Of the cache that a shape beside weights of type `weights` has.
template <class Shape>
constexpr LatentRow cached_row(const Shape& shape, DType weights) {
  return {cache_type(weights, shape.cache), shape.kv_lora_rank, shape.qk_rope_head_dim};
}
// What kernels take: caches without scales; and those of algo `integer`.
template <class Shape>
bool over_plain(const Shape& shape, DType) {
  return !is_scaled(shape.cache);
}
template <class Shape>
bool over_int8(const Shape& shape, DType) {
  return shape.cache == DType::int8;
}
// What the key of a row says of such a cache: "/cache:int8"; of plain ones nothing.
std::string cache_key(DType cache);

struct LatentAttention {
  static constexpr const char* name = "latent_attention";
  static constexpr std::array kTypes = {DType::f32, DType::bf16, DType::fp8, DType::int8};

  struct Shape {
    int64_t batch, new_tokens, context, shortest;  // as in attention.h
    int64_t num_attention_heads, kv_lora_rank, qk_rope_head_dim;
  };
  struct Args {
    Sequences sequences;
    const float* q;
    const void* cache;
    DType cache_dtype;
    int64_t capacity;  // tokens that each sequence's cache has room for
    float scale;
    float* out;
  };

  static std::string key(const Shape& shape);
  static Cost cost(const Shape& shape, DType dtype, std::string_view algo);
  static int64_t units(const Shape& shape) {  // a unit is a (token, head) pair
    return shape.batch * shape.new_tokens * shape.num_attention_heads;
  }
  static std::span<const Kernel<LatentAttention>> kernels();
  // Of an output, relative to the largest; and the part of it that `integer` rounds away, of queries made with weights of such
  // a type: see table.cpp.
  static double tolerance(const Shape& shape, std::string_view algo);
  static double rounding(std::string_view algo, DType weights = DType::f32);

  class Problem {
   public:
    Problem(const Shape& shape, DType dtype, std::string_view algo, Arena& arena, uint64_t seed);
    const Args& args() const { return args_; }
    const Args& expected() const { return expected_args_; }
    std::vector<Output> outputs(const Args& args, int64_t unit) const;
    void next();
    bool intact() const { return out_.intact(); }

   private:
    Shape shape_;
    Arena& arena_;
    Batch batch_;
    double tolerance_;
    Buffer<float> q_, out_, expected_;
    Args args_, expected_args_;
  };
};

namespace reference {
template <class S>
void latent_attention(const LatentAttention::Shape& shape, const LatentAttention::Args& args, Range units);
}
MMB_DECLARE_KERNEL(LatentAttention, latent_attention)
MMB_DECLARE_KERNEL(LatentAttention, latent_attention_integer)  // defined at levels that may have dots of bytes

}  // namespace mmb
