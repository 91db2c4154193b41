// New tokens on cached ones: expanding pays from some 170 new tokens on, and at once where nothing is cached.
#include "mmb/mla_prefill.h"

#include "bench.h"
#include "ops.h"

namespace mmb {

void register_mla_prefill(Suite& suite) {
  suite.for_each_model({.smoke = {"tiny-mla-moe"}, .quick = {"DeepSeek-V3"}, .full = bundled_models()}, [&](const Model&
                                                                                                                model) {
    if (!model.is_mla()) return;
    for (int64_t batch : suite.batches({.smoke = {1}, .quick = {1}, .full = {1}}))
      for (int64_t past : suite.contexts({.smoke = {0, 103}, .quick = {0, 512, 4096}, .full = {0, 512, 4096, 16384}}))
        for (int64_t new_tokens : suite.new_tokens({.smoke = {1, 17},
                                  .quick = {1, 64, 128, 256},
                                  .full = {1, 4, 16, 32, 64, 96, 128, 160, 192, 256, 512}}))
          suite.add<MlaPrefill, reference::mla_prefill<double>>(model,
                                                                MlaPrefill::shape(model, batch, new_tokens, past));
  });
}

}  // namespace mmb
