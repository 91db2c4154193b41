#include "../reference.h"

#include "mmb/linear.h"
#include "mmb/mla_layer.h"
#include "mmb/mla_prefill.h"

namespace mmb::reference {
namespace {

template <class S, class Attend>
void compose(const MlaLayer::Shape& shape, const MlaLayer::Args& args, Range tokens, Attend attend) {
  const Sequences& sequences = args.sequences;
  const int64_t N = sequences.tokens(), H = shape.hidden_size, nh = shape.num_attention_heads,
                dk = shape.qk_nope_head_dim + shape.qk_rope_head_dim, dv = shape.v_head_dim;
  Buffer<float> q(N * nh * dk), context(N * nh * dv);
  const MlaProject::Args project{sequences,
                                 args.x,
                                 args.positions,
                                 args.q_a,
                                 args.q_b,
                                 args.q_a_norm,
                                 args.kv_a,
                                 args.kv_a_norm,
                                 args.eps,
                                 args.inv_freq,
                                 args.attention_factor,
                                 q.data(),
                                 args.cache,
                                 args.cache_dtype,
                                 args.capacity};
  // The tokens of the range attend to the new tokens before them too; of those only the latents are needed.
  MlaProject::Shape latents = MlaLayer::projection(shape);
  latents.num_attention_heads = latents.q_lora_rank = 0;
  MlaProject::Args append = project;
  append.q_b = {nullptr, args.q_b.dtype, false, 0, H};
  int64_t b = 0;
  while (tokens.begin >= sequences.first[b + 1]) ++b;
  mla_project<S>(latents, append, {sequences.first[b], tokens.begin});
  mla_project<S>(MlaLayer::projection(shape), project, tokens);

  attend(MlaLayer::attention(shape),
         MlaPrefill::Args{sequences, q.data(), args.cache, nullptr, nullptr, args.cache_dtype, args.capacity, args.w_uk,
                          args.w_uv, args.scale, context.data()},
         Range{tokens.begin * nh, tokens.end * nh});
  linear<S>({N, nh * dv, H}, {context.data(), args.o, args.y}, {tokens.begin * H, tokens.end * H});
}

}  // namespace

template <class S>
void mla_layer_absorbed(const MlaLayer::Shape& shape, const MlaLayer::Args& args, Range tokens) {
  compose<S>(shape, args, tokens, mla_prefill<S>);
}

template <class S>
void mla_layer_expanded(const MlaLayer::Shape& shape, const MlaLayer::Args& args, Range tokens) {
  compose<S>(shape, args, tokens, mla_prefill_expanded<S>);
}

template void mla_layer_absorbed<double>(const MlaLayer::Shape&, const MlaLayer::Args&, Range);
template void mla_layer_absorbed<Counted>(const MlaLayer::Shape&, const MlaLayer::Args&, Range);
template void mla_layer_expanded<double>(const MlaLayer::Shape&, const MlaLayer::Args&, Range);
template void mla_layer_expanded<Counted>(const MlaLayer::Shape&, const MlaLayer::Args&, Range);

}  // namespace mmb::reference
