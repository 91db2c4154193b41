#include "mmb/mla_layer.h"

#include "mmb/linear.h"
#include "mmb/mla_prefill.h"
#include "mmb/mla_project.h"
#include "op_test.h"

namespace mmb {
namespace {

const std::vector<MlaLayer::Shape>& shapes() {
  static const std::vector<MlaLayer::Shape> list = {
      // batch, new, context, shortest, hidden, heads, q_lora, kv_lora, nope, rope, v
      {3, 1, 21, 4, 40, 3, 20, 24, 10, 6, 9}, {3, 1, 21, 4, 40, 3, 0, 24, 10, 6, 9},
      {1, 1, 1, 0, 24, 1, 8, 17, 3, 2, 5},    {2, 5, 23, 7, 40, 2, 20, 33, 12, 8, 16},
      {1, 19, 19, 0, 40, 2, 0, 16, 8, 4, 8},
  };
  return list;
}

TEST(MlaLayer, KernelsMatchReference) {
  for (const auto& shape : shapes())
    expect_kernels_match_reference<MlaLayer, reference::mla_layer_absorbed<double>>(shape);
}

TEST(MlaLayer, AbsorbedReadsAndAppendsToScaledCaches) {
  for (DType cache : {DType::fp8, DType::int8})
    for (MlaLayer::Shape shape : shapes()) {
      shape.cache = cache;
      expect_kernels_match_reference<MlaLayer, reference::mla_layer_absorbed<double>>(shape);
    }
}

TEST(MlaLayer, ReferencesAgree) {
  for (const auto& shape : shapes()) {
    MlaLayer::Problem problem(shape, DType::f32, "expanded", test_arena(), 3);
    const int64_t N = MlaLayer::units(shape);
    reference::mla_layer_absorbed<double>(shape, problem.args(), {0, N});
    reference::mla_layer_expanded<double>(shape, problem.expected(), {0, N});
    expect_equal<MlaLayer>(problem, shape, MlaLayer::key(shape));
  }
}

// The layer is its ops, one after the other, to the last bit; and its cache holds the new latents.
TEST(MlaLayer, IsItsOps) {
  for (const auto& shape : shapes())
    for (const auto& kernel : MlaLayer::kernels()) {
      if (!supported(kernel.impl) || kernel.impl == Impl::reference || !takes(kernel, shape, DType::f32)) continue;
      SCOPED_TRACE(std::string(kernel.algo) + "/" + name(kernel.impl) + "/" + MlaLayer::key(shape));
      MlaLayer::Problem problem(shape, DType::f32, kernel.algo, test_arena(), 3);
      const MlaLayer::Args &args = problem.args(), &copy = problem.expected();
      const int64_t N = MlaLayer::units(shape), H = shape.hidden_size, nh = shape.num_attention_heads,
                    dk = shape.qk_nope_head_dim + shape.qk_rope_head_dim, dv = shape.v_head_dim;
      const auto op = [&]<class Op>(Op, const typename Op::Shape& s, const typename Op::Args& a,
                                    std::string_view algo) {
        for (const auto& k : Op::kernels())
          if (k.impl == kernel.impl && k.algo == algo) k.run(s, a);
      };
      std::vector<float> q(static_cast<size_t>(N * nh * dk)), context(static_cast<size_t>(N * nh * dv)),
          y(static_cast<size_t>(N * H));
      op(MlaProject(),
         {shape.batch, shape.new_tokens, shape.context, H, nh, shape.q_lora_rank, shape.kv_lora_rank,
          shape.qk_nope_head_dim, shape.qk_rope_head_dim},
         {args.sequences, args.x, args.positions, args.q_a, args.q_b, args.q_a_norm, args.kv_a, args.kv_a_norm,
          args.eps, args.inv_freq, args.attention_factor, q.data(), copy.cache, DType::f32, args.capacity},
         MlaProject::kernels()[0].algo);
      op(MlaPrefill(),
         {shape.batch, shape.new_tokens, shape.context, shape.shortest, nh, shape.kv_lora_rank, shape.qk_nope_head_dim,
          shape.qk_rope_head_dim, dv},
         {args.sequences, q.data(), copy.cache, nullptr, nullptr, DType::f32, args.capacity, args.w_uk, args.w_uv,
          args.scale, context.data()},
         kernel.algo);
      op(Linear(), {N, nh * dv, H}, {context.data(), args.o, y.data()}, Linear::kernels()[0].algo);

      kernel.run(shape, args);
      const int64_t values = shape.batch * args.capacity * (shape.kv_lora_rank + shape.qk_rope_head_dim);
      EXPECT_EQ(std::vector<float>(args.y, args.y + N * H), y);
      EXPECT_EQ(std::memcmp(args.cache, copy.cache, static_cast<size_t>(4 * values)), 0) << "cache";
    }
}

TEST(MlaLayer, FlopsAreCounted) {
  for (const auto& shape : shapes()) {
    EXPECT_EQ((counted_flops<MlaLayer, reference::mla_layer_absorbed<Counted>>(shape, "absorbed")),
              MlaLayer::cost(shape, DType::f32, "absorbed").flops)
        << MlaLayer::key(shape);
    EXPECT_EQ((counted_flops<MlaLayer, reference::mla_layer_expanded<Counted>>(shape, "expanded")),
              MlaLayer::cost(shape, DType::f32, "expanded").flops)
        << MlaLayer::key(shape);
  }
}

// A unit of the reference depends on the tokens before it, never on which units were asked for with it.
TEST(MlaLayer, OneTokenAlone) {
  const auto shape = shapes()[3];
  MlaLayer::Problem problem(shape, DType::bf16, "absorbed", test_arena(), 3);
  // Two caches, both without the new tokens.
  const MlaLayer::Args &all = problem.expected(), &one = problem.args();
  const int64_t N = MlaLayer::units(shape), H = shape.hidden_size, n = N - 2;
  reference::mla_layer_absorbed<double>(shape, all, {0, N});
  reference::mla_layer_absorbed<double>(shape, one, {n, n + 1});
  EXPECT_EQ(std::vector<float>(one.y + n * H, one.y + (n + 1) * H),
            std::vector<float>(all.y + n * H, all.y + (n + 1) * H));
}

}  // namespace
}  // namespace mmb
