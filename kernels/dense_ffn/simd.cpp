// Bound: weights from memory up to the machine's balance (about 10 tokens in bf16), multiply rate beyond.
// Roof, 7168 x 18432, bf16, 2 cores of a Xeon, AVX-512 (November 2026, medians of 7): 1 token 0.93-0.97, 8 tokens
// 0.74-0.85, 64 tokens 0.84-0.89.
// Idea: ffn.h. All slabs read the same packed tokens; scratch is one slab's hidden activations.
// Split: panels of gate and up, then panels of outputs, evenly over the threads.
#include "mmb/dense_ffn.h"

#include "../ffn.h"

namespace mmb::MMB_IMPL {

void dense_ffn(const DenseFfn::Shape& shape, const DenseFfn::Args& args) noexcept {
  const int64_t N = shape.tokens, H = shape.hidden_size;
  team([&] {
    Scratch scratch;
    const DType dtype = args.slabs[0].gate.dtype;
    auto* x = scratch.shared<float>(packed_size(N, H));
    int64_t width = 0;
    for (int64_t i = 0; i < args.slab_count; ++i) {
      const int64_t columns = args.slabs[i].gate.rows;
      if (columns > width) width = columns;
    }
    auto* hidden = scratch.shared<float>(packed_size(N, width));
    pack_tokens(args.x, H, nullptr, N, H, dtype, x);
    clear_own_outputs(args.y, N, H);
    barrier();
    for (int64_t i = 0; i < args.slab_count; ++i) {
      const FfnWork slab{args.slabs + i, 0, N, nullptr, nullptr};
      add_ffns(&slab, 1, x, hidden, width, H, args.y);
    }
  });
}

}  // namespace mmb::MMB_IMPL
