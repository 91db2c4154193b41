#include "whole_model.h"

namespace mmb {

std::vector<Model> rivals_in_attention(const Model& model) {
  return model.is_mla() ? with_dense_cache(model) : std::vector<Model>{};
}

std::vector<Model> rivals_in_ffn(const Model& model) {
  if (!model.moe_layers()) return {};
  return {counterfactual(model, "dense_active"), counterfactual(model, "dense_total")};
}

namespace {

// The rows that AttentionLayer::parts names.
void add_attention(Suite& suite, const Model& model, const AttentionLayer::Shape& s, DType dtype) {
  const int64_t N = AttentionLayer::units(s), H = s.hidden_size, Q = s.q_lora_rank, dk = s.qk_head_dim;
  const Suite::Choice in_dtype{.dtypes = {dtype}}, in_cache{.dtypes = {cache_type(dtype)}};
  const auto linear = [&](int64_t in, int64_t out) {
    suite.add<Linear, reference::linear<double>>(model, {N, in, out}, in_dtype);
  };
  const auto norm = [&](int64_t tokens, int64_t width) {
    suite.add<RmsNorm, reference::rms_norm<double>>(model, {tokens, width}, in_dtype);
  };
  if (Q > 0) {
    linear(H, Q);
    norm(N, Q);
  }
  linear(Q > 0 ? Q : H, s.num_attention_heads * dk);
  linear(H, s.num_key_value_heads * dk);
  linear(H, s.num_key_value_heads * s.v_head_dim);
  linear(s.num_attention_heads * s.v_head_dim, H);
  if (s.qk_norm)
    for (int64_t heads : {s.num_attention_heads, s.num_key_value_heads}) norm(N * heads, dk);
  for (int64_t heads : {s.num_attention_heads, s.num_key_value_heads})
    suite.add<Rope, reference::rope<double>>(
        model, {N, heads, s.rotary_dim},
        {.dtypes = {dtype}, .algo = s.pairs == Rope::Pairs::half ? "half" : "interleaved"});
  const AttentionShape core{s.batch,       s.new_tokens,          s.context,
                            s.shortest,    s.num_attention_heads, s.num_key_value_heads,
                            s.qk_head_dim, s.v_head_dim};
  if (s.new_tokens == 1)
    suite.add<AttentionDecode, reference::attention_decode<double>>(model, core, in_cache);
  else
    suite.add<AttentionPrefill, reference::attention_prefill<double>>(model, core, in_cache);
}

// The rows that MlaLayer::parts names; of a cache with scales in every algo, of others in `algo`.
void add_mla(Suite& suite, const Model& model, const MlaLayer::Shape& s, DType dtype, std::string_view algo) {
  const Suite::Choice in_dtype{.dtypes = {dtype}};
  suite.add<MlaProject, reference::mla_project<double>>(
      model, MlaProject::shape(model, s.batch, s.new_tokens, s.context, s.cache), in_dtype);
  const MlaDecode::Shape core{
      s.batch,        s.new_tokens,       s.context,          s.shortest,   s.num_attention_heads,
      s.kv_lora_rank, s.qk_nope_head_dim, s.qk_rope_head_dim, s.v_head_dim, s.cache};
  const bool one = s.new_tokens == 1;
  Suite::Choice choice{.dtypes = {dtype}};
  if (!is_scaled(s.cache)) choice.algo = one && algo == "expanded" ? "reexpanded" : algo;
  if (one)
    suite.add<MlaDecode, reference::mla_decode<double>>(model, core, choice);
  else
    suite.add<MlaPrefill, reference::mla_prefill<double>>(model, core, choice);
  suite.add<Linear, reference::linear<double>>(
      model, {MlaLayer::units(s), s.num_attention_heads * s.v_head_dim, s.hidden_size}, in_dtype);
}

}  // namespace

void skip_too_large(Suite& suite, const std::string& op, const Model& model, const std::string& key, DType dtype,
                    double bytes) {
  std::ostringstream reason;
  reason << "memory: a single layer and what surrounds the layers take " << static_cast<int64_t>(bytes) << " bytes in "
         << name(dtype) << ", more than the " << suite.arena_bytes() << " of the arena";
  suite.skip(op + "/.../" + model.name + '/' + key, reason.str());
}

void add_parts(Suite& suite, const Model& model, const DecodeStep::Shape& shape, DType dtype) {
  const Suite::Choice in_dtype{.dtypes = {dtype}};
  // What a rival shares with its base is a row of the base's.
  const Model& base = model.base ? *model.base : model;
  const Model &with_attention = model.is_mla() ? base : model,
              &with_ffn = model.moe_layers() == base.moe_layers() ? base : model;
  for (const DecoderLayer::Shape& layer : shape.layers) {
    if (layer.attention == DecoderLayer::Attention::dense)
      add_attention(suite, with_attention, layer.attention_layer, dtype);
    else
      add_mla(suite, with_attention, layer.mla_layer, dtype, DecoderLayer::mla_algo(layer, ""));
    suite.add<RmsNorm, reference::rms_norm<double>>(base, {DecodeStep::tokens(shape), shape.hidden_size}, in_dtype);
    if (layer.ffn == DecoderLayer::Ffn::dense) {
      suite.add<DenseFfn, reference::dense_ffn<double>>(with_ffn, layer.dense_ffn, in_dtype);
    } else {
      suite.add<MoeRouter, reference::moe_router<double>>(with_ffn, layer.moe_layer.router, in_dtype);
      MoeExperts::Shape typical = layer.moe_layer.experts;  // of all layers, which the row is for
      typical.routing.layer = 0;
      suite.add<MoeExperts, reference::moe_experts<double>>(with_ffn, typical, in_dtype);
    }
  }
  const int64_t M = DecodeStep::logit_rows(shape), H = shape.hidden_size;
  suite.add<RmsNorm, reference::rms_norm<double>>(base, {M, H}, in_dtype);
  suite.add<Linear, reference::linear<double>>(base, {M, H, shape.vocab_size}, in_dtype);
}

}  // namespace mmb
