// Absorbed. Bound: the multiply rate in the core (latent_attention), nearly all of the time from a few thousand cached
// tokens on; below, the absorption and up-projection weights from memory (V3: 33.5 MB in bf16 at any batch).
// Roof, V3, bf16, 2 cores of a Xeon with 2 MB of L2 (November 2026, medians of 7): AVX-512 0.48 at 1024 tokens, 0.69 at
// 4096, 0.88 there with a batch of 8 (AVX2 0.56, 0.73, 0.83); on its matrix unit 0.58, 0.42 and 0.39. The bound lets weights
// from memory and the core's arithmetic overlap, which are one after the other here: of their sum it is 0.85 at 1024 tokens.
// Groups of heads whose weights come beside another group's core gain 6 % there and 1 % at 4096: fetching them slows it down.
// Idea: W_UK[h] runs backwards as an ordinary product of its transposed storage, for all new tokens at once, and the rope
// part is copied behind; then the core; then W_UV[h].
// Split: the (head, panel) list of each product, evenly and in order, so that every thread streams one contiguous piece of
// the weights. A thread packs the tokens of its own heads, at most one more than without the cut inside a head.
// Expanded. Dense attention with as many key-value heads as heads.
#include "mmb/mla_decode.h"

#include "../matmul.h"
#include "mmb/attention_decode.h"
#include "mmb/latent_attention.h"

namespace mmb::MMB_IMPL {
namespace {

// y[n,h,:] = w[h] x[n,h,:] for N tokens and all heads; rows of x and y are x_width and y_width long.
MMB_OP void per_head(const Matrix& w, int64_t N, int64_t nh, const float* x, int64_t x_width, float* y,
                     int64_t y_width) {
  Scratch scratch;
  auto* packed = scratch.own<float>(packed_size(N, w.cols));
  auto* own = scratch.own<float>(kMatmulScratch);
  const int64_t panels = panel_count(w);
  const Share units = share(nh * panels);
  for (int64_t u = units.begin; u < units.end;) {
    const int64_t h = u / panels, end = units.end < (h + 1) * panels ? units.end : (h + 1) * panels;
    pack(x + h * x_width, nh * x_width, nullptr, N, w.cols, w.dtype, {0, w.cols}, packed);
    matmul(packed, N, w.nth(h), {u - h * panels, end - h * panels}, y + h * y_width + (u - h * panels) * kPanel,
           nh * y_width, own);
    u = end;
  }
  barrier();
}

// The rotated part of every query, behind its latent part.
MMB_OP void copy_rope(const float* q, int64_t count, int64_t dn, int64_t D, int64_t R, float* out) {
  const Share rows = share(count);
  for (int64_t i = rows.begin; i < rows.end; ++i)
    memcpy(out + i * (R + D) + R, q + i * (dn + D) + dn, static_cast<size_t>(4 * D));
}

MMB_OP void attend(const LatentAttention::Shape& shape, const LatentAttention::Args& args,
                   [[maybe_unused]] bool integer) {
  if constexpr (kMayHaveDots)
    if (integer) return latent_attention_integer(shape, args);
  latent_attention(shape, args);
}

}  // namespace

void mla_decode_absorbed(const MlaDecode::Shape& shape, const MlaDecode::Args& args) noexcept {
  const int64_t N = args.sequences.tokens(), nh = shape.num_attention_heads, R = shape.kv_lora_rank,
                dn = shape.qk_nope_head_dim, D = shape.qk_rope_head_dim;
  const Matrix w_ku{args.w_uk.data, args.w_uk.dtype, false, R, dn};  // what the transposed storage of w_uk is
  team([&] {
    Scratch scratch;
    auto* q = scratch.shared<float>(N * nh * (R + D));
    auto* latent = scratch.shared<float>(N * nh * R);
    copy_rope(args.q, N * nh, dn, D, R, q);
    per_head(w_ku, N, nh, args.q, dn + D, q, R + D);
    attend({shape.batch, shape.new_tokens, shape.context, shape.shortest, nh, R, D},
           {args.sequences, q, args.cache, args.cache_dtype, args.capacity, args.scale, latent}, args.integer);
    per_head(args.w_uv, N, nh, latent, R, args.out, shape.v_head_dim);
  });
}

void mla_decode_expanded(const MlaDecode::Shape& shape, const MlaDecode::Args& args) noexcept {
  const int64_t nh = shape.num_attention_heads, dk = shape.qk_nope_head_dim + shape.qk_rope_head_dim;
  const AttentionShape dense{shape.batch, shape.new_tokens, shape.context, shape.shortest, nh, nh,
                             dk,          shape.v_head_dim};
  attention_decode(dense,
                   {args.sequences, args.q, args.k, args.v, args.cache_dtype, args.capacity, args.scale, args.out});
}

}  // namespace mmb::MMB_IMPL
