// Bound: weights from memory up to the machine's balance (about 10 tokens in bf16), multiply rate beyond.
// Idea: matmul.h. The tokens are laid out for the tiles once, by the whole team; then each thread streams its own panels.
// Split: panels of outputs, evenly and in order over the threads, so that weights stay with the thread that reads them.
#include "mmb/linear.h"

#include "../matmul.h"

namespace mmb::MMB_IMPL {

void linear(const Linear::Shape& shape, const Linear::Args& args) noexcept {
  const int64_t N = shape.tokens, K = shape.in_features, M = shape.out_features;
  team([&] {
    Scratch scratch;
    auto* packed = scratch.shared<float>(packed_size(N, K));
    pack_tokens(args.x, K, nullptr, N, K, packed);
    barrier();
    matmul(packed, N, args.w, share(panel_count(args.w)), args.y, M, scratch.own<float>(kMatmulScratch));
    barrier();
  });
}

}  // namespace mmb::MMB_IMPL
