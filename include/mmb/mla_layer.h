// mla_layer: multi-head latent attention as a layer has it, from hidden state to hidden state.
//   q = mla_project(x), which appends to the latent cache;   y[n] = W_o mla(q[n], cache)
// Algos   absorbed, integer: mla_decode's and mla_prefill's;   expanded: keys and values made from the latents in
//         every step (mla_decode's reexpanded, mla_prefill's expanded)
// Shapes  x, y [N, H] f32 · matrices as mla_project's and mla_decode's, W_o [H, nh*dv] in the row's type ·
//         cache [B, capacity] rows (latent_attention.h)
// Cost    the sum of its ops': mla_project, mla_decode or mla_prefill, linear
// Bound   at decode the weights until the batch is some ten sequences, then as mla_decode
// Traps   as mla_project's and mla_decode's; the new tokens attend to their own rounded latents
// Source  DeepSeek-V2, arXiv:2405.04434, section 2.1
#pragma once

#include "mmb/kernel.h"
#include "mmb/layer_problem.h"
#include "mmb/mla_decode.h"
#include "mmb/mla_project.h"
#include "mmb/model.h"
#include "mmb/sequences.h"

namespace mmb {

struct MlaLayer {
  static constexpr const char* name = "mla_layer";
  static constexpr auto kTypes = kWeightTypes;

  struct Shape {
    int64_t batch, new_tokens, context;
    int64_t shortest;  // context of the first sequence, rising to the last one's; 0: all have `context`
    int64_t hidden_size, num_attention_heads;
    int64_t q_lora_rank;  // 0: the query is not compressed
    int64_t kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim;
    DType cache = DType::bf16;  // as in mla_decode.h
  };
  struct Args {
    Sequences sequences;
    const float* x;
    const int64_t* positions;  // [N]
    Matrix q_a, q_b;           // without q_lora_rank q_b is q_proj, and q_a and q_a_norm are unused
    const float* q_a_norm;
    Matrix kv_a;
    const float* kv_a_norm;
    float eps;               // of the two norms
    const double* inv_freq;  // [D/2]
    double attention_factor;
    void* cache;
    DType cache_dtype;
    int64_t capacity;
    Matrix w_uk, w_uv;  // head 0; the others follow. absorbed: w_uk stored transposed
    float scale;
    Matrix o;
    float* y;
    bool integer = false;  // as in mla_decode.h
  };

  static Shape shape(const Model& model, int64_t batch, int64_t new_tokens, int64_t context, DType cache = DType::bf16);
  static MlaProject::Shape projection(const Shape& shape);  // of its ops
  static MlaDecode::Shape attention(const Shape& shape);
  static std::string key(const Shape& shape);
  static std::vector<Component> parts(const Shape& shape, DType dtype,
                                      std::string_view algo);  // of its ops, one by one
  static Cost cost(const Shape& shape, DType dtype, std::string_view algo);
  static int64_t units(const Shape& shape) { return shape.batch * shape.new_tokens; }  // a unit is a new token
  static std::span<const Kernel<MlaLayer>> kernels();

  class Problem {
   public:
    // `lends`: its weights and cache, to a whole model. Its own x and y are null.
    Problem(const Shape& shape, DType dtype, std::string_view algo, Arena& arena, uint64_t seed, bool lends = false);
    const Args& args() const { return args_; }
    const Args& expected() const;
    std::vector<Output> outputs(const Args& args, int64_t unit) const;
    double tolerance() const { return tolerance_; }  // of y
    void next();
    bool intact() const { return y_.intact(); }

   private:
    void take();

    Shape shape_;
    Arena& arena_;
    Batch batch_;
    Buffer<float> x_, q_a_norm_, kv_a_norm_, y_;
    mutable Buffer<float> expected_;
    Buffer<int64_t> positions_;
    Buffer<double> inv_freq_;
    ArenaCache cache_;
    double tolerance_;
    Args args_;
    mutable Args expected_args_;
  };
};

namespace reference {
// Absorbed, the least work for a token; and with the contractions of the expanded form.
template <class S>
void mla_layer_absorbed(const MlaLayer::Shape& shape, const MlaLayer::Args& args, Range tokens);
template <class S>
void mla_layer_expanded(const MlaLayer::Shape& shape, const MlaLayer::Args& args, Range tokens);
}  // namespace reference
MMB_DECLARE_KERNEL(MlaLayer, mla_layer_absorbed)
MMB_DECLARE_KERNEL(MlaLayer, mla_layer_expanded)

}  // namespace mmb
