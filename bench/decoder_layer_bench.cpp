// One block of a model, the last: of a model with experts, one that has them.
#include "mmb/decoder_layer.h"

#include "bench.h"
#include "ops.h"

namespace mmb {

void register_decoder_layer(Suite& suite) {
  suite.for_each_model(
      {.smoke = {"tiny-mla-moe"}, .quick = {"DeepSeek-V3"}, .full = bundled_models()}, [&](const Model& base) {
        std::vector<Model> models = {base};
        if (base.is_mla()) models.push_back(counterfactual(base, "gqa8"));
        for (const Model& model : models)
          for (int64_t batch : suite.batches({.smoke = {2}, .quick = {1}, .full = {1, 8, 32}}))
            for (int64_t context : suite.contexts({.smoke = {33}, .quick = {4096}, .full = {1024, 4096, 16384}}))
              for (int64_t new_tokens : suite.new_tokens({.smoke = {1, 17}, .quick = {1}, .full = {1}}))
                for (DType cache : suite.caches(model))
                  for (const Routing& routing : suite.routings(model))
                    suite.add<DecoderLayer, reference::decoder_layer<double>>(
                        model, DecoderLayer::shape(model, model.need(&Model::num_hidden_layers) - 1, batch, new_tokens,
                                                   new_tokens == 1 ? context : context + new_tokens, routing, cache));
      });
}

}  // namespace mmb
