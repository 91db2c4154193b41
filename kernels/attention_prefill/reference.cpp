#include "mmb/attention_prefill.h"

#include "../attend_reference.h"

namespace mmb::reference {

template <class S>
void attention_prefill(const AttentionPrefill::Shape& shape, const AttentionPrefill::Args& args, Range units) {
  const int64_t nh = shape.num_attention_heads, nkv = shape.num_key_value_heads, dk = shape.qk_head_dim,
                dv = shape.v_head_dim;
  for (int64_t unit = units.begin; unit < units.end; ++unit) {
    const int64_t n = unit / nh, g = unit % nh / (nh / nkv);
    const View seen = view(args.sequences, n);
    const int64_t row = (seen.sequence * nkv + g) * args.capacity;
    const auto key = [&](int64_t t) { return vector<S>(args.k, args.cache_dtype, (row + t) * dk, dk); };
    const auto value = [&](int64_t t) { return vector<S>(args.v, args.cache_dtype, (row + t) * dv, dv); };
    const Vector<S> q = vector<S>(args.q + unit * dk, dk);
    store<S>(attend<S>(q, seen.tokens, args.scale, dv, key, value), args.out + unit * dv);
  }
}

template void attention_prefill<double>(const AttentionPrefill::Shape&, const AttentionPrefill::Args&, Range);
template void attention_prefill<Counted>(const AttentionPrefill::Shape&, const AttentionPrefill::Args&, Range);

}  // namespace mmb::reference
