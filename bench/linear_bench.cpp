// One projection of each model: the output projection of its attention.
#include "mmb/linear.h"

#include "bench.h"
#include "ops.h"

namespace mmb {

void register_linear(Suite& suite) {
  suite.for_each_model(
      {.smoke = {"tiny-mla-moe"}, .quick = {"DeepSeek-V3"}, .full = bundled_models()}, [&](const Model& model) {
        const int64_t hidden = model.need(&Model::hidden_size);
        const int64_t heads = model.need(&Model::num_attention_heads) * model.need(&Model::v_head_dim);
        for (int64_t tokens : suite.batches({.smoke = {1, 13}, .quick = {1, 32}, .full = {1, 8, 32, 128}}))
          suite.add<Linear, reference::linear<double>>(model, {tokens, heads, hidden});
      });
}

}  // namespace mmb
