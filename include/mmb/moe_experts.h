// moe_experts: each token through its own experts, and through the shared one.
//   y[n,:] = sum_k topk_weights[n,k] * ffn(experts[topk_indices[n,k]], x[n,:]) + ffn(shared, x[n,:])
//   ffn(e, x) = down_e (silu(gate_e x) * up_e x)
// Shapes  x, y [N, H] f32 · topk_indices [N, K] int32, distinct for each token · topk_weights [N, K] f32 ·
//         experts [E]: gate, up [I, H], down [H, I] in the row's type, packed (tensor.h) · shared: the same of width
//         Is, or none
// Cost    flops = 6*N*H*(K*I + Is);  bytes = 3*H*(touched*I + Is)*size(W) + 8*N*(H + K)
// Bound   memory: tokens per touched expert are few (N*K/E) until N passes balance*E/K, 320 tokens for DeepSeek-V3
// Traps   the shared expert is not weighted; only experts that some token chose are read, the others may have no
//         weights
// Source  DeepSeekMoE, arXiv:2401.06066, equations 9-11; DeepSeek-V3 inference/model.py (MoE)
#pragma once

#include "mmb/dense_ffn.h"
#include "mmb/routing.h"

namespace mmb {

struct MoeExperts {
  static constexpr const char* name = "moe_experts";
  static constexpr auto kTypes = kWeightTypes;

  struct Shape {
    int64_t tokens, hidden_size, moe_intermediate_size, n_routed_experts, num_experts_per_tok;
    int64_t shared_intermediate_size;  // of all shared experts together; 0: none
    Routing routing = {};
    int64_t n_group = 1, topk_group = 1;  // a token's experts are in topk_group of n_group groups (moe_router.h)
  };
  struct Args {
    const float* x;
    const int32_t* topk_indices;
    const float* topk_weights;
    const Expert* experts;
    Expert shared;
    float* y;
  };

  static Shape shape(const Model& model, int64_t tokens, const Routing& routing = {});
  // The experts that a shape's tokens choose, [N, K], as its routing says.
  static std::vector<int32_t> route(const Shape& shape);
  // What that asks for.
  struct Load {
    int64_t experts_touched;  // chosen by any token
    int64_t max;              // tokens of the busiest expert
    double mean;              // tokens of an expert touched
    double overlap;           // of a token's experts, the share that the token before it has too; 0 for one token
  };
  static Load load(const Shape& shape, std::span<const int32_t> topk_indices);

  static std::string key(const Shape& shape);
  static Cost cost(const Shape& shape, DType dtype, std::string_view algo);
  static int64_t units(const Shape& shape) { return shape.tokens; }  // a unit is a token
  static std::span<const Kernel<MoeExperts>> kernels();

  // The experts that exist are never reduced: the i-th expert touched, in order, has the arena's next bytes.
  class Problem {
   public:
    Problem(const Shape& shape, DType dtype, std::string_view algo, Arena& arena, uint64_t seed);
    const Args& args() const { return args_; }
    const Args& expected() const { return expected_args_; }
    std::vector<Output> outputs(const Args& args, int64_t unit) const;
    void next();
    bool intact() const { return y_.intact(); }

   private:
    Shape shape_;
    DType dtype_;
    Arena& arena_;
    Buffer<float> x_, weights_, y_, expected_;
    std::vector<int32_t> indices_;
    std::vector<bool> touched_;
    std::vector<Expert> experts_;
    Args args_, expected_args_;
  };
};

namespace reference {
template <class S>
void moe_experts(const MoeExperts::Shape& shape, const MoeExperts::Args& args, Range tokens);
}
MMB_DECLARE_KERNEL(MoeExperts, moe_experts)

}  // namespace mmb
