#include "mmb/attention_layer.h"

#include "mmb/attention_decode.h"
#include "mmb/attention_prefill.h"
#include "mmb/linear.h"
#include "mmb/rms_norm.h"
#include "op_test.h"

namespace mmb {
namespace {

constexpr AttentionLayer::Shape kGrouped{.batch = 3,
                                         .new_tokens = 1,
                                         .context = 21,
                                         .shortest = 4,
                                         .hidden_size = 40,
                                         .q_lora_rank = 0,
                                         .num_attention_heads = 6,
                                         .num_key_value_heads = 2,
                                         .qk_head_dim = 18,
                                         .v_head_dim = 10,
                                         .rotary_dim = 18,
                                         .pairs = Rope::Pairs::half,
                                         .bias = false,
                                         .output_bias = false,
                                         .qk_norm = false};

AttentionLayer::Shape with(void (*change)(AttentionLayer::Shape&)) {
  AttentionLayer::Shape shape = kGrouped;
  change(shape);
  return shape;
}

const std::vector<AttentionLayer::Shape>& shapes() {
  using Shape = AttentionLayer::Shape;
  static const std::vector<Shape> list = {
      kGrouped,
      with([](Shape& s) { s.new_tokens = 4; }),
      with([](Shape& s) { s.new_tokens = 1, s.context = s.shortest = 1; }),
      with([](Shape& s) { s.bias = s.output_bias = true, s.num_key_value_heads = 6; }),
      with([](Shape& s) { s.qk_norm = true, s.new_tokens = 3, s.num_key_value_heads = 1; }),
      with([](Shape& s) { s.q_lora_rank = 12, s.rotary_dim = 6, s.pairs = Rope::Pairs::interleaved; }),
      with([](Shape& s) {
        s.rotary_dim = 0, s.batch = 1, s.shortest = 0, s.num_attention_heads = s.num_key_value_heads = 1;
      })};
  return list;
}

TEST(AttentionLayer, LiteralCase) {
  // One head of one dim, one token after one cached token. q = 1, k = 0, so both scores are 0 (1 * cached key 0);
  // v = 2 x = 2; the mean of it and the cached 4 is 3; W_o doubles it.
  const AttentionLayer::Shape shape{.batch = 1,
                                    .new_tokens = 1,
                                    .context = 2,
                                    .shortest = 0,
                                    .hidden_size = 1,
                                    .q_lora_rank = 0,
                                    .num_attention_heads = 1,
                                    .num_key_value_heads = 1,
                                    .qk_head_dim = 1,
                                    .v_head_dim = 1,
                                    .rotary_dim = 0,
                                    .pairs = Rope::Pairs::half,
                                    .bias = false,
                                    .output_bias = false,
                                    .qk_norm = false};
  const Batch batch(1, 1, 2);
  const std::vector<float> zero = {0}, one = {1}, two = {2};
  const PackedMatrix w_zero(zero, 1, 1, DType::f32), w_one(one, 1, 1, DType::f32), w_two(two, 1, 1, DType::f32);
  const int64_t position = 1;
  for (const auto& kernel : AttentionLayer::kernels()) {
    if (!supported(kernel.impl)) continue;
    float keys[] = {0, -1}, values[] = {4, -1}, y = 0;
    AttentionLayer::Args args{};
    args.sequences = batch.view();
    args.x = one.data();
    args.positions = &position;
    args.q = w_one.matrix();
    args.k = w_zero.matrix();
    args.v = args.o = w_two.matrix();
    args.k_cache = keys;
    args.v_cache = values;
    args.capacity = 2;
    args.scale = 1;
    args.y = &y;
    kernel.run(shape, args);
    EXPECT_FLOAT_EQ(y, 6) << name(kernel.impl);
    EXPECT_EQ(keys[1], 0) << name(kernel.impl);
    EXPECT_EQ(values[1], 2) << name(kernel.impl);
  }
}

TEST(AttentionLayer, KernelsMatchReference) {
  for (const auto& shape : shapes())
    expect_kernels_match_reference<AttentionLayer, reference::attention_layer<double>>(shape);
}

// The layer is its ops, one after the other, to the last bit; and its cache holds the new keys and values.
TEST(AttentionLayer, IsItsOps) {
  for (const auto& shape : shapes())
    for (const auto& kernel : AttentionLayer::kernels()) {
      if (!supported(kernel.impl) || kernel.impl == Impl::reference) continue;
      SCOPED_TRACE(std::string(name(kernel.impl)) + "/" + AttentionLayer::key(shape));
      AttentionLayer::Problem problem(shape, DType::f32, kernel.algo, test_arena(), 3);
      const auto& args = problem.args();
      const int64_t N = AttentionLayer::units(shape), H = shape.hidden_size, nh = shape.num_attention_heads,
                    nkv = shape.num_key_value_heads, dk = shape.qk_head_dim, dv = shape.v_head_dim;
      const auto op = [&]<class Op>(Op, const typename Op::Shape& s, const typename Op::Args& a) {
        for (const auto& k : Op::kernels())
          if (k.impl == kernel.impl) return k.run(s, a);
      };
      const auto project = [&](const std::vector<float>& x, const Matrix& w, const float* bias) {
        const int64_t tokens = static_cast<int64_t>(x.size()) / w.cols;
        std::vector<float> y(static_cast<size_t>(tokens * w.rows));
        op(Linear(), {tokens, w.cols, w.rows}, {x.data(), w, y.data()});
        for (size_t i = 0; bias && i < y.size(); ++i) y[i] += bias[i % static_cast<size_t>(w.rows)];
        return y;
      };
      const auto rotate = [&](std::vector<float> x, int64_t heads, const float* norm) {
        if (shape.qk_norm) op(RmsNorm(), {N * heads, dk}, {x.data(), norm, args.eps, x.data()});
        op(Rope(), {N, heads, shape.rotary_dim},
           {x.data(), heads * dk, dk, args.positions, args.inv_freq, args.attention_factor, shape.pairs, x.data()});
        return x;
      };
      std::vector<float> x(args.x, args.x + N * H), query = x;
      if (shape.q_lora_rank > 0) {
        query = project(x, args.q_a, nullptr);
        op(RmsNorm(), {N, shape.q_lora_rank}, {query.data(), args.q_a_norm, args.eps, query.data()});
      }
      const auto q = rotate(project(query, args.q, shape.bias ? args.q_bias : nullptr), nh, args.q_norm);
      const auto k = rotate(project(x, args.k, shape.bias ? args.k_bias : nullptr), nkv, args.k_norm);
      const auto v = project(x, args.v, shape.bias ? args.v_bias : nullptr);
      // The expected caches are copies: the kernel appends to the problem's own.
      auto* keys = static_cast<float*>(problem.expected().k_cache);
      auto* values = static_cast<float*>(problem.expected().v_cache);
      for (int64_t n = 0; n < N; ++n)
        for (int64_t g = 0; g < nkv; ++g) {
          const int64_t b = n / shape.new_tokens;
          const int64_t row = (b * nkv + g) * args.capacity + args.positions[n];
          std::copy_n(k.begin() + (n * nkv + g) * dk, dk, keys + row * dk);
          std::copy_n(v.begin() + (n * nkv + g) * dv, dv, values + row * dv);
        }
      std::vector<float> context(static_cast<size_t>(N * nh * dv));
      const AttentionDecode::Shape attention{shape.batch, shape.new_tokens, shape.context, shape.shortest, nh, nkv, dk,
                                             dv};
      const AttentionDecode::Args attention_args{args.sequences, q.data(),      keys,       values,
                                                 DType::f32,     args.capacity, args.scale, context.data()};
      if (shape.new_tokens == 1)
        op(AttentionDecode(), attention, attention_args);
      else
        op(AttentionPrefill(), attention, attention_args);
      const auto y = project(context, args.o, shape.output_bias ? args.o_bias : nullptr);

      kernel.run(shape, args);
      const int64_t rows = shape.batch * nkv * args.capacity;
      EXPECT_EQ(std::vector<float>(args.y, args.y + N * H), y);
      EXPECT_EQ(std::memcmp(args.k_cache, keys, static_cast<size_t>(4 * rows * dk)), 0) << "keys";
      EXPECT_EQ(std::memcmp(args.v_cache, values, static_cast<size_t>(4 * rows * dv)), 0) << "values";
    }
}

TEST(AttentionLayer, FlopsAreCounted) {
  for (const auto& shape : shapes())
    EXPECT_EQ((counted_flops<AttentionLayer, reference::attention_layer<Counted>>(shape, "composed")),
              AttentionLayer::cost(shape, DType::f32, "composed").flops)
        << AttentionLayer::key(shape);
}

// A unit of the reference depends on the tokens before it, never on which units were asked for with it.
TEST(AttentionLayer, OneTokenAlone) {
  const auto shape = shapes()[1];
  AttentionLayer::Problem problem(shape, DType::bf16, "composed", test_arena(), 3);
  // Two caches, both without the new tokens.
  const AttentionLayer::Args &all = problem.expected(), &one = problem.args();
  const int64_t N = AttentionLayer::units(shape), H = shape.hidden_size, n = N - 2;
  reference::attention_layer<double>(shape, all, {0, N});
  reference::attention_layer<double>(shape, one, {n, n + 1});
  EXPECT_EQ(std::vector<float>(one.y + n * H, one.y + (n + 1) * H),
            std::vector<float>(all.y + n * H, all.y + (n + 1) * H));
}

// What a kernel appended is gone from the arena once the problem moves on.
TEST(AttentionLayer, ArenaKeepsItsValues) {
  Arena arena(int64_t{1} << 20);
  const int64_t whole = arena.bytes() / 2;
  const auto* bytes = static_cast<const char*>(arena.take(whole));
  arena.take(whole);
  const std::vector<char> before(bytes, bytes + whole);
  {
    AttentionLayer::Problem problem(kGrouped, DType::f32, "composed", arena, 3);
    reference::attention_layer<double>(kGrouped, problem.args(), {0, AttentionLayer::units(kGrouped)});
    EXPECT_NE(std::vector<char>(bytes, bytes + whole), before);
    problem.next();
    EXPECT_EQ(std::vector<char>(bytes, bytes + whole), before);
    reference::attention_layer<double>(kGrouped, problem.args(), {0, AttentionLayer::units(kGrouped)});
  }
  EXPECT_EQ(std::vector<char>(bytes, bytes + whole), before);
}

}  // namespace
}  // namespace mmb
