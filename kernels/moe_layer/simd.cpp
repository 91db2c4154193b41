// Bound: memory, as moe_experts. Both ops run in one team: no fork and join between them.
#include "mmb/moe_layer.h"

#include "../team.h"

namespace mmb::MMB_IMPL {

void moe_layer(const MoeLayer::Shape& shape, const MoeLayer::Args& args) noexcept {
  const int64_t N = shape.router.tokens, E = shape.router.n_routed_experts, K = shape.router.num_experts_per_tok;
  team([&] {
    Scratch scratch;
    auto* scores = scratch.shared<float>(N * E);
    auto* indices = scratch.shared<int32_t>(N * K);
    auto* weights = scratch.shared<float>(N * K);
    moe_router(shape.router, {args.x, args.gate, args.bias, scores, indices, weights, args.replay});
    moe_experts(shape.experts, {args.x, indices, weights, args.experts, args.shared, args.y});
  });
}

}  // namespace mmb::MMB_IMPL
