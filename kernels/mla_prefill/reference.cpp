#include "mmb/mla_prefill.h"

#include "../attend_reference.h"

namespace mmb::reference {

template <class S>
void mla_prefill(const MlaPrefill::Shape& shape, const MlaPrefill::Args& args, Range units) {
  mla_decode<S>(shape, args, units);
}

template <class S>
void mla_prefill_expanded(const MlaPrefill::Shape& shape, const MlaPrefill::Args& args, Range units) {
  const int64_t nh = shape.num_attention_heads, R = shape.kv_lora_rank, dn = shape.qk_nope_head_dim,
                D = shape.qk_rope_head_dim, dv = shape.v_head_dim;
  const Sequences& sequences = args.sequences;
  for (int64_t b = 0; b < sequences.batch; ++b)
    for (int64_t h = 0; h < nh; ++h) {
      std::vector<Vector<S>> k, v;
      for (int64_t t = 0; t < sequences.context[b]; ++t) {
        const int64_t begin = (b * args.capacity + t) * (R + D);
        const Vector<S> latent = vector<S>(args.cache, args.cache_dtype, begin, R);
        k.emplace_back(dn + D) << times(args.w_uk.nth(h), latent),
            vector<S>(args.cache, args.cache_dtype, begin + R, D);
        v.push_back(times(args.w_uv.nth(h), latent));
      }
      for (int64_t n = sequences.first[b]; n < sequences.first[b + 1]; ++n) {
        const int64_t unit = n * nh + h;
        if (unit < units.begin || unit >= units.end) continue;
        const auto row = [](const std::vector<Vector<S>>& rows) {
          return [&rows](int64_t t) { return rows[static_cast<size_t>(t)]; };
        };
        store<S>(attend<S>(vector<S>(args.q + unit * (dn + D), dn + D), view(sequences, n).tokens, args.scale, dv,
                           row(k), row(v)),
                 args.out + unit * dv);
      }
    }
}

template void mla_prefill<double>(const MlaPrefill::Shape&, const MlaPrefill::Args&, Range);
template void mla_prefill<Counted>(const MlaPrefill::Shape&, const MlaPrefill::Args&, Range);
template void mla_prefill_expanded<double>(const MlaPrefill::Shape&, const MlaPrefill::Args&, Range);
template void mla_prefill_expanded<Counted>(const MlaPrefill::Shape&, const MlaPrefill::Args&, Range);

}  // namespace mmb::reference
