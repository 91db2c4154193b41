// Chains of dependent multiply-adds that never leave the registers, split over the threads.
#pragma once

#include "../simd.h"
#include "../team.h"
#include "mmb/fma_peak.h"

namespace mmb {
namespace MMB_IMPL {
namespace {

// An instruction class is a type with
//   Sum                 one register of sums
//   kWidth, kChains     sums in a register; registers side by side, enough to hide the latency
//   Class(a, b)         its operands
//   start(x), step(sum), finish(sum, y)
template <class Class>
[[gnu::noinline]] void chains(const float* x, float a, float b, float* y, int64_t steps) {
  const Class instruction(a, b);
  typename Class::Sum v[Class::kChains];
  MMB_UNROLL
  for (int c = 0; c < Class::kChains; ++c) v[c] = instruction.start(x + c * Class::kWidth);
  for (int64_t step = 0; step < steps; ++step) {
    MMB_UNROLL
    for (int c = 0; c < Class::kChains; ++c) v[c] = instruction.step(v[c]);
  }
  MMB_UNROLL
  for (int c = 0; c < Class::kChains; ++c) instruction.finish(v[c], y + c * Class::kWidth);
}

// block(x, y) for blocks of `size` elements; what is left over goes through a padded copy.
template <int64_t size, class Block>
MMB_OP void each_block(const FmaPeak::Shape& shape, const FmaPeak::Args& args, const Block& block) {
  team([&] {
    const Share blocks = share(ceil_div(shape.elements, size));
    for (int64_t i = blocks.begin * size; i < blocks.end * size; i += size) {
      if (shape.elements - i >= size) {
        block(args.x + i, args.y + i);
      } else {
        const auto bytes = static_cast<size_t>(4 * (shape.elements - i));
        alignas(64) float x[size] = {}, y[size];
        memcpy(x, args.x + i, bytes);
        block(x, y);
        memcpy(args.y + i, y, bytes);
      }
    }
    barrier();
  });
}

template <class Class>
MMB_OP void peak_of(const FmaPeak::Shape& shape, const FmaPeak::Args& args) {
  each_block<Class::kChains * Class::kWidth>(
      shape, args, [&](const float* x, float* y) { chains<Class>(x, args.a, args.b, y, shape.steps); });
}

}  // namespace
}  // namespace MMB_IMPL
}  // namespace mmb
