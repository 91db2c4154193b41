// Bound: the weights from memory up to the machine's balance, the multiply rate beyond; norms, rotation and append are
// a thousandth of it.
// Roof, V3, bf16, 2 cores of a Xeon (November 2026, medians of 7): 1 token 0.95, 32 tokens 0.86.
// Idea: the ops of a projection one after the other inside one team. Both down-projections read the same packed tokens
// and share one phase, so that the small one does not end in a barrier of its own.
// Split: each matrix by panels, norms and append by tokens, rotation by (token, head).
#include "mmb/mla_project.h"

#include "../append.h"
#include "../matmul.h"
#include "mmb/linear.h"
#include "mmb/rms_norm.h"
#include "mmb/rope.h"

namespace mmb::MMB_IMPL {
namespace {

// This thread's tokens of [latent | rope key] into the last rows of their sequences' caches.
template <class T>
MMB_OP void append_tokens(const MlaProject::Args& args, const float* latent, const float* kv, int64_t R, int64_t D) {
  each_slot(args.sequences, [&](int64_t n, int64_t b, int64_t slot) {
    T* row = static_cast<T*>(args.cache) + (b * args.capacity + slot) * (R + D);
    convert_row(latent + n * R, R, row);
    convert_row(kv + n * (R + D) + R, D, row + R);
  });
}

// The same with scales: a few values a token, whose largest must be known first.
MMB_OP void append_scaled(const MlaProject::Args& args, const float* latent, float* kv, int64_t R, int64_t D) {
  const LatentRow row{args.cache_dtype, R, D};
  each_slot(args.sequences, [&](int64_t n, int64_t b, int64_t slot) {
    convert_row(latent + n * R, R, kv + n * (R + D));
    row.store(kv + n * (R + D), static_cast<char*>(args.cache) + (b * args.capacity + slot) * row.bytes());
  });
}

}  // namespace

void mla_project(const MlaProject::Shape& shape, const MlaProject::Args& args) noexcept {
  const int64_t N = args.sequences.tokens(), H = shape.hidden_size, nh = shape.num_attention_heads,
                Q = shape.q_lora_rank, R = shape.kv_lora_rank, dn = shape.qk_nope_head_dim, D = shape.qk_rope_head_dim;
  team([&] {
    Scratch scratch;
    auto* packed = scratch.shared<float>(packed_size(N, H));
    auto* q_a = scratch.shared<float>(N * Q);
    auto* kv = scratch.shared<float>(N * (R + D));
    auto* latent = scratch.shared<float>(N * R);
    auto* own = scratch.own<float>(kMatmulScratch);

    pack_tokens(args.x, H, nullptr, N, H, args.kv_a.dtype, packed);
    barrier();
    if (Q > 0)
      matmul_share(packed, N, args.q_a, q_a, own);
    else
      matmul_share(packed, N, args.q_b, args.q, own);
    matmul_share(packed, N, args.kv_a, kv, own);
    barrier();

    if (Q > 0) {
      rms_norm({N, Q}, {q_a, args.q_a_norm, args.eps, q_a});
      linear({N, Q, nh * (dn + D)}, {q_a, args.q_b, args.q});
    }
    const auto rotate = [&](float* x, int64_t heads, int64_t token_stride, int64_t head_stride) {
      rope({N, heads, D}, {x, token_stride, head_stride, args.positions, args.inv_freq, args.attention_factor,
                           Rope::Pairs::interleaved, x});
    };
    rotate(args.q + dn, nh, nh * (dn + D), dn + D);

    const Share tokens = share(N);
    for (int64_t n = tokens.begin; n < tokens.end; ++n) convert_row(kv + n * (R + D), R, latent + n * R);
    barrier();
    rms_norm({N, R}, {latent, args.kv_a_norm, args.eps, latent});
    rotate(kv + R, 1, R + D, 0);
    if (args.cache_dtype == DType::f32)
      append_tokens<float>(args, latent, kv, R, D);
    else if (is_scaled(args.cache_dtype))
      append_scaled(args, latent, kv, R, D);
    else
      append_tokens<bf16>(args, latent, kv, R, D);
    barrier();
  });
}

}  // namespace mmb::MMB_IMPL
