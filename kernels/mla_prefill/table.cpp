#include "../reference.h"
#include "mmb/mla_prefill.h"

namespace mmb {

namespace {

// A prefill is a decode step of many tokens; "expanded" of a decode step is a cache that a prefill does not have.
std::string_view decode_algo(std::string_view algo) {
  return algo == "expanded" ? "reexpanded" : algo;
}

}  // namespace

std::span<const Kernel<MlaPrefill>> MlaPrefill::kernels() {
  static constexpr Kernel<MlaPrefill> list[] = {
      {"absorbed", Impl::reference, reference::run<MlaPrefill, reference::mla_prefill<double>>},
      {"expanded", Impl::reference, reference::run<MlaPrefill, reference::mla_prefill_expanded<double>>,
       over_plain<Shape>},
      MMB_KERNEL(MlaPrefill, "absorbed", mla_decode_absorbed)                       //
      MMB_DOT_KERNEL(MlaPrefill, "integer", mla_decode_absorbed, over_int8<Shape>)  //
      MMB_KERNEL(MlaPrefill, "expanded", mla_prefill_expanded, over_plain<Shape>)};
  return list;
}

MlaPrefill::Shape MlaPrefill::shape(const Model& model, int64_t batch, int64_t new_tokens, int64_t past) {
  return MlaDecode::shape(model, batch, new_tokens, past + new_tokens);
}

std::string MlaPrefill::key(const Shape& shape) {
  return past_key(shape.batch, shape.new_tokens, shape.context, shape.shortest) + cache_key(shape.cache);
}

Cost MlaPrefill::cost(const Shape& shape, DType dtype, std::string_view algo) {
  return MlaDecode::cost(shape, dtype, decode_algo(algo));
}

MlaPrefill::Problem::Problem(const Shape& shape, DType dtype, std::string_view algo, Arena& arena, uint64_t seed)
    : MlaDecode::Problem(shape, dtype, decode_algo(algo), arena, seed) {}

}  // namespace mmb
