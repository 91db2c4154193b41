#include "mmb/decode_step.h"

#include "mmb/accounting.h"
#include "mmb/linear.h"
#include "mmb/rms_norm.h"
#include "op_test.h"

namespace mmb {
namespace {

DecodeStep::Shape tiny(const std::string& model_name, int64_t new_tokens, int64_t context, DType cache = DType::bf16) {
  const Model model = load_model(model_name);
  return DecodeStep::shape(model, model.num_hidden_layers, 2, new_tokens, context, {}, cache);
}

TEST(DecodeStep, KernelsMatchReference) {
  for (const char* model : {"tiny-mla-moe", "tiny-mla-moe~gqa8", "tiny-mla-moe~dense_active"})
    for (int64_t new_tokens : {1, 3})
      expect_kernels_match_reference<DecodeStep, reference::decode_step<double>>(tiny(model, new_tokens, 21));
}

TEST(DecodeStep, ScaledCachesMatchReference) {
  for (DType cache : {DType::fp8, DType::int8})
    expect_kernels_match_reference<DecodeStep, reference::decode_step<double>>(tiny("tiny-mla-moe", 2, 21, cache));
}

// The rounding of algo `integer` reaches the logits.
TEST(DecodeStep, IntegersAreAnotherArithmetic) {
  const DecodeStep::Shape shape = tiny("tiny-mla-moe", 1, 21, DType::int8);
  for (const auto& kernel : DecodeStep::kernels()) {
    if (!supported(kernel.impl) || kernel.algo != std::string_view("integer") || !takes(kernel, shape, DType::bf16))
      continue;
    std::vector<std::vector<float>> logits;
    for (const char* algo : {"composed", "integer"}) {
      const DecodeStep::Problem problem(shape, DType::bf16, algo, test_arena(), 3);
      kernel.run(shape, problem.args());
      logits.emplace_back(problem.args().logits, problem.args().logits + DecodeStep::tokens(shape) * shape.vocab_size);
    }
    EXPECT_NE(logits[0], logits[1]) << name(kernel.impl);
  }
}

// DeepSeek-V3's fp8 cache: 656 bytes a token and layer, 40,016 a token; of the context's tokens, the new one among them.
TEST(DecodeStep, BytesOfDeepSeekV3sFp8Cache) {
  const Model model = load_model("DeepSeek-V3");
  const auto shape = DecodeStep::shape(model, model.num_hidden_layers, 1, 1, 4096, {}, DType::fp8);
  EXPECT_EQ(DecodeStep::cost(shape, DType::fp8, "").kv_bytes, 40016. * 4096);
  EXPECT_EQ(DecodeStep::key(shape), "batch:1/q:1/ctx:4096/cache:fp8/layers:61/routing:uniform");
}

// The step is its layers, a norm and a head, to the last bit.
TEST(DecodeStep, IsItsLayers) {
  const DecodeStep::Shape shape = tiny("tiny-mla-moe", 1, 21);
  const int64_t N = DecodeStep::tokens(shape), H = shape.hidden_size, V = shape.vocab_size;
  const auto L = static_cast<int64_t>(shape.layers.size());
  for (const auto& kernel : DecodeStep::kernels()) {
    if (!supported(kernel.impl) || kernel.impl == Impl::reference || !takes(kernel, shape, DType::bf16)) continue;
    SCOPED_TRACE(name(kernel.impl));
    DecodeStep::Problem problem(shape, DType::bf16, kernel.algo, test_arena(), 3);
    const DecodeStep::Args& args = problem.args();
    kernel.run(shape, args);
    const auto op = [&]<class Op>(Op, const typename Op::Shape& s, const typename Op::Args& a) {
      for (const auto& k : Op::kernels())
        if (k.impl == kernel.impl && k.algo == Op::kernels()[0].algo) k.run(s, a);
    };
    std::vector<float> x(args.h, args.h + N * H), y(x.size());
    for (int64_t n = 0; n < N; ++n)
      for (int64_t i = 0; i < H; ++i)
        EXPECT_EQ(x[static_cast<size_t>(n * H + i)], element(args.embedding, DType::bf16, args.tokens[n] * H + i));
    for (int64_t l = 0; l < L; ++l) {
      DecoderLayer::Args layer = args.layers[l];
      layer.x = x.data();
      layer.y = y.data();
      op(DecoderLayer(), shape.layers[static_cast<size_t>(l)], layer);
      EXPECT_EQ(y, std::vector<float>(args.h + (l + 1) * N * H, args.h + (l + 2) * N * H)) << "layer " << l;
      x = y;
    }
    op(RmsNorm(), {N, H}, {x.data(), args.norm, args.eps, y.data()});
    std::vector<float> logits(static_cast<size_t>(N * V));
    op(Linear(), {N, H, V}, {y.data(), args.head, logits.data()});
    EXPECT_EQ(logits, std::vector<float>(args.logits, args.logits + N * V));
  }
}

// After a run a layer is checked from what the kernel gave it: a fault shows in the layer that has it, and in no other.
TEST(DecodeStep, AFaultShowsInItsLayerAlone) {
  const DecodeStep::Shape shape = tiny("tiny-mla-moe", 1, 21);
  const int64_t N = DecodeStep::tokens(shape);
  DecodeStep::Problem problem(shape, DType::f32, "composed", test_arena(), 3);
  // Layer 1 with other experts than those it was to have.
  DecodeStep::Args faulty = problem.args();
  std::vector<DecoderLayer::Args> layers(faulty.layers, faulty.layers + faulty.layer_count);
  const std::vector<int32_t> others = {0, 4, 8, 1, 5, 9};
  layers[1].moe_layer.replay = others.data();
  faulty.layers = layers.data();
  DecodeStep::kernels()[0].run(shape, faulty);
  problem.ran();
  reference::decode_step<double>(shape, problem.expected(), {0, DecodeStep::units(shape)});
  for (int64_t unit = 0; unit < DecodeStep::units(shape); ++unit) {
    const Output actual = problem.outputs(problem.args(), unit).front(),
                 expected = problem.outputs(problem.expected(), unit).front();
    EXPECT_EQ(compare(actual.values, expected.values).max_err > expected.tolerance, unit / N == 1) << unit;
  }
}

TEST(DecodeStep, FlopsAreCounted) {
  for (const char* model : {"tiny-mla-moe", "tiny-mla-moe~mha"})
    for (int64_t new_tokens : {1, 2}) {
      const auto shape = tiny(model, new_tokens, 9);
      EXPECT_EQ((counted_flops<DecodeStep, reference::decode_step<Counted>>(shape, "composed")),
                DecodeStep::cost(shape, DType::f32, "composed").flops);
    }
}

// The accounts count a decode step as 2 FLOPs for each active parameter and the attention over the cache; vectors (norms and
// biases) do not multiply.
TEST(DecodeStep, FlopsAreThoseOfTheAccounts) {
  for (const char* name :
       {"DeepSeek-V3", "DeepSeek-V2-Lite", "DeepSeek-V2-Lite~gqa8", "Llama-3.1-8B", "Mixtral-8x7B"}) {
    const Model model = load_model(name);
    double vectors = 0;
    for (int64_t l = 0; l < model.num_hidden_layers; ++l)
      for (const Tensor& t : layer_tensors(model, l))
        if (t.cols == 1) vectors += static_cast<double>(t.parameters());
    for (const Tensor& t : outer_tensors(model))
      if (t.cols == 1) vectors += static_cast<double>(t.parameters());
    const double attention = static_cast<double>(model.num_hidden_layers * attention_flops(model)) * 4096;
    const auto shape = DecodeStep::shape(model, model.num_hidden_layers, 1, 1, 4096);
    EXPECT_EQ(DecodeStep::cost(shape, DType::bf16, "").flops,
              2 * (static_cast<double>(active_parameters(model)) - vectors) + attention)
        << name;
  }
}

// What the arena gives is what the formula says, where nothing needs padding.
TEST(DecodeStep, ResidentBytesAreThoseAllocated) {
  const int64_t H = 256;
  DecoderLayer::Shape layer{};
  layer.attention = DecoderLayer::Attention::absorbed;
  layer.ffn = DecoderLayer::Ffn::moe;
  layer.mla_layer = {2, 1, 64, 0, H, 4, 128, 128, 128, 128, 128};
  layer.moe_layer.router = {2, H, 16, 3, 1, 1, MoeRouter::Scoring::sigmoid, MoeRouter::GroupScore::maximum, true, 1};
  layer.moe_layer.experts = {2, H, 128, 16, 3, 128};
  // Slices begin at lines, and vectors (norms, the router's bias) are not the arena's.
  const auto aligned = [](double bytes) { return std::abs(bytes) < 64 * 200; };
  for (DType dtype : kWeightTypes) {
    layer.mla_layer.cache = dtype == DType::int4 ? DType::bf16 : dtype;
    const DecodeStep::Shape shape{2, 1, 64, H, 512, false, {layer, layer}, 0, 2};
    const int64_t before = test_arena().taken();
    const DecodeStep::Problem problem(shape, dtype, "composed", test_arena(), 3);
    const auto taken = static_cast<double>(test_arena().taken() - before);
    const double formula = DecodeStep::resident_bytes(shape, dtype);
    EXPECT_TRUE(aligned(taken - formula)) << name(dtype) << ": " << taken << " taken, " << formula << " by the formula";
  }
}

// Layers: the first of each kind, then the others in order.
TEST(DecodeStep, SomeLayersAreOfBothKinds) {
  const Model model = load_model("DeepSeek-V3");
  const auto kinds = [&](int64_t layers) {
    std::string text;
    for (const auto& layer : DecodeStep::shape(model, layers, 1, 1, 16).layers)
      text += layer.ffn == DecoderLayer::Ffn::moe ? 'm' : 'd';
    return text;
  };
  EXPECT_EQ(kinds(1), "m");
  EXPECT_EQ(kinds(2), "dm");
  EXPECT_EQ(kinds(5), "dddmm");
  EXPECT_EQ(kinds(61), "ddd" + std::string(58, 'm'));
  EXPECT_THROW(DecodeStep::shape(model, 62, 1, 1, 16), Error);
  EXPECT_EQ(DecodeStep::key(DecodeStep::shape(model, 2, 8, 4, 4096)), "batch:8/q:4/ctx:4096/layers:2/routing:uniform");
}

// A model of 2 dense and 6 MoE layers of which 1 and 2 were run: the missing ones take as long as those of their kind.
TEST(DecodeStep, MissingLayersTakeAsLongAsTheirKind) {
  DecodeStep::Shape shape = tiny("tiny-mla-moe", 1, 9);  // 1 dense, 2 MoE
  ASSERT_EQ(shape.layers.size(), 3u);
  shape.dense_layers = 2;
  shape.moe_layers = 6;
  DecodeStep::Problem problem(shape, DType::f32, "composed", test_arena(), 3);
  const double clock[] = {10, 11, 13, 16, 17};  // embedding, dense 1 s, MoE 2 s and 3 s, head 1 s
  std::copy(std::begin(clock), std::end(clock), problem.args().seconds);
  problem.ran();
  EXPECT_DOUBLE_EQ(problem.model_seconds(7), 7 + 1 * 1 + 2 * 5);
  EXPECT_DOUBLE_EQ(problem.model_seconds(14), 2 * 18);
}

// The memory that a run plans with has one residual stream for each layer, and no other inputs and outputs of layers.
TEST(DecodeStep, LayersHaveNoActivationsOfTheirOwn) {
  for (const char* model : {"tiny-mla-moe", "tiny-mla-moe~mha"}) {
    const DecodeStep::Problem problem(tiny(model, 1, 9), DType::bf16, "composed", test_arena(), 1);
    const DecodeStep::Args& args = problem.args();
    for (int64_t l = 0; l < args.layer_count; ++l) {
      EXPECT_EQ(args.layers[l].mla_layer.x, nullptr);
      EXPECT_EQ(args.layers[l].mla_layer.y, nullptr);
      EXPECT_EQ(args.layers[l].attention_layer.x, nullptr);
      EXPECT_EQ(args.layers[l].attention_layer.y, nullptr);
    }
  }
}

TEST(DecodeStep, AModelThatDoesNotFitIsRefused) {
  Arena small(1 << 16);
  EXPECT_THROW(DecodeStep::Problem(tiny("tiny-mla-moe", 1, 9), DType::f32, "composed", small, 1), Error);
}

}  // namespace
}  // namespace mmb
