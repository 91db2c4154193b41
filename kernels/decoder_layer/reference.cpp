#include "../reference.h"

#include "mmb/decoder_layer.h"
#include "mmb/rms_norm.h"

namespace mmb::reference {
namespace {

template <class S>
void attend(const DecoderLayer::Shape& shape, const DecoderLayer::Args& args, const float* x, Range tokens, float* y) {
  AttentionLayer::Args dense = args.attention_layer;
  MlaLayer::Args mla = args.mla_layer;
  dense.x = mla.x = x;
  dense.y = mla.y = y;
  switch (shape.attention) {
    case DecoderLayer::Attention::dense:
      return attention_layer<S>(shape.attention_layer, dense, tokens);
    case DecoderLayer::Attention::absorbed:
      return mla_layer_absorbed<S>(shape.mla_layer, mla, tokens);
    case DecoderLayer::Attention::expanded:
      return mla_layer_expanded<S>(shape.mla_layer, mla, tokens);
  }
}

template <class S>
void feed_forward(const DecoderLayer::Shape& shape, const DecoderLayer::Args& args, const float* x, Range tokens,
                  float* y) {
  DenseFfn::Args dense = args.dense_ffn;
  MoeLayer::Args moe = args.moe_layer;
  dense.x = moe.x = x;
  dense.y = moe.y = y;
  if (shape.ffn == DecoderLayer::Ffn::dense)
    dense_ffn<S>(shape.dense_ffn, dense, tokens);
  else
    moe_layer<S>(shape.moe_layer, moe, tokens);
}

}  // namespace

template <class S>
void decoder_layer(const DecoderLayer::Shape& shape, const DecoderLayer::Args& args, Range tokens) {
  const bool dense = shape.attention == DecoderLayer::Attention::dense;
  const Sequences& sequences = dense ? args.attention_layer.sequences : args.mla_layer.sequences;
  const int64_t N = sequences.tokens(), H = dense ? shape.attention_layer.hidden_size : shape.mla_layer.hidden_size;
  Buffer<float> normed(N * H), attended(N * H), ffn(N * H);
  rms_norm<S>({N, H}, {args.x, args.input_norm, args.eps, normed.data()}, {0, N});
  attend<S>(shape, args, normed.data(), tokens, attended.data());
  for (int64_t i = tokens.begin * H; i < tokens.end * H; ++i) attended[i] += args.x[i];
  rms_norm<S>({N, H}, {attended.data(), args.post_norm, args.eps, normed.data()}, tokens);
  feed_forward<S>(shape, args, normed.data(), tokens, ffn.data());
  for (int64_t i = tokens.begin * H; i < tokens.end * H; ++i) args.y[i] = attended[i] + ffn[i];
}

template void decoder_layer<double>(const DecoderLayer::Shape&, const DecoderLayer::Args&, Range);
template void decoder_layer<Counted>(const DecoderLayer::Shape&, const DecoderLayer::Args&, Range);

}  // namespace mmb::reference
