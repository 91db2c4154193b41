// Model: what a Hugging Face config.json says about an architecture, under Hugging Face's field names, normalised so
// that nothing after load_model meets the spellings and habits of the wild (aliases, nulls, nesting, lists, family
// defaults).
//
// An absent size is 0. A field is checked when it is present and demanded (`need`) only by those who use it: the config
// of one attention layer has no vocabulary. What mmb does not model is refused by that field's name, never read as
// something else.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace mmb {

// The fields of rope_scaling (or rope_parameters). The cos and sin of YaRN are multiplied by attention_factor where
// that is given (> 0), else by g(mscale) / g(mscale_all_dim) with g(m) = 0.1 m ln(factor) + 1.
struct RopeScaling {
  std::string type = "default";  // default (none), yarn, llama3
  double factor = 1;
  double original_max_position_embeddings = 0;
  double beta_fast = 32, beta_slow = 1;              // yarn
  double mscale = 1, mscale_all_dim = 0;             // yarn
  double attention_factor = 0;                       // yarn
  bool truncate = true;                              // yarn: round the correction range to whole dimensions
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
};

struct Quantization {
  std::string quant_method;                // as published: fp8, mxfp4, or one that `--dtype native` refuses
  std::vector<int64_t> weight_block_size;  // fp8: rows and columns that share one f32 scale; empty: one per matrix
  std::vector<std::string> modules_to_not_convert;  // module paths, `*` for any one part
};

struct Layer {
  bool moe = false;
  int64_t intermediate_size = 0;  // of a dense layer's FFN
  int64_t sliding_window = 0;     // the KV cache stops growing here; 0: it never does
};

struct Model {
  // The file's stem, or its folder where the file is called config.json; counterfactuals append ~suffix.
  std::string name;
  std::string file;
  std::string model_type;

  int64_t hidden_size = 0, num_hidden_layers = 0, vocab_size = 0, max_position_embeddings = 0;
  int64_t num_nextn_predict_layers = 0;
  bool tie_word_embeddings = false;
  double rms_norm_eps = 1e-6;

  // Attention. head_dim is the width of a query or key head: qk_nope_head_dim + qk_rope_head_dim for MLA, whatever the
  // config's head_dim says. For MLA num_key_value_heads is num_attention_heads, as in its expanded cache.
  int64_t num_attention_heads = 0, num_key_value_heads = 0, head_dim = 0, v_head_dim = 0;
  int64_t q_lora_rank = 0;  // also > 0 in an MLA model's ~mha, ~gqa8 and ~mqa, which keep its query path
  int64_t kv_lora_rank = 0, qk_nope_head_dim = 0, qk_rope_head_dim = 0;
  bool attention_bias = false;         // on q, k, v; on the two down-projections for MLA
  bool attention_output_bias = false;  // on o_proj
  bool qk_norm = false;                // an RMSNorm over each query and each key head
  bool attention_sinks = false;        // one learned logit a head (gpt-oss)

  double rope_theta = 10000;
  RopeScaling rope_scaling;
  double partial_rotary_factor = 1;  // the part of a head that rotates; qk_rope_head_dim says it for MLA
  bool rope_interleave = false;      // pairs are (2i, 2i+1) instead of (i, i + d/2)

  // FFN
  int64_t intermediate_size = 0, moe_intermediate_size = 0;
  int64_t n_routed_experts = 0, num_experts_per_tok = 0;
  int64_t n_shared_experts = 0, shared_expert_intermediate_size = 0;  // the width of all shared experts together
  bool shared_expert_gate = false;                                    // a sigmoid gate on the shared output (Qwen2-MoE)
  bool mlp_bias = false;                                              // on every FFN matrix and on the router
  int64_t n_group = 1, topk_group = 0;
  std::string scoring_func = "softmax";  // softmax, sigmoid
  std::string topk_method = "greedy";    // greedy, group_limited_greedy, noaux_tc (a correction bias per expert)
  bool norm_topk_prob = false;
  double routed_scaling_factor = 1;

  std::vector<Layer> layers;  // num_hidden_layers of them
  Quantization quantization_config;
  std::shared_ptr<const Model> base;  // the model that this one is a counterfactual of, or null

  bool is_mla() const { return kv_lora_rank > 0; }
  bool is_moe_layer(int64_t layer) const { return layers.at(static_cast<size_t>(layer)).moe; }
  int64_t moe_layers() const;
  int64_t rotary_dim() const;
  // The value of a field that the caller cannot do without, or an Error naming file and field:
  // need(&Model::vocab_size).
  int64_t need(int64_t Model::*field) const;
};

// `spec` is the name of a bundled model or the path of a config.json (it has a '/' or ends in .json), and then any
// number of counterfactuals: "DeepSeek-V3~gqa8~dense_total". Names are looked up in $MMB_MODELS_DIR, or in the source's
// bench/models.
Model load_model(const std::string& spec);
Model parse_model(std::string_view json_text, const std::string& file);
std::vector<std::string> bundled_models();
std::string models_folder();  // where they are

// The same model with one thing changed, and nothing matched in quality:
//   mha, gqa8, mqa   all, 8 or 1 KV heads of the same head dims, K and V projected from the hidden state; the
//                    query path stays
//   dense_active     in place of every MoE layer a dense FFN as wide as the experts that one token uses
//   dense_total      ... as wide as all its experts
// And of several one after the other: gqa8~dense_total.
Model counterfactual(const Model& model, const std::string& suffix);

}  // namespace mmb
