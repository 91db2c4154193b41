// decoder_layer: one block of a decoder.
//   h = x + attention(rms_norm(x; input_norm));   y = h + ffn(rms_norm(h; post_norm))
//   attention: attention_layer, or mla_layer absorbed or expanded;   ffn: dense_ffn or moe_layer. Which, the shape says.
// Algos   composed; integer: with mla_layer's
// Shapes  x, y [N, H] f32 (y may be x) · input_norm, post_norm [H] f32 · the rest as in the layers' own headers
// Cost    the sum of its ops'
// Bound   at decode memory: weights, and with the batch the cache and the experts touched
// Traps   the residual is what came before the norm
// Source  Llama, arXiv:2302.13971, section 2.2 (pre-normalisation); DeepSeek-V3 inference/model.py (Block)
#pragma once

#include <optional>

#include "mmb/attention_layer.h"
#include "mmb/dense_ffn.h"
#include "mmb/mla_layer.h"
#include "mmb/moe_layer.h"

namespace mmb {

struct DecoderLayer {
  static constexpr const char* name = "decoder_layer";
  static constexpr auto kTypes = kWeightTypes;

  enum class Attention { dense, absorbed, expanded };
  enum class Ffn { dense, moe };

  // Of the layers those are set that `attention` and `ffn` name.
  struct Shape {
    Attention attention;
    Ffn ffn;
    AttentionLayer::Shape attention_layer;
    MlaLayer::Shape mla_layer;
    DenseFfn::Shape dense_ffn;
    MoeLayer::Shape moe_layer;
  };
  struct Args {
    const float* x;
    const float *input_norm, *post_norm;
    float eps;                             // of these two norms
    AttentionLayer::Args attention_layer;  // in these four x and y are not used
    MlaLayer::Args mla_layer;
    DenseFfn::Args dense_ffn;
    MoeLayer::Args moe_layer;
    float* y;
  };

  // MLA in the algo that takes fewer FLOPs; absorbed over a cache with scales, and for single new tokens: to expand, every
  // sequence reads the weights again.
  static Shape shape(const Model& model, int64_t layer, int64_t batch, int64_t new_tokens, int64_t context,
                     const Routing& routing = {}, DType cache = DType::bf16);
  // mla_layer's, in a layer of `algo` that has one.
  static std::string_view mla_algo(const Shape& shape, std::string_view algo);
  static std::string key(const Shape& shape);
  static std::vector<Component> parts(const Shape& shape, DType dtype,
                                      std::string_view algo);  // of its ops, one by one
  static Cost cost(const Shape& shape, DType dtype, std::string_view algo);
  static int64_t units(const Shape& shape);  // a unit is a new token
  static std::span<const Kernel<DecoderLayer>> kernels();

  class Problem {
   public:
    Problem(const Shape& shape, DType dtype, std::string_view algo, Arena& arena, uint64_t seed);
    const Args& args() const { return args_; }
    const Args& expected() const;
    std::vector<Output> outputs(const Args& args, int64_t unit) const;
    void next();
    bool intact() const { return y_.intact(); }

   private:
    void collect();

    Shape shape_;
    // The layers' own Problems have their weights and caches.
    std::optional<AttentionLayer::Problem> attention_layer_;
    std::optional<MlaLayer::Problem> mla_layer_;
    std::optional<DenseFfn::Problem> dense_ffn_;
    std::optional<MoeLayer::Problem> moe_layer_;
    std::vector<int32_t> replay_;
    Buffer<float> x_, input_norm_, post_norm_, y_;
    mutable Buffer<float> expected_;
    Args args_{};
    mutable Args expected_args_;
  };
};

namespace reference {
template <class S>
void decoder_layer(const DecoderLayer::Shape& shape, const DecoderLayer::Args& args, Range tokens);
}
MMB_DECLARE_KERNEL(DecoderLayer, decoder_layer)

}  // namespace mmb
