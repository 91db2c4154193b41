#include "mmb/latent_attention.h"

#include "../attend_reference.h"

namespace mmb::reference {

template <class S>
void latent_attention(const LatentAttention::Shape& shape, const LatentAttention::Args& args, Range units) {
  const int64_t H = shape.num_attention_heads, R = shape.kv_lora_rank, width = R + shape.qk_rope_head_dim;
  const LatentRow row{args.cache_dtype, R, shape.qk_rope_head_dim};
  for (int64_t unit = units.begin; unit < units.end; ++unit) {
    const View seen = view(args.sequences, unit / H);
    const auto elements = [&](int64_t t, int64_t count) {
      const void* data = static_cast<const char*>(args.cache) + (seen.sequence * args.capacity + t) * row.bytes();
      Vector<S> v(count);
      for (int64_t i = 0; i < count; ++i) v[i] = S(row.at(data, i));
      return v;
    };
    const auto key = [&](int64_t t) { return elements(t, width); };
    const auto latent = [&](int64_t t) { return elements(t, R); };
    const Vector<S> q = vector<S>(args.q + unit * width, width);
    store<S>(attend<S>(q, seen.tokens, args.scale, R, key, latent), args.out + unit * R);
  }
}

template void latent_attention<double>(const LatentAttention::Shape&, const LatentAttention::Args&, Range);
template void latent_attention<Counted>(const LatentAttention::Shape&, const LatentAttention::Args&, Range);

}  // namespace mmb::reference
