// The output projection of each model's attention; in the full profile also the query's and the latent's of MLA, which are
// wide and narrow, and an expert's.
#include "mmb/linear.h"

#include "bench.h"
#include "ops.h"

namespace mmb {
namespace {

// Inputs and outputs of what is timed.
std::vector<std::pair<int64_t, int64_t>> products(const Suite& suite, const Model& model) {
  if (const int64_t in = suite.size("in_features", 0)) return {{in, suite.size("out_features", 0)}};
  const int64_t hidden = model.need(&Model::hidden_size), heads = model.need(&Model::num_attention_heads);
  std::vector<std::pair<int64_t, int64_t>> all = {{heads * model.need(&Model::v_head_dim), hidden}};
  if (model.is_mla() && model.q_lora_rank > 0)
    all.push_back({model.q_lora_rank, heads * (model.qk_nope_head_dim + model.qk_rope_head_dim)});
  if (model.is_mla()) all.push_back({hidden, model.kv_lora_rank + model.qk_rope_head_dim});
  if (model.moe_intermediate_size > 0) all.push_back({hidden, model.moe_intermediate_size});
  const auto most = static_cast<size_t>(suite.choose<int64_t>({}, {.smoke = {1}, .quick = {1}, .full = {4}}).front());
  if (all.size() > most) all.resize(most);
  return all;
}

}  // namespace

void register_linear(Suite& suite) {
  suite.for_each_model(
      {.smoke = {"tiny-mla-moe"}, .quick = {"DeepSeek-V3"}, .full = bundled_models()}, [&](const Model& model) {
        for (const auto& [in, out] : products(suite, model))
          for (int64_t tokens :
               suite.batches({.smoke = {1, 13}, .quick = {1, 32}, .full = {1, 4, 8, 16, 32, 64, 128, 512}}))
            suite.add<Linear, reference::linear<double>>(model, {tokens, in, out});
      });
}

}  // namespace mmb
