#include "../reference.h"

#include "mmb/attention_decode.h"
#include "mmb/attention_layer.h"
#include "mmb/attention_prefill.h"
#include "mmb/linear.h"
#include "mmb/rms_norm.h"

namespace mmb::reference {
namespace {

// One token's vector through `w` and the optional bias.
template <class S>
std::vector<float> project(const Matrix& w, const float* bias, const float* x) {
  std::vector<float> y(static_cast<size_t>(w.rows));
  linear<S>({1, w.cols, w.rows}, {x, w, y.data()}, {0, w.rows});
  for (size_t i = 0; bias && i < y.size(); ++i) y[i] += bias[i];
  return y;
}

// The heads of token n's query or key: norm, then rotation.
template <class S>
void norm_and_rotate(const AttentionLayer::Shape& shape, const AttentionLayer::Args& args, int64_t n, int64_t heads,
                     const float* norm, float* x) {
  const int64_t d = shape.qk_head_dim;
  if (shape.qk_norm) rms_norm<S>({heads, d}, {x, norm, args.eps, x}, {0, heads});
  rope<S>({1, heads, shape.rotary_dim},
          {x, heads * d, d, args.positions + n, args.inv_freq, args.attention_factor, shape.pairs, x}, {0, 1});
}

void append(const AttentionLayer::Args& args, int64_t b, int64_t slot, int64_t heads, const std::vector<float>& x,
            void* cache) {
  const int64_t width = static_cast<int64_t>(x.size()) / heads;
  for (int64_t i = 0; i < heads * width; ++i)
    set_element(cache, args.cache_dtype, ((b * heads + i / width) * args.capacity + slot) * width + i % width,
                x[static_cast<size_t>(i)]);
}

}  // namespace

template <class S>
void attention_layer(const AttentionLayer::Shape& shape, const AttentionLayer::Args& args, Range tokens) {
  const Sequences& sequences = args.sequences;
  const int64_t N = sequences.tokens(), H = shape.hidden_size, nh = shape.num_attention_heads,
                nkv = shape.num_key_value_heads, dk = shape.qk_head_dim, dv = shape.v_head_dim;
  Buffer<float> q(N * nh * dk), context(N * nh * dv);
  // The tokens of the range attend to the new tokens before them too; of those only keys and values are needed.
  int64_t b = 0;
  while (tokens.begin >= sequences.first[b + 1]) ++b;
  for (int64_t n = sequences.first[b]; n < tokens.end; ++n) {
    while (n >= sequences.first[b + 1]) ++b;
    const float* x = args.x + n * H;
    const int64_t slot = sequences.slot(b, n);
    std::vector<float> k = project<S>(args.k, shape.bias ? args.k_bias : nullptr, x);
    norm_and_rotate<S>(shape, args, n, nkv, args.k_norm, k.data());
    append(args, b, slot, nkv, k, args.k_cache);
    append(args, b, slot, nkv, project<S>(args.v, shape.bias ? args.v_bias : nullptr, x), args.v_cache);
  }
  for (int64_t n = tokens.begin; n < tokens.end; ++n) {
    std::vector<float> input(args.x + n * H, args.x + (n + 1) * H);
    if (shape.q_lora_rank > 0) {
      const int64_t Q = shape.q_lora_rank;
      input = project<S>(args.q_a, nullptr, input.data());
      rms_norm<S>({1, Q}, {input.data(), args.q_a_norm, args.eps, input.data()}, {0, 1});
    }
    const std::vector<float> query = project<S>(args.q, shape.bias ? args.q_bias : nullptr, input.data());
    std::copy(query.begin(), query.end(), q.data() + n * nh * dk);
    norm_and_rotate<S>(shape, args, n, nh, args.q_norm, q.data() + n * nh * dk);
  }

  attention_prefill<S>(
      AttentionLayer::attention(shape),
      {sequences, q.data(), args.k_cache, args.v_cache, args.cache_dtype, args.capacity, args.scale, context.data()},
      {tokens.begin * nh, tokens.end * nh});
  for (int64_t n = tokens.begin; n < tokens.end; ++n) {
    const std::vector<float> y =
        project<S>(args.o, shape.output_bias ? args.o_bias : nullptr, context.data() + n * nh * dv);
    std::copy(y.begin(), y.end(), args.y + n * H);
  }
}

template void attention_layer<double>(const AttentionLayer::Shape&, const AttentionLayer::Args&, Range);
template void attention_layer<Counted>(const AttentionLayer::Shape&, const AttentionLayer::Args&, Range);

}  // namespace mmb::reference
