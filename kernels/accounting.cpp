#include "mmb/accounting.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <sstream>

#include "config.h"
#include "mmb/error.h"
#include "mmb/latent_attention.h"

namespace mmb {
namespace {

// Figures are summed in double and may not pass 2^53: up to there each is exact, here and in every reader of the JSON.
int64_t exact(const Model& model, const char* field, double figure) {
  if (!(figure <= 0x1p53)) refuse(model.file, field, "expected a size whose accounts stay below 2^53");
  return std::llround(figure);
}

double sum_layers(const Model& model, const std::function<double(int64_t layer)>& figure) {
  double sum = 0;
  for (int64_t layer = 0, L = model.need(&Model::num_hidden_layers); layer < L; ++layer) sum += figure(layer);
  return sum;
}

double sum_tensors(const Model& model, const std::function<double(int64_t layer, const Tensor&)>& figure) {
  const double inner = sum_layers(model, [&](int64_t layer) {
    double sum = 0;
    for (const Tensor& tensor : layer_tensors(model, layer)) sum += figure(layer, tensor);
    return sum;
  });
  double outer = 0;
  for (const Tensor& tensor : outer_tensors(model)) outer += figure(-1, tensor);
  return inner + outer;
}

// How many of a tensor's matrices a step reads whose MoE layers touch `touched` routed experts each.
double used(const Model& model, const Tensor& tensor, double touched) {
  if (tensor.part == Part::routed) return touched;
  if (tensor.part == Part::embedding) return model.tie_word_embeddings ? 1 : 0;
  return static_cast<double>(tensor.count);
}

double one(const Tensor& tensor) {
  return static_cast<double>(tensor.rows * tensor.cols);
}

double top_k(const Model& model) {
  return model.moe_layers() > 0 ? static_cast<double>(model.need(&Model::num_experts_per_tok)) : 0;
}

// The field to blame where parameters do not fit: the one behind the largest tensor.
const char* largest(const Model& model) {
  Tensor most{Part::attention, "", 0, 0};
  for (int64_t layer = 0; layer < model.num_hidden_layers; ++layer)
    for (const Tensor& tensor : layer_tensors(model, layer))
      if (tensor.parameters() > most.parameters()) most = tensor;
  return most.part == Part::attention   ? "num_attention_heads"
         : most.part == Part::dense_ffn ? "intermediate_size"
                                        : "moe_intermediate_size";
}

double attended(const Model& model, int64_t layer, int64_t context) {
  const int64_t window = model.layers[layer].sliding_window;
  return static_cast<double>(window > 0 ? std::min(window, context) : context);
}

std::vector<std::string> split(const std::string& path) {
  std::vector<std::string> parts;
  std::istringstream stream(path);
  for (std::string part; std::getline(stream, part, '.');) parts.push_back(part);
  return parts;
}

// modules_to_not_convert names modules by path or by a part of it: "lm_head", "self_attn", "model.layers.*.mlp.router".
bool is_exempt(const Quantization& quantization, const std::string& path) {
  const std::vector<std::string> parts = split(path);
  const auto same = [](const std::string& part, const std::string& wanted) { return wanted == "*" || part == wanted; };
  return std::any_of(quantization.modules_to_not_convert.begin(), quantization.modules_to_not_convert.end(),
                     [&](const std::string& module) {
                       const std::vector<std::string> wanted = split(module);
                       return !wanted.empty() && std::search(parts.begin(), parts.end(), wanted.begin(), wanted.end(),
                                                             same) != parts.end();
                     });
}

// Bytes of one matrix as the checkpoint stores it. fp8: a byte an element and an f32 scale a block, for every
// projection. mxfp4: 4 bits an element and a byte of scale for 32 of a row, for the routed experts. All else is bf16.
int64_t native_bytes(const Model& model, int64_t layer, const Tensor& tensor) {
  const Quantization& q = model.quantization_config;
  const auto blocks = [](int64_t n, int64_t block) { return (n + block - 1) / block; };
  const int64_t rows = tensor.rows, cols = tensor.cols;
  const bool routed = tensor.part == Part::routed;
  const bool projection = cols > 1 && (routed || tensor.part == Part::attention || tensor.part == Part::dense_ffn ||
                                       tensor.part == Part::shared);
  if (!projection || q.quant_method.empty() || (q.quant_method == "mxfp4" && !routed) ||
      is_exempt(q, "model.layers." + std::to_string(layer) + "." + tensor.name))
    return 2 * rows * cols;
  if (q.quant_method == "mxfp4") return rows * blocks(cols, 32) * 17;
  if (q.quant_method == "fp8" && q.weight_block_size.empty()) return rows * cols + 4;
  if (q.quant_method == "fp8")
    return rows * cols + 4 * blocks(rows, q.weight_block_size[0]) * blocks(cols, q.weight_block_size[1]);
  refuse(model.file, "quantization_config.quant_method",
         "expected fp8 or mxfp4 for native bytes, found " + q.quant_method);
}

int64_t require_mla(const Model& model) {
  return model.need(&Model::kv_lora_rank);
}

}  // namespace

std::vector<Tensor> layer_tensors(const Model& m, int64_t layer) {
  const int64_t H = m.need(&Model::hidden_size), nh = m.need(&Model::num_attention_heads);
  const int64_t nkv = m.need(&Model::num_key_value_heads);
  const int64_t dk = m.need(&Model::head_dim), dv = m.need(&Model::v_head_dim);
  const int64_t ql = m.q_lora_rank, dc = m.kv_lora_rank;
  std::vector<Tensor> tensors;
  const auto add = [&](Part part, const std::string& name, int64_t rows, int64_t cols, bool bias = false,
                       int64_t count = 1) {
    tensors.push_back({part, name, rows, cols, count});
    if (bias) tensors.push_back({part, name + ".bias", rows, 1, count});
  };
  add(Part::norm, "input_layernorm", H, 1);
  if (ql > 0) {
    add(Part::attention, "self_attn.q_a_proj", ql, H, m.attention_bias);
    add(Part::norm, "self_attn.q_a_layernorm", ql, 1);
    add(Part::attention, "self_attn.q_b_proj", nh * dk, ql);
  } else {
    add(Part::attention, "self_attn.q_proj", nh * dk, H, m.attention_bias && !m.is_mla());
  }
  if (m.is_mla()) {
    add(Part::attention, "self_attn.kv_a_proj_with_mqa", dc + m.qk_rope_head_dim, H, m.attention_bias);
    add(Part::norm, "self_attn.kv_a_layernorm", dc, 1);
    add(Part::attention, "self_attn.kv_b_proj", nh * (m.qk_nope_head_dim + dv), dc);
  } else {
    add(Part::attention, "self_attn.k_proj", nkv * dk, H, m.attention_bias);
    add(Part::attention, "self_attn.v_proj", nkv * dv, H, m.attention_bias);
  }
  if (m.qk_norm) add(Part::norm, "self_attn.q_norm", dk, 1);
  if (m.qk_norm) add(Part::norm, "self_attn.k_norm", dk, 1);
  if (m.attention_sinks) add(Part::attention, "self_attn.sinks", nh, 1);
  add(Part::attention, "self_attn.o_proj", H, nh * dv, m.attention_output_bias);

  add(Part::norm, "post_attention_layernorm", H, 1);
  const auto ffn = [&](Part part, const std::string& name, int64_t width, int64_t count) {
    add(part, name + ".gate_proj", width, H, m.mlp_bias, count);
    add(part, name + ".up_proj", width, H, m.mlp_bias, count);
    add(part, name + ".down_proj", H, width, m.mlp_bias, count);
  };
  if (!m.is_moe_layer(layer)) {
    const int64_t width = m.layers[layer].intermediate_size;
    ffn(Part::dense_ffn, "mlp", width > 0 ? width : m.need(&Model::intermediate_size), 1);
    return tensors;
  }
  const int64_t E = m.need(&Model::n_routed_experts);
  add(Part::router, "mlp.gate", E, H, m.mlp_bias);
  if (m.topk_method == "noaux_tc") add(Part::router, "mlp.gate.e_score_correction_bias", E, 1);
  ffn(Part::routed, "mlp.experts", m.need(&Model::moe_intermediate_size), E);
  if (m.n_shared_experts > 0) ffn(Part::shared, "mlp.shared_experts", m.shared_expert_intermediate_size, 1);
  if (m.shared_expert_gate) add(Part::shared, "mlp.shared_expert_gate", H, 1);
  return tensors;
}

std::vector<Tensor> outer_tensors(const Model& m) {
  const int64_t H = m.need(&Model::hidden_size), V = m.need(&Model::vocab_size);
  std::vector<Tensor> tensors = {{Part::embedding, "embed_tokens", V, H}, {Part::norm, "norm", H, 1}};
  if (!m.tie_word_embeddings) tensors.push_back({Part::head, "lm_head", V, H});
  return tensors;
}

int64_t layer_parameters(const Model& model, int64_t layer, std::optional<Part> part) {
  int64_t sum = 0;
  for (const Tensor& tensor : layer_tensors(model, layer))
    if (!part || tensor.part == *part) sum += tensor.parameters();
  return sum;
}

int64_t total_parameters(const Model& model) {
  return exact(model, largest(model), sum_tensors(model, [](int64_t, const Tensor& tensor) {
                 return static_cast<double>(tensor.parameters());
               }));
}

int64_t active_parameters(const Model& model, std::optional<Part> part) {
  const double k = top_k(model);
  return exact(model, largest(model), sum_tensors(model, [&](int64_t, const Tensor& tensor) {
                 return !part || tensor.part == *part ? used(model, tensor, k) * one(tensor) : 0;
               }));
}

int64_t routed_active_parameters(const Model& model) {
  return active_parameters(model, Part::routed);
}

int64_t active_parameters_with_embedding(const Model& model) {
  int64_t sum = active_parameters(model);
  for (const Tensor& tensor : outer_tensors(model))
    if (tensor.part == Part::embedding && !model.tie_word_embeddings) sum += tensor.parameters();
  return sum;
}

int64_t params_delta(const Model& model) {
  const auto layers = [](const Model& m) {
    return exact(m, largest(m), sum_layers(m, [&](int64_t l) { return static_cast<double>(layer_parameters(m, l)); }));
  };
  return model.base ? layers(model) - layers(*model.base) : 0;
}

int64_t kv_elements_expanded(const Model& model) {
  return model.need(&Model::num_key_value_heads) * (model.need(&Model::head_dim) + model.need(&Model::v_head_dim));
}

int64_t kv_elements(const Model& model) {
  return model.is_mla() ? model.kv_lora_rank + model.qk_rope_head_dim : kv_elements_expanded(model);
}

int64_t attention_flops_expanded(const Model& model) {
  return 2 * model.need(&Model::num_attention_heads) * (model.need(&Model::head_dim) + model.need(&Model::v_head_dim));
}

int64_t attention_flops(const Model& model) {
  if (!model.is_mla()) return attention_flops_expanded(model);
  return 2 * model.need(&Model::num_attention_heads) * (2 * model.kv_lora_rank + model.qk_rope_head_dim);
}

int64_t attention_flops_reexpanded(const Model& model) {
  return attention_flops_expanded(model) + 2 * require_mla(model) * model.need(&Model::num_attention_heads) *
                                               (model.qk_nope_head_dim + model.need(&Model::v_head_dim));
}

int64_t element_bytes(const std::string& dtype, const std::string& flag) {
  if (dtype == "f32") return 4;
  if (dtype == "bf16" || dtype == "f16") return 2;
  if (dtype == "fp8" || dtype == "int8") return 1;
  const char* other = flag == "--dtype" ? "native" : "fp8_flashmla";
  throw Error(flag + ": expected f32, bf16, f16, fp8, int8 or " + other + ", found " + dtype);
}

int64_t kv_bytes(const Model& model, const std::string& cache_dtype) {
  if (cache_dtype != "fp8_flashmla") return kv_elements(model) * element_bytes(cache_dtype, "--cache-dtype");
  if (!model.is_mla())
    refuse(model.file, "kv_lora_rank", "expected MLA, whose latent cache fp8_flashmla is a layout of");
  return LatentRow{DType::fp8, model.kv_lora_rank, model.qk_rope_head_dim}.bytes();
}

Account account(const Model& model, const AccountOptions& options) {
  const auto require = [](const char* flag, int64_t value, int64_t max) {
    if (value < 1 || value > max)
      throw Error(std::string(flag) + ": expected an integer from 1 to " + std::to_string(max) + ", found " +
                  std::to_string(value));
  };
  require("--context", options.context, 1 << 26);
  require("--batch", options.batch, 1 << 26);
  const auto L = static_cast<double>(model.need(&Model::num_hidden_layers));
  const auto over_context = [&](int64_t per_token) {
    return sum_layers(model,
                      [&](int64_t l) { return static_cast<double>(per_token) * attended(model, l, options.context); });
  };
  const bool native = options.dtype == "native";
  const double bytes = native ? 0 : static_cast<double>(element_bytes(options.dtype, "--dtype"));
  const char* kv = model.is_mla() ? "kv_lora_rank" : "num_key_value_heads";
  const char* heads = "num_attention_heads";

  Account a;
  a.model = model.name;
  a.total_parameters = total_parameters(model);
  a.active_parameters = active_parameters(model);
  a.kv_elements_per_token = exact(model, kv, L * static_cast<double>(kv_elements(model)));
  a.kv_bytes_per_token = exact(model, kv, L * static_cast<double>(kv_bytes(model, options.cache_dtype)));
  if (model.is_mla()) {
    // fp8_flashmla is a layout of latents: expanded, its elements are plain fp8.
    const std::string& dtype = options.cache_dtype == "fp8_flashmla" ? "fp8" : options.cache_dtype;
    a.kv_bytes_per_token_expanded = exact(
        model, heads, L * static_cast<double>(kv_elements_expanded(model) * element_bytes(dtype, "--cache-dtype")));
  }
  a.kv_bytes_at_context = exact(model, kv, over_context(kv_bytes(model, options.cache_dtype)));
  a.attention_flops_per_token = exact(model, heads, over_context(attention_flops(model)));
  a.attention_flops_per_token_expanded = exact(model, heads, over_context(attention_flops_expanded(model)));
  a.flops_per_token = exact(
      model, heads, 2.0 * static_cast<double>(a.active_parameters) + static_cast<double>(a.attention_flops_per_token));

  const bool moe = model.moe_layers() > 0;
  a.experts_touched =
      moe ? experts_touched(model.n_routed_experts, model.need(&Model::num_experts_per_tok), options.batch) : 0;
  a.weight_bytes_per_step = exact(
      model, largest(model), sum_tensors(model, [&](int64_t layer, const Tensor& tensor) {
        const double matrix = native ? static_cast<double>(native_bytes(model, layer, tensor)) : bytes * one(tensor);
        return used(model, tensor, a.experts_touched) * matrix;
      }));

  // The mean span of a causal sequence of 4,096 tokens is 2,048; with a window w, w - w^2 / 8192.
  const double attention = sum_layers(model, [&](int64_t layer) {
    const double window = attended(model, layer, 4096);
    return static_cast<double>(attention_flops_expanded(model)) * (window - window * window / 8192);
  });
  a.training_flops_per_token_4k = exact(model, heads, 6.0 * static_cast<double>(a.active_parameters) + 3 * attention);
  return a;
}

Generation generation(const Model& model, int64_t tokens, const AccountOptions& options) {
  AccountOptions one_cached = options;
  one_cached.context = one_cached.batch = 1;
  const Account a = account(model, one_cached);
  const double n = static_cast<double>(tokens), cached = n * (n - 1) / 2;  // 0 + 1 + ... + n - 1
  return {
      n * 2.0 * static_cast<double>(a.active_parameters) + cached * static_cast<double>(a.attention_flops_per_token),
      n * static_cast<double>(a.weight_bytes_per_step) + cached * static_cast<double>(a.kv_bytes_per_token)};
}

double experts_touched(int64_t experts, int64_t top_k, int64_t tokens) {
  if (tokens == 1) return static_cast<double>(top_k);
  const double missed = std::log1p(-static_cast<double>(top_k) / static_cast<double>(experts));  // by one token
  return -static_cast<double>(experts) * std::expm1(static_cast<double>(tokens) * missed);
}

double absorbed_crossover(const Model& model, int64_t cached) {
  const int64_t nope_and_v = model.need(&Model::qk_nope_head_dim) + model.need(&Model::v_head_dim);
  const int64_t more = 2 * require_mla(model) + model.qk_rope_head_dim - (nope_and_v + model.qk_rope_head_dim);
  if (more <= 0) return std::numeric_limits<double>::infinity();
  const double balance = static_cast<double>(model.kv_lora_rank * nope_and_v) / static_cast<double>(more);
  const double P = static_cast<double>(cached);
  return cached == 0 ? 0 : P * (std::sqrt(1 + 2 * balance / P) - 1);
}

double context_of_equal_flops(const Model& model, bool expanded) {
  const int64_t attention = expanded ? attention_flops_expanded(model) : attention_flops(model);
  return 2.0 * static_cast<double>(active_parameters(model)) /
         static_cast<double>(model.need(&Model::num_hidden_layers) * attention);
}

double context_of_equal_flops(const Model& a, const Model& b) {
  const auto slope = [](const Model& m) { return m.need(&Model::num_hidden_layers) * attention_flops(m); };
  return 2.0 * static_cast<double>(active_parameters(b) - active_parameters(a)) /
         static_cast<double>(slope(a) - slope(b));
}

double batch_of_equal_weights(const Model& model, int64_t dense_parameters) {
  const double routed = static_cast<double>(routed_active_parameters(model));
  const double missing = static_cast<double>(dense_parameters - active_parameters(model)) + routed;
  if (routed == 0) return missing < 0 ? 0 : std::numeric_limits<double>::infinity();
  const double k = top_k(model), E = static_cast<double>(model.n_routed_experts), touched = k * missing / routed;
  if (touched >= E) return std::numeric_limits<double>::infinity();
  return std::max(0.0, std::log1p(-touched / E) / std::log1p(-k / E));
}

int64_t all_to_all_bytes(const Model& model) {
  constexpr int64_t kFp8 = 1, kBf16 = 2;
  const int64_t copies = static_cast<int64_t>(top_k(model)) + model.n_shared_experts;
  return model.moe_layers() * copies * model.need(&Model::hidden_size) * (kFp8 + kBf16);
}

double mtp_bytes_factor(const Model& model, double overlap) {
  const double k = top_k(model), H = static_cast<double>(model.need(&Model::hidden_size));
  // The MTP layer is one more of the last kind, behind two norms and a projection of [hidden, embedding] to hidden.
  double draft = 2 * H * H + 2 * H + H * static_cast<double>(model.need(&Model::vocab_size));
  for (const Tensor& tensor : layer_tensors(model, model.num_hidden_layers - 1))
    draft += used(model, tensor, k) * one(tensor);
  const double active = static_cast<double>(active_parameters(model));
  const double second_token = static_cast<double>(routed_active_parameters(model)) * (1 - overlap);
  return (active + second_token + draft) / active;
}

int64_t absorbable_parameters(const Model& m) {
  const int64_t nh = m.need(&Model::num_attention_heads), dv = m.need(&Model::v_head_dim);
  const int64_t query = m.q_lora_rank > 0 ? m.q_lora_rank : m.need(&Model::hidden_size);
  return nh * (m.need(&Model::qk_nope_head_dim) * (query + require_mla(m)) +
               dv * (m.kv_lora_rank + m.need(&Model::hidden_size)));
}

int64_t premultiplied_parameters(const Model& m) {
  const int64_t query = m.q_lora_rank > 0 ? m.q_lora_rank : m.need(&Model::hidden_size);
  return m.need(&Model::num_attention_heads) * require_mla(m) * (query + m.need(&Model::hidden_size));
}

}  // namespace mmb
