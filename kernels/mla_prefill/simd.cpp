// Bound: the multiply rate: R(dn+dv) FMAs per cached token and head to expand it, dn+D+dv per pair (V3: 131,072 and 320,
// so expansion is half of the work at 400 query tokens).
// Idea: attend.h with a loader that makes its blocks: the latents of kBlock tokens, laid out as the tokens of a product,
// times W_UK[h] and W_UV[h]; the rope key is copied beside. 96 tokens x (192 + 128) f32 are 123 KB, in L2. All query rows
// of a head are one tile, so that every block is expanded once for them.
// Roof, V3, 512 tokens, bf16, 2 cores of a Xeon (November 2026, medians of 7): AVX-512 0.79, AVX2 0.76; with the expansion on
// its matrix unit 0.60, in 0.7 of AVX-512's time then: expanded keys and values are f32, which it does not multiply.
// Split: attend.h's, by pairs: heads, and blocks of a head where there are more threads than heads.
#include "mmb/mla_prefill.h"

#include "../attend.h"
#include "../matmul.h"

namespace mmb::MMB_IMPL {
namespace {

template <class T>
struct Expand {
  static constexpr DType kStored = DType::f32;
  const MlaPrefill::Args& args;
  int64_t R, dn, D, dv;
  float *packed, *widened, *k, *v;  // k and v begin as zeros: padding is read
  const T* cache = nullptr;         // of the sequence
  Matrix w_uk{}, w_uv{};            // of the head

  MMB_OP void select(int64_t sequence, int64_t head) {
    cache = static_cast<const T*>(args.cache) + sequence * args.capacity * (R + D);
    w_uk = args.w_uk.nth(head);
    w_uv = args.w_uv.nth(head);
  }

  [[gnu::noinline]] Block wide(int64_t begin, int64_t count) const {
    const T* latents = cache + begin * (R + D);
    const int64_t k_stride = Cache<float>::copy_stride(dn + D), v_stride = Cache<float>::copy_stride(dv);
    pack(latents, R + D, nullptr, count, R, w_uk.dtype, {0, R}, packed);
    matmul<T>(packed, count, w_uk, {0, panel_count(w_uk)}, k, k_stride, widened);
    matmul<T>(packed, count, w_uv, {0, panel_count(w_uv)}, v, v_stride, widened);
    for (int64_t t = 0; t < count; ++t)
      for (int64_t i = 0; i < D; ++i) k[t * k_stride + dn + i] = to_float(latents[t * (R + D) + R + i]);
    return {k, v, k_stride, v_stride};
  }
  MMB_OP void widen(int64_t, int64_t, int64_t) const {}
  MMB_OP Block stored(int64_t begin, int64_t count) const { return wide(begin, count); }
  MMB_OP DType unscaled_type() const { return DType::f32; }
  MMB_OP Block unscaled(int64_t begin, int64_t count) const { return wide(begin, count); }

  MMB_OP Ahead ahead(int64_t begin, int64_t count) const {
    const auto* rows = reinterpret_cast<const char*>(cache + begin * (R + D));
    return {{rows, count * (R + D) * static_cast<int64_t>(sizeof(T))}, {rows, 0}};
  }
};

template <class T>
MMB_OP void attend_expanded(const MlaPrefill::Shape& shape, const MlaPrefill::Args& args) {
  const int64_t nh = shape.num_attention_heads, R = shape.kv_lora_rank, dn = shape.qk_nope_head_dim,
                D = shape.qk_rope_head_dim, dv = shape.v_head_dim;
  Scratch scratch;
  Expand<T> expand{args,
                   R,
                   dn,
                   D,
                   dv,
                   scratch.own<float>(packed_size(kBlock, R)),
                   scratch.own<float>(kMatmulScratch),
                   scratch.own<float>(kBlock * Cache<float>::copy_stride(dn + D)),
                   scratch.own<float>(kBlock * Cache<float>::copy_stride(dv))};
  memset(expand.k, 0, static_cast<size_t>(4 * kBlock * Cache<float>::copy_stride(dn + D)));
  memset(expand.v, 0, static_cast<size_t>(4 * kBlock * Cache<float>::copy_stride(dv)));
  int64_t rows = 1;
  for (int64_t b = 0; b < args.sequences.batch; ++b) {
    const int64_t n = args.sequences.first[b + 1] - args.sequences.first[b];
    rows = n > rows ? n : rows;
  }
  attend({args.sequences, nh, nh, dn + D, dv, args.q, args.scale, args.out, rows}, expand);
}

}  // namespace

void mla_prefill_expanded(const MlaPrefill::Shape& shape, const MlaPrefill::Args& args) noexcept {
  team([&] {
    if (args.cache_dtype == DType::f32)
      attend_expanded<float>(shape, args);
    else
      attend_expanded<bf16>(shape, args);
  });
}

}  // namespace mmb::MMB_IMPL
