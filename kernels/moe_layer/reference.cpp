#include "mmb/moe_layer.h"

#include "../reference.h"

namespace mmb::reference {

template <class S>
void moe_layer(const MoeLayer::Shape& shape, const MoeLayer::Args& args, Range tokens) {
  const int64_t N = shape.router.tokens, E = shape.router.n_routed_experts, K = shape.router.num_experts_per_tok;
  Buffer<float> scores(N * E), weights(N * K);
  Buffer<int32_t> indices(N * K);
  moe_router<S>(shape.router,
                {args.x, args.gate, args.bias, scores.data(), indices.data(), weights.data(), args.replay}, tokens);
  moe_experts<S>(shape.experts, {args.x, indices.data(), weights.data(), args.experts, args.shared, args.y}, tokens);
}

template void moe_layer<double>(const MoeLayer::Shape&, const MoeLayer::Args&, Range);
template void moe_layer<Counted>(const MoeLayer::Shape&, const MoeLayer::Args&, Range);

}  // namespace mmb::reference
