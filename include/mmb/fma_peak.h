// fma_peak: the ruler of compute, by instruction class. Multiply-adds that never leave the registers.
//   y[i] = f(f(...f(x[i]))), `steps` times; fma_f32: f(v) = a*v + b; the others: f(v) = v + products*a*b
// Algos   fma_f32 · fma_f16 (sums in f16) · dot_bf16 (2 products into an f32) · dot_int8 (4, u8 * s8 into an int32) ·
//         tile_bf16 (a matrix unit: 32 of f32 times bf16 into an f32, each by three of bf16; its own rate is three times
//         as high) · tile_int8 (64, u8 * s8 into an int32)
// Shapes  x, y [E] f32
// Cost    flops = 2*E*steps*products;  bytes = 2*E*4
// Bound   compute, by construction: one load and one store per `steps` multiply-adds
// Traps   fma_f32's a is just below 1 and depends on steps, so that the result shows x, b and the number of steps: a
//         smaller a would forget x. Beyond 1000 steps, rounding hides a step that is left out
// Source  the compute roof of Williams, Waterman and Patterson, Roofline, doi:10.1145/1498765.1498785
#pragma once

#include "mmb/kernel.h"

namespace mmb {

struct FmaPeak {
  static constexpr const char* name = "fma_peak";

  struct Shape {
    int64_t elements, steps;
  };
  struct Args {
    const float* x;
    float a, b;
    int64_t products;  // 0: f(v) = a*v + b
    float* y;
  };
  // Elements that 24 registers of 16 lanes hold, which sizes are multiples of. Kernels that keep more at a time pad the last.
  static constexpr int64_t kBlock = 24 * 16;

  // That one step of an algo adds to a sum; 0 for fma_f32.
  static int64_t products(std::string_view algo);
  static std::string key(const Shape& shape);
  static Cost cost(const Shape& shape, DType dtype, std::string_view algo);
  static int64_t units(const Shape& shape) { return shape.elements; }  // a unit is one element of y
  static std::span<const Kernel<FmaPeak>> kernels();

  class Problem {
   public:
    Problem(const Shape& shape, DType dtype, std::string_view algo, Arena& arena, uint64_t seed);
    const Args& args() const { return args_; }
    const Args& expected() const { return expected_args_; }
    std::vector<Output> outputs(const Args& args, int64_t unit) const;
    void next() {}  // x and y are read and written once per `steps` multiply-adds
    bool intact() const { return y_.intact(); }

   private:
    int64_t steps_;
    Buffer<float> x_, y_, expected_;
    Args args_, expected_args_;
  };
};

namespace reference {
template <class S>
void fma_peak(const FmaPeak::Shape& shape, const FmaPeak::Args& args, Range elements);
}
MMB_DECLARE_KERNEL(FmaPeak, fma_peak)
#if defined(__x86_64__)
MMB_DECLARE_KERNEL_AT(avx512bf16, FmaPeak, fma_peak)
MMB_DECLARE_KERNEL_AT(avx512fp16, FmaPeak, fma_peak)
MMB_DECLARE_KERNEL_AT(avx2vnni, FmaPeak, fma_peak)
MMB_DECLARE_KERNEL_AT(avx512vnni, FmaPeak, fma_peak)
MMB_DECLARE_KERNEL_AT(amx, FmaPeak, fma_peak_tiles)
MMB_DECLARE_KERNEL_AT(amx, FmaPeak, fma_peak_byte_tiles)
#elif defined(__aarch64__)
MMB_DECLARE_KERNEL_AT(neoni8mm, FmaPeak, fma_peak)
#endif

}  // namespace mmb
