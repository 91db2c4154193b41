// moe_router: which experts a token goes to, and with what weights.
//   l = gate x[n,:];   s = sigmoid(l) or softmax(l);   c = s + bias
//   groups of E/n_group experts: only the topk_group groups of highest score may be chosen from, the others have
//     c = -inf; a group's score is its highest c (group_limited_greedy) or the sum of its two highest (noaux_tc)
//   topk_indices[n,:] = the K experts of highest c, falling, ties by lowest index
//   topk_weights[n,:] = routed_scaling_factor * s of those (/ their sum with norm_topk_prob): without the bias
// Shapes  x [N, H] f32 · gate [E, H] f32 whatever the row's type, packed (tensor.h) · bias [E] f32 or null ·
//         scores s [N, E] f32 · topk_indices [N, K] int32 · topk_weights [N, K] f32
// Cost    flops = 2*N*H*E;  bytes = 4*(E*H + E) + 4*N*(H + E + 2*K), softmax's without the bias
// Bound   memory for a few tokens: the f32 gate is 7.3 MB for DeepSeek-V3
// Traps   masking with 0 instead of -inf lets experts of masked groups in once biased scores are negative
// Source  DeepSeek-V3 inference/model.py (Gate), DeepSeek-V2 modeling_deepseek.py (MoEGate); Mixtral and Qwen3-MoE are
//         softmax without groups, with or without norm_topk_prob
#pragma once

#include "mmb/kernel.h"
#include "mmb/model.h"

namespace mmb {

struct MoeRouter {
  static constexpr const char* name = "moe_router";
  static constexpr auto kTypes = kWeightTypes;  // that rows stand beside; none of its own is stored

  enum class Scoring { softmax, sigmoid };
  enum class GroupScore { maximum, top2_sum };

  struct Shape {
    int64_t tokens, hidden_size, n_routed_experts, num_experts_per_tok, n_group, topk_group;
    Scoring scoring;
    GroupScore group_score;
    bool norm_topk_prob;
    float routed_scaling_factor;
  };
  struct Args {
    const float* x;
    Matrix gate;
    const float* bias;
    float* scores;
    int32_t* topk_indices;
    float* topk_weights;
    // Experts [N, K] that take the place of those chosen, with the weights that their scores give them: a trace that is
    // replayed. Null: none.
    const int32_t* replay = nullptr;
  };

  // Added to the sum of the chosen scores before the division, as published: scores that all vanish give weights of
  // zero.
  static constexpr float kTinySum = 1e-20f;

  static Shape shape(const Model& model, int64_t tokens);
  static std::string key(const Shape& shape);
  static Cost cost(const Shape& shape, DType dtype, std::string_view algo);
  static int64_t units(const Shape& shape) { return shape.tokens; }  // a unit is a token
  static std::span<const Kernel<MoeRouter>> kernels();

  // Sigmoid routers have a bias, softmax routers none.
  class Problem {
   public:
    Problem(const Shape& shape, DType dtype, std::string_view algo, Arena& arena, uint64_t seed);
    const Args& args() const { return args_; }
    const Args& expected() const { return expected_args_; }
    std::vector<Output> outputs(const Args& args, int64_t unit) const;
    void next();
    bool intact() const { return scores_.intact() && indices_.intact() && weights_.intact(); }

   private:
    Shape shape_;
    Arena& arena_;
    Buffer<float> x_, bias_, scores_, weights_, expected_scores_, expected_weights_;
    Buffer<int32_t> indices_, expected_indices_;
    Args args_, expected_args_;
  };
};

namespace reference {
template <class S>
void moe_router(const MoeRouter::Shape& shape, const MoeRouter::Args& args, Range tokens);
}
MMB_DECLARE_KERNEL(MoeRouter, moe_router)

}  // namespace mmb
