// latent_attention: the core of one absorbed decode step of multi-head latent attention. All heads read the same row per
// token, the latent and then the rotated key; the latent is the value too.
//   s[n,h,t] = scale * (q[n,h,:] . c[b,t,:]);   o[n,h,:] = sum_t softmax_t(s[n,h,:])[t] * c[b,t,:R]
//   over the tokens t that new token n of sequence b sees (sequences.h); more than one new token: speculative decoding
// Shapes  q [N, H, R + D] f32: latent part, rope part · c [B, capacity, R + D] cache type · o [N, H, R] f32
// Cost    flops = 2*H*(2R + D)*(pairs of a new token and a token it sees);  exps = H*pairs;
//         bytes = cached tokens*(R + D)*size(cache) + 4*N*H*(2R + D)
// Bound   about 2*H FLOP per cache element: 242 FLOP/B at H = 128 in bf16 (compute), 30 at H = 16
// Traps   the scale comes from qk_nope_head_dim + qk_rope_head_dim (192), not from R + D (576): the caller gives it
// Source  DeepSeek-V2, arXiv:2405.04434, section 2.1 and appendix C
#pragma once

#include "mmb/kernel.h"
#include "mmb/sequences.h"

namespace mmb {

struct LatentAttention {
  static constexpr const char* name = "latent_attention";

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
    Buffer<float> q_, out_, expected_;
    Args args_, expected_args_;
  };
};

namespace reference {
template <class S>
void latent_attention(const LatentAttention::Shape& shape, const LatentAttention::Args& args, Range units);
}
MMB_DECLARE_KERNEL(LatentAttention, latent_attention)

}  // namespace mmb
