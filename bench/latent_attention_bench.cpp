// The bare core of absorbed decode, without absorption and up-projection: never what MLA costs (mla_decode is).
#include "mmb/latent_attention.h"

#include "bench.h"
#include "ops.h"

namespace mmb {

void register_latent_attention(Suite& suite) {
  suite.for_each_model({.smoke = {"tiny-mla-moe"}, .quick = {}, .full = bundled_models()}, [&](const Model& model) {
    if (!model.is_mla()) return;
    for (int64_t batch : suite.batches({.smoke = {1, 2}, .quick = {1}, .full = {1, 32}}))
      for (int64_t context : suite.contexts({.smoke = {1, 133}, .quick = {4096}, .full = {1024, 4096, 16384}}))
        suite.add<LatentAttention, reference::latent_attention<double>>(
            model, {batch, 1, context, 0, model.num_attention_heads, model.kv_lora_rank, model.qk_rope_head_dim});
  });
}

}  // namespace mmb
