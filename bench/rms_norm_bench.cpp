// Normalisation before attention and before the FFN.
#include "bench.h"
#include "mmb/rms_norm.h"
#include "ops.h"

namespace mmb {

void register_rms_norm(Suite& suite) {
  suite.for_each_model({.smoke = {"tiny-mla-moe"}, .quick = {}, .full = bundled_models()}, [&](const Model& model) {
    for (int64_t tokens : suite.batches({.smoke = {1, 3}, .quick = {1}, .full = {1, 8, 128}}))
      suite.add<RmsNorm, reference::rms_norm<double>>(
          model, {tokens, suite.size("hidden_size", model.need(&Model::hidden_size))});
  });
}

}  // namespace mmb
