#include "mmb/mla_decode.h"

#include "../attend_reference.h"
#include "mmb/attention_prefill.h"

namespace mmb::reference {
namespace {

template <class S>
void absorbed(const MlaDecode::Shape& shape, const MlaDecode::Args& args, Range units) {
  const int64_t nh = shape.num_attention_heads, R = shape.kv_lora_rank, dn = shape.qk_nope_head_dim,
                D = shape.qk_rope_head_dim, dv = shape.v_head_dim;
  for (int64_t unit = units.begin; unit < units.end; ++unit) {
    const View seen = view(args.sequences, unit / nh);
    const Matrix w_uk = args.w_uk.nth(unit % nh), w_uv = args.w_uv.nth(unit % nh);
    const float* q = args.q + unit * (dn + D);
    Vector<S> q_latent = zeros<S>(R);
    for (int64_t d = 0; d < dn; ++d) add_scaled(q_latent, S(q[d]), row<S>(w_uk, d));
    Vector<S> query(R + D);
    query << q_latent, vector<S>(q + dn, D);
    const auto cached = [&](int64_t t, int64_t n) {
      return latent_row<S>({args.cache_dtype, R, D}, args.cache, seen.sequence * args.capacity + t, n);
    };
    const auto key = [&](int64_t t) { return cached(t, R + D); };
    const auto latent = [&](int64_t t) { return cached(t, R); };
    store<S>(times(w_uv, attend<S>(query, seen.tokens, args.scale, R, key, latent)), args.out + unit * dv);
  }
}

}  // namespace

template <class S>
void mla_decode(const MlaDecode::Shape& shape, const MlaDecode::Args& args, Range units) {
  if (!args.k) return absorbed<S>(shape, args, units);
  const int64_t nh = shape.num_attention_heads, d = shape.qk_nope_head_dim + shape.qk_rope_head_dim;
  attention_prefill<S>({shape.batch, shape.new_tokens, shape.context, shape.shortest, nh, nh, d, shape.v_head_dim},
                       {args.sequences, args.q, args.k, args.v, args.cache_dtype, args.capacity, args.scale, args.out},
                       units);
}

template void mla_decode<double>(const MlaDecode::Shape&, const MlaDecode::Args&, Range);
template void mla_decode<Counted>(const MlaDecode::Shape&, const MlaDecode::Args&, Range);

}  // namespace mmb::reference
