// Bound: that of its ops. They run one after the other in one team, so that nothing is forked or joined between them;
// biases and the append are a thousandth of the work.
#include "mmb/attention_layer.h"

#include "../append.h"
#include "mmb/attention_decode.h"
#include "mmb/linear.h"
#include "mmb/rms_norm.h"

namespace mmb::MMB_IMPL {
namespace {

// y[n,:] += bias
MMB_OP void add_bias(int64_t N, int64_t width, const float* bias, float* y) {
  const Share tokens = share(N);
  for (int64_t n = tokens.begin; n < tokens.end; ++n)
    for (int64_t i = 0; i < width; ++i) y[n * width + i] += bias[i];
  barrier();
}

MMB_OP void norm_and_rotate(const AttentionLayer::Shape& shape, const AttentionLayer::Args& args, int64_t N,
                            int64_t heads, const float* norm, float* x) {
  const int64_t d = shape.qk_head_dim;
  if (shape.qk_norm) rms_norm({N * heads, d}, {x, norm, args.eps, x});
  rope({N, heads, shape.rotary_dim},
       {x, heads * d, d, args.positions, args.inv_freq, args.attention_factor, shape.pairs, x});
}

}  // namespace

void attention_layer(const AttentionLayer::Shape& shape, const AttentionLayer::Args& args) noexcept {
  const Sequences& sequences = args.sequences;
  const int64_t N = sequences.tokens(), H = shape.hidden_size, Q = shape.q_lora_rank, nh = shape.num_attention_heads,
                nkv = shape.num_key_value_heads, dk = shape.qk_head_dim, dv = shape.v_head_dim;
  team([&] {
    Scratch scratch;
    auto* q_a = scratch.shared<float>(N * Q);
    auto* q = scratch.shared<float>(N * nh * dk);
    auto* k = scratch.shared<float>(N * nkv * dk);
    auto* v = scratch.shared<float>(N * nkv * dv);
    auto* context = scratch.shared<float>(N * nh * dv);

    if (Q > 0) {
      linear({N, H, Q}, {args.x, args.q_a, q_a});
      rms_norm({N, Q}, {q_a, args.q_a_norm, args.eps, q_a});
      linear({N, Q, nh * dk}, {q_a, args.q, q});
    } else {
      linear({N, H, nh * dk}, {args.x, args.q, q});
    }
    linear({N, H, nkv * dk}, {args.x, args.k, k});
    linear({N, H, nkv * dv}, {args.x, args.v, v});
    if (shape.bias) {
      add_bias(N, nh * dk, args.q_bias, q);
      add_bias(N, nkv * dk, args.k_bias, k);
      add_bias(N, nkv * dv, args.v_bias, v);
    }
    norm_and_rotate(shape, args, N, nh, args.q_norm, q);
    norm_and_rotate(shape, args, N, nkv, args.k_norm, k);

    append(sequences, k, nkv, dk, args.k_cache, args.cache_dtype, args.capacity);
    append(sequences, v, nkv, dv, args.v_cache, args.cache_dtype, args.capacity);
    barrier();
    attention_decode(AttentionLayer::attention(shape),
                     {sequences, q, args.k_cache, args.v_cache, args.cache_dtype, args.capacity, args.scale, context});
    linear({N, nh * dv, H}, {context, args.o, args.y});
    if (shape.output_bias) add_bias(N, H, args.o_bias, args.y);
  });
}

}  // namespace mmb::MMB_IMPL
