#include "../reference.h"

#include "mmb/decoder_layer.h"
#include "mmb/latent_attention.h"
#include "mmb/random.h"
#include "mmb/rms_norm.h"

namespace mmb {

std::span<const Kernel<DecoderLayer>> DecoderLayer::kernels() {
  [[maybe_unused]] constexpr auto integers = [](const Shape& s, DType t) { return over_int8(s.mla_layer, t); };
  static constexpr Kernel<DecoderLayer> list[] = {
      {"composed", Impl::reference, reference::run<DecoderLayer, reference::decoder_layer<double>>},
      MMB_KERNEL(DecoderLayer, "composed", decoder_layer)  //
      MMB_DOT_KERNEL(DecoderLayer, "integer", decoder_layer, integers)};
  return list;
}

namespace {

bool is_dense(const DecoderLayer::Shape& s) {
  return s.attention == DecoderLayer::Attention::dense;
}

const char* attention_name(DecoderLayer::Attention attention) {
  switch (attention) {
    case DecoderLayer::Attention::dense:
      return "dense";
    case DecoderLayer::Attention::absorbed:
      return "absorbed";
    case DecoderLayer::Attention::expanded:
      return "expanded";
  }
  return "unknown";
}

int64_t hidden_size(const DecoderLayer::Shape& s) {
  return is_dense(s) ? s.attention_layer.hidden_size : s.mla_layer.hidden_size;
}

}  // namespace

std::string_view DecoderLayer::mla_algo(const Shape& shape, std::string_view algo) {
  return algo == "integer" ? algo : attention_name(shape.attention);
}

DecoderLayer::Shape DecoderLayer::shape(const Model& model, int64_t layer, int64_t batch, int64_t new_tokens,
                                        int64_t context, const Routing& routing, DType cache) {
  const int64_t window = model.layers.at(static_cast<size_t>(layer)).sliding_window;
  MMB_REQUIRE(window == 0 || context <= window, model.file << ": sliding_window " << window << ", context " << context);
  MMB_REQUIRE(!is_scaled(cache) || model.is_mla(),
              model.file << ": a cache in " << mmb::name(cache) << " is one of latents, which are MLA's");
  Shape s{};
  if (model.is_mla()) {
    s.mla_layer = MlaLayer::shape(model, batch, new_tokens, context, cache);
    const auto flops = [&](const char* algo) { return MlaLayer::cost(s.mla_layer, DType::f32, algo).flops; };
    s.attention = new_tokens == 1 || is_scaled(cache) || flops("absorbed") <= flops("expanded") ? Attention::absorbed
                                                                                                : Attention::expanded;
  } else {
    s.attention_layer = AttentionLayer::shape(model, batch, new_tokens, context);
    s.attention = Attention::dense;
  }
  if (model.is_moe_layer(layer)) {
    s.moe_layer = MoeLayer::shape(model, batch * new_tokens, routing);
    s.ffn = Ffn::moe;
  } else {
    s.dense_ffn = DenseFfn::shape(model, layer, batch * new_tokens);
    s.ffn = Ffn::dense;
  }
  return s;
}

std::string DecoderLayer::key(const Shape& shape) {
  return (is_dense(shape) ? AttentionLayer::key(shape.attention_layer) : MlaLayer::key(shape.mla_layer)) +
         "/attention:" + attention_name(shape.attention) +
         "/ffn:" + (shape.ffn == Ffn::moe ? "moe/" + mmb::key(shape.moe_layer.experts.routing) : "dense");
}

int64_t DecoderLayer::units(const Shape& shape) {
  return is_dense(shape) ? AttentionLayer::units(shape.attention_layer) : MlaLayer::units(shape.mla_layer);
}

std::vector<Component> DecoderLayer::parts(const Shape& shape, DType dtype, std::string_view algo) {
  std::vector<Component> parts = is_dense(shape) ? AttentionLayer::parts(shape.attention_layer, dtype, "")
                                                 : MlaLayer::parts(shape.mla_layer, dtype, mla_algo(shape, algo));
  const Component norm = part_of<RmsNorm>({units(shape), hidden_size(shape)}, dtype);
  parts.insert(parts.end(), {norm, norm});
  if (shape.ffn == Ffn::dense) {
    parts.push_back(part_of<DenseFfn>(shape.dense_ffn, dtype));
  } else {
    const std::vector<Component> moe = MoeLayer::parts(shape.moe_layer, dtype, "");
    parts.insert(parts.end(), moe.begin(), moe.end());
  }
  return parts;
}

Cost DecoderLayer::cost(const Shape& shape, DType dtype, std::string_view algo) {
  return sum(parts(shape, dtype, algo));
}

DecoderLayer::Problem::Problem(const Shape& shape, DType dtype, std::string_view algo, Arena& arena, uint64_t seed)
    : shape_(shape) {
  const int64_t N = units(shape), H = hidden_size(shape);
  int64_t attended;  // the columns of W_o
  if (is_dense(shape)) {
    attention_layer_.emplace(shape.attention_layer, dtype, "", arena, seed);
    attended = attention_layer_->args().o.cols;
  } else {
    mla_layer_.emplace(shape.mla_layer, dtype, mla_algo(shape, algo), arena, seed);
    attended = mla_layer_->args().o.cols;
  }
  if (shape.ffn == Ffn::dense) {
    MMB_REQUIRE(shape.dense_ffn.tokens == N && shape.dense_ffn.hidden_size == H, name << ": FFN of another shape");
    dense_ffn_.emplace(shape.dense_ffn, dtype, "", arena, seed + 10);
  } else {
    MMB_REQUIRE(shape.moe_layer.router.tokens == N && shape.moe_layer.router.hidden_size == H,
                name << ": MoE of another shape");
    moe_layer_.emplace(shape.moe_layer, dtype, "", arena, seed + 10);
    replay_ = MoeExperts::route(shape.moe_layer.experts);
  }

  // Attention is to be a small part of what the FFN gets, so that a rounding in its cache is within the tolerance: the input
  // is the FFN's own tokens, times `shrink`, of which attention adds 1/256 (values of the arena's size, or made of such,
  // through W_o); and eps outweighs the mean squares, so that all tokens are scaled alike. The arena's int4 have a mean
  // and signs by scale, so that those of a scale add up: in W_o, and again in the FFN's use of its sums.
  const double value = is_dense(shape) ? Arena::kRms
                                       : Arena::rms(cached_row(shape.mla_layer, dtype).dtype) * Arena::rms(dtype) *
                                             std::sqrt(static_cast<double>(shape.mla_layer.kv_lora_rank));
  const float* tokens = dense_ffn_ ? dense_ffn_->args().x : moe_layer_->args().x;
  double squares = 0;
  for (int64_t i = 0; i < N * H; ++i) squares += static_cast<double>(tokens[i]) * tokens[i];
  const double size = std::sqrt(squares / static_cast<double>(N * H)),
               coherent = dtype == DType::int4 ? kScaleGroup : 1,
               input_size = 256 * value * Arena::rms(dtype) * coherent * std::sqrt(static_cast<double>(attended)),
               shrink = input_size / size, eps = 64 * input_size * input_size,
               root = std::sqrt(input_size * input_size + eps);
  x_ = Buffer<float>(N * H);
  for (int64_t i = 0; i < N * H; ++i) x_[i] = static_cast<float>(shrink * tokens[i]);
  input_norm_ = Buffer<float>(H);
  fill_normal(input_norm_, seed + 20, root / input_size / std::sqrt(static_cast<double>(H)));
  post_norm_ = Buffer<float>(H);
  for (float& weight : post_norm_) weight = static_cast<float>(root / shrink);
  y_ = Buffer<float>(N * H);
  expected_ = Buffer<float>(N * H);
  args_.x = x_.data();
  args_.input_norm = input_norm_.data();
  args_.post_norm = post_norm_.data();
  args_.eps = static_cast<float>(eps);
  args_.y = y_.data();
  collect();
}

void DecoderLayer::Problem::collect() {
  if (attention_layer_) args_.attention_layer = attention_layer_->args();
  if (mla_layer_) args_.mla_layer = mla_layer_->args();
  if (dense_ffn_) args_.dense_ffn = dense_ffn_->args();
  if (moe_layer_) {
    args_.moe_layer = moe_layer_->args();
    args_.moe_layer.replay = replay_.data();
  }
}

void DecoderLayer::Problem::next() {
  if (attention_layer_) attention_layer_->next();
  if (mla_layer_) mla_layer_->next();
  if (dense_ffn_) dense_ffn_->next();
  if (moe_layer_) moe_layer_->next();
  collect();
}

const DecoderLayer::Args& DecoderLayer::Problem::expected() const {
  expected_args_ = args_;
  if (attention_layer_) expected_args_.attention_layer = attention_layer_->expected();
  if (mla_layer_) expected_args_.mla_layer = mla_layer_->expected();
  expected_args_.y = expected_.data();
  return expected_args_;
}

std::vector<Output> DecoderLayer::Problem::outputs(const Args& args, int64_t unit) const {
  const int64_t H = hidden_size(shape_);
  const float* y = args.y + unit * H;
  // Two f32 accumulations of the FFN, and attention's 1/256 of the output, with a margin for its size.
  const double attention = attention_layer_ ? attention_layer_->tolerance() : mla_layer_->tolerance();
  return {{"y", {y, y + H}, 256 * 0x1p-24 + attention / 64}};
}

}  // namespace mmb
