#include "../reference.h"
#include "mmb/attention_decode.h"

namespace mmb {

std::span<const Kernel<AttentionDecode>> AttentionDecode::kernels() {
  static constexpr Kernel<AttentionDecode> list[] = {
      {"flash", Impl::reference, reference::run<AttentionDecode, reference::attention_decode<double>>},
      MMB_KERNEL(AttentionDecode, "flash", attention_decode)};
  return list;
}

std::string AttentionDecode::key(const Shape& shape) {
  return context_key(shape.batch, shape.new_tokens, shape.context, shape.shortest);
}

Cost AttentionDecode::cost(const Shape& shape, DType dtype, std::string_view) {
  return attention_cost(shape, dtype);
}

AttentionDecode::Problem::Problem(const Shape& shape, DType dtype, std::string_view algo, Arena& arena, uint64_t seed)
    : AttentionProblem(shape, dtype, algo, arena, seed) {
  MMB_REQUIRE(shape.new_tokens == 1, name << ": new_tokens " << shape.new_tokens);
}

}  // namespace mmb
