#include "mmb/latent_attention.h"

#include "../attend_reference.h"

namespace mmb::reference {

template <class S>
void latent_attention(const LatentAttention::Shape& shape, const LatentAttention::Args& args, Range units) {
  const int64_t H = shape.num_attention_heads, R = shape.kv_lora_rank, row = R + shape.qk_rope_head_dim;
  for (int64_t unit = units.begin; unit < units.end; ++unit) {
    const View seen = view(args.sequences, unit / H);
    const int64_t first = seen.sequence * args.capacity;
    const auto key = [&](int64_t t) { return vector<S>(args.cache, args.cache_dtype, (first + t) * row, row); };
    const auto latent = [&](int64_t t) { return vector<S>(args.cache, args.cache_dtype, (first + t) * row, R); };
    const Vector<S> q = vector<S>(args.q + unit * row, row);
    store<S>(attend<S>(q, seen.tokens, args.scale, R, key, latent), args.out + unit * R);
  }
}

template void latent_attention<double>(const LatentAttention::Shape&, const LatentAttention::Args&, Range);
template void latent_attention<Counted>(const LatentAttention::Shape&, const LatentAttention::Args&, Range);

}  // namespace mmb::reference
