#include "mmb/prefill_step.h"

#include "../reference.h"

namespace mmb {

std::span<const Kernel<PrefillStep>> PrefillStep::kernels() {
  static constexpr Kernel<PrefillStep> list[] = {
      {"composed", Impl::reference, reference::run<PrefillStep, reference::prefill_step<double>>},
      MMB_KERNEL(PrefillStep, "composed", decode_step)};
  return list;
}

PrefillStep::Shape PrefillStep::shape(const Model& model, int64_t layers, int64_t batch, int64_t new_tokens,
                                      int64_t past, const Routing& routing) {
  Shape shape = DecodeStep::shape(model, layers, batch, new_tokens, past + new_tokens, routing);
  shape.last_only = true;
  return shape;
}

std::string PrefillStep::key(const Shape& shape) {
  return past_key(shape.batch, shape.new_tokens, shape.context) + DecodeStep::layers_key(shape);
}

}  // namespace mmb
