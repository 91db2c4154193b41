#include "mmb/mla_project.h"

#include "bench.h"
#include "ops.h"

namespace mmb {

void register_mla_project(Suite& suite) {
  suite.for_each_model({.smoke = {"tiny-mla-moe"}, .quick = {"DeepSeek-V3"}, .full = bundled_models()},
                       [&](const Model& model) {
                         if (!model.is_mla()) return;
                         for (int64_t batch : suite.batches({.smoke = {1, 3}, .quick = {1}, .full = {1, 8, 32, 128}}))
                           for (int64_t new_tokens : suite.new_tokens({.smoke = {1, 2}, .quick = {1}, .full = {1}}))
                             for (DType cache : suite.caches(model))
                               suite.add<MlaProject, reference::mla_project<double>>(
                                   model, MlaProject::shape(model, batch, new_tokens, new_tokens, cache));
                       });
}

}  // namespace mmb
