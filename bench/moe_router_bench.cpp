#include "mmb/moe_router.h"

#include "bench.h"
#include "ops.h"

namespace mmb {

void register_moe_router(Suite& suite) {
  suite.for_each_model(
      {.smoke = {"tiny-mla-moe"}, .quick = {"DeepSeek-V2-Lite", "DeepSeek-V3"}, .full = bundled_models()},
      [&](const Model& model) {
        if (!model.moe_layers()) return;
        for (int64_t tokens : suite.batches({.smoke = {1, 5}, .quick = {1, 32}, .full = {1, 8, 32, 128}}))
          suite.add<MoeRouter, reference::moe_router<double>>(model, MoeRouter::shape(model, tokens));
      });
}

}  // namespace mmb
