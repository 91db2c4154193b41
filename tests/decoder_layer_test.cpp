#include "mmb/decoder_layer.h"

#include "mmb/rms_norm.h"
#include "op_test.h"

namespace mmb {
namespace {

using Attention = DecoderLayer::Attention;
using Ffn = DecoderLayer::Ffn;

DecoderLayer::Shape shape_of(Attention attention, Ffn ffn, int64_t new_tokens) {
  const int64_t batch = 3, H = 64, N = batch * new_tokens;
  DecoderLayer::Shape s{};
  s.attention = attention;
  s.ffn = ffn;
  s.attention_layer = {.batch = batch,
                       .new_tokens = new_tokens,
                       .context = 21,
                       .shortest = 6,
                       .hidden_size = H,
                       .q_lora_rank = 0,
                       .num_attention_heads = 4,
                       .num_key_value_heads = 2,
                       .qk_head_dim = 18,
                       .v_head_dim = 10,
                       .rotary_dim = 18,
                       .pairs = Rope::Pairs::half,
                       .bias = true,
                       .output_bias = false,
                       .qk_norm = false};
  s.mla_layer = {batch, new_tokens, 21, 6, H, 4, 20, 24, 10, 6, 9};
  s.dense_ffn = {N, H, 50};
  s.moe_layer.router = {N, H, 16, 4, 4, 2, MoeRouter::Scoring::sigmoid, MoeRouter::GroupScore::top2_sum, true, 2.5f};
  s.moe_layer.experts = {N, H, 24, 16, 4, 24, {}, 4, 2};
  return s;
}

std::vector<DecoderLayer::Shape> shapes() {
  std::vector<DecoderLayer::Shape> list;
  for (Attention attention : {Attention::dense, Attention::absorbed, Attention::expanded})
    for (Ffn ffn : {Ffn::dense, Ffn::moe})
      for (int64_t new_tokens : {1, 5}) list.push_back(shape_of(attention, ffn, new_tokens));
  return list;
}

TEST(DecoderLayer, KernelsMatchReference) {
  for (const auto& shape : shapes())
    expect_kernels_match_reference<DecoderLayer, reference::decoder_layer<double>>(shape);
  for (DecoderLayer::Shape shape : shapes()) {
    shape.mla_layer.cache = DType::int8;
    if (shape.attention == Attention::absorbed)
      expect_kernels_match_reference<DecoderLayer, reference::decoder_layer<double>>(shape);
  }
}

// New rows of its cache are written to the arena, where in time everything else comes to lie: rows of int8 would be weights of
// any size.
TEST(DecoderLayer, AppendsOverNoWeights) {
  DecoderLayer::Shape shape = shape_of(Attention::absorbed, Ffn::moe, 5);
  shape.mla_layer.cache = DType::int8;
  for (const int64_t bytes : {40'000, 400'000}) {  // of an iteration's 200'000
    Arena arena(bytes);
    DecoderLayer::Problem problem(shape, DType::bf16, "composed", arena, 1);
    for (int64_t round = 0; round < 64; ++round) {
      DecoderLayer::kernels()[1].run(shape, problem.args());
      for (int64_t i = 0; i < DecoderLayer::units(shape) * 64; ++i)
        ASSERT_LT(std::abs(problem.args().y[i]), 1e3) << round;
      arena.take(64 * round);
      problem.next();
    }
  }
}

// The layer is its parts and two residuals, to the last bit.
TEST(DecoderLayer, IsItsParts) {
  for (const auto& shape : shapes())
    for (const auto& kernel : DecoderLayer::kernels()) {
      if (!supported(kernel.impl) || kernel.impl == Impl::reference || !takes(kernel, shape, DType::f32)) continue;
      SCOPED_TRACE(std::string(name(kernel.impl)) + "/" + DecoderLayer::key(shape));
      DecoderLayer::Problem problem(shape, DType::f32, kernel.algo, test_arena(), 3);
      DecoderLayer::Args args = problem.args();
      const int64_t N = DecoderLayer::units(shape), H = 64;
      kernel.run(shape, args);
      const std::vector<float> y(args.y, args.y + N * H);

      const auto op = [&]<class Op>(Op, const typename Op::Shape& s, const typename Op::Args& a,
                                    std::string_view algo) {
        for (const auto& k : Op::kernels())
          if (k.impl == kernel.impl && k.algo == algo) k.run(s, a);
      };
      const std::string_view norm_algo = RmsNorm::kernels()[0].algo;
      std::vector<float> normed(static_cast<size_t>(N * H)), hidden = normed, part = normed;
      op(RmsNorm(), {N, H}, {args.x, args.input_norm, args.eps, normed.data()}, norm_algo);
      args.attention_layer.x = args.mla_layer.x = normed.data();
      args.attention_layer.y = args.mla_layer.y = hidden.data();
      if (shape.attention == Attention::dense)
        op(AttentionLayer(), shape.attention_layer, args.attention_layer, AttentionLayer::kernels()[0].algo);
      else
        op(MlaLayer(), shape.mla_layer, args.mla_layer,
           shape.attention == Attention::absorbed ? "absorbed" : "expanded");
      for (size_t i = 0; i < hidden.size(); ++i) hidden[i] += args.x[i];
      op(RmsNorm(), {N, H}, {hidden.data(), args.post_norm, args.eps, normed.data()}, norm_algo);
      if (shape.ffn == Ffn::moe) {
        const MoeRouter::Shape& router = shape.moe_layer.router;
        std::vector<float> scores(static_cast<size_t>(N * router.n_routed_experts)),
            weights(static_cast<size_t>(N * 4));
        std::vector<int32_t> indices(weights.size());
        op(MoeRouter(), router,
           {normed.data(), args.moe_layer.gate, args.moe_layer.bias, scores.data(), indices.data(), weights.data()},
           MoeRouter::kernels()[0].algo);
        EXPECT_EQ(indices, MoeExperts::route(shape.moe_layer.experts));
      }
      args.dense_ffn.x = args.moe_layer.x = normed.data();
      args.dense_ffn.y = args.moe_layer.y = part.data();
      if (shape.ffn == Ffn::dense)
        op(DenseFfn(), shape.dense_ffn, args.dense_ffn, DenseFfn::kernels()[0].algo);
      else
        op(MoeLayer(), shape.moe_layer, args.moe_layer, MoeLayer::kernels()[0].algo);
      for (size_t i = 0; i < hidden.size(); ++i) hidden[i] += part[i];
      EXPECT_EQ(y, hidden);
    }
}

TEST(DecoderLayer, OutputMayBeTheInput) {
  const auto shape = shape_of(Attention::absorbed, Ffn::moe, 1);
  for (const auto& kernel : DecoderLayer::kernels()) {
    if (!supported(kernel.impl) || !takes(kernel, shape, DType::f32)) continue;
    DecoderLayer::Problem problem(shape, DType::f32, kernel.algo, test_arena(), 3);
    DecoderLayer::Args args = problem.args();
    const int64_t values = DecoderLayer::units(shape) * 64;
    kernel.run(shape, args);
    std::vector<float> x(args.x, args.x + values);
    args.x = x.data();
    args.y = x.data();
    kernel.run(shape, args);
    EXPECT_EQ(x, std::vector<float>(problem.args().y, problem.args().y + values)) << name(kernel.impl);
  }
}

TEST(DecoderLayer, FlopsAreCounted) {
  for (const auto& shape : shapes())
    EXPECT_EQ((counted_flops<DecoderLayer, reference::decoder_layer<Counted>>(shape, "composed")),
              DecoderLayer::cost(shape, DType::f32, "composed").flops)
        << DecoderLayer::key(shape);
}

TEST(DecoderLayer, CostIsTheSumOfItsParts) {
  const auto shape = shape_of(Attention::absorbed, Ffn::moe, 1);
  Cost sum =
      MlaLayer::cost(shape.mla_layer, DType::bf16, "absorbed") + MoeLayer::cost(shape.moe_layer, DType::bf16, "");
  const Cost norm = RmsNorm::cost({3, 64}, DType::bf16, "");
  sum = sum + norm + norm;
  const Cost cost = DecoderLayer::cost(shape, DType::bf16, "composed");
  EXPECT_EQ(cost.flops, sum.flops);
  EXPECT_EQ(cost.weight_bytes, sum.weight_bytes);
  EXPECT_EQ(cost.kv_bytes, sum.kv_bytes);
  EXPECT_EQ(cost.activation_bytes, sum.activation_bytes);
}

TEST(DecoderLayer, ShapeOfAModel) {
  const Model model = load_model("DeepSeek-V3");
  const auto dense = DecoderLayer::shape(model, 0, 2, 1, 4096), moe = DecoderLayer::shape(model, 3, 2, 1, 4096),
             prompt = DecoderLayer::shape(model, 3, 1, 512, 512), first = DecoderLayer::shape(model, 3, 8, 1, 1),
             grouped = DecoderLayer::shape(load_model("DeepSeek-V3~gqa8"), 3, 2, 1, 4096);
  EXPECT_EQ(dense.ffn, Ffn::dense);
  EXPECT_EQ(dense.dense_ffn.intermediate_size, 18432);
  EXPECT_EQ(moe.ffn, Ffn::moe);
  EXPECT_EQ(moe.moe_layer.router.n_routed_experts, 256);
  EXPECT_EQ(moe.attention, Attention::absorbed);
  EXPECT_EQ(prompt.attention, Attention::expanded);
  EXPECT_EQ(first.attention, Attention::absorbed);
  EXPECT_EQ(grouped.attention, Attention::dense);
  EXPECT_EQ(grouped.attention_layer.qk_head_dim, 192);
  EXPECT_EQ(grouped.attention_layer.rotary_dim, 64);
  EXPECT_EQ(DecoderLayer::key(moe), "batch:2/q:1/ctx:4096/attention:absorbed/ffn:moe/routing:uniform");
  EXPECT_EQ(DecoderLayer::key(dense), "batch:2/q:1/ctx:4096/attention:absorbed/ffn:dense");
  const auto skewed = DecoderLayer::shape(model, 3, 2, 1, 4096, {.skew = 2});
  EXPECT_EQ(skewed.moe_layer.experts.routing.skew, 2);
  EXPECT_EQ(DecoderLayer::key(skewed), "batch:2/q:1/ctx:4096/attention:absorbed/ffn:moe/routing:zipf2");
  const auto scaled = DecoderLayer::shape(model, 0, 1, 512, 512, {}, DType::fp8);
  EXPECT_EQ(scaled.attention, Attention::absorbed);
  EXPECT_EQ(DecoderLayer::key(scaled), "batch:1/q:512/past:0/cache:fp8/attention:absorbed/ffn:dense");
  EXPECT_THROW(DecoderLayer::shape(load_model("DeepSeek-V3~gqa8"), 3, 2, 1, 4096, {}, DType::fp8), Error);
}

}  // namespace
}  // namespace mmb
