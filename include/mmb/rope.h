// rope: rotary position embedding; pairs of a head's dims are turned by angles that grow with the token's position.
//   (a, b) = dims (2i, 2i+1) if interleaved, (i, i + D/2) if half;   t = positions[n] * inv_freq[i]
//   y_a = (x_a cos t - x_b sin t) * attention_factor;   y_b = (x_b cos t + x_a sin t) * attention_factor
// Shapes  x, y [N, heads, D] f32 with token_stride and head_stride (y may be x) · positions [N] · inv_freq [D/2]
// Cost    flops = 0: no contraction;  bytes = 2*N*heads*D*4
// Bound   the cache that holds x; with few heads, the sines and cosines of a token
// Traps   DeepSeek's checkpoints are interleaved, Llama's half; an angle in f32 is off by 1e-7 of the position, so
//         angles are double; YaRN's part in the softmax scale is not here (softmax_scale)
// Source  Su et al., arXiv:2104.09864, section 3.4; Peng et al. (YaRN), arXiv:2309.00071, section 3
#pragma once

#include "mmb/kernel.h"
#include "mmb/model.h"

namespace mmb {

struct Rope {
  static constexpr const char* name = "rope";
  static constexpr auto kTypes = kWeightTypes;  // that rows stand beside; none of its own is stored

  enum class Pairs { interleaved, half };

  struct Shape {
    int64_t tokens, heads, dims;
  };
  struct Args {
    const float* x;
    int64_t token_stride, head_stride;  // of x and y, in floats: the rotated dims may be a part of a head
    const int64_t* positions;
    const double* inv_freq;
    double attention_factor;
    Pairs pairs;
    float* y;
  };

  static Shape shape(const Model& model, int64_t tokens);
  static std::string key(const Shape& shape);
  static Cost cost(const Shape& shape, DType dtype, std::string_view algo);
  static int64_t units(const Shape& shape) { return shape.tokens; }  // a unit is a token
  static std::span<const Kernel<Rope>> kernels();

  // Algo is the way of pairing: "interleaved" or "half".
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
    Buffer<float> x_, y_, expected_;
    Buffer<int64_t> positions_;
    Buffer<double> inv_freq_;
    Args args_, expected_args_;
  };
};

// What a model's rope_theta and rope_scaling come to.
struct RopeFrequencies {
  std::vector<double> inv_freq;  // [rotary dims / 2]
  double attention_factor = 1;   // multiplies cos and sin
  double softmax_factor = 1;     // multiplies the softmax scale
};
RopeFrequencies rope_frequencies(const Model& model);

// What attention scores are multiplied by: 1/sqrt(query and key head dim), times the softmax factor.
double softmax_scale(const Model& model);

namespace reference {
template <class S>
void rope(const Rope::Shape& shape, const Rope::Args& args, Range tokens);
}
MMB_DECLARE_KERNEL(Rope, rope)

}  // namespace mmb
