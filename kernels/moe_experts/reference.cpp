#include "mmb/moe_experts.h"

#include "../reference.h"

namespace mmb::reference {

template <class S>
void moe_experts(const MoeExperts::Shape& shape, const MoeExperts::Args& args, Range tokens) {
  const int64_t H = shape.hidden_size, K = shape.num_experts_per_tok;
  for (int64_t n = tokens.begin; n < tokens.end; ++n) {
    const Vector<S> x = vector<S>(args.x + n * H, H);
    Vector<double> y = zeros<double>(H);
    const auto add = [&](const Expert& expert, double weight) {
      const Vector<S> part = gated_ffn<S>(expert.gate, expert.up, expert.down, x);
      for (int64_t h = 0; h < H; ++h) y[h] += weight * value(part[h]);
    };
    for (int64_t i = n * K; i < (n + 1) * K; ++i) add(args.experts[args.topk_indices[i]], args.topk_weights[i]);
    if (shape.shared_intermediate_size > 0) add(args.shared, 1);
    store<double>(y, args.y + n * H);
  }
}

template void moe_experts<double>(const MoeExperts::Shape&, const MoeExperts::Args&, Range);
template void moe_experts<Counted>(const MoeExperts::Shape&, const MoeExperts::Args&, Range);

}  // namespace mmb::reference
