#include "../reference.h"
#include "mmb/attention_decode.h"
#include "mmb/attention_prefill.h"

namespace mmb {

std::span<const Kernel<AttentionPrefill>> AttentionPrefill::kernels() {
  static constexpr Kernel<AttentionPrefill> list[] = {
      {"flash", Impl::reference, reference::run<AttentionPrefill, reference::attention_prefill<double>>},
      MMB_KERNEL(AttentionPrefill, "flash", attention_decode)};
  return list;
}

std::string AttentionPrefill::key(const Shape& shape) {
  return past_key(shape.batch, shape.new_tokens, shape.context, shape.shortest);
}

Cost AttentionPrefill::cost(const Shape& shape, DType dtype, std::string_view) {
  return attention_cost(shape, dtype);
}

}  // namespace mmb
