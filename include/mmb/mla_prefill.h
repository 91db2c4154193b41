// mla_prefill: multi-head latent attention of many new tokens, causal, from per-head query to per-head output. The maths,
// shapes and traps are mla_decode's; two ways to the same output:
//   expanded  keys and values of the cached tokens are made from their latents, block by block, inside the step
//   absorbed  the query is absorbed and attends to the latents; integer likewise
// Cost    expanded  flops = 2*heads*(dn+D+dv)*P + 2*T*heads*R*(dn+dv);  absorbed as mla_decode's;  bytes as mla_decode's
// Bound   compute. U new tokens on Z cached ones: expanding pays from U + U^2/(2Z) = R(dn+dv) / (2R+D - (dn+D+dv)) on, 171
//         tokens for DeepSeek whatever the heads; with nothing cached, always
// Source  DeepSeek-V2, arXiv:2405.04434, section 2.1
#pragma once

#include "mmb/mla_decode.h"

namespace mmb {

struct MlaPrefill {
  static constexpr const char* name = "mla_prefill";
  static constexpr auto kTypes = kWeightTypes;

  using Shape = MlaDecode::Shape;
  using Args = MlaDecode::Args;

  // `past` tokens are cached before the new ones.
  static Shape shape(const Model& model, int64_t batch, int64_t new_tokens, int64_t past);
  static std::string key(const Shape& shape);
  static Cost cost(const Shape& shape, DType dtype, std::string_view algo);
  static double useful_flops(const Shape& shape) { return MlaDecode::useful_flops(shape); }
  static int64_t units(const Shape& shape) { return MlaDecode::units(shape); }
  static std::span<const Kernel<MlaPrefill>> kernels();

  struct Problem : MlaDecode::Problem {
    Problem(const Shape& shape, DType dtype, std::string_view algo, Arena& arena, uint64_t seed);
  };
};

namespace reference {
template <class S>
void mla_prefill(const MlaPrefill::Shape& shape, const MlaPrefill::Args& args, Range units);
// With the contractions of the expanded form: each sequence's and head's keys and values are made once, in full.
template <class S>
void mla_prefill_expanded(const MlaPrefill::Shape& shape, const MlaPrefill::Args& args, Range units);
}  // namespace reference
MMB_DECLARE_KERNEL(MlaPrefill, mla_prefill_expanded)

}  // namespace mmb
