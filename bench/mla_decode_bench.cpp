// One decode step of MLA, from per-head query to per-head output: absorbed, re-expanded, and over an expanded cache.
#include "mmb/mla_decode.h"

#include "bench.h"
#include "ops.h"

namespace mmb {

void register_mla_decode(Suite& suite) {
  suite.for_each_model(
      {.smoke = {"tiny-mla-moe"}, .quick = {"DeepSeek-V3"}, .full = bundled_models()}, [&](const Model& model) {
        if (!model.is_mla()) return;
        for (int64_t batch : suite.batches({.smoke = {1, 2}, .quick = {1}, .full = {1, 8, 32, 128}}))
          for (int64_t context :
               suite.contexts({.smoke = {2, 133}, .quick = {1024, 4096}, .full = {1024, 4096, 16384, 32768}}))
            for (int64_t new_tokens : suite.new_tokens({.smoke = {1, 2}, .quick = {1}, .full = {1, 2}}))
              for (int64_t shortest : suite.shortest(batch, new_tokens, context))
                for (DType cache : suite.caches(model))
                  suite.add<MlaDecode, reference::mla_decode<double>>(
                      model, MlaDecode::shape(model, batch, new_tokens, context, shortest, cache),
                      {.headline = context == 4096 && model.name == "DeepSeek-V3" ? "absorbed" : ""});
      });
}

}  // namespace mmb
