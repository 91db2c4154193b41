// rms_norm: root-mean-square normalisation of each token, with a learned scale.
//   y[n,:] = x[n,:] / sqrt(mean_h(x[n,h]^2) + eps) * weight[:]
// Shapes  x, y [N, H] f32 (y may be x) · weight [H] f32
// Cost    flops = 0: no contraction with weights;  bytes = (2*N*H + H) * 4
// Bound   the cache that holds x: two passes over one token, the second from L1
// Traps   eps is inside the root; a token of zeros stays zero
// Source  Zhang and Sennrich, arXiv:1910.07467, equation 4
#pragma once

#include "mmb/kernel.h"

namespace mmb {

struct RmsNorm {
  static constexpr const char* name = "rms_norm";
  static constexpr auto kTypes = kWeightTypes;  // that rows stand beside; none of its own is stored

  struct Shape {
    int64_t tokens, hidden_size;
  };
  struct Args {
    const float* x;
    const float* weight;
    float eps;
    float* y;
  };

  static std::string key(const Shape& shape);
  static Cost cost(const Shape& shape, DType dtype, std::string_view algo);
  static int64_t units(const Shape& shape) { return shape.tokens; }  // a unit is a token
  static std::span<const Kernel<RmsNorm>> kernels();

  class Problem {
   public:
    Problem(const Shape& shape, DType dtype, std::string_view algo, Arena& arena, uint64_t seed);
    const Args& args() const { return args_; }
    const Args& expected() const { return expected_args_; }
    std::vector<Output> outputs(const Args& args, int64_t unit) const;
    void next() {}  // x and y are activations, warm in a model too
    bool intact() const { return y_.intact(); }

   private:
    Shape shape_;
    Buffer<float> x_, weight_, y_, expected_;
    Args args_, expected_args_;
  };
};

namespace reference {
template <class S>
void rms_norm(const RmsNorm::Shape& shape, const RmsNorm::Args& args, Range tokens);
}
MMB_DECLARE_KERNEL(RmsNorm, rms_norm)

}  // namespace mmb
