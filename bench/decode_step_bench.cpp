// Whole models, and the ops that they consist of, so that the sum of the parts stands beside the whole: the model, its rivals
// in attention at every context and in the FFN at one, and several new tokens at a time.
#include "mmb/decode_step.h"

#include "bench.h"
#include "ops.h"
#include "whole_model.h"

namespace mmb {

void register_decode_step(Suite& suite) {
  suite.for_each_model({.smoke = {"tiny-mla-moe"}, .model = {"DeepSeek-V2-Lite"}}, [&](const Model& base) {
    const auto contexts = suite.contexts({.smoke = {33}, .model = {0, 4096, 16384}});
    const auto new_tokens = suite.new_tokens({.smoke = {1, 2}, .model = {1, 2, 4}});
    const auto add = [&](const Model& model, int64_t batch, int64_t q, int64_t context) {
      const int64_t length = std::max(context, q);  // a step sees its own tokens at the least
      for (DType cache : suite.caches(model))
        for (const Routing& routing : suite.routings(model))
          add_whole_model<DecodeStep, reference::decode_step<double>>(suite, model, [&](int64_t layers) {
            return DecodeStep::shape(model, layers, batch, q, length, routing, cache);
          });
    };
    for (int64_t batch : suite.batches({.smoke = {2}, .model = {1, 8}})) {
      for (int64_t context : contexts) {
        for (int64_t q : new_tokens)
          // Drafts are verified where one user waits, in the middle of a conversation.
          if (q == 1 || suite.profile() != Profile::model || (batch == 1 && context == contexts[contexts.size() / 2]))
            add(base, batch, q, context);
        for (const Model& model : rivals_in_attention(base)) add(model, batch, 1, context);
      }
      for (const Model& model : rivals_in_ffn(base)) add(model, batch, 1, contexts[contexts.size() / 2]);
    }
  });
}

}  // namespace mmb
