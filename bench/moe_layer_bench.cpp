#include "mmb/moe_layer.h"

#include "bench.h"
#include "ops.h"

namespace mmb {

void register_moe_layer(Suite& suite) {
  suite.for_each_model({.smoke = {"tiny-mla-moe"}, .quick = {}, .full = bundled_models()}, [&](const Model& model) {
    if (!model.moe_layers()) return;
    for (int64_t tokens : suite.batches({.smoke = {1, 5}, .quick = {1}, .full = {1, 8, 32, 128}}))
      for (const Routing& routing : suite.routings(model))
        suite.add<MoeLayer, reference::moe_layer<double>>(model, MoeLayer::shape(model, tokens, routing));
  });
}

}  // namespace mmb
