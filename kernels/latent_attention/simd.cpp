// Bound: the multiply rate: every head reads the same latents, 2(2R+D) FLOP for each of R+D cached elements.
// Idea and split: attend.h's, of one key-value head whose values are the first part of its keys. Rows with scales are
// dequantized to f32 where others are widened, once for all query rows of a tile; for a matrix unit they become bf16, which
// holds 8 bits exactly, and the scales go to the scores and to the weights.
// Roof: attend.h's. With 128 heads fp8 and int8 take the time of bf16 (within 3 %, AVX-512, November 2026), with 16 heads 1.4
// times as much. On AMX int8 takes 1.1 times the time of bf16 with 128 heads and 1.1 with 16, fp8, which has four scales for
// a latent, 1.3 to 1.4 times: converted rows are written to L2 once more, and weights are split for every scale.
#include "mmb/latent_attention.h"

#include "../latents.h"

namespace mmb::MMB_IMPL {

void latent_attention(const LatentAttention::Shape& shape, const LatentAttention::Args& args) noexcept {
  const int64_t R = shape.kv_lora_rank, D = shape.qk_rope_head_dim;
  team([&] {
    with_latents(args, R, D, [&](auto& cache) {
      attend(attention_to_latents(args, shape.num_attention_heads, R, D), cache);
    });
  });
}

}  // namespace mmb::MMB_IMPL
