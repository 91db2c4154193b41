// mla_project: the way into multi-head latent attention: a hidden state becomes each head's query and one latent, which
// goes into the cache together with its rotated rope key.
//   a = rms_norm(q_a x[n]; q_a_norm);   q[n,h] = q_b a (q_b x[n] without q_lora_rank), its last D dims rotated
//   [c | r] = kv_a x[n];   cache[b, context - new + i] = [rms_norm(c; kv_a_norm) | rotated r], i the token's place in b
// Shapes  x [N, H] f32 · q_a [Q, H], q_b [heads*(dn+D), Q or H], kv_a [R+D, H] in the row's type · q_a_norm [Q],
//         kv_a_norm [R] f32 · q [N, heads, dn+D] f32 · cache [B, capacity] rows of LatentRow (latent_attention.h)
//         Q = q_lora_rank, R = kv_lora_rank, dn = qk_nope_head_dim, D = qk_rope_head_dim
// Cost    flops = 2*N*(H*Q + Q*heads*(dn+D) + H*(R+D));  without Q 2*N*(H*heads*(dn+D) + H*(R+D))
//         bytes = the matrices and norms + N*row + 4*N*(H + heads*(dn+D))
// Bound   the weights (V3: 105 MB in bf16) for a few tokens, compute beyond the machine's balance
// Traps   rope pairs are interleaved; the latent is normed, the rope key is not; the cache holds rounded values
// Source  DeepSeek-V2, arXiv:2405.04434, section 2.1, equations 9 to 16
#pragma once

#include "mmb/kernel.h"
#include "mmb/latent_attention.h"
#include "mmb/model.h"
#include "mmb/sequences.h"

namespace mmb {

struct MlaProject {
  static constexpr const char* name = "mla_project";
  static constexpr auto kTypes = kWeightTypes;

  struct Shape {
    int64_t batch, new_tokens, context, hidden_size, num_attention_heads;
    int64_t q_lora_rank;  // 0: the query is not compressed
    int64_t kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim;
    DType cache = DType::bf16;  // int8 or fp8: with scales; else as the weights have it (cache_type)
  };
  struct Args {
    Sequences sequences;
    const float* x;
    const int64_t* positions;  // [N]
    Matrix q_a, q_b;           // without q_lora_rank q_b is q_proj, and q_a and q_a_norm are unused
    const float* q_a_norm;
    Matrix kv_a;
    const float* kv_a_norm;
    float eps;
    const double* inv_freq;  // [D/2]
    double attention_factor;
    float* q;
    void* cache;
    DType cache_dtype;
    int64_t capacity;
  };

  static Shape shape(const Model& model, int64_t batch, int64_t new_tokens, int64_t context, DType cache = DType::bf16);
  static std::string key(const Shape& shape);
  static Cost cost(const Shape& shape, DType dtype, std::string_view algo);
  static int64_t units(const Shape& shape) { return shape.batch * shape.new_tokens; }  // a unit is a new token
  static std::span<const Kernel<MlaProject>> kernels();

  class Problem {
   public:
    Problem(const Shape& shape, DType dtype, std::string_view algo, Arena& arena, uint64_t seed);
    const Args& args() const { return args_; }
    const Args& expected() const { return expected_args_; }
    std::vector<Output> outputs(const Args& args, int64_t unit) const;
    void next();
    bool intact() const { return q_.intact() && cache_.intact(); }

   private:
    Shape shape_;
    Arena& arena_;
    Batch batch_;
    Buffer<float> x_, q_a_norm_, kv_a_norm_, q_, expected_q_;
    Buffer<int64_t> positions_;
    Buffer<double> inv_freq_;
    Buffer<uint8_t> cache_, expected_cache_;  // only written, and by the new tokens alone: not from the arena
    Args args_, expected_args_;
  };
};

namespace reference {
template <class S>
void mla_project(const MlaProject::Shape& shape, const MlaProject::Args& args, Range tokens);
}
MMB_DECLARE_KERNEL(MlaProject, mla_project)

}  // namespace mmb
