// One decode step over a dense cache; of an MLA model its counterfactuals, which mla_decode is held against.
#include "mmb/attention_decode.h"

#include "bench.h"
#include "ops.h"

namespace mmb {

void register_attention_decode(Suite& suite) {
  suite.for_each_model(
      {.smoke = {"tiny-mla-moe"}, .quick = {"DeepSeek-V3"}, .full = bundled_models()}, [&](const Model& base) {
        for (const Model& model : with_dense_cache(base))
          for (int64_t batch : suite.batches({.smoke = {1, 2}, .quick = {1}, .full = {1, 8, 32, 128}}))
            for (int64_t context :
                 suite.contexts({.smoke = {1, 133}, .quick = {1024, 4096}, .full = {1024, 4096, 16384, 32768}}))
              for (int64_t shortest : suite.shortest(batch, 1, context))
                suite.add<AttentionDecode, reference::attention_decode<double>>(
                    model, attention_shape(model, batch, 1, context, shortest),
                    {.headline = context == 4096 && model.name == "DeepSeek-V3~mha" ? "flash" : ""});
      });
}

}  // namespace mmb
