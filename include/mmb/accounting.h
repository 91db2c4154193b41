// The accounts of a whole model, from its config alone: parameters, KV cache, FLOPs, bytes, by batch and context.
//
// Conventions   one FLOP is one multiply or one add; softmax, norms and activations are not counted
//   parameters  every tensor of the checkpoint (norms, biases and the router's correction bias too), but not the
//               MTP layer
//   active      what one decoded token reads and multiplies: the routed top-k and everything else but the input
//               embedding
//   KV          kv_lora_rank + qk_rope_head_dim elements a token and layer for MLA, else
//               num_key_value_heads * (head_dim + v_head_dim)
//   attention   2 * num_attention_heads * (head_dim + v_head_dim) FLOPs per cached token and layer (MLA: the
//               expanded form); absorbed MLA 2 * num_attention_heads * (2 kv_lora_rank + qk_rope_head_dim)
//   windows     a layer with a sliding window caches, and attends to, that many tokens at the most
// Sources       DeepSeek-V2, arXiv:2405.04434 (MLA); DeepSeek-V3, arXiv:2412.19437 (active without the input embedding)
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mmb/model.h"

namespace mmb {

// The parts of a model that are counted apart. `routed` are the routed experts, `shared` the shared ones.
enum class Part { embedding, attention, norm, router, routed, shared, dense_ffn, head };

// One tensor of the checkpoint: `count` matrices [rows, cols]; a vector has cols == 1.
struct Tensor {
  Part part;
  std::string name;  // within its layer, as in the checkpoint: self_attn.kv_b_proj
  int64_t rows, cols;
  int64_t count = 1;  // n_routed_experts for the routed experts
  int64_t parameters() const { return rows * cols * count; }
};
std::vector<Tensor> layer_tensors(const Model& model, int64_t layer);
std::vector<Tensor> outer_tensors(const Model& model);  // embedding, final norm, and the head unless it is tied

int64_t layer_parameters(const Model& model, int64_t layer, std::optional<Part> part = {});  // routed: all experts
int64_t total_parameters(const Model& model);
int64_t active_parameters(const Model& model, std::optional<Part> part = {});
int64_t routed_active_parameters(const Model& model);          // the routed top-k's share of active_parameters
int64_t active_parameters_with_embedding(const Model& model);  // as if a token read the whole input embedding
// Parameters of a counterfactual's layers above those of the model it came from; 0 for a model as published.
int64_t params_delta(const Model& model);

// Of one layer and one token.
int64_t kv_elements(const Model& model);
int64_t kv_elements_expanded(const Model& model);
// Of one layer, for one new token and one cached token.
int64_t attention_flops(const Model& model);             // the form that decodes: absorbed for MLA
int64_t attention_flops_expanded(const Model& model);    // from cached per-head keys and values
int64_t attention_flops_reexpanded(const Model& model);  // MLA from cached latents, up-projected again at every step

// bf16, f16, f32, fp8, int8; else an Error that names `flag`.
int64_t element_bytes(const std::string& dtype, const std::string& flag);
// Bytes of one token in one layer's cache. Also fp8_flashmla: MLA's latent in fp8 with an f32 scale per 128, its rope
// key in bf16.
int64_t kv_bytes(const Model& model, const std::string& cache_dtype);

struct AccountOptions {
  int64_t context = 4096;
  int64_t batch = 1;
  std::string dtype = "bf16";  // also native: what quantization_config says, tensor by tensor, scales included
  std::string cache_dtype = "bf16";
};

// Numbers by name.
using Figures = std::vector<std::pair<std::string, double>>;

// KV and FLOPs are for one sequence at `context`, all layers; weight bytes for one step of `batch` sequences, uniform
// routing.
struct Account {
  std::string model;
  int64_t total_parameters, active_parameters;
  int64_t kv_elements_per_token, kv_bytes_per_token;
  std::optional<int64_t> kv_bytes_per_token_expanded;  // MLA only
  int64_t kv_bytes_at_context;
  int64_t attention_flops_per_token, attention_flops_per_token_expanded;
  int64_t flops_per_token;
  int64_t weight_bytes_per_step;
  double experts_touched;               // of one MoE layer
  int64_t training_flops_per_token_4k;  // 6 * active + 3 * expanded attention, 4,096-token causal sequences
  Figures details;                      // account_details, where somebody asked for them
};
Account account(const Model& model, const AccountOptions& options = {});

// Of generating tokens one by one after an empty cache, as `options` store weights and cache, at batch 1, windows aside.
// In double: beyond 2^53 these are no longer exact to the last.
struct Generation {
  double flops, bytes;
};
Generation generation(const Model& model, int64_t tokens, const AccountOptions& options = {});

// What the config says beyond the Account, by name and by what the name is taken at: experts_touched/batch_8. Independent
// of AccountOptions; what does not apply to the model, or never happens, is left out. `rivals` are held against it.
Figures account_details(const Model& model, const std::vector<Model>& rivals);

// Expected number of `experts` touched by `tokens` that pick `top_k` each, uniformly: experts * (1 - (1 -
// top_k/experts)^tokens).
double experts_touched(int64_t experts, int64_t top_k, int64_t tokens);
// New tokens on `cached` cached ones up to which the absorbed form of MLA needs fewer FLOPs than up-projecting the
// cached latents: U + U^2 / (2 cached) = kv_lora_rank (qk_nope + v) / ((2 kv_lora_rank + qk_rope) - (qk_nope + qk_rope
// + v)). 0 with nothing cached; infinite where the absorbed form never needs more.
double absorbed_crossover(const Model& model, int64_t cached);
// Cached tokens at which attention takes as many FLOPs as the weights, windows aside.
double context_of_equal_flops(const Model& model, bool expanded = false);
// Cached tokens at which one decode step of `a` takes as many FLOPs as one of `b`, windows aside; negative or infinite
// if never.
double context_of_equal_flops(const Model& a, const Model& b);
// Sequences at which a step of `model` reads as many weights as one of a dense model of `dense_parameters`, uniform
// routing; infinite where no batch reads as many. With no experts to touch the batch does not matter: 0 if `model` is
// the larger, else infinite.
double batch_of_equal_weights(const Model& model, int64_t dense_parameters);
// Bytes that a token sends and receives over all MoE layers with experts spread over devices: its hidden state in fp8 to
// the top_k routed and the shared experts, and theirs back in bf16 (arXiv:2505.09343).
int64_t all_to_all_bytes(const Model& model);
// Bytes of one speculative step (verify 2 tokens, and draft one with the MTP layer and the output head) over those of a
// plain step, batch 1; `overlap` is the share of its experts that the second token finds already touched (uniform
// routing: top_k/experts).
double mtp_bytes_factor(const Model& model, double overlap);
// Parameters of one MLA layer that W_UK and W_UV pass through (the no-rope part of the query projection, kv_b_proj,
// o_proj), as stored, and with W_UQ W_UK and W_UV W_O multiplied out.
int64_t absorbable_parameters(const Model& model);
int64_t premultiplied_parameters(const Model& model);

}  // namespace mmb
