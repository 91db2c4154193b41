// attend (attend.h) over a dense cache, as attention_decode and attention_prefill both have it.
#pragma once

#include "attend.h"
#include "mmb/attention.h"

namespace mmb {
namespace MMB_IMPL {
namespace {

template <class T>
MMB_OP void attend_dense(const AttentionShape& shape, const AttentionArgs& args) {
  const int64_t nkv = shape.num_key_value_heads, dk = shape.qk_head_dim, dv = shape.v_head_dim;
  Scratch scratch;
  auto* own = scratch.own<float>(cache_scratch(dk, dv));
  attend({args.sequences, shape.num_attention_heads, nkv, dk, dv, args.q, args.scale, args.out, tile_rows_for(dk, dv)},
         [&](int64_t b, int64_t kv_head) {
           const int64_t row = (b * nkv + kv_head) * args.capacity;
           return Cache<T>{
               static_cast<const T*>(args.k) + row * dk, static_cast<const T*>(args.v) + row * dv, dk, dv, dk, dv, own};
         });
}

MMB_OP void attend_dense(const AttentionShape& shape, const AttentionArgs& args) {
  if (args.cache_dtype == DType::f32)
    attend_dense<float>(shape, args);
  else
    attend_dense<bf16>(shape, args);
}

}  // namespace
}  // namespace MMB_IMPL
}  // namespace mmb
