// The accounts against published counts, and against every figure that a config alone determines.
#include "mmb/accounting.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "mmb/error.h"

namespace mmb {
namespace {

using nlohmann::json;

json config(const std::string& name, const json& changes = json::object()) {
  std::ifstream stream(std::string(MMB_SOURCE_DIR "/bench/models") + "/" + name + ".json");
  json object = json::parse(stream);
  object.merge_patch(changes);
  return object;
}
Model parse(const json& object) {
  return parse_model(object.dump(), "some/model.json");
}
Account account_of(const std::string& name, const AccountOptions& options = {}) {
  return account(load_model(name), options);
}

constexpr double kBillion = 1e9;

// total and active in 1e9; KV elements; KV bytes in bf16; attention kFLOP per cached token: expanded, and absorbed for
// MLA.
struct Row {
  const char* model;
  double total, active;
  int64_t kv_elements, kv_bytes;
  double expanded, absorbed;
};
const Row kTable[] = {
    {"DeepSeek-V2-Lite", 15.706, 2.451, 15552, 31104, 276.5, 940.0},
    {"DeepSeek-V2", 235.741, 20.852, 34560, 69120, 4915.2, 16711.7},
    {"DeepSeek-V3", 671.026, 36.626, 35136, 70272, 4997.1, 16990.2},
    {"DeepSeek-67B", 67.425, 66.586, 194560, 389120, 3113.0, 3113.0},
    {"Llama-3.1-8B", 8.030, 7.505, 65536, 131072, 524.3, 524.3},
    {"Llama-3.1-70B", 70.554, 69.503, 163840, 327680, 2621.4, 2621.4},
    {"Llama-3.1-405B", 405.853, 403.752, 258048, 516096, 8257.5, 8257.5},
    {"Qwen2.5-72B", 72.706, 71.460, 163840, 327680, 2621.4, 2621.4},
    {"Qwen3-30B-A3B", 30.532, 3.042, 49152, 98304, 786.4, 786.4},
    {"Mixtral-8x7B", 46.703, 12.749, 65536, 131072, 524.3, 524.3},
};

TEST(Account, TheTableOfModels) {
  for (const Row& row : kTable) {
    SCOPED_TRACE(row.model);
    const Account a = account_of(row.model, {.context = 1000});
    EXPECT_EQ(a.model, row.model);
    EXPECT_NEAR(static_cast<double>(a.total_parameters) / kBillion, row.total, 0.0005);
    EXPECT_NEAR(static_cast<double>(a.active_parameters) / kBillion, row.active, 0.0005);
    EXPECT_EQ(a.kv_elements_per_token, row.kv_elements);
    EXPECT_EQ(a.kv_bytes_per_token, row.kv_bytes);
    EXPECT_EQ(a.kv_bytes_at_context, 1000 * row.kv_bytes);
    EXPECT_NEAR(static_cast<double>(a.attention_flops_per_token_expanded) / 1e6, row.expanded, 0.05);
    EXPECT_NEAR(static_cast<double>(a.attention_flops_per_token) / 1e6, row.absorbed, 0.05);
    EXPECT_EQ(a.flops_per_token, 2 * a.active_parameters + a.attention_flops_per_token);
    EXPECT_EQ(a.weight_bytes_per_step, 2 * a.active_parameters);
  }
}

// Element counts of the published checkpoints (for DeepSeek-V3 without its MTP layer).
TEST(Account, PublishedParameterCountsToTheLast) {
  const std::map<std::string, int64_t> published = {
      {"DeepSeek-V2-Lite", 15706484224}, {"DeepSeek-V2", 235741434880},  {"DeepSeek-V3", 671026419200},
      {"Llama-3.1-8B", 8030261248},      {"Llama-3.1-70B", 70553706496}, {"Llama-3.1-405B", 405853388800},
      {"Qwen2.5-72B", 72706203648},      {"Qwen3-30B-A3B", 30532122624}, {"Mixtral-8x7B", 46702792704}};
  for (const auto& [name, parameters] : published) EXPECT_EQ(total_parameters(load_model(name)), parameters) << name;
}

TEST(Account, PublishedParameterCountsOfModelsThatAreNotBundled) {
  json kimi = config("DeepSeek-V3", {{"model_type", "kimi_k2"},
                                     {"num_attention_heads", 64},
                                     {"num_key_value_heads", 64},
                                     {"n_routed_experts", 384},
                                     {"n_group", 1},
                                     {"topk_group", 1},
                                     {"first_k_dense_replace", 1},
                                     {"vocab_size", 163840},
                                     {"routed_scaling_factor", 2.827}});
  kimi["rope_scaling"]["beta_fast"] = 1;  // as beta_slow
  EXPECT_EQ(total_parameters(parse(kimi)), 1026408232448);

  const json gpt_oss = {{"model_type", "gpt_oss"},  {"hidden_act", "silu"},         {"hidden_size", 2880},
                        {"num_hidden_layers", 24},  {"num_attention_heads", 64},    {"num_key_value_heads", 8},
                        {"head_dim", 64},           {"intermediate_size", 2880},    {"num_local_experts", 32},
                        {"num_experts_per_tok", 4}, {"experts_per_token", 4},       {"vocab_size", 201088},
                        {"attention_bias", true},   {"tie_word_embeddings", false}, {"swiglu_limit", 7.0}};
  EXPECT_EQ(total_parameters(parse(gpt_oss)), 20914757184);

  const json qwen_moe = {
      {"model_type", "qwen2_moe"}, {"hidden_act", "silu"},          {"hidden_size", 2048},
      {"num_hidden_layers", 24},   {"num_attention_heads", 16},     {"num_key_value_heads", 16},
      {"intermediate_size", 5632}, {"moe_intermediate_size", 1408}, {"shared_expert_intermediate_size", 5632},
      {"num_experts", 60},         {"num_experts_per_tok", 4},      {"decoder_sparse_step", 1},
      {"norm_topk_prob", false},   {"vocab_size", 151936},          {"tie_word_embeddings", false}};
  EXPECT_EQ(total_parameters(parse(qwen_moe)), 14315784192);

  const json llama_1b = {{"model_type", "llama"},     {"hidden_size", 2048},      {"num_hidden_layers", 16},
                         {"num_attention_heads", 32}, {"num_key_value_heads", 8}, {"head_dim", 64},
                         {"intermediate_size", 8192}, {"vocab_size", 128256},     {"tie_word_embeddings", true}};
  EXPECT_EQ(total_parameters(parse(llama_1b)), 1235814400);
  EXPECT_EQ(active_parameters(parse(llama_1b)), 1235814400);  // the tied embedding is read as the head
}

TEST(Account, BiasesAndQueryKeyNormsCount) {
  const int64_t plain = total_parameters(parse(config("Qwen2.5-72B", {{"model_type", "llama"}})));
  EXPECT_EQ(plain, 72705384448);
  EXPECT_EQ(total_parameters(load_model("Qwen2.5-72B")) - plain, 80 * (64 + 2 * 8) * 128);
  EXPECT_EQ(layer_parameters(load_model("Qwen3-30B-A3B"), 0, Part::norm), 2 * 2048 + 2 * 128);
  EXPECT_EQ(total_parameters(parse(config("Llama-3.1-8B", {{"attention_bias", true}}))) - 8030261248,
            32 * (4096 + 2 * 1024 + 4096));
  EXPECT_EQ(total_parameters(parse(config("Llama-3.1-8B", {{"mlp_bias", true}}))) - 8030261248,
            32 * (2 * 14336 + 4096));
  EXPECT_EQ(total_parameters(parse(config("DeepSeek-V3", {{"attention_bias", true}}))) - 671026419200,
            61 * (1536 + 576 + 7168));
  // DeepSeek-V2-Lite's q_proj is not a down-projection and has none
  EXPECT_EQ(total_parameters(parse(config("DeepSeek-V2-Lite", {{"attention_bias", true}}))) - 15706484224,
            27 * (576 + 2048));
}

TEST(Account, PartsOfADeepSeekV3Layer) {
  const Model m = load_model("DeepSeek-V3");
  EXPECT_EQ(layer_parameters(m, 0, Part::attention), 187105280);
  EXPECT_EQ(layer_parameters(m, 0, Part::norm), 2 * 7168 + 1536 + 512);
  EXPECT_EQ(layer_parameters(m, 0, Part::dense_ffn), 3 * 7168 * 18432);
  EXPECT_EQ(layer_parameters(m, 0, Part::routed), 0);
  EXPECT_EQ(layer_parameters(m, 3, Part::dense_ffn), 0);
  EXPECT_EQ(layer_parameters(m, 3, Part::router), 256 * 7168 + 256);
  EXPECT_EQ(layer_parameters(m, 3, Part::routed), int64_t{256} * 3 * 7168 * 2048);
  EXPECT_EQ(layer_parameters(m, 3, Part::shared), 3 * 7168 * 2048);
  EXPECT_EQ(routed_active_parameters(m), int64_t{58} * 8 * 3 * 7168 * 2048);
  EXPECT_EQ(layer_parameters(load_model("DeepSeek-V2-Lite"), 1, Part::attention),
            2048 * 16 * 192 + 2048 * 576 + 512 * 16 * 256 + 16 * 128 * 2048);
}

TEST(Account, ExpandedMlaCache) {
  EXPECT_EQ(account_of("DeepSeek-V2-Lite").kv_bytes_per_token_expanded, 276480);
  EXPECT_EQ(account_of("DeepSeek-V2").kv_bytes_per_token_expanded, 4915200);
  EXPECT_EQ(account_of("DeepSeek-V3").kv_bytes_per_token_expanded, 4997120);
  EXPECT_EQ(account_of("Llama-3.1-8B").kv_bytes_per_token_expanded, std::nullopt);
  EXPECT_NEAR(276480.0 / 31104, 8.9, 0.05);
  EXPECT_NEAR(4997120.0 / 70272, 71.1, 0.05);
}

TEST(Account, CacheDtypes) {
  EXPECT_EQ(account_of("DeepSeek-V3", {.cache_dtype = "f32"}).kv_bytes_per_token, 140544);
  EXPECT_EQ(account_of("DeepSeek-V3", {.cache_dtype = "fp8"}).kv_bytes_per_token, 35136);
  const Model v3 = load_model("DeepSeek-V3");
  EXPECT_EQ(kv_bytes(v3, "fp8_flashmla"), 656);
  EXPECT_EQ(account(v3, {.cache_dtype = "fp8_flashmla"}).kv_bytes_per_token, 40016);
  EXPECT_EQ(kv_bytes(load_model("tiny-mla-moe"), "fp8_flashmla"), 40 + 4 + 12);  // 37 latents, padded to the scale
  EXPECT_THROW(account_of("Llama-3.1-8B", {.cache_dtype = "fp8_flashmla"}), Error);
}

// DeepSeek-V2's 93.3 % is a 6-bit latent against 16-bit keys and values.
TEST(Account, LatentAgainstGroupedQueries) {
  const auto elements = [](const char* name) { return static_cast<double>(account_of(name).kv_elements_per_token); };
  EXPECT_NEAR(1 - elements("DeepSeek-V2") * 6 / (elements("DeepSeek-67B") * 16), 0.9334, 5e-5);
  EXPECT_NEAR(1 - elements("DeepSeek-V2") / elements("DeepSeek-67B"), 0.822, 5e-4);
  EXPECT_NEAR(elements("Qwen2.5-72B") / elements("DeepSeek-V3"), 4.66, 0.005);
  EXPECT_NEAR(elements("Llama-3.1-405B") / elements("DeepSeek-V3"), 7.344, 0.0005);
}

TEST(Account, AbsorbedTakes3Point4TimesTheFlopsOfExpanded) {
  for (const char* name : {"DeepSeek-V2-Lite", "DeepSeek-V2", "DeepSeek-V3"}) {
    const Account a = account_of(name);
    EXPECT_DOUBLE_EQ(
        static_cast<double>(a.attention_flops_per_token) / static_cast<double>(a.attention_flops_per_token_expanded),
        3.4)
        << name;
  }
  const Model v2 = load_model("DeepSeek-V2");
  EXPECT_EQ(attention_flops_expanded(v2), 81920);
  EXPECT_EQ(attention_flops(v2), 278528);
  EXPECT_NEAR(static_cast<double>(attention_flops_reexpanded(v2)) / 1e6, 33.64, 0.005);
}

TEST(Account, TrainingFlops) {
  const auto giga = [](const char* name) {
    return static_cast<double>(account_of(name).training_flops_per_token_4k) / 1e9;
  };
  EXPECT_NEAR(giga("DeepSeek-V2"), 155.3, 0.05);
  EXPECT_NEAR(giga("DeepSeek-V3"), 250.46, 0.005);
  EXPECT_NEAR(giga("Llama-3.1-405B"), 6 * 403.752 + 3 * 8.2575 * 2.048, 0.01);
  // 14.8 T tokens at 38.94 % of 989 TFLOP/s: the published H800 hours within half a percent
  EXPECT_NEAR(giga("DeepSeek-V3") * 1e9 * 14.8e12 / (0.3894 * 989e12) / 3600 / 1e3, 2674, 1);
}

TEST(Account, WeightBytesByBatch) {
  const std::vector<double> giga = {36.6, 56.4, 94.2, 162.9, 276.6, 433.3, 584.4, 658.9};
  for (size_t i = 0; i < giga.size(); ++i)
    EXPECT_NEAR(
        static_cast<double>(account_of("DeepSeek-V3", {.batch = 1 << i, .dtype = "fp8"}).weight_bytes_per_step) / 1e9,
        giga[i], 0.051)
        << (1 << i);
  EXPECT_EQ(account_of("Llama-3.1-8B", {.batch = 64}).weight_bytes_per_step,
            2 * account_of("Llama-3.1-8B").active_parameters);
}

TEST(Account, NativeBytesGoByTensor) {
  const Model v3 = load_model("DeepSeek-V3");
  const auto scaled = [](int64_t rows, int64_t cols) {
    return rows * cols + 4 * ((rows + 127) / 128) * ((cols + 127) / 128);
  };
  const int64_t attention =
      scaled(1536, 7168) + scaled(24576, 1536) + scaled(576, 7168) + scaled(32768, 512) + scaled(7168, 16384);
  const auto ffn = [&](int64_t width) { return 2 * scaled(width, 7168) + scaled(7168, width); };
  const int64_t norms = 61 * (2 * 7168 + 1536 + 512) + 7168, router = 58 * (256 * 7168 + 256);
  EXPECT_EQ(account(v3, {.dtype = "native"}).weight_bytes_per_step,
            61 * attention + 3 * ffn(18432) + 58 * (8 + 1) * ffn(2048) + 2 * (norms + router + int64_t{129280} * 7168));
  // a model without quantization_config is bf16
  EXPECT_EQ(account_of("DeepSeek-V2", {.dtype = "native"}).weight_bytes_per_step,
            account_of("DeepSeek-V2").weight_bytes_per_step);

  // mxfp4: 17 bytes for 32 elements of the routed experts; what modules_to_not_convert names stays bf16
  const auto mxfp4 = [](const json& modules) {
    return parse(config("Mixtral-8x7B",
                        {{"quantization_config", {{"quant_method", "mxfp4"}, {"modules_to_not_convert", modules}}}}));
  };
  const int64_t experts = int64_t{32} * 2 * 3 * 4096 * 14336, bf16 = account_of("Mixtral-8x7B").weight_bytes_per_step;
  EXPECT_EQ(account(mxfp4({"lm_head", "model.layers.*.self_attn"}), {.dtype = "native"}).weight_bytes_per_step,
            bf16 - 2 * experts + experts / 32 * 17);
  EXPECT_EQ(account(mxfp4({"model.layers.*.mlp.experts"}), {.dtype = "native"}).weight_bytes_per_step, bf16);
  EXPECT_EQ(account(mxfp4({"model.layers.7.mlp"}), {.dtype = "native"}).weight_bytes_per_step,
            bf16 - (2 * experts - experts / 32 * 17) * 31 / 32);

  json awq = config("Llama-3.1-8B", {{"quantization_config", {{"quant_method", "awq"}}}});
  EXPECT_EQ(account(parse(awq)).weight_bytes_per_step, account_of("Llama-3.1-8B").weight_bytes_per_step);
  EXPECT_THROW(account(parse(awq), {.dtype = "native"}), Error);
}

TEST(Account, OptionsAreChecked) {
  const Model m = load_model("tiny-mla-moe");
  EXPECT_THROW(account(m, {.context = 0}), Error);
  EXPECT_THROW(account(m, {.context = int64_t{1} << 40}), Error);
  EXPECT_THROW(account(m, {.batch = -1}), Error);
  EXPECT_THROW(account(m, {.dtype = "fp7"}), Error);
  EXPECT_THROW(account(m, {.cache_dtype = "native"}), Error);
}

TEST(Account, ContextScalesCacheAndAttention) {
  const Account a = account_of("DeepSeek-V3", {.context = 131072});
  EXPECT_EQ(a.kv_bytes_per_token, 70272);
  EXPECT_EQ(a.kv_bytes_at_context, int64_t{70272} * 131072);
  EXPECT_EQ(a.attention_flops_per_token, int64_t{61} * 278528 * 131072);
}

TEST(Account, SlidingWindowsStopTheCacheAndTheAttention) {
  const json types = {"sliding_attention", "full_attention", "sliding_attention", "full_attention"};
  const json base =
      config("Llama-3.1-8B", {{"num_hidden_layers", 4}, {"sliding_window", 1024}, {"layer_types", types}});
  const Account a = account(parse(base), {.context = 8192});
  EXPECT_EQ(a.kv_bytes_per_token, 4 * 4096);
  EXPECT_EQ(a.kv_bytes_at_context, 4096 * (2 * 8192 + 2 * 1024));
  EXPECT_EQ(a.attention_flops_per_token, int64_t{2} * 32 * 256 * (2 * 8192 + 2 * 1024));
  EXPECT_EQ(account(parse(base), {.context = 512}).kv_bytes_at_context, 4 * 4096 * 512);
  // mean span of a causal 4,096-token sequence: 2,048, or w - w^2 / 8192 under a window
  EXPECT_EQ(a.training_flops_per_token_4k,
            6 * a.active_parameters + int64_t{3} * 2 * 32 * 256 * (2 * 2048 + 2 * (1024 - 128)));
}

TEST(Account, UnusualConfigs) {
  const Account no_shared = account(parse(config("DeepSeek-V3", {{"n_shared_experts", nullptr}})));
  EXPECT_EQ(671026419200 - no_shared.total_parameters, int64_t{58} * 3 * 7168 * 2048);
  json freq = json::array();
  for (int l = 0; l < 61; ++l) freq.push_back(l < 3 ? 0 : 1);
  EXPECT_EQ(account(parse(config("DeepSeek-V3", {{"first_k_dense_replace", nullptr}, {"moe_layer_freq", freq}})))
                .total_parameters,
            671026419200);
  freq[60] = 0;
  EXPECT_EQ(account(parse(config("DeepSeek-V3", {{"moe_layer_freq", freq}}))).total_parameters,
            671026419200 - (256 * 7168 + 256) - int64_t{257} * 3 * 7168 * 2048 + int64_t{3} * 7168 * 18432);
  const Account wide = account(parse(config("Llama-3.1-8B", {{"head_dim", 192}, {"v_head_dim", 128}})));
  EXPECT_EQ(wide.kv_elements_per_token, 32 * 8 * (192 + 128));
  EXPECT_EQ(
      layer_parameters(parse(config("Llama-3.1-8B", {{"head_dim", 192}, {"v_head_dim", 128}})), 0, Part::attention),
      4096 * (32 * 192 + 8 * (192 + 128) + 32 * 128));
}

TEST(Account, Counterfactuals) {
  const auto attention = [](const char* name) {
    return static_cast<double>(layer_parameters(load_model(name), 5, Part::attention)) / 1e6;
  };
  EXPECT_NEAR(attention("DeepSeek-V3"), 187.1, 0.05);
  EXPECT_NEAR(attention("DeepSeek-V3~gqa8"), 184.5, 0.05);
  EXPECT_NEAR(attention("DeepSeek-V3~mha"), 460, 0.5);
  EXPECT_EQ(account_of("DeepSeek-V3~mha").kv_bytes_per_token, 4997120);
  EXPECT_EQ(account_of("DeepSeek-V3~gqa8").kv_elements_per_token, 61 * 8 * (192 + 128));
  EXPECT_EQ(account_of("DeepSeek-V3~mqa").kv_elements_per_token, 61 * (192 + 128));
  EXPECT_EQ(account_of("DeepSeek-V3~mqa").kv_bytes_per_token_expanded, std::nullopt);
  EXPECT_EQ(account_of("DeepSeek-V3~gqa8").attention_flops_per_token,
            account_of("DeepSeek-V3").attention_flops_per_token_expanded);

  const int64_t kv_norm = 512;
  EXPECT_EQ(params_delta(load_model("DeepSeek-V3~gqa8")),
            61 * (7168 * 8 * 320 - (7168 * 576 + 512 * 128 * 256) - kv_norm));
  EXPECT_EQ(params_delta(load_model("DeepSeek-V3")), 0);
  const int64_t router = 256 * 7168 + 256;
  EXPECT_EQ(params_delta(load_model("DeepSeek-V3~dense_total")), -58 * router);
  EXPECT_EQ(active_parameters(load_model("DeepSeek-V3~dense_active")),
            active_parameters(load_model("DeepSeek-V3")) - 58 * router);
  EXPECT_EQ(account_of("DeepSeek-V3~dense_active").experts_touched, 0);
  EXPECT_EQ(params_delta(load_model("DeepSeek-V3~gqa8~dense_total")),
            params_delta(load_model("DeepSeek-V3~gqa8")) + params_delta(load_model("DeepSeek-V3~dense_total")));
}

TEST(ExpertsTouched, UniformRouting) {
  const std::map<int64_t, double> v3 = {{1, 8},      {2, 15.75},  {4, 30.5},    {8, 57.4},   {16, 102.0},
                                        {32, 163.3}, {64, 222.4}, {128, 251.6}, {256, 255.9}};
  for (const auto& [batch, touched] : v3) {
    EXPECT_NEAR(experts_touched(256, 8, batch), touched, 0.051) << batch;
    EXPECT_EQ(account_of("DeepSeek-V3", {.batch = batch}).experts_touched, experts_touched(256, 8, batch));
  }
  EXPECT_NEAR(experts_touched(256, 8, 2), 15.75, 1e-12);
  EXPECT_NEAR(experts_touched(64, 6, 8), 34.9, 0.05);
  EXPECT_NEAR(experts_touched(64, 6, 32), 61.3, 0.05);
  EXPECT_NEAR(experts_touched(8, 2, 8), 7.2, 0.05);
  EXPECT_NEAR(experts_touched(8, 2, 32), 8.0, 0.05);
  EXPECT_NEAR(experts_touched(128, 8, 4), 29.1, 0.05);
  EXPECT_EQ(experts_touched(8, 8, 5), 8);
  EXPECT_EQ(account_of("Llama-3.1-8B", {.batch = 8}).experts_touched, 0);
}

TEST(Crossover, AbsorbedAgainstExpanded) {
  for (const char* name : {"DeepSeek-V2-Lite", "DeepSeek-V2", "DeepSeek-V3"}) {
    const Model m = load_model(name);
    EXPECT_EQ(absorbed_crossover(m, 0), 0);
    EXPECT_NEAR(absorbed_crossover(m, 64), 97, 0.5);
    EXPECT_NEAR(absorbed_crossover(m, 512), 149, 0.5);
    EXPECT_NEAR(absorbed_crossover(m, 4096), 167, 0.5);
    EXPECT_NEAR(absorbed_crossover(m, 1 << 24), 170.7, 0.05);
  }
  EXPECT_THROW(absorbed_crossover(load_model("Llama-3.1-8B"), 64), Error);
  EXPECT_TRUE(std::isinf(absorbed_crossover(parse(config("DeepSeek-V3", {{"kv_lora_rank", 64}})), 64)));
}

TEST(Crossover, ContextsOfEqualFlops) {
  const Model v3 = load_model("DeepSeek-V3");
  EXPECT_NEAR(context_of_equal_flops(v3), 4311, 0.5);
  EXPECT_NEAR(context_of_equal_flops(v3, /*expanded=*/true), 14658, 1);
  EXPECT_NEAR(context_of_equal_flops(v3, load_model("Qwen2.5-72B")), 4849, 0.5);
  EXPECT_NEAR(context_of_equal_flops(v3, load_model("Llama-3.1-70B")), 4576, 0.5);
  EXPECT_NEAR(context_of_equal_flops(v3, load_model("DeepSeek-67B")), 4318, 0.5);
  EXPECT_NEAR(context_of_equal_flops(v3, load_model("Llama-3.1-405B")), 84080, 5);
}

TEST(MultiTokenPrediction, BytesOfASpeculativeStep) {
  const Model v3 = load_model("DeepSeek-V3");
  const double independent = mtp_bytes_factor(v3, 8.0 / 256), overlapping = mtp_bytes_factor(v3, 0.38);
  EXPECT_NEAR(independent, 1.585, 0.0005);
  EXPECT_NEAR(overlapping, 1.39, 0.005);
  EXPECT_NEAR(1.85 / independent, 1.17, 0.005);
  EXPECT_NEAR(1.90 / independent, 1.20, 0.005);
  EXPECT_NEAR(1.85 / overlapping, 1.33, 0.005);
  EXPECT_NEAR(1.90 / overlapping, 1.37, 0.005);
}

TEST(Generation, IsTheSumOverItsTokens) {
  const Model v3 = load_model("DeepSeek-V3");
  double flops = 0, bytes = 0;
  for (int64_t cached = 0; cached < 100; ++cached) {
    flops += 2.0 * static_cast<double>(active_parameters(v3)) + static_cast<double>(61 * 278528 * cached);
    bytes += static_cast<double>(active_parameters(v3)) + static_cast<double>(70272 * cached);
  }
  const Generation sum = generation(v3, 100, {.dtype = "fp8"});
  EXPECT_DOUBLE_EQ(sum.flops, flops);
  EXPECT_DOUBLE_EQ(sum.bytes, bytes);
}

TEST(EqualWeights, BatchAtWhichExpertsReadAsMuchAsADenseModel) {
  const Model v3 = load_model("DeepSeek-V3");
  EXPECT_NEAR(batch_of_equal_weights(v3, active_parameters(load_model("Llama-3.1-70B"))), 2.68, 0.005);
  for (int64_t batch : {1, 3, 32})
    EXPECT_NEAR(batch_of_equal_weights(v3, account(v3, {.batch = batch, .dtype = "fp8"}).weight_bytes_per_step),
                static_cast<double>(batch), 1e-6);
  EXPECT_EQ(batch_of_equal_weights(v3, 1), 0);
  EXPECT_TRUE(std::isinf(batch_of_equal_weights(v3, total_parameters(v3))));
  const Model dense = load_model("Llama-3.1-8B");
  EXPECT_EQ(batch_of_equal_weights(dense, active_parameters(dense) - 1), 0);
  EXPECT_TRUE(std::isinf(batch_of_equal_weights(dense, active_parameters(dense) + 1)));
}

// 9 copies of 7,168 values to and from 58 layers' experts.
TEST(AllToAll, BytesOfAToken) {
  EXPECT_EQ(all_to_all_bytes(load_model("DeepSeek-V3")), int64_t{58} * 9 * 7168 * 3);
  EXPECT_EQ(all_to_all_bytes(load_model("Mixtral-8x7B")), int64_t{32} * 2 * 4096 * 3);
  EXPECT_EQ(all_to_all_bytes(load_model("Llama-3.1-8B")), 0);
}

TEST(ActiveParameters, PartsAddUp) {
  for (const std::string& name : bundled_models()) {
    const Model m = load_model(name);
    int64_t sum = 0;
    for (Part part : {Part::embedding, Part::attention, Part::norm, Part::router, Part::routed, Part::shared,
                      Part::dense_ffn, Part::head})
      sum += active_parameters(m, part);
    EXPECT_EQ(sum, active_parameters(m)) << name;
  }
  EXPECT_NEAR(static_cast<double>(active_parameters_with_embedding(load_model("DeepSeek-V3"))) / kBillion, 37.55,
              0.005);
  const Model tied = parse(config("Llama-3.1-8B", {{"tie_word_embeddings", true}}));
  EXPECT_EQ(active_parameters_with_embedding(tied), active_parameters(tied));
}

TEST(Details, WhatPublishedFiguresAreHeldAgainst) {
  const std::vector<Model> rivals = {load_model("Qwen2.5-72B"), load_model("Llama-3.1-70B")};
  const auto details = [&](const char* name) {
    const Figures figures = account_details(load_model(name), rivals);
    return std::map<std::string, double>(figures.begin(), figures.end());
  };
  const auto v3 = details("DeepSeek-V3"), v2 = details("DeepSeek-V2"), qwen = details("Qwen2.5-72B"),
             llama = details("Llama-3.1-405B"), mixtral = details("Mixtral-8x7B");
  EXPECT_EQ(v2.at("kv_bytes_per_token/bits_6"), 25920);
  EXPECT_EQ(v3.at("kv_bytes_per_token/fp8_flashmla"), 40016);
  EXPECT_NEAR(v3.at("attention_flops_per_cache_byte/bf16"), 241.8, 0.05);
  EXPECT_NEAR(details("DeepSeek-V2-Lite").at("attention_flops_per_cache_byte/bf16"), 30.2, 0.05);
  EXPECT_NEAR(v3.at("context_of_equal_bytes/weights_fp8_cache_bf16"), 521e3, 500);
  EXPECT_NEAR(v3.at("context_of_equal_flops/own_weights"), 4311, 0.5);
  EXPECT_NEAR(v3.at("context_of_equal_flops/Qwen2.5-72B"), 4849, 0.5);
  EXPECT_NEAR(v3.at("batch_of_equal_weights/Llama-3.1-70B"), 2.68, 0.005);
  EXPECT_NEAR(v3.at("weight_bytes_per_step_fp8/batch_32") / kBillion, 433.3, 0.05);
  EXPECT_EQ(v3.at("experts_touched/batch_1"), 8);
  EXPECT_NEAR(v3.at("tokens_per_touched_expert/batch_1024"), 32, 1e-9);
  EXPECT_NEAR(v3.at("mtp_bytes_factor/overlap_by_chance"), 1.585, 0.0005);
  EXPECT_NEAR(v3.at("absorbable_parameters_per_layer/premultiplied") / 1e6, 570.4, 0.05);
  // Published: 2448 GFLOP a token for Llama-3.1-405B, which takes half the attention; 394 for Qwen2.5-72B, which its linear
  // layers alone exceed.
  const auto training = [](const std::map<std::string, double>& m, const char* part) {
    return m.at(std::string("training_flops_per_token_4k/") + part) / 1e9;
  };
  EXPECT_NEAR(training(llama, "layers_without_attention_core") + training(llama, "head") +
                  training(llama, "attention_core") / 2,
              2447.9, 0.05);
  EXPECT_NEAR(training(qwen, "layers_without_attention_core"), 421, 0.5);
  // What does not apply is left out.
  EXPECT_EQ(qwen.count("experts_touched/batch_1") + qwen.count("absorbed_crossover/cached_64") +
                qwen.count("context_of_equal_flops/Qwen2.5-72B") + mixtral.count("mtp_bytes_factor/overlap_by_chance"),
            0u);
}

TEST(Absorption, TheMultipliedOutMatricesAreLarger) {
  EXPECT_NEAR(static_cast<double>(absorbable_parameters(load_model("DeepSeek-V3"))) / 1e6, 159.4, 0.05);
  EXPECT_NEAR(static_cast<double>(premultiplied_parameters(load_model("DeepSeek-V3"))) / 1e6, 570.4, 0.05);
}

}  // namespace
}  // namespace mmb
