// The dense rivals of moe_experts: an FFN as wide as the experts that one token uses, and one as wide as all of them. Of a
// model without experts: its own.
#include "mmb/dense_ffn.h"

#include "bench.h"
#include "ops.h"
#include "whole_model.h"

namespace mmb {

void register_dense_ffn(Suite& suite) {
  suite.for_each_model(
      {.smoke = {"tiny-mla-moe"}, .quick = {"DeepSeek-V2-Lite", "DeepSeek-V3"}, .full = bundled_models()},
      [&](const Model& model) {
        const auto tokens =
            suite.batches({.smoke = {1, 5}, .quick = {1, 8, 32}, .full = {1, 2, 4, 8, 16, 32, 64, 128}});
        if (const int64_t width = suite.size("intermediate_size", 0)) {  // maybe of a first layer, which has no experts
          for (int64_t n : tokens)
            suite.add<DenseFfn, reference::dense_ffn<double>>(model, {n, model.need(&Model::hidden_size), width});
          return;
        }
        const int64_t last = model.need(&Model::num_hidden_layers) - 1;
        const std::vector<Model> rivals = rivals_in_ffn(model);
        for (const Model& dense : rivals.empty() ? std::vector{model} : rivals)
          for (int64_t n : tokens)
            suite.add<DenseFfn, reference::dense_ffn<double>>(dense, DenseFfn::shape(dense, last, n));
      });
}

}  // namespace mmb
