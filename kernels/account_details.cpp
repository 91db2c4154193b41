#include <cmath>

#include "mmb/accounting.h"

namespace mmb {
namespace {

// The share of its experts that a token's neighbour has touched already, as measured on text; 0.12 by chance there
// (Cohere, on mixture-of-experts models and speculative decoding).
constexpr double kMeasuredOverlap = 0.38;

}  // namespace

Figures account_details(const Model& model, const std::vector<Model>& rivals) {
  Figures figures;
  // What never happens (a context of equal FLOPs behind infinity) is no figure.
  const auto add = [&](const std::string& name, auto value) {
    if (std::isfinite(static_cast<double>(value))) figures.push_back({name, static_cast<double>(value)});
  };
  const auto number = [](int64_t n) { return std::to_string(n); };
  const auto layers = static_cast<double>(model.need(&Model::num_hidden_layers));
  const bool moe = model.moe_layers() > 0;

  add("active_parameters/with_embedding", active_parameters_with_embedding(model));
  for (const auto& [name, part] : {std::pair{"attention", Part::attention},
                                   {"norm", Part::norm},
                                   {"router", Part::router},
                                   {"routed", Part::routed},
                                   {"shared", Part::shared},
                                   {"dense_ffn", Part::dense_ffn}})
    add(std::string("active_parameters/") + name, active_parameters(model, part));
  // A tied head is the embedding.
  add("active_parameters/head", active_parameters(model, Part::head) + active_parameters(model, Part::embedding));

  for (int64_t bits : {4, 6, 8, 16})
    add("kv_bytes_per_token/bits_" + number(bits), layers * static_cast<double>(kv_elements(model) * bits) / 8);
  if (model.is_mla())
    add("kv_bytes_per_token/fp8_flashmla", layers * static_cast<double>(kv_bytes(model, "fp8_flashmla")));

  add("attention_flops_per_cache_byte/bf16",
      static_cast<double>(attention_flops(model)) / static_cast<double>(kv_bytes(model, "bf16")));
  add("context_of_equal_flops/own_weights", context_of_equal_flops(model));
  if (model.is_mla()) {
    add("attention_flops_per_cached_token_and_layer/absorbed", attention_flops(model));
    add("attention_flops_per_cached_token_and_layer/expanded", attention_flops_expanded(model));
    add("attention_flops_per_cached_token_and_layer/reexpanded", attention_flops_reexpanded(model));
    add("context_of_equal_flops/own_weights_expanded", context_of_equal_flops(model, /*expanded=*/true));
    for (int64_t cached : {0, 64, 512, 4096})
      add("absorbed_crossover/cached_" + number(cached), absorbed_crossover(model, cached));
    add("absorbable_parameters_per_layer/stored", absorbable_parameters(model));
    add("absorbable_parameters_per_layer/premultiplied", premultiplied_parameters(model));
  }

  const Account fp8 = account(model, {.dtype = "fp8"});
  add("context_of_equal_bytes/weights_fp8_cache_bf16",
      static_cast<double>(fp8.weight_bytes_per_step) / static_cast<double>(fp8.kv_bytes_per_token));
  for (const Model& rival : rivals) {
    const double context = context_of_equal_flops(model, rival);
    if (context > 0) add("context_of_equal_flops/" + rival.name, context);
    if (moe) add("batch_of_equal_weights/" + rival.name, batch_of_equal_weights(model, active_parameters(rival)));
  }

  for (int64_t batch = 1; moe && batch <= 1024; batch *= 2) {
    const Account step = account(model, {.batch = batch, .dtype = "fp8"});
    const auto picks = static_cast<double>(batch * model.num_experts_per_tok);
    add("experts_touched/batch_" + number(batch), step.experts_touched);
    add("tokens_per_touched_expert/batch_" + number(batch), picks / step.experts_touched);
    add("weight_bytes_per_step_fp8/batch_" + number(batch), step.weight_bytes_per_step);
  }
  if (moe) add("all_to_all_bytes_per_token", all_to_all_bytes(model));
  if (moe && model.num_nextn_predict_layers > 0) {
    const auto by_chance = static_cast<double>(model.num_experts_per_tok) / static_cast<double>(model.n_routed_experts);
    add("mtp_bytes_factor/overlap_by_chance", mtp_bytes_factor(model, by_chance));
    add("mtp_bytes_factor/overlap_38_percent", mtp_bytes_factor(model, kMeasuredOverlap));
  }

  for (int64_t tokens : {1024, 32768}) {
    const Generation all = generation(model, tokens, {.dtype = "fp8"});
    add("generation_flops/tokens_" + number(tokens), all.flops);
    add("generation_bytes_fp8/tokens_" + number(tokens), all.bytes);
  }
  const Account plain = account(model);
  const auto head =
      static_cast<double>(active_parameters(model, Part::head) + active_parameters(model, Part::embedding));
  const double weights = 6 * static_cast<double>(plain.active_parameters);
  add("training_flops_per_token_4k/layers_without_attention_core", weights - 6 * head);
  add("training_flops_per_token_4k/head", 6 * head);
  add("training_flops_per_token_4k/attention_core", static_cast<double>(plain.training_flops_per_token_4k) - weights);
  return figures;
}

}  // namespace mmb
