#include "mmb/latent_attention.h"

#include "../attend_reference.h"

namespace mmb::reference {

template <class S>
void latent_attention(const LatentAttention::Shape& shape, const LatentAttention::Args& args, Range units) {
  const int64_t H = shape.num_attention_heads, R = shape.kv_lora_rank, width = R + shape.qk_rope_head_dim;
  const LatentRow row{args.cache_dtype, R, shape.qk_rope_head_dim};
  std::vector<Vector<S>> rows;  // of one sequence, which many units in turn share
  int64_t sequence = -1;
  for (int64_t unit = units.begin; unit < units.end; ++unit) {
    const View seen = view(args.sequences, unit / H);
    if (seen.sequence != sequence) rows.clear();
    sequence = seen.sequence;
    while (static_cast<int64_t>(rows.size()) < seen.tokens) {
      const int64_t t = sequence * args.capacity + static_cast<int64_t>(rows.size());
      rows.push_back(latent_row<S>(row, args.cache, t, width));
    }
    const auto key = [&](int64_t t) -> const Vector<S>& { return rows[static_cast<size_t>(t)]; };
    const auto latent = [&](int64_t t) -> Vector<S> { return key(t).head(R); };
    const Vector<S> q = vector<S>(args.q + unit * width, width);
    store<S>(attend<S>(q, seen.tokens, args.scale, R, key, latent), args.out + unit * R);
  }
}

template void latent_attention<double>(const LatentAttention::Shape&, const LatentAttention::Args&, Range);
template void latent_attention<Counted>(const LatentAttention::Shape&, const LatentAttention::Args&, Range);

}  // namespace mmb::reference
