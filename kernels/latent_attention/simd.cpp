// Bound: the multiply rate: every head reads the same latents, 2(2R+D) FLOP for each of R+D cached elements.
// Idea and split: attend.h's, of one key-value head whose values are the first part of its keys.
#include "mmb/latent_attention.h"

#include "../attend.h"

namespace mmb::MMB_IMPL {
namespace {

template <class T>
MMB_OP void attend_latents(const LatentAttention::Shape& shape, const LatentAttention::Args& args) {
  const int64_t R = shape.kv_lora_rank, row = R + shape.qk_rope_head_dim;
  Scratch scratch;
  const T* rows = static_cast<const T*>(args.cache);
  Cache<T> cache{rows, rows, 1, args.capacity, row, row, row, R, scratch.own<float>(cache_scratch(row, R))};
  attend({args.sequences, shape.num_attention_heads, 1, row, R, args.q, args.scale, args.out, tile_rows_for(row, R)},
         cache);
}

}  // namespace

void latent_attention(const LatentAttention::Shape& shape, const LatentAttention::Args& args) noexcept {
  team([&] {
    if (args.cache_dtype == DType::f32)
      attend_latents<float>(shape, args);
    else
      attend_latents<bf16>(shape, args);
  });
}

}  // namespace mmb::MMB_IMPL
