// prefill_step: a whole model over many new tokens of each sequence, from token ids to the logits of each one's last.
// The contract is decode_step's, whose kernel it is.
// Bound   compute: every weight meets hundreds of tokens, an expert those that chose it
// Source  DeepSeek-V3 inference/model.py (Transformer)
#pragma once

#include "mmb/decode_step.h"

namespace mmb {

struct PrefillStep {
  static constexpr const char* name = "prefill_step";
  static constexpr auto kTypes = kWeightTypes;
  static constexpr double kVerifySeconds = DecodeStep::kVerifySeconds;

  using Shape = DecodeStep::Shape;
  using Args = DecodeStep::Args;

  // `past` tokens are cached before the new ones.
  static Shape shape(const Model& model, int64_t layers, int64_t batch, int64_t new_tokens, int64_t past,
                     const Routing& routing = {});
  static std::string key(const Shape& shape);
  static std::vector<Component> parts(const Shape& shape, DType dtype, std::string_view algo) {
    return DecodeStep::parts(shape, dtype, algo);
  }
  static Cost cost(const Shape& shape, DType dtype, std::string_view algo) {
    return DecodeStep::cost(shape, dtype, algo);
  }
  static double activation_memory(const Shape& shape) { return DecodeStep::activation_memory(shape); }
  static int64_t units(const Shape& shape) { return DecodeStep::units(shape); }
  static std::span<const Kernel<PrefillStep>> kernels();

  using Problem = DecodeStep::Problem;
};

namespace reference {
template <class S>
void prefill_step(const PrefillStep::Shape& shape, const PrefillStep::Args& args, Range units);
}

}  // namespace mmb
