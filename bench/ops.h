// The bench files, in the order of their rows: the ruler first, then from the parts to the whole.
#pragma once

#define MMB_BENCHES(X) \
  X(fma_peak)          \
  X(stream_read)       \
  X(rms_norm)          \
  X(rope)              \
  X(linear)            \
  X(attention_decode)  \
  X(attention_prefill) \
  X(mla_project)       \
  X(mla_decode)        \
  X(mla_prefill)       \
  X(latent_attention)  \
  X(moe_router)        \
  X(moe_experts)       \
  X(dense_ffn)         \
  X(attention_layer)   \
  X(mla_layer)         \
  X(moe_layer)         \
  X(decoder_layer)     \
  X(decode_step)       \
  X(prefill_step)

namespace mmb {
class Suite;
#define MMB_DECLARE_BENCH(OP) void register_##OP(Suite& suite);
MMB_BENCHES(MMB_DECLARE_BENCH)
#undef MMB_DECLARE_BENCH
}  // namespace mmb
