#include "mmb/model.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>

#include "config.h"

namespace mmb {
namespace {

using nlohmann::json;

// Bounds far beyond any real model, chosen so that the parameters of one layer (at the most 3 * 2^20 * 2^37, a dense
// FFN as wide as 2^16 experts of 2^20) fit an int64_t. The accounts refuse what does not fit when summed over layers.
constexpr int64_t kMaxWidth = 1 << 20, kMaxHeads = 1 << 14, kMaxExperts = 1 << 16, kMaxShared = 1 << 10;
constexpr int64_t kMaxLayers = 1 << 12, kMaxVocabulary = 1 << 24, kMaxPositions = int64_t{1} << 40;
constexpr int64_t kMaxFileSize = 16 << 20;

struct Field {
  int64_t Model::*member;
  int64_t min, max;
  std::vector<const char*> names;  // Hugging Face's first, then the other spellings in use
};

const std::vector<Field>& fields() {
  static const std::vector<Field> table = {
      {&Model::hidden_size, 1, kMaxWidth, {"hidden_size"}},
      {&Model::num_hidden_layers, 1, kMaxLayers, {"num_hidden_layers"}},
      {&Model::vocab_size, 1, kMaxVocabulary, {"vocab_size"}},
      {&Model::max_position_embeddings, 1, kMaxPositions, {"max_position_embeddings"}},
      {&Model::num_nextn_predict_layers, 0, kMaxLayers, {"num_nextn_predict_layers"}},
      {&Model::num_attention_heads, 1, kMaxHeads, {"num_attention_heads"}},
      {&Model::num_key_value_heads, 1, kMaxHeads, {"num_key_value_heads"}},
      {&Model::head_dim, 1, kMaxHeads, {"head_dim"}},
      {&Model::v_head_dim, 1, kMaxHeads, {"v_head_dim"}},
      {&Model::q_lora_rank, 0, kMaxWidth, {"q_lora_rank"}},
      {&Model::kv_lora_rank, 0, kMaxWidth, {"kv_lora_rank"}},
      {&Model::qk_nope_head_dim, 1, kMaxHeads, {"qk_nope_head_dim"}},
      {&Model::qk_rope_head_dim, 1, kMaxHeads, {"qk_rope_head_dim"}},
      {&Model::intermediate_size, 1, kMaxWidth, {"intermediate_size"}},
      {&Model::moe_intermediate_size, 1, kMaxWidth, {"moe_intermediate_size"}},
      {&Model::n_routed_experts, 1, kMaxExperts, {"n_routed_experts", "num_experts", "num_local_experts"}},
      {&Model::num_experts_per_tok,
       1,
       kMaxExperts,
       {"num_experts_per_tok", "num_experts_per_token", "experts_per_token"}},
      {&Model::n_shared_experts, 0, kMaxShared, {"n_shared_experts", "num_shared_experts"}},
      {&Model::shared_expert_intermediate_size,
       0,
       kMaxWidth,
       {"shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "shared_intermediate_size"}},
      {&Model::n_group, 1, kMaxExperts, {"n_group", "num_expert_group"}},
      {&Model::topk_group, 1, kMaxExperts, {"topk_group"}},
  };
  return table;
}

// What a family's code does where its config.json is silent (transformers' configuration and modeling files): the first
// row that the config's model_type begins with; the last row is for all others.
enum Habit : unsigned {
  kRenormalises = 1,       // norm_topk_prob
  kAttentionBias = 2,      // attention_bias
  kNoOutputBias = 4,       // attention_bias does not mean o_proj
  kQkNorm = 8,             // an RMSNorm over each query and key head
  kSharedExpertGate = 16,  // a sigmoid gate on the shared experts' output
  kSinksAndMlpBias = 32,   // attention sinks; biases on experts and router
  kEvenWindows = 64,       // every second layer has a window, the first one too
};
struct Family {
  std::string_view model_type;
  double rms_norm_eps;
  const char* scoring_func;
  unsigned habits;
};
constexpr Family kFamilies[] = {
    {"mixtral", 1e-5, "softmax", kRenormalises},
    {"qwen2_moe", 1e-6, "softmax", kAttentionBias | kNoOutputBias | kSharedExpertGate},
    {"qwen2", 1e-6, "softmax", kAttentionBias | kNoOutputBias},
    {"qwen3", 1e-6, "softmax", kQkNorm},
    {"deepseek_v3", 1e-6, "sigmoid", kRenormalises},
    {"kimi_k2", 1e-6, "sigmoid", kRenormalises},
    {"glm4_moe_lite", 1e-5, "sigmoid", kRenormalises},
    {"glm4_moe", 1e-5, "sigmoid", kRenormalises | kNoOutputBias},
    {"glm", 1.5625e-7, "softmax", kNoOutputBias},
    {"dots1", 1e-6, "sigmoid", kQkNorm},
    {"gpt_oss", 1e-5, "softmax", kRenormalises | kAttentionBias | kSinksAndMlpBias | kEvenWindows},
    {"", 1e-6, "softmax", 0},
};

// One config on its way into a Model.
struct Reader {
  const Config& config;
  const Family& family;
  Model& m;

  bool habit(Habit h) const { return (family.habits & h) != 0; }
  void sizes();
  void attention();
  void rope();
  void experts();
  void moe_layers();
  void windows();
  void quantization();
};

// Fields that change the arithmetic in ways mmb does not model, by how their names begin.
constexpr std::string_view kNotModelled[] = {"index_",
                                             "indexer_",
                                             "sparse_attention",
                                             "linear_",
                                             "full_attention_interval",
                                             "attn_type_list",
                                             "attn_layer_",
                                             "layer_group_size",
                                             "mamba_",
                                             "ssm_",
                                             "layers_block_type",
                                             "block_configs",
                                             "hybrid_",
                                             "swa_",
                                             "sliding_window_pattern",
                                             "attention_chunk_size",
                                             "cross_attention_layers",
                                             "num_kv_shared_layers",
                                             "compress_",
                                             "hc_mult",
                                             "mla_use_output_gate",
                                             "attn_output_gate",
                                             "use_head_wise_attn_gate",
                                             "intermediate_size_mlp",
                                             "layer_norm_eps",
                                             "lm_head_bias",
                                             "num_attention_groups",
                                             "num_dense_layers",
                                             "rope_ntk_",
                                             "rope_scaling_factor",
                                             "parallel_attn"};

bool says_something(const json* value) {
  return value && *value != false && *value != 0 && !(value->is_structured() && value->empty());
}

void refuse_what_is_not_modelled(const Config& config) {
  if (!says_something(config.find("kv_lora_rank")))
    for (const char* name : {"qk_nope_head_dim", "qk_rope_head_dim", "q_lora_rank", "o_lora_rank"})
      if (says_something(config.find(name)))
        config.refuse("kv_lora_rank", std::string("expected a positive integer, as there is ") + name);

  std::set<std::string_view> known = {"moe_layer_freq", "moe_router_scaling_factor"};
  for (const Field& field : fields()) known.insert(field.names.begin(), field.names.end());
  for (const auto& [name, value] : config.object().items()) {
    if (known.count(name) || !says_something(config.find(name))) continue;
    const auto begins = [&name = name](std::string_view prefix) { return name.starts_with(prefix); };
    const auto holds = [&name = name](const char* part) { return name.find(part) != std::string::npos; };
    // A field about experts that mmb does not know and that holds a count, a list or an object may well be a size.
    const bool size = (value.is_number_integer() || value.is_structured()) && (holds("expert") || holds("moe"));
    if (size || holds("zero_expert") || holds("lora_rank") ||
        std::any_of(std::begin(kNotModelled), std::end(kNotModelled), begins))
      config.refuse(name, "expected it absent, as mmb does not model it");
  }
}

void Reader::sizes() {
  for (const Field& field : fields())
    m.*field.member = config.integer(field.names, field.min, field.max, m.*field.member);
  m.layers.resize(static_cast<size_t>(m.num_hidden_layers));
  m.tie_word_embeddings = config.boolean({"tie_word_embeddings"}, false);
  m.rms_norm_eps = config.number({"rms_norm_eps"}, 1e-12, 0.1, family.rms_norm_eps);
  for (const char* name : {"hidden_act", "hidden_activation"}) config.word({name}, {"silu"}, "silu");
}

void Reader::attention() {
  if (m.num_key_value_heads == 0) m.num_key_value_heads = m.num_attention_heads;
  if (m.num_attention_heads > 0 && m.num_attention_heads % m.num_key_value_heads != 0)
    config.refuse("num_key_value_heads", "expected a divisor of num_attention_heads (" +
                                             std::to_string(m.num_attention_heads) + "), found " +
                                             std::to_string(m.num_key_value_heads));
  if (m.is_mla()) {
    m.head_dim = m.need(&Model::qk_nope_head_dim) + m.need(&Model::qk_rope_head_dim);
    m.num_key_value_heads = m.num_attention_heads;
  }
  const char* derived = m.is_mla() ? "v_head_dim" : "head_dim";
  int64_t& width = m.is_mla() ? m.v_head_dim : m.head_dim;
  if (width == 0 && m.hidden_size > 0 && m.num_attention_heads > 0) {
    if (m.hidden_size % m.num_attention_heads != 0)
      config.refuse(derived, "expected a positive integer, as num_attention_heads does not divide hidden_size");
    width = m.hidden_size / m.num_attention_heads;
  }
  if (m.v_head_dim == 0) m.v_head_dim = m.head_dim;
  m.attention_bias = config.boolean({"attention_bias", "use_qkv_bias", "qkv_bias"}, habit(kAttentionBias));
  m.attention_output_bias = config.boolean({"attention_out_bias"}, m.attention_bias && !habit(kNoOutputBias));
  m.qk_norm = config.boolean({"use_qk_norm"}, habit(kQkNorm));
  m.attention_sinks = habit(kSinksAndMlpBias);
}

void Reader::rope() {
  m.rope_interleave = config.boolean({"rope_interleave"}, m.is_mla());
  m.rope_theta = config.number({"rope_theta"}, 2, 1e12, m.rope_theta);
  m.partial_rotary_factor = config.number({"partial_rotary_factor"}, 1e-3, 1, 1);
  const std::string name = config.find("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (const json* object = config.find_object(name)) {
    const Config rope(*object, m.file, name + ".");
    for (const auto& [key, value] : object->items())
      if (value.is_object()) rope.refuse(key, "expected one setting for all layers, as mmb models no other");
    RopeScaling& r = m.rope_scaling;
    r.type = rope.word({"rope_type", "type"}, {"default", "yarn", "llama3"});
    m.rope_theta = rope.number({"rope_theta"}, 2, 1e12, m.rope_theta);
    m.partial_rotary_factor = rope.number({"partial_rotary_factor"}, 1e-3, 1, m.partial_rotary_factor);
    if (r.type != "default") {
      r.factor = rope.number({"factor"}, 1, 1e6);
      r.original_max_position_embeddings = rope.number({"original_max_position_embeddings"}, 1, 1e12);
    }
    if (r.type == "yarn") {
      r.beta_fast = rope.number({"beta_fast"}, 1e-3, 1e6, r.beta_fast);
      r.beta_slow = rope.number({"beta_slow"}, 1e-3, 1e6, r.beta_slow);
      if (r.beta_fast < r.beta_slow) rope.refuse("beta_fast", "expected beta_slow or more");
      r.mscale = rope.number({"mscale"}, 0, 1e3, r.mscale);
      r.mscale_all_dim = rope.number({"mscale_all_dim"}, 0, 1e3, r.mscale_all_dim);
      r.attention_factor = rope.number({"attention_factor"}, 1e-3, 1e3, r.attention_factor);
      r.truncate = rope.boolean({"truncate"}, r.truncate);
    }
    if (r.type == "llama3") {
      r.low_freq_factor = rope.number({"low_freq_factor"}, 1e-3, 1e6);
      r.high_freq_factor = rope.number({"high_freq_factor"}, 1e-3, 1e6);
      if (r.high_freq_factor <= r.low_freq_factor)
        rope.refuse("high_freq_factor", "expected a number above low_freq_factor");
    }
  }
  if (m.rotary_dim() % 2 != 0 || (m.head_dim > 0 && m.rotary_dim() == 0))
    config.refuse(m.is_mla()                    ? "qk_rope_head_dim"
                  : m.partial_rotary_factor < 1 ? "partial_rotary_factor"
                                                : "head_dim",
                  "expected an even number of rotary dimensions, found " + std::to_string(m.rotary_dim()));
}

void Reader::experts() {
  m.mlp_bias = config.boolean({"mlp_bias"}, habit(kSinksAndMlpBias));
  m.scoring_func = config.word({"scoring_func", "moe_router_activation_func", "score_function"}, {"softmax", "sigmoid"},
                               family.scoring_func);
  m.norm_topk_prob = config.boolean({"norm_topk_prob", "moe_renormalize"}, habit(kRenormalises));
  m.routed_scaling_factor = config.number({"routed_scaling_factor", "moe_router_scaling_factor"}, 1e-6, 1e6, 1);
  const char* without_bias = m.n_group > 1 ? "group_limited_greedy" : "greedy";
  m.topk_method = config.word({"topk_method"}, {"greedy", "group_limited_greedy", "noaux_tc"},
                              m.scoring_func == "sigmoid" ? "noaux_tc" : without_bias);
  const bool grouped = m.topk_method != "greedy" && m.n_group > 1;
  if (m.topk_group == 0 && !grouped) m.topk_group = m.n_group;

  const int64_t E = m.n_routed_experts, k = m.num_experts_per_tok;
  if (E == 0) {
    for (auto field : {&Model::num_experts_per_tok, &Model::moe_intermediate_size, &Model::n_shared_experts})
      if (m.*field > 0) m.need(&Model::n_routed_experts);
    return;
  }
  const auto at_most = [&](const char* name, int64_t value, const std::string& what, int64_t limit) {
    if (value > limit)
      config.refuse(name,
                    "expected at most " + what + " (" + std::to_string(limit) + "), found " + std::to_string(value));
  };
  at_most("num_experts_per_tok", k, "the number of experts", E);
  at_most("topk_group", m.need(&Model::topk_group), "n_group", m.n_group);
  if (E % m.n_group != 0)
    config.refuse("n_group", "expected a divisor of the number of experts (" + std::to_string(E) + "), found " +
                                 std::to_string(m.n_group));
  if (grouped) at_most("num_experts_per_tok", k, "the experts of topk_group groups", m.topk_group * (E / m.n_group));
  if (grouped && m.topk_method == "noaux_tc")
    at_most("n_group", m.n_group, "one group for two experts, its score", E / 2);

  if (m.moe_intermediate_size == 0) m.moe_intermediate_size = m.intermediate_size;
  const int64_t shared = m.n_shared_experts * m.moe_intermediate_size;
  if (m.shared_expert_intermediate_size == 0) m.shared_expert_intermediate_size = shared;
  if (shared > 0 && m.shared_expert_intermediate_size != shared)
    config.refuse("shared_expert_intermediate_size", "expected the width of all shared experts (" +
                                                         std::to_string(shared) + "), found " +
                                                         std::to_string(m.shared_expert_intermediate_size));
  if (m.shared_expert_intermediate_size > 0 && m.n_shared_experts == 0) m.n_shared_experts = 1;
  m.shared_expert_gate = habit(kSharedExpertGate) && m.n_shared_experts > 0;
}

// A list says which layers are MoE; else those before first_k_dense_replace are dense and then every moe_layer_freq-th
// is MoE (DeepSeek), or every decoder_sparse_step-th but mlp_only_layers (Qwen).
void Reader::moe_layers() {
  const int64_t L = m.num_hidden_layers;
  if (L == 0) return;
  const int64_t first = config.integer({"first_k_dense_replace"}, 0, L, 0);
  const int64_t step = config.integer({"decoder_sparse_step"}, 1, kMaxLayers, 1);
  std::set<int64_t> dense;
  if (const json* layers = config.find_list("mlp_only_layers"))
    for (const json& layer : *layers) dense.insert(config.integer(layer, "mlp_only_layers", 0, L - 1));
  const json* types = config.find_list("mlp_layer_types", L);
  const json* freq = config.find("moe_layer_freq");
  const json* flags = freq && freq->is_array() ? config.find_list("moe_layer_freq", L) : nullptr;
  const int64_t every = flags ? 1 : config.integer({"moe_layer_freq"}, 1, kMaxLayers, 1);

  for (int64_t l = 0; l < L; ++l) {
    bool moe = l >= first && l % every == 0 && (l + 1) % step == 0 && !dense.count(l);
    if (flags) moe = config.integer(flags->at(l), "moe_layer_freq", 0, 1) == 1;
    if (types) moe = types->at(l) == "sparse";
    if (types && !moe && types->at(l) != "dense") config.refuse("mlp_layer_types", "dense or sparse", types->at(l));
    if (moe && l < first)
      config.refuse("first_k_dense_replace",
                    "expected no MoE layer before it, but layer " + std::to_string(l) + " is one");
    Layer& layer = m.layers[l];
    layer.moe = moe && m.n_routed_experts > 0;
    if (!layer.moe) layer.intermediate_size = m.intermediate_size;
  }
}

void Reader::windows() {
  const int64_t window = config.integer({"sliding_window"}, 1, kMaxPositions, 0);
  const bool used = config.boolean({"use_sliding_window"}, true);
  const int64_t first = config.integer({"max_window_layers"}, 0, kMaxLayers, 0);  // Qwen: those before it have none
  const json* types = config.find_list("layer_types", m.num_hidden_layers);
  for (int64_t l = 0; l < m.num_hidden_layers; ++l) {
    const bool sliding = types ? types->at(l) == "sliding_attention" : habit(kEvenWindows) ? l % 2 == 0 : l >= first;
    if (types && !sliding && types->at(l) != "full_attention")
      config.refuse("layer_types", "full_attention or sliding_attention, the kinds that mmb models", types->at(l));
    if (types && sliding && used && window == 0)
      config.refuse("sliding_window", "expected a positive integer, as layer_types has sliding_attention");
    if (sliding && used) m.layers[l].sliding_window = window;
  }
}

void Reader::quantization() {
  const json* object = config.find_object("quantization_config");
  if (!object) return;
  const Config quantization(*object, m.file, "quantization_config.");
  m.quantization_config.quant_method = quantization.word({"quant_method"}, {});
  if (const json* block = quantization.find_list("weight_block_size", 2))
    for (const json& size : *block)
      m.quantization_config.weight_block_size.push_back(quantization.integer(size, "weight_block_size", 1, kMaxWidth));
  if (const json* modules = quantization.find_list("modules_to_not_convert"))
    for (const json& module : *modules) {
      if (!module.is_string()) quantization.refuse("modules_to_not_convert", "module paths", module);
      m.quantization_config.modules_to_not_convert.push_back(module.get<std::string>());
    }
}

// A multimodal config keeps the whole language model in text_config, but for two fields that may stand outside.
json text_model(json root, const std::string& file) {
  const json* text = Config(root, file).find_object("text_config");
  if (!text) return root;
  json merged = *text;
  for (const char* name : {"tie_word_embeddings", "quantization_config"})
    if (root.contains(name) && !merged.contains(name)) merged[name] = root[name];
  return merged;
}

std::string read_file(const std::filesystem::path& path) {
  const std::string file = path.string();
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) refuse(file, "file", "expected a config.json, but there is no such file");
  if (!std::filesystem::is_regular_file(status))
    refuse(file, "file", "expected a config.json, but it is not a regular file");
  const auto size = std::filesystem::file_size(path, error);
  if (error || size > static_cast<uintmax_t>(kMaxFileSize))
    refuse(file, "file", "expected a config.json of at most 16 MiB");
  std::ifstream stream(path, std::ios::binary);
  std::string text(static_cast<size_t>(size), '\0');
  if (!stream.read(text.data(), static_cast<std::streamsize>(size))) refuse(file, "file", "expected a readable file");
  return text;
}

}  // namespace

std::string models_folder() {
  const char* folder = std::getenv("MMB_MODELS_DIR");
  return folder && *folder ? folder : MMB_MODELS_DIR;
}

int64_t Model::moe_layers() const {
  return std::count_if(layers.begin(), layers.end(), [](const Layer& layer) { return layer.moe; });
}

int64_t Model::rotary_dim() const {
  if (qk_rope_head_dim > 0) return qk_rope_head_dim;
  return static_cast<int64_t>(static_cast<double>(head_dim) * partial_rotary_factor);
}

int64_t Model::need(int64_t Model::*field) const {
  if (this->*field > 0) return this->*field;
  const auto is_it = [&](const Field& known) { return known.member == field; };
  refuse(file, std::find_if(fields().begin(), fields().end(), is_it)->names.front(),
         "expected a positive integer, but the field is missing");
}

Model parse_model(std::string_view json_text, const std::string& file) {
  const json object = text_model(parse_object(json_text, file), file);
  const Config config(object, file);
  refuse_what_is_not_modelled(config);

  Model m;
  m.file = file;
  const std::filesystem::path path(file);
  m.name = path.stem().string();
  if (path.filename() == "config.json") {
    const std::string folder = std::filesystem::absolute(path).parent_path().filename().string();
    if (!folder.empty()) m.name = folder;
  }
  m.model_type = config.word({"model_type"}, {}, "");
  const Family& family = *std::find_if(std::begin(kFamilies), std::end(kFamilies),
                                       [&](const Family& f) { return m.model_type.starts_with(f.model_type); });
  Reader reader{config, family, m};
  reader.sizes();
  reader.attention();
  reader.rope();
  reader.experts();
  reader.moe_layers();
  reader.windows();
  reader.quantization();
  return m;
}

std::vector<std::string> bundled_models() {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(models_folder(), error))
    if (entry.path().extension() == ".json") names.push_back(entry.path().stem().string());
  std::sort(names.begin(), names.end());
  return names;
}

Model load_model(const std::string& spec) {
  const size_t slash = spec.rfind('/');
  const size_t tilde = std::min(spec.find('~', slash == std::string::npos ? 0 : slash), spec.size());
  const std::string base = spec.substr(0, tilde);
  const bool is_path = slash != std::string::npos || base.ends_with(".json");
  const std::filesystem::path path =
      is_path ? std::filesystem::path(base) : std::filesystem::path(models_folder()) / (base + ".json");
  std::error_code error;
  if (!is_path && !std::filesystem::exists(path, error)) {
    std::string list;
    for (const std::string& name : bundled_models()) list += (list.empty() ? "" : ", ") + name;
    refuse(base, "model",
           "expected the path of a config.json or one of " +
               (list.empty() ? "those in a folder that has none, " + models_folder() : list));
  }
  const Model model = parse_model(read_file(path), path.string());
  return tilde == spec.size() ? model : counterfactual(model, spec.substr(tilde + 1));
}

Model counterfactual(const Model& model, const std::string& suffix) {
  if (const size_t last = suffix.rfind('~'); last != std::string::npos)
    return counterfactual(counterfactual(model, suffix.substr(0, last)), suffix.substr(last + 1));
  Model m = model;
  m.name += "~" + suffix;
  if (!m.base) m.base = std::make_shared<const Model>(model);
  if (suffix == "mha" || suffix == "gqa8" || suffix == "mqa") {
    const int64_t heads = m.need(&Model::num_attention_heads);
    if (suffix == "gqa8" && heads % 8 != 0)
      refuse(m.file, "~gqa8", "expected num_attention_heads to be a multiple of 8");
    m.num_key_value_heads = suffix == "mha" ? heads : suffix == "gqa8" ? 8 : 1;
    m.kv_lora_rank = 0;
  } else if (suffix == "dense_active" || suffix == "dense_total") {
    if (m.moe_layers() == 0) refuse(m.file, "~" + suffix, "expected a model with routed experts");
    const int64_t experts = suffix == "dense_active" ? m.need(&Model::num_experts_per_tok) : m.n_routed_experts;
    const int64_t width = experts * m.need(&Model::moe_intermediate_size) + m.shared_expert_intermediate_size;
    for (Layer& layer : m.layers)
      if (layer.moe) layer = {.moe = false, .intermediate_size = width, .sliding_window = layer.sliding_window};
    m.n_routed_experts = m.num_experts_per_tok = m.moe_intermediate_size = 0;
    m.n_shared_experts = m.shared_expert_intermediate_size = 0;
  } else {
    refuse(m.file, "~" + suffix, "expected one of ~mha, ~gqa8, ~mqa, ~dense_active, ~dense_total");
  }
  return m;
}

}  // namespace mmb
