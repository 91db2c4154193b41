// decode_step: one step of a whole model, from token ids to logits.
//   h[0] = embedding[token];   h[l+1] = decoder_layer_l(h[l]);   logits = W_head rms_norm(h[L]; norm)
// More than one new token for each sequence: speculative decoding, which wants the logits of all of them; prefill_step wants
// those of the last one alone.
// Algos   composed; integer: with decoder_layer's, over int8 caches
// Shapes  tokens [N] int32 · embedding [V, H] bf16 (f32 beside f32 weights) · h [L+1, N, H] f32 · norm [H] f32 · head [V, H] in
//         the row's type · logits [M, V] f32, M the tokens that want them · the layers as in decoder_layer.h
// Cost    the sum of its layers', the norm's and the head's, and N rows of the embedding
// Bound   at decode memory: every weight but the embedding and the experts that no token chose, once a step
// Traps   a model that does not fit the memory is timed by some of its layers, all of their experts resident: a row's key says
//         how many, and only model_seconds speaks for the whole
// Source  DeepSeek-V3 inference/model.py (Transformer); Llama, arXiv:2302.13971
#pragma once

#include "mmb/decoder_layer.h"

namespace mmb {

struct DecodeStep {
  static constexpr const char* name = "decode_step";
  static constexpr auto kTypes = kWeightTypes;
  static constexpr double kVerifySeconds = 1;  // its least unit takes longer than another op's whole check

  struct Shape {
    int64_t batch, new_tokens, context;  // of each sequence; the context counts the new tokens
    int64_t hidden_size, vocab_size;
    bool last_only;                           // logits of each sequence's last token alone
    std::vector<DecoderLayer::Shape> layers;  // those that are run
    int64_t dense_layers, moe_layers;         // of the model, run or not
  };
  struct Args {
    const int32_t* tokens;
    const void* embedding;
    DType embedding_dtype;
    const DecoderLayer::Shape* layer_shapes;
    const DecoderLayer::Args* layers;  // x and y are not used
    int64_t layer_count;
    const float* norm;
    float eps;
    Matrix head;
    float* h;
    float* logits;
    // [L + 2], null: not wanted. When the embedding, each layer and the head were done, by a steady clock.
    double* seconds;
    const float* inputs = nullptr;  // of the layers, for a reference that checks them one by one; null: its own h
  };

  // The model's first layer of each kind, then the others in order, `layers` in all.
  static Shape shape(const Model& model, int64_t layers, int64_t batch, int64_t new_tokens, int64_t context,
                     const Routing& routing = {}, DType cache = DType::bf16);
  static std::string key(const Shape& shape);
  static std::string layers_key(const Shape& shape);  // its end, which is prefill_step's too
  static std::vector<Component> parts(const Shape& shape, DType dtype,
                                      std::string_view algo);  // of its ops, one by one
  static Cost cost(const Shape& shape, DType dtype, std::string_view algo);
  // Bytes of the weights, all experts and the embedding included, and of the caches.
  static double resident_bytes(const Shape& shape, DType dtype);
  // Of h and logits.
  static double activation_memory(const Shape& shape);
  // New tokens, and rows of logits.
  static int64_t tokens(const Shape& shape) { return shape.batch * shape.new_tokens; }
  static int64_t logit_rows(const Shape& shape) { return shape.last_only ? shape.batch : tokens(shape); }
  // A unit is one token after one layer, then one row of logits.
  static int64_t units(const Shape& shape) {
    return static_cast<int64_t>(shape.layers.size()) * tokens(shape) + logit_rows(shape);
  }
  static std::span<const Kernel<DecodeStep>> kernels();

  // Weights and caches stay where they are: all of them together are more than caches hold. Experts are relabelled from step
  // to step, so that over the steps every one of them is read.
  class Problem {
   public:
    Problem(const Shape& shape, DType dtype, std::string_view algo, Arena& arena, uint64_t seed);
    ~Problem();
    const Args& args() const { return args_; }
    const Args& expected() const;
    std::vector<Output> outputs(const Args& args, int64_t unit) const;
    void next();
    bool intact() const { return h_.intact() && logits_.intact(); }
    // To be called after a run: from then on expected() checks layer by layer, and the run counts for model_seconds.
    void ran();
    // Of a step of all the model's layers: a layer that was not run takes as long as those of its kind that were. For a
    // step as measured that takes `seconds`.
    double model_seconds(double seconds) const;

   private:
    struct LayerWeights;

    Shape shape_;
    std::vector<LayerWeights> layers_;
    std::vector<DecoderLayer::Args> layer_args_;
    std::vector<int32_t> tokens_;
    Buffer<float> input_norm_, post_norm_, norm_, h_, logits_;
    mutable Buffer<float> expected_h_, expected_logits_;
    std::vector<double> seconds_;
    double all_seconds_ = 0, dense_seconds_ = 0, moe_seconds_ = 0;  // of all runs so far
    int64_t step_ = 0;
    bool has_run_ = false;
    Args args_{};
    mutable Args expected_args_;
  };
};

namespace reference {
template <class S>
void decode_step(const DecodeStep::Shape& shape, const DecodeStep::Args& args, Range units);
}
MMB_DECLARE_KERNEL(DecodeStep, decode_step)

}  // namespace mmb
