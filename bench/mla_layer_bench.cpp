#include "mmb/mla_layer.h"

#include "bench.h"
#include "ops.h"

namespace mmb {

void register_mla_layer(Suite& suite) {
  suite.for_each_model({.smoke = {"tiny-mla-moe"}, .quick = {}, .full = bundled_models()}, [&](const Model& model) {
    if (!model.is_mla()) return;
    for (int64_t batch : suite.batches({.smoke = {2}, .quick = {1}, .full = {1, 32}}))
      for (int64_t context : suite.contexts({.smoke = {33}, .quick = {4096}, .full = {4096}}))
        for (int64_t new_tokens : suite.new_tokens({.smoke = {1, 17}, .quick = {1}, .full = {1}}))
          for (DType cache : suite.caches(model))
            suite.add<MlaLayer, reference::mla_layer_absorbed<double>>(
                model,
                MlaLayer::shape(model, batch, new_tokens, new_tokens == 1 ? context : context + new_tokens, cache));
  });
}

}  // namespace mmb
