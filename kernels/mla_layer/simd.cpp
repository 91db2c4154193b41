// Bound: that of its ops. They run one after the other in one team, so that nothing is forked or joined between them.
#include "mmb/mla_layer.h"

#include "../team.h"
#include "mmb/linear.h"
#include "mmb/mla_prefill.h"

namespace mmb::MMB_IMPL {
namespace {

template <class Attend>
[[gnu::always_inline]] inline void mla_layer(const MlaLayer::Shape& shape, const MlaLayer::Args& args, Attend attend) {
  const Sequences& sequences = args.sequences;
  const int64_t N = sequences.tokens(), H = shape.hidden_size, nh = shape.num_attention_heads,
                dk = shape.qk_nope_head_dim + shape.qk_rope_head_dim, dv = shape.v_head_dim;
  team([&] {
    Scratch scratch;
    auto* q = scratch.shared<float>(N * nh * dk);
    auto* context = scratch.shared<float>(N * nh * dv);
    mla_project(MlaLayer::projection(shape),
                {sequences, args.x, args.positions, args.q_a, args.q_b, args.q_a_norm, args.kv_a, args.kv_a_norm,
                 args.eps, args.inv_freq, args.attention_factor, q, args.cache, args.cache_dtype, args.capacity});
    attend(MlaLayer::attention(shape), {sequences, q, args.cache, nullptr, nullptr, args.cache_dtype, args.capacity,
                                        args.w_uk, args.w_uv, args.scale, context, args.integer});
    linear({N, nh * dv, H}, {context, args.o, args.y});
  });
}

}  // namespace

void mla_layer_absorbed(const MlaLayer::Shape& shape, const MlaLayer::Args& args) noexcept {
  mla_layer(shape, args, mla_decode_absorbed);
}

void mla_layer_expanded(const MlaLayer::Shape& shape, const MlaLayer::Args& args) noexcept {
  mla_layer(shape, args, mla_prefill_expanded);
}

}  // namespace mmb::MMB_IMPL
