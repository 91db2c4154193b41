#include "mmb/dense_ffn.h"

#include "mmb/random.h"
#include "op_test.h"

namespace mmb {
namespace {

TEST(DenseFfn, LiteralCase) {
  // x = 2: silu(1 * 2) * (3 * 2) * 5
  const std::vector<float> one = {1}, three = {3}, five = {5};
  const PackedMatrix gate(one, 1, 1, DType::bf16), up(three, 1, 1, DType::bf16), down(five, 1, 1, DType::bf16);
  const Expert expert{gate.matrix(), up.matrix(), down.matrix()};
  const float x = 2;
  for (const auto& kernel : DenseFfn::kernels()) {
    if (!supported(kernel.impl)) continue;
    float y = 0;
    kernel.run({1, 1, 1}, {&x, &expert, 1, &y});
    EXPECT_FLOAT_EQ(y, 30 * 2 / (1 + std::exp(-2.f))) << name(kernel.impl);
  }
}

// silu(x) * x over all of SiLU's range, relative to itself: the bound of simd.h, and five roundings.
TEST(DenseFfn, SiluIsAccurate) {
  const std::vector<float> one = {1};
  const PackedMatrix w(one, 1, 1, DType::f32);
  const Expert expert{w.matrix(), w.matrix(), w.matrix()};
  std::vector<float> x;
  for (float v = -87; v <= 87; v += 0.0437f) x.push_back(v);
  for (const auto& kernel : DenseFfn::kernels()) {
    if (!supported(kernel.impl)) continue;
    std::vector<float> y(x.size());
    kernel.run({static_cast<int64_t>(x.size()), 1, 1}, {x.data(), &expert, 1, y.data()});
    for (size_t i = 0; i < x.size(); ++i) {
      const double v = x[i], expected = v * v / (1 + std::exp(-v));
      EXPECT_NEAR(y[i], expected, (3e-7 + 5 * 0x1p-24) * expected) << name(kernel.impl) << " " << v;
    }
  }
}

// Tokens below, at and above every tile height; widths around a panel, a group of panels and a column block. Six values at
// the least: all sums of a smaller result may cancel, which leaves their rounding.
TEST(DenseFfn, KernelsMatchReference) {
  for (int64_t tokens : {1, 2, 3, 7, 12, 13, 40})
    for (int64_t intermediate_size : {1, 15, 33, 150})
      expect_kernels_match_reference<DenseFfn, reference::dense_ffn<double>>({tokens, 67, intermediate_size});
  for (const int64_t hidden_size : {1, 2, 16, 257})
    for (int64_t tokens : {hidden_size < 6 ? 6 : 1, 29})
      expect_kernels_match_reference<DenseFfn, reference::dense_ffn<double>>({tokens, hidden_size, 35});
  expect_kernels_match_reference<DenseFfn, reference::dense_ffn<double>>({1, 2048, 1408});
}

TEST(DenseFfn, SlabsMatchReference) {
  for (const auto& kernel : DenseFfn::kernels()) {
    if (!supported(kernel.impl) || kernel.impl == Impl::reference) continue;
    for (int64_t tokens : {1, 14}) {
      const DenseFfn::Shape shape{tokens, 40, 300};
      Arena arena(3 * matrix_bytes(16, 40, DType::f32) * 9);  // two panels' worth in a quarter
      DenseFfn::Problem problem(shape, DType::f32, kernel.algo, arena, 3);
      EXPECT_EQ(problem.args().slab_count, 10);
      reference::dense_ffn<double>(shape, problem.expected(), {0, tokens});
      kernel.run(shape, problem.args());
      expect_equal<DenseFfn>(problem, shape, name(kernel.impl));
    }
  }
}

// The same weights in one piece and cut along the intermediate size.
TEST(DenseFfn, SlabsAddUpToTheWhole) {
  const int64_t N = 5, H = 19, I = 40;
  std::vector<float> gate(I * H), up(I * H), down(H * I), x(N * H), whole(N * H), sum(N * H);
  fill_normal(gate, 1);
  fill_normal(up, 2);
  fill_normal(down, 3);
  fill_normal(x, 4);
  std::vector<PackedMatrix> matrices;
  const auto expert = [&](int64_t begin, int64_t end) {
    std::vector<float> part;  // columns [begin, end) of down
    for (int64_t h = 0; h < H; ++h) part.insert(part.end(), down.begin() + h * I + begin, down.begin() + h * I + end);
    matrices.emplace_back(std::span(gate).subspan(begin * H, (end - begin) * H), end - begin, H, DType::f32);
    matrices.emplace_back(std::span(up).subspan(begin * H, (end - begin) * H), end - begin, H, DType::f32);
    matrices.emplace_back(part, H, end - begin, DType::f32);
    const size_t n = matrices.size();
    return Expert{matrices[n - 3].matrix(), matrices[n - 2].matrix(), matrices[n - 1].matrix()};
  };
  const Expert one = expert(0, I), cut[] = {expert(0, 16), expert(16, 23), expert(23, I)};
  for (const auto& kernel : DenseFfn::kernels()) {
    if (!supported(kernel.impl)) continue;
    kernel.run({N, H, I}, {x.data(), &one, 1, whole.data()});
    kernel.run({N, H, I}, {x.data(), cut, 3, sum.data()});
    expect_close(sum, whole, 32 * 0x1p-24, name(kernel.impl));
  }
}

TEST(DenseFfn, ShapesOfModels) {
  const auto width = [](const char* spec, int64_t layer) {
    return DenseFfn::shape(load_model(spec), layer, 1).intermediate_size;
  };
  EXPECT_EQ(width("Llama-3.1-8B", 31), 14336);
  EXPECT_EQ(width("DeepSeek-V3", 2), 18432);
  EXPECT_THROW(width("DeepSeek-V3", 3), Error);
  EXPECT_EQ(width("DeepSeek-V2-Lite~dense_active", 0), 10944);
  EXPECT_EQ(width("DeepSeek-V2-Lite~dense_active", 1), 8 * 1408);
  EXPECT_EQ(width("DeepSeek-V3~dense_total", 60), 257 * 2048);
}

TEST(DenseFfn, FlopsAreCounted) {
  const DenseFfn::Shape shape{3, 19, 21};
  EXPECT_EQ((counted_flops<DenseFfn, reference::dense_ffn<Counted>>(shape, "panels")),
            DenseFfn::cost(shape, DType::f32, "panels").flops);
}

TEST(DenseFfn, ImpossibleShapesAreRefused) {
  EXPECT_THROW(DenseFfn::Problem({1, 8, 0}, DType::f32, "panels", test_arena(), 1), Error);
}

}  // namespace
}  // namespace mmb
