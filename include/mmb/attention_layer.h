// attention_layer: dense attention as a layer has it, from hidden state to hidden state.
//   q = W_q x[n], k = W_k x[n], v = W_v x[n], each plus its bias;   with q_lora_rank q = W_q rms_norm(W_qa x[n])
//   with qk_norm every head of q and k is rms-normed; then its first rotary_dim dims are rotated; k and v are appended
//   y[n] = W_o attention(q[n], cached k, cached v) plus its bias
// Shapes  x, y [N, H] f32 · W_q [nh*dk, H or q_lora_rank], W_k [nkv*dk, H], W_v [nkv*dv, H], W_o [H, nh*dv], W_qa
//         [q_lora_rank, H] in the row's type · caches k [B, nkv, capacity, dk], v [B, nkv, capacity, dv] cache dtype
// Cost    the sum of its ops': linear, attention_decode or attention_prefill; the append adds nothing to what they read
// Bound   at decode memory: weights for a few sequences, the cache for many or long ones
// Traps   norm before rope (Qwen3); the new tokens attend to their own rounded keys and values
// Source  Llama, arXiv:2302.13971; Qwen3, arXiv:2505.09388 (qk_norm); the query path of q_lora_rank is DeepSeek's, for
//         the models that have its queries on a dense cache
#pragma once

#include "mmb/attention.h"
#include "mmb/kernel.h"
#include "mmb/layer_problem.h"
#include "mmb/model.h"
#include "mmb/rope.h"
#include "mmb/sequences.h"

namespace mmb {

struct AttentionLayer {
  static constexpr const char* name = "attention_layer";
  static constexpr auto kTypes = kWeightTypes;

  struct Shape {
    int64_t batch, new_tokens, context;
    int64_t shortest;  // 0: all sequences have `context`
    int64_t hidden_size;
    int64_t q_lora_rank;  // 0: the query is not compressed
    int64_t num_attention_heads, num_key_value_heads, qk_head_dim, v_head_dim, rotary_dim;
    Rope::Pairs pairs;
    bool bias, output_bias, qk_norm;
  };
  struct Args {
    Sequences sequences;
    const float* x;
    const int64_t* positions;               // [N]
    Matrix q_a, q, k, v, o;                 // q_a: with q_lora_rank
    const float* q_a_norm;                  // [q_lora_rank]
    const float *q_bias, *k_bias, *v_bias;  // [rows of the matrix], with bias
    const float* o_bias;                    // with output_bias
    const float *q_norm, *k_norm;           // [dk], with qk_norm
    float eps;
    const double* inv_freq;  // [rotary_dim/2]
    double attention_factor;
    void *k_cache, *v_cache;
    DType cache_dtype;
    int64_t capacity;
    float scale;
    float* y;
  };

  static Shape shape(const Model& model, int64_t batch, int64_t new_tokens, int64_t context);
  static AttentionShape attention(const Shape& shape);  // of its op
  static std::string key(const Shape& shape);
  static std::vector<Component> parts(const Shape& shape, DType dtype, std::string_view algo);  // of its ops
  static Cost cost(const Shape& shape, DType dtype, std::string_view algo);
  static int64_t units(const Shape& shape) { return shape.batch * shape.new_tokens; }  // a unit is a new token
  static std::span<const Kernel<AttentionLayer>> kernels();

  class Problem {
   public:
    // `lends`: its weights and cache, to a whole model. Its own x and y are null.
    Problem(const Shape& shape, DType dtype, std::string_view algo, Arena& arena, uint64_t seed, bool lends = false);
    const Args& args() const { return args_; }
    const Args& expected() const;
    std::vector<Output> outputs(const Args& args, int64_t unit) const;
    double tolerance() const;  // of y
    void next();
    bool intact() const { return y_.intact(); }

   private:
    void take();

    Shape shape_;
    Arena& arena_;
    Batch batch_;
    Buffer<float> x_, q_a_norm_, qkv_bias_, o_bias_, qk_norm_, y_;
    mutable Buffer<float> expected_;
    Buffer<int64_t> positions_;
    Buffer<double> inv_freq_;
    ArenaCache k_, v_;
    Args args_;
    mutable Args expected_args_;
  };
};

namespace reference {
template <class S>
void attention_layer(const AttentionLayer::Shape& shape, const AttentionLayer::Args& args, Range tokens);
}
MMB_DECLARE_KERNEL(AttentionLayer, attention_layer)

}  // namespace mmb
