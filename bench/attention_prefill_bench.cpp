#include "mmb/attention_prefill.h"

#include "bench.h"
#include "ops.h"

namespace mmb {

void register_attention_prefill(Suite& suite) {
  suite.for_each_model({.smoke = {"tiny-mla-moe"}, .quick = {}, .full = bundled_models()}, [&](const Model& base) {
    for (const Model& model : with_dense_cache(base))
      for (int64_t batch : suite.batches({.smoke = {1}, .quick = {1}, .full = {1}}))
        for (int64_t past : suite.contexts({.smoke = {0, 103}, .quick = {0}, .full = {0, 4096}}))
          for (int64_t new_tokens : suite.new_tokens({.smoke = {3, 17}, .quick = {128}, .full = {16, 128, 512}}))
            suite.add<AttentionPrefill, reference::attention_prefill<double>>(
                model, attention_shape(model, batch, new_tokens, past + new_tokens));
  });
}

}  // namespace mmb
