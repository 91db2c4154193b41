#include "../reference.h"

#include "mmb/decode_step.h"
#include "mmb/latent_attention.h"
#include "mmb/linear.h"
#include "mmb/rms_norm.h"

namespace mmb::reference {
namespace {

// Tokens of one layer, with copies of the caches to append to: what the kernel appended to its own is not touched.
template <class S>
void layer_of(const DecoderLayer::Shape& shape, DecoderLayer::Args args, Range tokens) {
  const auto copy = [](const void* cache, int64_t bytes) {
    Buffer<char> own(bytes);
    std::memcpy(own.data(), cache, static_cast<size_t>(bytes));
    return own;
  };
  AttentionLayer::Args& dense = args.attention_layer;
  MlaLayer::Args& mla = args.mla_layer;
  if (shape.attention == DecoderLayer::Attention::dense) {
    const AttentionLayer::Shape& s = shape.attention_layer;
    const int64_t rows = dense.sequences.batch * s.num_key_value_heads * dense.capacity,
                  size = size_of(dense.cache_dtype);
    Buffer<char> k = copy(dense.k_cache, rows * s.qk_head_dim * size),
                 v = copy(dense.v_cache, rows * s.v_head_dim * size);
    dense.k_cache = k.data();
    dense.v_cache = v.data();
    decoder_layer<S>(shape, args, tokens);
  } else {
    const MlaLayer::Shape& s = shape.mla_layer;
    const LatentRow row{mla.cache_dtype, s.kv_lora_rank, s.qk_rope_head_dim};
    Buffer<char> cache = copy(mla.cache, mla.sequences.batch * mla.capacity * row.bytes());
    mla.cache = cache.data();
    decoder_layer<S>(shape, args, tokens);
  }
}

}  // namespace

template <class S>
void decode_step(const DecodeStep::Shape& shape, const DecodeStep::Args& args, Range units) {
  const int64_t N = DecodeStep::tokens(shape), M = DecodeStep::logit_rows(shape), H = shape.hidden_size,
                V = shape.vocab_size, L = args.layer_count;
  const float* inputs = args.inputs ? args.inputs : args.h;
  for (int64_t i = 0; i < N * H; ++i)
    args.h[i] = static_cast<float>(element(args.embedding, args.embedding_dtype, args.tokens[i / H] * H + i % H));
  const auto within = [&](int64_t begin, int64_t count) {
    return Range{std::clamp<int64_t>(units.begin - begin, 0, count), std::clamp<int64_t>(units.end - begin, 0, count)};
  };
  for (int64_t l = 0; l < L; ++l) {
    const Range tokens = within(l * N, N);
    if (tokens.begin == tokens.end) continue;
    DecoderLayer::Args layer = args.layers[l];
    layer.x = l == 0 ? args.h : inputs + l * N * H;
    layer.y = args.h + (l + 1) * N * H;
    layer_of<S>(args.layer_shapes[l], layer, tokens);
  }
  const Range rows = within(L * N, M);
  for (int64_t m = rows.begin; m < rows.end; ++m) {
    const float* h = (L == 0 ? args.h : inputs + L * N * H) + ((m + 1) * (N / M) - 1) * H;
    Buffer<float> normed(H);
    rms_norm<S>({1, H}, {h, args.norm, args.eps, normed.data()}, {0, 1});
    store<S>(times<S>(args.head, vector<S>(normed.data(), H)), args.logits + m * V);
  }
}

template void decode_step<double>(const DecodeStep::Shape&, const DecodeStep::Args&, Range);
template void decode_step<Counted>(const DecodeStep::Shape&, const DecodeStep::Args&, Range);

}  // namespace mmb::reference
