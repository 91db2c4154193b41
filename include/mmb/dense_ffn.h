// dense_ffn: a gated feed-forward network (SwiGLU).
//   y[n,:] = down (silu(gate x[n,:]) * up x[n,:]),   silu(v) = v / (1 + e^-v)
// A wide one may be cut along I into slabs, each a whole gate|up|down of its own; their outputs add up to the same y.
// Shapes  x, y [N, H] f32 · gate, up [I, H], down [H, I] in the row's type, packed (tensor.h)
// Cost    flops = 6*N*H*I;  bytes = 3*H*I*size(W) + 8*N*H
// Bound   N FLOP per byte of bf16 weights: memory for a few tokens, compute beyond the machine's balance (about 10)
// Source  Shazeer, arXiv:2002.05202, equation 6 (no biases); transformers LlamaMLP
#pragma once

#include "mmb/kernel.h"
#include "mmb/model.h"

namespace mmb {

// The weights of one gated FFN: an expert, or a slab of a dense FFN.
struct Expert {
  Matrix gate, up, down;
};

// Of gate, up and down, scales included.
double ffn_bytes(int64_t hidden_size, int64_t intermediate_size, DType dtype);

// An expert of the arena's next bytes, each matrix a slice of its own.
Expert take_expert(Arena& arena, int64_t hidden_size, int64_t intermediate_size, DType dtype);

struct DenseFfn {
  static constexpr const char* name = "dense_ffn";
  static constexpr auto kTypes = kWeightTypes;

  struct Shape {
    int64_t tokens, hidden_size, intermediate_size;
  };
  struct Args {
    const float* x;
    const Expert* slabs;  // whose widths sum to intermediate_size
    int64_t slab_count;   // 1 but for weights that exceed the memory
    float* y;
  };

  // The FFN of dense layer `layer`.
  static Shape shape(const Model& model, int64_t layer, int64_t tokens);
  static std::string key(const Shape& shape);
  static Cost cost(const Shape& shape, DType dtype, std::string_view algo);
  static int64_t units(const Shape& shape) { return shape.tokens; }  // a unit is a token
  static std::span<const Kernel<DenseFfn>> kernels();

  // Slabs are at most a quarter of the arena, and follow one another through it.
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
    Buffer<float> x_, y_, expected_;
    std::vector<Expert> slabs_;
    Args args_, expected_args_;
  };
};

namespace reference {
template <class S>
void dense_ffn(const DenseFfn::Shape& shape, const DenseFfn::Args& args, Range tokens);
}
MMB_DECLARE_KERNEL(DenseFfn, dense_ffn)

}  // namespace mmb
