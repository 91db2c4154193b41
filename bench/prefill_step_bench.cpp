// Whole models over a prompt, and the ops that they consist of.
#include "mmb/prefill_step.h"

#include "bench.h"
#include "ops.h"
#include "whole_model.h"

namespace mmb {

void register_prefill_step(Suite& suite) {
  suite.for_each_model({.smoke = {"tiny-mla-moe"}, .model = {"DeepSeek-V2-Lite"}}, [&](const Model& base) {
    std::vector<Model> models = {base};
    for (const auto& rivals : {rivals_in_attention(base), rivals_in_ffn(base)})
      models.insert(models.end(), rivals.begin(), rivals.end());
    for (const Model& model : models)
      for (int64_t batch : suite.batches({.smoke = {2}, .model = {1}}))
        for (int64_t past : suite.contexts({.smoke = {33}, .model = {0}}))
          for (int64_t q : suite.new_tokens({.smoke = {17}, .model = {512}}))
            for (const Routing& routing : suite.routings(model))
              add_whole_model<PrefillStep, reference::prefill_step<double>>(suite, model, [&](int64_t layers) {
                return PrefillStep::shape(model, layers, batch, q, past, routing);
              });
  });
}

}  // namespace mmb
