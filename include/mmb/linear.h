// linear: a projection without bias.
//   y[n,:] = W x[n,:]
// Shapes  x [N, K] f32 · W [M, K] in the row's type, packed (tensor.h) · y [N, M] f32
// Algos   panels: f32 activations; beside integer W, where dots of bytes serve, in 23 bits of the largest of 16 or of all
//         columns · rounded: x in bf16, to nearest, as models are served; for matrix units, with bf16 W
// Cost    flops = 2*N*M*K;  bytes = M*K*size(W) and its scales + 4*N*(K + M)
// Bound   N FLOP per byte of bf16 weights: memory for a few tokens, compute beyond the machine's balance (about 10)
// Source  torch.nn.Linear with bias = False; the checkpoint's weight is [out, in]
#pragma once

#include <memory>

#include "mmb/kernel.h"

namespace mmb {

struct Linear {
  static constexpr const char* name = "linear";
  static constexpr auto kTypes = kWeightTypes;

  struct Shape {
    int64_t tokens, in_features, out_features;
  };
  struct Args {
    const float* x;
    Matrix w;
    float* y;
  };

  static std::string key(const Shape& shape);
  static Cost cost(const Shape& shape, DType dtype, std::string_view algo);
  static int64_t units(const Shape& shape) { return shape.tokens * shape.out_features; }  // a unit is one element of y
  static std::span<const Kernel<Linear>> kernels();

  class Problem {
   public:
    Problem(const Shape& shape, DType dtype, std::string_view algo, Arena& arena, uint64_t seed);
    const Args& args() const { return args_; }
    ~Problem();
    const Args& expected() const;
    std::vector<Output> outputs(const Args& args, int64_t unit) const;
    void next();
    bool intact() const { return y_.intact(); }

   private:
    Arena& arena_;
    Buffer<float> x_, y_, expected_;
    Args args_;
    mutable Args expected_args_;
    std::unique_ptr<class PackedForPeer> packed_;
  };
};

namespace reference {
template <class S>
void linear(const Linear::Shape& shape, const Linear::Args& args, Range elements);
}
MMB_DECLARE_KERNEL(Linear, linear)
MMB_DECLARE_KERNEL(Linear, linear_rounded)

}  // namespace mmb
