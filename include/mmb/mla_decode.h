// mla_decode: multi-head latent attention of a few new tokens, from per-head query to per-head output.
//   k[t,h] = [W_UK[h] c[t] | r[t]];   v[t,h] = W_UV[h] c[t];   [c | r] = cache[b,t]
//   out[n,h] = sum_t softmax_t(scale * q[n,h] . k[t,h])[t] * v[t,h]
// Ways to the same output:
//   absorbed    W_UK and W_UV leave the sum: q_latent = W_UK[h]^T q_nope attends to the latents, W_UV[h] ends it
//   integer     the same with latent_attention's dot products of integers, over int8 caches
//   reexpanded  k and v are made from the cached latents in every step: what absorption saves
//   expanded    k and v are the cache: dense attention, with the cache that MLA saves
// Shapes  q [N, heads, dn+D] f32 · cache [B, capacity] rows of LatentRow, k [B, heads, capacity, dn+D],
//         v [B, heads, capacity, dv] cache dtype · w_uk heads x [dn, R], w_uv heads x [dv, R] in the row's type ·
//         out [N, heads, dv] f32
//         R = kv_lora_rank, dn = qk_nope_head_dim, D = qk_rope_head_dim, dv = v_head_dim
// Cost    T = cached tokens of all sequences, P = pairs of a new and a cached token that it sees (T for one new token each)
//         absorbed    flops = 2*heads*(2R+D)*P + 2*N*heads*R*(dn+dv); integer's first part of int8
//         reexpanded  flops = 2*heads*(dn+D+dv)*P + 2*T*heads*R*(dn+dv)
//         both        bytes = heads*R*(dn+dv)*size(w) + T*row + 4*N*heads*(dn+D+dv)
//         expanded    flops = 2*heads*(dn+D+dv)*P;  bytes = T*heads*(dn+D+dv)*size(cache) + 4*N*heads*(dn+D+dv)
// Bound   absorbed: about 2*heads FLOP per cache element, compute from a few heads on; its weights (V3: 33.5 MB in bf16)
//         below a thousand tokens; reexpanded: compute; expanded: the cache from memory
// Traps   the scale comes from dn+D, not from R+D, and includes YaRN's factor; absorbed wants w_uk stored transposed
// Source  DeepSeek-V2, arXiv:2405.04434, section 2.1 and appendix C
#pragma once

#include "mmb/kernel.h"
#include "mmb/latent_attention.h"
#include "mmb/model.h"
#include "mmb/sequences.h"

namespace mmb {

struct MlaDecode {
  static constexpr const char* name = "mla_decode";
  static constexpr auto kTypes = kWeightTypes;

  struct Shape {
    int64_t batch, new_tokens, context;
    int64_t shortest;  // context of the first sequence, rising to the last one's; 0: all have `context`
    int64_t num_attention_heads, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim;
    DType cache = DType::bf16;  // int8 or fp8, of absorbed alone: with scales; else as the weights have it (cache_type)
  };
  struct Args {
    Sequences sequences;
    const float* q;
    const void* cache;
    const void *k, *v;  // expanded only, which uses neither cache nor matrices
    DType cache_dtype;
    int64_t capacity;
    Matrix w_uk, w_uv;  // head 0; the others follow
    float scale;
    float* out;
    bool integer = false;  // the algo; at levels with dots of bytes alone
  };

  static Shape shape(const Model& model, int64_t batch, int64_t new_tokens, int64_t context, int64_t shortest = 0,
                     DType cache = DType::bf16);
  static std::string key(const Shape& shape);
  static Cost cost(const Shape& shape, DType dtype, std::string_view algo);
  // What every algo is asked for, however much more it executes: the attention of expanded keys and values.
  static double useful_flops(const Shape& shape);
  // A unit is one (new token, head).
  static int64_t units(const Shape& shape) { return shape.batch * shape.new_tokens * shape.num_attention_heads; }
  static std::span<const Kernel<MlaDecode>> kernels();

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
    bool expanded_;
    double tolerance_;
    Batch batch_;
    Buffer<float> q_, out_, expected_;
    Args args_, expected_args_;
  };
};

namespace reference {
// The absorbed form, the least work for a unit; with k and v, dense attention to them.
template <class S>
void mla_decode(const MlaDecode::Shape& shape, const MlaDecode::Args& args, Range units);
}  // namespace reference
MMB_DECLARE_KERNEL(MlaDecode, mla_decode_absorbed)
MMB_DECLARE_KERNEL(MlaDecode, mla_decode_expanded)

}  // namespace mmb
