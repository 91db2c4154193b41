// moe_layer: a mixture-of-experts FFN as a layer has it: moe_router, then moe_experts with its choice.
// Shapes  x, y [N, H] f32 · gate [E, H] f32 · bias [E] f32 or null · experts [E] and shared in the row's type
// Cost    moe_router's plus moe_experts'
// Bound   memory, as moe_experts
// Source  DeepSeek-V3 inference/model.py (MoE); no norm and no residual: those are decoder_layer's
#pragma once

#include "mmb/moe_experts.h"
#include "mmb/moe_router.h"

namespace mmb {

struct MoeLayer {
  static constexpr const char* name = "moe_layer";
  static constexpr auto kTypes = kWeightTypes;

  struct Shape {
    MoeRouter::Shape router;
    MoeExperts::Shape experts;  // the same tokens, experts and groups
  };
  struct Args {
    const float* x;
    Matrix gate;
    const float* bias;
    const Expert* experts;
    Expert shared;
    float* y;
    const int32_t* replay = nullptr;  // moe_router.h
  };

  static Shape shape(const Model& model, int64_t tokens, const Routing& routing = {});
  static std::string key(const Shape& shape);
  static std::vector<Component> parts(const Shape& shape, DType dtype, std::string_view algo);  // of its ops
  static Cost cost(const Shape& shape, DType dtype, std::string_view algo);
  static int64_t units(const Shape& shape) { return shape.router.tokens; }  // a unit is a token
  static std::span<const Kernel<MoeLayer>> kernels();

  // Tokens whose logits are such that the router chooses MoeExperts::route(shape): the experts touched are a fact of
  // the shape, and no choice hangs on rounding. So the gate stays (1 % of the bytes), while next() moves the experts.
  class Problem {
   public:
    Problem(const Shape& shape, DType dtype, std::string_view algo, Arena& arena, uint64_t seed);
    const Args& args() const { return args_; }
    const Args& expected() const { return expected_args_; }
    std::vector<Output> outputs(const Args& args, int64_t unit) const;
    void next();
    bool intact() const { return y_.intact(); }

   private:
    MoeExperts::Problem experts_;
    Buffer<float> x_, gate_, bias_, y_, expected_;
    Args args_, expected_args_;
  };
};

namespace reference {
template <class S>
void moe_layer(const MoeLayer::Shape& shape, const MoeLayer::Args& args, Range tokens);
}
MMB_DECLARE_KERNEL(MoeLayer, moe_layer)

}  // namespace mmb
