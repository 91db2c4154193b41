// Bound: that of its ops. They run one after the other in one team; norms and residuals are a thousandth of the work.
#include "mmb/decoder_layer.h"

#include "../team.h"
#include "mmb/rms_norm.h"

namespace mmb::MMB_IMPL {
namespace {

void attend(const DecoderLayer::Shape& shape, const DecoderLayer::Args& args, const float* x, float* y) {
  AttentionLayer::Args dense = args.attention_layer;
  MlaLayer::Args mla = args.mla_layer;
  dense.x = mla.x = x;
  dense.y = mla.y = y;
  switch (shape.attention) {
    case DecoderLayer::Attention::dense:
      return attention_layer(shape.attention_layer, dense);
    case DecoderLayer::Attention::absorbed:
      return mla_layer_absorbed(shape.mla_layer, mla);
    case DecoderLayer::Attention::expanded:
      return mla_layer_expanded(shape.mla_layer, mla);
  }
}

void feed_forward(const DecoderLayer::Shape& shape, const DecoderLayer::Args& args, const float* x, float* y) {
  DenseFfn::Args dense = args.dense_ffn;
  MoeLayer::Args moe = args.moe_layer;
  dense.x = moe.x = x;
  dense.y = moe.y = y;
  if (shape.ffn == DecoderLayer::Ffn::dense)
    dense_ffn(shape.dense_ffn, dense);
  else
    moe_layer(shape.moe_layer, moe);
}

// sum = a + b, n values
void add(const float* a, const float* b, int64_t n, float* sum) {
  const Share part = share(n);
  for (int64_t i = part.begin; i < part.end; ++i) sum[i] = a[i] + b[i];
  barrier();
}

}  // namespace

void decoder_layer(const DecoderLayer::Shape& shape, const DecoderLayer::Args& args) noexcept {
  const bool dense = shape.attention == DecoderLayer::Attention::dense;
  const Sequences& sequences = dense ? args.attention_layer.sequences : args.mla_layer.sequences;
  const int64_t N = sequences.tokens(), H = dense ? shape.attention_layer.hidden_size : shape.mla_layer.hidden_size;
  team([&] {
    Scratch scratch;
    auto* normed = scratch.shared<float>(N * H);
    auto* hidden = scratch.shared<float>(N * H);
    auto* part = scratch.shared<float>(N * H);  // of the residual stream: what attention or the FFN adds
    rms_norm({N, H}, {args.x, args.input_norm, args.eps, normed});
    attend(shape, args, normed, part);
    add(args.x, part, N * H, hidden);
    rms_norm({N, H}, {hidden, args.post_norm, args.eps, normed});
    feed_forward(shape, args, normed, part);
    add(hidden, part, N * H, args.y);
  });
}

}  // namespace mmb::MMB_IMPL
