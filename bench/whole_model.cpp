#include "whole_model.h"

namespace mmb {

std::vector<Model> rivals_in_attention(const Model& model) {
  return model.is_mla() ? with_dense_cache(model) : std::vector<Model>{};
}

std::vector<Model> rivals_in_ffn(const Model& model) {
  if (!model.moe_layers()) return {};
  return {counterfactual(model, "dense_active"), counterfactual(model, "dense_total")};
}

void skip_too_large(Suite& suite, const std::string& op, const Model& model, const std::string& key, DType dtype,
                    double bytes) {
  std::ostringstream reason;
  reason << "memory: a single layer and what surrounds the layers take " << static_cast<int64_t>(bytes) << " bytes in "
         << name(dtype) << ", more than the " << suite.arena_bytes() << " of the arena";
  suite.skip(op + "/.../" + model.name + '/' + key, reason.str());
}

}  // namespace mmb
