// load_model: every habit of published configs reads right, and whatever is wrong or not modelled is refused by its
// name.
#include "mmb/model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <regex>

#include "mmb/accounting.h"
#include "mmb/error.h"

namespace mmb {
namespace {

using nlohmann::json;

json config(const std::string& name) {
  std::ifstream stream(std::string(MMB_SOURCE_DIR "/bench/models") + "/" + name + ".json");
  return json::parse(stream);
}
json config(const std::string& name, const json& changes) {
  json object = config(name);
  object.merge_patch(changes);  // a null removes the field
  return object;
}
Model parse(const json& object) {
  return parse_model(object.dump(), "some/model.json");
}

// The sentence with which `text` is refused, by the loader or by the accounts that ask for every field.
std::string refusal(const std::string& text) {
  try {
    account(parse_model(text, "some/model.json"));
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}
std::string load_refusal(const std::string& spec) {
  try {
    load_model(spec);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}
void expect_refused(const json& object, const std::string& field) {
  const std::string message = refusal(object.dump());
  EXPECT_EQ(message.rfind("some/model.json: " + field + ": expected", 0), 0u) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
}
// For a field with a null, which merge_patch would take for a removal.
json with(json object, const std::string& field, const json& value) {
  object[field] = value;
  return object;
}

struct TempDir {
  std::filesystem::path path;
  TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "mmb_model_test_XXXXXX").string();
    path = mkdtemp(pattern.data());
  }
  ~TempDir() { std::filesystem::remove_all(path); }
  std::string write(const std::string& name, const std::string& text) const {
    std::filesystem::create_directories((path / name).parent_path());
    std::ofstream(path / name, std::ios::binary) << text;
    return (path / name).string();
  }
};

// ---------------------------------------------------------------------------------------------------------- names and
// paths

TEST(LoadModel, EveryBundledModelLoadsByNameAndByPath) {
  const auto names = bundled_models();
  EXPECT_EQ(names, (std::vector<std::string>{"DeepSeek-67B", "DeepSeek-V2", "DeepSeek-V2-Lite", "DeepSeek-V3",
                                             "Llama-3.1-405B", "Llama-3.1-70B", "Llama-3.1-8B", "Mixtral-8x7B",
                                             "Qwen2.5-72B", "Qwen3-30B-A3B", "tiny-mla-moe"}));
  for (const auto& name : names) {
    EXPECT_EQ(load_model(name).name, name);
    EXPECT_EQ(load_model(std::string(MMB_SOURCE_DIR "/bench/models") + "/" + name + ".json").name, name);
  }
}

TEST(LoadModel, AModelIsNamedAfterItsFileOrTheFolderOfItsConfigJson) {
  const TempDir dir;
  const std::string text = config("tiny-mla-moe").dump();
  EXPECT_EQ(load_model(dir.write("Mine/config.json", text)).name, "Mine");
  EXPECT_EQ(load_model(dir.write("Mine/config.json", text) + "~mqa").name, "Mine~mqa");
  EXPECT_EQ(load_model(dir.write("other.json", text)).name, "other");
  EXPECT_EQ(load_model(dir.write("with~tilde/config.json", text)).name, "with~tilde");
}

TEST(LoadModel, TheEnvironmentNamesAnotherFolderOfModels) {
  const TempDir dir;
  dir.write("Mine.json", config("tiny-mla-moe").dump());
  setenv("MMB_MODELS_DIR", dir.path.c_str(), 1);
  EXPECT_EQ(load_model("Mine").name, "Mine");
  EXPECT_EQ(bundled_models(), std::vector<std::string>{"Mine"});
  EXPECT_THROW(load_model("DeepSeek-V3"), Error);
  unsetenv("MMB_MODELS_DIR");
  EXPECT_EQ(load_model("DeepSeek-V3").name, "DeepSeek-V3");
}

TEST(LoadModel, FilesThatCannotBeReadAreRefused) {
  const TempDir dir;
  const std::string missing = (dir.path / "missing.json").string();
  EXPECT_EQ(load_refusal(missing), missing + ": file: expected a config.json, but there is no such file");
  EXPECT_EQ(load_refusal(dir.path.string()),
            dir.path.string() + ": file: expected a config.json, but it is not a regular file");
  EXPECT_NE(load_refusal("DeepSeek-V9")
                .find("DeepSeek-V9: model: expected the path of a config.json or one of DeepSeek-67B, "),
            std::string::npos);
  EXPECT_NE(load_refusal("").find(": model: expected"), std::string::npos);
  EXPECT_NE(load_refusal("/dev/null").find("not a regular file"), std::string::npos);
  const std::string empty = dir.write("empty.json", "");
  EXPECT_EQ(load_refusal(empty).rfind(empty + ": JSON: expected", 0), 0u) << load_refusal(empty);
  const std::string large = dir.write("large.json", std::string((16 << 20) + 1, ' '));
  EXPECT_EQ(load_refusal(large), large + ": file: expected a config.json of at most 16 MiB");
  const std::string closed = dir.write("closed.json", config("tiny-mla-moe").dump());
  std::filesystem::permissions(closed, std::filesystem::perms::none);
  const bool root = std::ifstream(closed).is_open();  // root reads everything
  EXPECT_EQ(load_refusal(closed), root ? "accepted" : closed + ": file: expected a readable file");
}

// ------------------------------------------------------------------------------------------------------------ not a
// config

TEST(ParseModel, WhatIsNotAJsonObjectIsRefused) {
  const std::string whole = config("DeepSeek-V3").dump();
  const std::string deep = "{\"a\":" + std::string(200000, '[') + std::string(200000, ']') + "}";
  std::string deep_objects;
  for (int i = 0; i < 200000; ++i) deep_objects += "{\"a\":";
  const std::vector<std::string> texts = {"",
                                          "hello",
                                          "[1, 2]",
                                          "null",
                                          "3",
                                          whole.substr(0, whole.size() / 2),
                                          whole + "}",
                                          deep,
                                          deep.substr(0, 200000),
                                          deep_objects,
                                          std::string(200000, '['),
                                          "{\"hidden_size\": NaN}",
                                          "{\"rope_theta\": 1e999}",
                                          "{\"model_type\": \"\xff\xfe\"}",
                                          "\xff\xfe{}",
                                          "{\"a\": 1,}",
                                          "// c\n{}",
                                          std::string(1000, '\0')};
  for (const std::string& text : texts) {
    const std::string message = refusal(text);
    EXPECT_EQ(message.rfind("some/model.json: JSON: expected", 0), 0u) << message;
  }
}

TEST(ParseModel, AFieldGivenTwiceIsRefused) {
  EXPECT_EQ(refusal(R"({"hidden_size": 64, "hidden_size": 128})"),
            "some/model.json: hidden_size: expected once, found twice");
  EXPECT_EQ(parse({{"a", {{"hidden_size", 1}}}, {"hidden_size", 2}}).hidden_size,
            2);  // the same name in two objects is fine
}

// ------------------------------------------------------------------------------------------------------------ wrong
// values

TEST(ParseModel, EverySizeIsAPositiveIntegerOfSensibleMagnitude) {
  const std::vector<json> wrong = {
      -1,          7168.0, 0.5, "7168", true, json::array(), json::object(), 1e300, int64_t{1} << 62, uint64_t{1} << 63,
      ~uint64_t{0}};
  const std::vector<std::string> positive = {"hidden_size",
                                             "num_hidden_layers",
                                             "vocab_size",
                                             "max_position_embeddings",
                                             "num_attention_heads",
                                             "num_key_value_heads",
                                             "v_head_dim",
                                             "qk_nope_head_dim",
                                             "qk_rope_head_dim",
                                             "intermediate_size",
                                             "moe_intermediate_size",
                                             "n_routed_experts",
                                             "num_experts_per_tok",
                                             "n_group",
                                             "topk_group"};
  std::vector<std::string> all = positive;
  all.insert(all.end(), {"num_nextn_predict_layers", "q_lora_rank", "n_shared_experts", "first_k_dense_replace"});
  for (const std::string& field : all)
    for (const json& value : wrong) expect_refused(with(config("DeepSeek-V3"), field, value), field);
  for (const std::string& field : positive) expect_refused(with(config("DeepSeek-V3"), field, 0), field);
  for (const json& value : {json(-1), json(512.0), json("512"), json(true)})
    expect_refused(with(config("DeepSeek-V3"), "kv_lora_rank", value), "kv_lora_rank");
  for (const json& value : {json(0), json(-1), json(1.0), json("1"), json(true), json::object()})
    expect_refused(with(config("DeepSeek-V3"), "moe_layer_freq", value), "moe_layer_freq");
  for (const json& value : wrong) expect_refused(with(config("Qwen3-30B-A3B"), "head_dim", value), "head_dim");
}

TEST(ParseModel, NumbersWordsAndFlagsAreChecked) {
  const json v3 = config("DeepSeek-V3");
  expect_refused(with(v3, "rope_theta", 1), "rope_theta");
  for (const char* field : {"rope_theta", "rms_norm_eps", "routed_scaling_factor"})
    for (const json& value : {json(0), json(-1.0), json("1"), json(true), json::array(), json(1e300)})
      expect_refused(with(v3, field, value), field);
  for (const char* field : {"norm_topk_prob", "tie_word_embeddings", "attention_bias"})
    for (const json& value : {json(0), json("true"), json::array()}) expect_refused(with(v3, field, value), field);
  for (const char* field : {"scoring_func", "topk_method", "hidden_act"})
    for (const json& value : {json(0), json("unheard_of"), json(""), json::array()})
      expect_refused(with(v3, field, value), field);
  for (const char* act : {"gelu", "gelu_pytorch_tanh", "relu2"}) {
    expect_refused(with(v3, "hidden_act", act), "hidden_act");
    expect_refused(with(v3, "hidden_activation", act), "hidden_activation");
  }
  expect_refused(with(v3, "model_type", 3), "model_type");
  for (const char* field : {"rope_scaling", "quantization_config", "text_config"})
    for (const json& value : {json(0), json("yarn"), json::array()}) expect_refused(with(v3, field, value), field);
}

TEST(ParseModel, SizesThatContradictEachOtherAreRefused) {
  expect_refused(config("DeepSeek-V3", {{"num_experts_per_tok", 257}}), "num_experts_per_tok");
  expect_refused(config("DeepSeek-V3", {{"topk_group", 9}}), "topk_group");
  expect_refused(config("DeepSeek-V3", {{"n_group", 7}}), "n_group");
  expect_refused(config("DeepSeek-V3", {{"topk_group", 1}, {"num_experts_per_tok", 33}}), "num_experts_per_tok");
  expect_refused(config("DeepSeek-V3", {{"n_group", 256}, {"topk_group", 8}}), "n_group");
  expect_refused(config("DeepSeek-V3", {{"topk_group", nullptr}}), "topk_group");
  expect_refused(config("Llama-3.1-8B", {{"num_key_value_heads", 7}}), "num_key_value_heads");
  expect_refused(config("Llama-3.1-8B", {{"num_key_value_heads", 64}}), "num_key_value_heads");
  expect_refused(config("DeepSeek-V3", {{"num_key_value_heads", 3}}), "num_key_value_heads");
  expect_refused(config("DeepSeek-V3", {{"qk_rope_head_dim", 63}}), "qk_rope_head_dim");
  expect_refused(config("Llama-3.1-8B", {{"head_dim", 127}}), "head_dim");
  expect_refused(config("Llama-3.1-8B", {{"hidden_size", 4095}}), "head_dim");
  expect_refused(config("Llama-3.1-8B", {{"partial_rotary_factor", 0.4921875}}), "partial_rotary_factor");
  expect_refused(config("Llama-3.1-8B", {{"partial_rotary_factor", 0.001}}), "partial_rotary_factor");
  expect_refused(config("DeepSeek-V3", {{"first_k_dense_replace", 62}}), "first_k_dense_replace");
  expect_refused(config("DeepSeek-V3", {{"shared_expert_intermediate_size", 4096}}), "shared_expert_intermediate_size");
}

TEST(ParseModel, SizesWhoseProductsOverflowAreRefused) {
  const int64_t wide = 1 << 20, heads = 1 << 14;
  expect_refused(
      config("DeepSeek-V3", {{"hidden_size", wide}, {"n_routed_experts", 1 << 16}, {"moe_intermediate_size", wide}}),
      "moe_intermediate_size");
  expect_refused(
      config("Llama-3.1-8B",
             {{"hidden_size", wide}, {"head_dim", 128}, {"intermediate_size", wide}, {"num_hidden_layers", 4096}}),
      "intermediate_size");
  expect_refused(config("Llama-3.1-8B", {{"hidden_size", wide},
                                         {"num_attention_heads", heads},
                                         {"num_key_value_heads", heads},
                                         {"head_dim", heads},
                                         {"num_hidden_layers", 4096}}),
                 "num_attention_heads");
}

TEST(ParseModel, FieldsAreDemandedByThoseWhoUseThem) {
  const Model m =
      parse({{"hidden_size", 96}, {"num_attention_heads", 6}, {"num_key_value_heads", 2}, {"head_dim", 16}});
  EXPECT_EQ(m.need(&Model::head_dim), 16);
  EXPECT_EQ(m.vocab_size, 0);
  EXPECT_THROW(m.need(&Model::vocab_size), Error);
  EXPECT_EQ(refusal("{}"), "some/model.json: num_hidden_layers: expected a positive integer, but the field is missing");
  for (const char* name : {"DeepSeek-V3", "Llama-3.1-8B"})
    for (const char* field :
         {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"})
      expect_refused(config(name, {{field, nullptr}}), field);
  for (const char* field :
       {"n_routed_experts", "num_experts_per_tok", "qk_nope_head_dim", "qk_rope_head_dim", "kv_lora_rank"})
    expect_refused(config("DeepSeek-V3", {{field, nullptr}}), field);
  EXPECT_EQ(refusal(config("Qwen3-30B-A3B", {{"intermediate_size", nullptr}}).dump()),
            "accepted");  // it has no dense layer
}

// ------------------------------------------------------------------------------------------------ habits of published
// configs

TEST(Habits, TheLanguageModelMayBeNestedUnderTextConfig) {
  json inner = config("DeepSeek-V3");
  const json quantization = inner["quantization_config"];
  inner.erase("quantization_config");
  inner.erase("tie_word_embeddings");
  const Model m = parse({{"model_type", "some_vl"},
                         {"hidden_size", 1},
                         {"tie_word_embeddings", true},
                         {"quantization_config", quantization},
                         {"vision_config", {{"hidden_size", 99}}},
                         {"text_config", inner}});
  EXPECT_EQ(m.hidden_size, 7168);
  EXPECT_EQ(m.model_type, "deepseek_v3");
  EXPECT_EQ(m.quantization_config.quant_method, "fp8");
  EXPECT_TRUE(m.tie_word_embeddings);
}

TEST(Habits, RoutedExpertsTopKAndSharedExpertsUnderAnyName) {
  const json v3 = config("DeepSeek-V3");
  for (const char* name : {"num_experts", "num_local_experts"})
    EXPECT_EQ(parse(config("DeepSeek-V3", {{"n_routed_experts", nullptr}, {name, 128}})).n_routed_experts, 128) << name;
  for (const char* name : {"num_experts_per_token", "experts_per_token"})
    EXPECT_EQ(parse(config("DeepSeek-V3", {{"num_experts_per_tok", nullptr}, {name, 4}})).num_experts_per_tok, 4)
        << name;
  EXPECT_EQ(parse(with(v3, "experts_per_token", 8)).num_experts_per_tok, 8);
  expect_refused(with(v3, "experts_per_token", 4), "experts_per_token");

  EXPECT_EQ(parse(with(v3, "n_shared_experts", nullptr)).shared_expert_intermediate_size, 0);
  EXPECT_EQ(parse(config("DeepSeek-V3", {{"n_shared_experts", nullptr}})).n_shared_experts, 0);
  EXPECT_EQ(parse(with(v3, "n_shared_experts", 0)).n_shared_experts, 0);
  EXPECT_EQ(parse(config("DeepSeek-V3", {{"n_shared_experts", nullptr}, {"num_shared_experts", 2}}))
                .shared_expert_intermediate_size,
            4096);
  const Model width =
      parse(config("Qwen3-30B-A3B", {{"model_type", "qwen2_moe"}, {"shared_expert_intermediate_size", 5632}}));
  EXPECT_EQ(width.shared_expert_intermediate_size, 5632);
  EXPECT_EQ(width.n_shared_experts, 1);
  EXPECT_EQ(parse(config("Mixtral-8x7B", {{"shared_intermediate_size", 1024}})).shared_expert_intermediate_size, 1024);
  EXPECT_TRUE(width.shared_expert_gate);
}

TEST(Habits, WithoutMoeIntermediateSizeTheExpertsAreIntermediateSizeWide) {
  EXPECT_EQ(load_model("Mixtral-8x7B").moe_intermediate_size, 14336);
  EXPECT_EQ(parse(with(config("DeepSeek-V3"), "moe_intermediate_size", nullptr)).moe_intermediate_size, 18432);
}

TEST(Habits, WhichLayersAreMoe) {
  const json six = config("DeepSeek-V3",
                          {{"num_hidden_layers", 6}, {"first_k_dense_replace", nullptr}, {"moe_layer_freq", nullptr}});
  const auto changed = [&](const json& changes) {
    json object = six;
    object.update(changes);
    return object;
  };
  const auto of = [&](const json& changes) {
    const Model m = parse(changed(changes));
    std::string layers;
    for (int64_t l = 0; l < m.num_hidden_layers; ++l) layers += m.is_moe_layer(l) ? 'x' : '-';
    return layers;
  };
  EXPECT_EQ(of(json::object()), "xxxxxx");
  EXPECT_EQ(of({{"first_k_dense_replace", nullptr}, {"moe_layer_freq", nullptr}}), "xxxxxx");
  EXPECT_EQ(of({{"first_k_dense_replace", 3}}), "---xxx");
  EXPECT_EQ(of({{"first_k_dense_replace", 1}, {"moe_layer_freq", 2}}), "--x-x-");
  EXPECT_EQ(of({{"moe_layer_freq", {0, 1, 1, 0, 1, 1}}}), "-xx-xx");
  EXPECT_EQ(of({{"first_k_dense_replace", 1}, {"moe_layer_freq", {0, 1, 1, 0, 1, 1}}}), "-xx-xx");
  EXPECT_EQ(of({{"decoder_sparse_step", 2}}), "-x-x-x");
  EXPECT_EQ(of({{"decoder_sparse_step", 1}, {"mlp_only_layers", {0, 5}}}), "-xxxx-");
  EXPECT_EQ(of({{"mlp_layer_types", {"dense", "sparse", "sparse", "dense", "dense", "sparse"}}}), "-xx--x");
  EXPECT_EQ(of({{"first_k_dense_replace", 6}}), "------");
  EXPECT_EQ(load_model("Llama-3.1-8B").moe_layers(), 0);
  EXPECT_EQ(load_model("DeepSeek-V3").moe_layers(), 58);
  EXPECT_FALSE(load_model("DeepSeek-V3").is_moe_layer(2));

  expect_refused(changed({{"moe_layer_freq", {0, 1}}}), "moe_layer_freq");
  expect_refused(changed({{"moe_layer_freq", {0, 1, 1, 0, 1, 2}}}), "moe_layer_freq");
  expect_refused(changed({{"moe_layer_freq", {0, 1, 1, 0, 1, 0.5}}}), "moe_layer_freq");
  expect_refused(changed({{"moe_layer_freq", {1, 1, 1, 0, 1, 1}}, {"first_k_dense_replace", 1}}),
                 "first_k_dense_replace");
  expect_refused(changed({{"mlp_layer_types", {"dense", "sparse"}}}), "mlp_layer_types");
  expect_refused(changed({{"mlp_layer_types", {"dense", "sparse", "hash", "dense", "dense", "sparse"}}}),
                 "mlp_layer_types");
  expect_refused(changed({{"mlp_only_layers", {6}}}), "mlp_only_layers");
  expect_refused(changed({{"mlp_only_layers", 3}}), "mlp_only_layers");
  expect_refused(changed({{"decoder_sparse_step", 0}}), "decoder_sparse_step");
}

TEST(Habits, TheRouterUnderAnyName) {
  const json bare = config("DeepSeek-V3", {{"scoring_func", nullptr},
                                           {"norm_topk_prob", nullptr},
                                           {"n_group", nullptr},
                                           {"topk_group", nullptr},
                                           {"topk_method", nullptr},
                                           {"routed_scaling_factor", nullptr},
                                           {"model_type", nullptr}});
  EXPECT_EQ(parse(bare).scoring_func, "softmax");
  EXPECT_EQ(parse(bare).topk_method, "greedy");
  EXPECT_EQ(parse(bare).n_group, 1);
  EXPECT_EQ(parse(bare).topk_group, 1);
  EXPECT_EQ(parse(bare).routed_scaling_factor, 1);
  json kimi = bare;
  kimi.update({{"moe_router_activation_func", "sigmoid"},
               {"moe_renormalize", true},
               {"num_expert_group", 8},
               {"topk_group", 4},
               {"moe_router_scaling_factor", 2.5}});
  EXPECT_EQ(parse(kimi).scoring_func, "sigmoid");
  EXPECT_EQ(parse(kimi).topk_method, "noaux_tc");
  EXPECT_TRUE(parse(kimi).norm_topk_prob);
  EXPECT_EQ(parse(kimi).n_group, 8);
  EXPECT_EQ(parse(kimi).topk_group, 4);
  EXPECT_EQ(parse(kimi).routed_scaling_factor, 2.5);
  EXPECT_EQ(parse(with(kimi, "moe_router_scaling_factor", nullptr)).routed_scaling_factor, 1);
  expect_refused(with(kimi, "moe_router_activation_func", "sqrtsoftplus"), "moe_router_activation_func");

  EXPECT_EQ(load_model("DeepSeek-V2").topk_method, "group_limited_greedy");
  EXPECT_EQ(load_model("DeepSeek-V2").routed_scaling_factor, 16);
  EXPECT_EQ(parse(with(config("DeepSeek-V2"), "topk_method", nullptr)).topk_method, "group_limited_greedy");
}

TEST(Habits, FamilyDefaults) {
  EXPECT_TRUE(load_model("Mixtral-8x7B").norm_topk_prob);
  EXPECT_FALSE(parse(config("Qwen3-30B-A3B", {{"norm_topk_prob", nullptr}})).norm_topk_prob);
  EXPECT_TRUE(parse(config("DeepSeek-V3", {{"norm_topk_prob", nullptr}})).norm_topk_prob);
  EXPECT_EQ(parse(config("DeepSeek-V3", {{"scoring_func", nullptr}})).scoring_func, "sigmoid");
  EXPECT_EQ(parse(config("DeepSeek-V2", {{"scoring_func", nullptr}})).scoring_func, "softmax");
  EXPECT_EQ(parse(config("Mixtral-8x7B", {{"rms_norm_eps", nullptr}})).rms_norm_eps, 1e-5);
  EXPECT_EQ(parse(config("DeepSeek-V3", {{"rms_norm_eps", nullptr}})).rms_norm_eps, 1e-6);
  EXPECT_EQ(load_model("Llama-3.1-8B").rms_norm_eps, 1e-5);
  EXPECT_TRUE(load_model("Qwen2.5-72B").attention_bias);
  EXPECT_FALSE(load_model("Qwen2.5-72B").attention_output_bias);
  EXPECT_FALSE(load_model("Llama-3.1-8B").attention_bias);
  EXPECT_TRUE(parse(config("Llama-3.1-8B", {{"attention_bias", true}})).attention_output_bias);
  EXPECT_FALSE(
      parse(config("Llama-3.1-8B", {{"attention_bias", true}, {"attention_out_bias", false}})).attention_output_bias);
  for (const char* type : {"glm4_moe", "glm4"})
    EXPECT_FALSE(parse(config("Llama-3.1-8B", {{"attention_bias", true}, {"model_type", type}})).attention_output_bias);
  EXPECT_TRUE(load_model("Qwen3-30B-A3B").qk_norm);
  EXPECT_FALSE(load_model("Qwen2.5-72B").qk_norm);
}

TEST(Habits, NoQueryCompressionIsAbsentNullOrZero) {
  EXPECT_EQ(load_model("DeepSeek-V2-Lite").q_lora_rank, 0);
  EXPECT_EQ(parse(config("DeepSeek-V2-Lite", {{"q_lora_rank", nullptr}})).q_lora_rank, 0);
  EXPECT_EQ(parse(with(config("DeepSeek-V2-Lite"), "q_lora_rank", 0)).q_lora_rank, 0);
}

TEST(Habits, HeadDims) {
  EXPECT_EQ(load_model("Llama-3.1-8B").head_dim, 128);
  EXPECT_EQ(load_model("Llama-3.1-8B").v_head_dim, 128);
  EXPECT_EQ(load_model("Qwen3-30B-A3B").head_dim, 128);  // not 2048 / 32
  EXPECT_EQ(load_model("DeepSeek-V3").head_dim, 192);
  EXPECT_EQ(parse(config("DeepSeek-V3", {{"head_dim", 64}})).head_dim, 192);  // MLA: not to be used
  EXPECT_EQ(parse(config("DeepSeek-V3", {{"v_head_dim", nullptr}})).v_head_dim, 7168 / 128);
  expect_refused(config("DeepSeek-V3", {{"v_head_dim", nullptr}, {"hidden_size", 7169}}), "v_head_dim");
  EXPECT_EQ(kv_elements(parse(config("Llama-3.1-8B", {{"head_dim", 192}, {"v_head_dim", 96}}))), 8 * (192 + 96));
  EXPECT_EQ(parse(config("Llama-3.1-8B", {{"num_key_value_heads", nullptr}})).num_key_value_heads, 32);
  EXPECT_EQ(parse(config("DeepSeek-V3", {{"num_key_value_heads", 8}})).num_key_value_heads,
            128);  // MLA: it means nothing
}

TEST(Habits, RotaryDims) {
  EXPECT_EQ(load_model("DeepSeek-V3").rotary_dim(), 64);
  EXPECT_EQ(load_model("Llama-3.1-8B").rotary_dim(), 128);
  EXPECT_EQ(parse(config("Llama-3.1-8B", {{"partial_rotary_factor", 0.5}})).rotary_dim(), 64);
  EXPECT_EQ(parse(config("DeepSeek-V3", {{"partial_rotary_factor", 0.5}})).rotary_dim(), 64);
  EXPECT_TRUE(load_model("DeepSeek-V3").rope_interleave);
  EXPECT_FALSE(load_model("Llama-3.1-8B").rope_interleave);
}

TEST(Habits, SlidingWindows) {
  const json base = config("Llama-3.1-8B", {{"num_hidden_layers", 3}});
  const auto changed = [&](const json& changes) {
    json object = base;
    object.update(changes);
    return object;
  };
  const auto windows = [&](const json& object) {
    std::vector<int64_t> of_layers;
    for (const Layer& layer : parse(object).layers) of_layers.push_back(layer.sliding_window);
    return of_layers;
  };
  using W = std::vector<int64_t>;
  const json types = {"sliding_attention", "full_attention", "sliding_attention"};
  EXPECT_EQ(windows(base), (W{0, 0, 0}));
  EXPECT_EQ(windows(changed({{"sliding_window", nullptr}})), (W{0, 0, 0}));
  EXPECT_EQ(windows(changed({{"sliding_window", 4096}})), (W{4096, 4096, 4096}));
  EXPECT_EQ(windows(changed({{"sliding_window", 128}, {"layer_types", types}})), (W{128, 0, 128}));
  EXPECT_EQ(windows(changed({{"sliding_window", 4096}, {"use_sliding_window", false}})), (W{0, 0, 0}));
  EXPECT_EQ(windows(changed({{"sliding_window", 4096}, {"use_sliding_window", false}, {"layer_types", types}})),
            (W{0, 0, 0}));
  EXPECT_EQ(windows(changed({{"sliding_window", 4096}, {"use_sliding_window", true}})), (W{4096, 4096, 4096}));
  EXPECT_EQ(windows(changed({{"sliding_window", 4096}, {"use_sliding_window", true}, {"max_window_layers", 1}})),
            (W{0, 4096, 4096}));
  EXPECT_EQ(windows(changed({{"layer_types", {"full_attention", "full_attention", "full_attention"}}})), (W{0, 0, 0}));
  EXPECT_EQ(windows(changed({{"sliding_window", 4096}, {"max_window_layers", 2}})), (W{0, 0, 4096}));
  EXPECT_EQ(load_model("Qwen2.5-72B").layers[79].sliding_window, 0);
  EXPECT_EQ(windows(changed({{"sliding_window", 128}, {"model_type", "gpt_oss"}})), (W{128, 0, 128}));
  expect_refused(changed({{"layer_types", types}}), "sliding_window");
  for (const json& window : {json(0), json(-1), json(4096.0), json("4096")})
    expect_refused(changed({{"sliding_window", window}}), "sliding_window");
  expect_refused(changed({{"sliding_window", 128}, {"layer_types", {"sliding_attention"}}}), "layer_types");
  expect_refused(changed({{"layer_types", "full_attention"}}), "layer_types");
  for (const char* kind : {"linear_attention", "chunked_attention", "deepseek_sparse_attention", ""})
    expect_refused(changed({{"sliding_window", 128}, {"layer_types", {kind, "full_attention", "full_attention"}}}),
                   "layer_types");
}

TEST(Habits, RopeSettings) {
  const RopeScaling v3 = load_model("DeepSeek-V3").rope_scaling;
  EXPECT_EQ(v3.type, "yarn");
  EXPECT_EQ(v3.factor, 40);
  EXPECT_EQ(v3.original_max_position_embeddings, 4096);
  EXPECT_EQ(v3.beta_fast, 32);
  EXPECT_EQ(v3.beta_slow, 1);
  EXPECT_EQ(v3.mscale, 1);
  EXPECT_EQ(v3.mscale_all_dim, 1);
  EXPECT_EQ(load_model("DeepSeek-V2").rope_scaling.mscale, 0.707);
  const RopeScaling llama = load_model("Llama-3.1-8B").rope_scaling;
  EXPECT_EQ(llama.type, "llama3");
  EXPECT_EQ(llama.factor, 8);
  EXPECT_EQ(llama.low_freq_factor, 1);
  EXPECT_EQ(llama.high_freq_factor, 4);
  EXPECT_EQ(load_model("Llama-3.1-8B").rope_theta, 5e5);
  EXPECT_EQ(load_model("Mixtral-8x7B").rope_scaling.type, "default");
  EXPECT_EQ(parse(config("Llama-3.1-8B", {{"rope_theta", nullptr}})).rope_theta, 1e4);

  json parameters = config("DeepSeek-V3")["rope_scaling"];
  parameters["rope_type"] = parameters["type"];
  parameters.erase("type");
  parameters["rope_theta"] = 50000;
  const Model v5 = parse(
      config("DeepSeek-V3", {{"rope_scaling", nullptr}, {"rope_theta", nullptr}, {"rope_parameters", parameters}}));
  EXPECT_EQ(v5.rope_theta, 50000);
  EXPECT_EQ(v5.rope_scaling.factor, 40);

  const auto refused = [](const char* name, const json& changes, const std::string& field) {
    expect_refused(config(name, {{"rope_scaling", changes}}), "rope_scaling." + field);
  };
  for (const char* type : {"linear", "dynamic", "longrope", "su", "ntk", ""})
    refused("DeepSeek-V3", {{"type", type}}, "type");
  refused("DeepSeek-V3", {{"type", nullptr}}, "rope_type");
  refused("DeepSeek-V3", {{"rope_type", "llama3"}}, "type");
  for (const char* field : {"factor", "original_max_position_embeddings"})
    refused("DeepSeek-V3", {{field, nullptr}}, field);
  for (const char* field : {"factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"})
    refused("Llama-3.1-8B", {{field, nullptr}}, field);
  for (const char* field : {"factor", "original_max_position_embeddings", "beta_fast", "beta_slow"})
    for (const json& value : {json(0), json(-1), json("1"), json(1e300)})
      refused("DeepSeek-V3", {{field, value}}, field);
  refused("DeepSeek-V3", {{"beta_fast", 1}, {"beta_slow", 32}}, "beta_fast");
  refused("Llama-3.1-8B", {{"high_freq_factor", 1}}, "high_freq_factor");
  refused("DeepSeek-V3", {{"full_attention", {{"rope_theta", 1e6}}}}, "full_attention");
}

TEST(Habits, MlaIsWhatHasKvLoraRankAndNeverAModelType) {
  EXPECT_TRUE(parse(config("DeepSeek-V3", {{"model_type", "something_new"}})).is_mla());
  EXPECT_FALSE(parse(config("Llama-3.1-8B", {{"model_type", "deepseek_v3"}})).is_mla());
  for (const char* field : {"qk_nope_head_dim", "qk_rope_head_dim", "q_lora_rank", "o_lora_rank"}) {
    expect_refused(config("Llama-3.1-8B", {{field, 64}}), "kv_lora_rank");
    expect_refused(config("Llama-3.1-8B", {{field, 64}, {"kv_lora_rank", 0}}), "kv_lora_rank");
    EXPECT_FALSE(parse(with(config("Llama-3.1-8B"), field, nullptr)).is_mla());
  }
}

TEST(Habits, WhatIsNotModelledIsRefusedByItsName) {
  const json fields = {{"index_topk", 2048},
                       {"index_n_heads", 64},
                       {"index_head_dim", 128},
                       {"linear_attn_config", {{"num_heads", 32}}},
                       {"compress_ratios", {4, 128}},
                       {"zero_expert_num", 128},
                       {"zero_expert_type", "identity"},
                       {"o_lora_rank", 1024},
                       {"linear_num_key_heads", 16},
                       {"full_attention_interval", 4},
                       {"attn_type_list", {0, 1}},
                       {"hybrid_layer_pattern", {0, 1}},
                       {"swa_num_key_value_heads", 8},
                       {"mamba_d_state", 16},
                       {"sliding_window_pattern", 6},
                       {"attention_chunk_size", 8192},
                       {"moe_num_experts", 64},
                       {"moe_k", 6},
                       {"expert_ffn_hidden_size", 2048},
                       {"interleave_moe_layer_step", 2},
                       {"moe_latent_size", 1024},
                       {"routed_expert_hidden_size", 96},
                       {"lm_head_bias", true},
                       {"num_attention_groups", 8},
                       {"num_dense_layers", 2},
                       {"rope_ntk_alpha", 1.0},
                       {"rope_scaling_factor", 32.0},
                       {"attn_output_gate", true}};
  for (const auto& [field, value] : fields.items()) {
    expect_refused(with(config("DeepSeek-V3"), field, value), field);
    EXPECT_EQ(refusal(with(config("DeepSeek-V3"), field, nullptr).dump()), "accepted") << field;
  }
  // Fields about experts that are no sizes do no harm.
  json harmless = config("DeepSeek-V3");
  harmless.update({{"moe_router_enable_expert_bias", true}, {"moe_router_dtype", "fp32"}, {"moe_z_loss_coeff", 1e-3}});
  EXPECT_EQ(refusal(harmless.dump()), "accepted");
}

TEST(LoadModel, ANameTooLongForAFileIsOneOfNoModel) {
  try {
    load_model(std::string(300, 'a'));
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("expected the path of a config.json or one of"), std::string::npos);
  }
}

TEST(Habits, Quantization) {
  const Model v3 = load_model("DeepSeek-V3");
  EXPECT_EQ(v3.quantization_config.quant_method, "fp8");
  EXPECT_EQ(v3.quantization_config.weight_block_size, (std::vector<int64_t>{128, 128}));
  const json modules = {"model.layers.*.self_attn", "lm_head"};
  const Model mxfp4 = parse(config(
      "Mixtral-8x7B", {{"quantization_config", {{"quant_method", "mxfp4"}, {"modules_to_not_convert", modules}}}}));
  EXPECT_EQ(mxfp4.quantization_config.modules_to_not_convert,
            (std::vector<std::string>{"model.layers.*.self_attn", "lm_head"}));
  const auto refused = [](const json& changes, const std::string& field) {
    expect_refused(config("DeepSeek-V3", {{"quantization_config", changes}}), "quantization_config." + field);
  };
  refused({{"quant_method", nullptr}}, "quant_method");
  refused({{"quant_method", 8}}, "quant_method");
  for (const json& block : {json(128), json::array({128}), json::array({128, 0}), json::array({128, 128.0}), json("x")})
    refused({{"weight_block_size", block}}, "weight_block_size");
  refused({{"modules_to_not_convert", "lm_head"}}, "modules_to_not_convert");
  refused({{"modules_to_not_convert", json::array({1})}}, "modules_to_not_convert");
}

// ---------------------------------------------------------------------------------------------------------
// counterfactuals

TEST(Counterfactual, KvHeadsReplaceTheLatentAndTheQueryPathStays) {
  const std::map<std::string, int64_t> kv_heads = {{"mha", 128}, {"gqa8", 8}, {"mqa", 1}};
  for (const auto& [suffix, heads] : kv_heads) {
    const Model m = load_model("DeepSeek-V3~" + suffix);
    EXPECT_EQ(m.name, "DeepSeek-V3~" + suffix);
    EXPECT_FALSE(m.is_mla());
    EXPECT_EQ(m.num_key_value_heads, heads);
    EXPECT_EQ(m.num_attention_heads, 128);
    EXPECT_EQ(m.q_lora_rank, 1536);
    EXPECT_EQ(m.head_dim, 192);
    EXPECT_EQ(m.v_head_dim, 128);
    EXPECT_EQ(m.rotary_dim(), 64);
    EXPECT_TRUE(m.rope_interleave);
    EXPECT_EQ(m.moe_layers(), 58);
    EXPECT_EQ(m.base->name, "DeepSeek-V3");
  }
  EXPECT_EQ(load_model("Llama-3.1-8B~mha").num_key_value_heads, 32);
}

TEST(Counterfactual, DenseFfnsReplaceTheMoeLayersAlone) {
  const Model active = load_model("DeepSeek-V3~dense_active"), total = load_model("DeepSeek-V3~dense_total");
  EXPECT_EQ(active.moe_layers(), 0);
  EXPECT_EQ(active.layers[0].intermediate_size, 18432);
  EXPECT_EQ(active.layers[3].intermediate_size, (8 + 1) * 2048);
  EXPECT_EQ(total.layers[2].intermediate_size, 18432);
  EXPECT_EQ(total.layers[60].intermediate_size, (256 + 1) * 2048);
  EXPECT_EQ(load_model("Mixtral-8x7B~dense_active").layers[0].intermediate_size, 2 * 14336);
}

TEST(Counterfactual, TheyChain) {
  const Model m = load_model("DeepSeek-V3~mha~dense_total");
  EXPECT_EQ(m.name, "DeepSeek-V3~mha~dense_total");
  EXPECT_EQ(m.num_key_value_heads, 128);
  EXPECT_EQ(m.moe_layers(), 0);
  EXPECT_EQ(m.base->name, "DeepSeek-V3");
  EXPECT_TRUE(m.base->is_mla());
}

TEST(Counterfactual, OnesWithoutMeaningAreRefused) {
  const auto expect = [](const std::string& spec, const std::string& sentence) {
    EXPECT_NE(load_refusal(spec).find(sentence), std::string::npos) << load_refusal(spec);
  };
  expect("Llama-3.1-8B~dense_active", "Llama-3.1-8B.json: ~dense_active: expected");
  expect("DeepSeek-V3~dense_total~dense_active", "DeepSeek-V3.json: ~dense_active: expected");
  expect("DeepSeek-V3~mla", "DeepSeek-V3.json: ~mla: expected one of ~mha, ~gqa8, ~mqa, ~dense_active, ~dense_total");
  expect("DeepSeek-V3~", "DeepSeek-V3.json: ~: expected one of ~mha");
  EXPECT_THROW(
      counterfactual(parse(config("Llama-3.1-8B", {{"num_attention_heads", 4}, {"num_key_value_heads", 4}})), "gqa8"),
      Error);
}

// ---------------------------------------------------------------------------------------------------------------
// mutations

// Either every figure is positive, or the refusal names file and field: never another exception, never a crash.
void expect_account_or_refusal(const std::string& text) {
  try {
    const Model model = parse_model(text, "mutant.json");
    for (const char* dtype : {"bf16", "native"}) {
      const Account a = account(model, {.context = 5000, .batch = 3, .dtype = dtype});
      for (int64_t figure :
           {a.total_parameters, a.active_parameters, a.kv_elements_per_token, a.kv_bytes_per_token,
            a.kv_bytes_at_context, a.attention_flops_per_token, a.attention_flops_per_token_expanded, a.flops_per_token,
            a.weight_bytes_per_step, a.training_flops_per_token_4k, a.kv_bytes_per_token_expanded.value_or(1)})
        ASSERT_GT(figure, 0) << text;
      ASSERT_LE(a.active_parameters, a.total_parameters) << text;
      ASSERT_TRUE(std::isfinite(a.experts_touched) && a.experts_touched >= 0) << text;
    }
  } catch (const Error& error) {
    static const std::regex sentence(R"(mutant\.json: [^:\n]+: expected [^\n]+)");
    ASSERT_TRUE(std::regex_match(error.what(), sentence)) << error.what();
  }
}

const std::vector<json>& bad_values() {
  static const std::vector<json> values = {nullptr,
                                           0,
                                           1,
                                           2,
                                           3,
                                           7,
                                           -1,
                                           0.5,
                                           7168.0,
                                           65536,
                                           1 << 20,
                                           int64_t{1} << 40,
                                           int64_t{1} << 62,
                                           ~uint64_t{0},
                                           1e300,
                                           -1e300,
                                           true,
                                           false,
                                           "",
                                           "yarn",
                                           "\xc3\xa9:\n",
                                           json::array(),
                                           json::array({1, 2}),
                                           json::array({"full_attention"}),
                                           json::object(),
                                           json::object({{"type", 1}}),
                                           json::object({{"a", {{"b", 1}}}})};
  return values;
}

TEST(Mutations, EveryFieldDeletedOrReplaced) {
  for (const std::string& name : bundled_models()) {
    json original = config(name);
    original["num_hidden_layers"] = std::min<int64_t>(5, original["num_hidden_layers"]);  // the same fields, faster
    for (const auto& field : original.items()) {
      json mutant = original;
      mutant.erase(field.key());
      expect_account_or_refusal(mutant.dump());
      for (const json& value : bad_values()) expect_account_or_refusal(with(original, field.key(), value).dump());
      if (!field.value().is_object()) continue;
      for (const auto& inner : field.value().items())
        for (const json& value : bad_values()) {
          mutant = original;
          mutant[field.key()][inner.key()] = value;
          expect_account_or_refusal(mutant.dump());
        }
    }
  }
}

TEST(Mutations, SeveralFieldsAndBytesAtRandom) {
  std::mt19937 random(20250131);
  const auto pick = [&](size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(random); };
  const std::vector<std::string> names = bundled_models();
  for (int round = 0; round < 3000; ++round) {
    json mutant = config(names[pick(names.size())]);
    mutant["num_hidden_layers"] = 5;
    const json donor = config(names[pick(names.size())]);  // fields of one model in another
    for (size_t n = 1 + pick(4); n > 0; --n) {
      const auto field = std::next(donor.begin(), static_cast<int64_t>(pick(donor.size())));
      mutant[field.key()] = pick(2) == 0 ? *field : bad_values()[pick(bad_values().size())];
    }
    std::string text = mutant.dump();
    if (round % 3 == 0) text[pick(text.size())] = static_cast<char>(pick(256));
    if (round % 7 == 0) text.resize(pick(text.size()));
    expect_account_or_refusal(text);
  }
}

}  // namespace
}  // namespace mmb
