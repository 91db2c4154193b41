#include "mmb/linear.h"

#include "mmb/random.h"
#include "op_test.h"

namespace mmb {
namespace {

TEST(Linear, LiteralCase) {
  const std::vector<float> w = {1, 2, 3, 4, 5, 6};  // [2, 3]
  const float x[] = {1, 10, 100};
  float y[2];
  for (const auto& kernel : Linear::kernels()) {
    if (!supported(kernel.impl) || kernel.note) continue;
    const PackedMatrix packed(w, 2, 3, DType::bf16);
    kernel.run({1, 3, 2}, {x, packed.matrix(), y});
    EXPECT_EQ(y[0], 321) << name(kernel.impl);
    EXPECT_EQ(y[1], 654) << name(kernel.impl);
  }
}

// Tokens below, at and above every tile height; outputs around a panel and around a group; columns around a column block.
// Six values at the least: all sums of a smaller result may cancel, which leaves their rounding.
TEST(Linear, KernelsMatchReference) {
  for (int64_t tokens : {1, 2, 3, 4, 5, 6, 7, 12, 13, 17, 24, 25, 33})
    for (int64_t out : {1, 15, 16, 17, 130})
      if (tokens * out >= 6) expect_kernels_match_reference<Linear, reference::linear<double>>({tokens, 67, out});
  for (int64_t in : {1, 2, 255, 256, 257, 515})
    for (int64_t tokens : {1, 5, 29})
      expect_kernels_match_reference<Linear, reference::linear<double>>({tokens, in, 50});
  expect_kernels_match_reference<Linear, reference::linear<double>>({1, 7168, 576});
  // More than a megabyte of tokens: in passes over some blocks of columns, and in groups of tiles, over two groups of panels.
  for (auto [tokens, in] : {std::pair{500, 520}, {2100, 130}})
    expect_kernels_match_reference<Linear, reference::linear<double>>({tokens, in, 50});
}

// Activations that bf16 has not, to the nearest that it has, ties to even; by the few-token path and on tiles.
TEST(Linear, RoundedRoundsToNearest) {
  const std::vector<float> w = {1, 1};
  for (const auto& kernel : Linear::kernels()) {
    if (kernel.algo != std::string_view("rounded") || !supported(kernel.impl)) continue;
    const PackedMatrix packed(w, 1, 2, DType::bf16);
    for (const size_t tokens : {1, 20}) {
      std::vector<float> x(2 * tokens, 0x1.00ffp0f), y(tokens);  // rounds to 1
      x[0] = 0x1.01p0f;                                          // a tie, to 1
      x[1] = 0x1.0301p0f;                                        // to 1 + 2^-6
      kernel.run({static_cast<int64_t>(tokens), 2, 1}, {x.data(), packed.matrix(), y.data()});
      EXPECT_EQ(y[0], 2 + 0x1p-6f);
      if (tokens > 1) {
        EXPECT_EQ(y[tokens - 1], 2);
      }
    }
  }
}

// Random weights have few bits of mantissa: here the last one of bf16 is set, and every sum is exact.
TEST(Linear, TheLastBitOfBf16IsMultiplied) {
  const int64_t rows = 33, cols = 21;
  const PackedMatrix packed(std::vector<float>(rows * cols, 1 + 0x1p-7f), rows, cols, DType::bf16);
  for (const auto& kernel : Linear::kernels()) {
    if (!supported(kernel.impl) || !takes(kernel, {}, DType::bf16)) continue;
    for (size_t tokens : {1, 2, 3, 4, 5, 6, 12, 24, 33}) {
      const std::vector<float> x(tokens * cols, 1);
      std::vector<float> y(tokens * rows);
      kernel.run({static_cast<int64_t>(tokens), cols, rows}, {x.data(), packed.matrix(), y.data()});
      for (float sum : y) ASSERT_EQ(sum, cols + cols * 0x1p-7f) << name(kernel.impl) << ' ' << tokens << " tokens";
    }
  }
}

// Row r holds pattern r in one column, wherever that lies in a line, among ones: a NaN is the only number of its lines that is
// not normal. Alone, for a few and for many tokens.
TEST(Linear, EveryFp8PatternIsMultiplied) {
  const int64_t rows = 256, cols = 131;
  for (int64_t column : {0, 1, 2, 3, 66, 128, 130}) {
    std::vector<float> w(rows * cols, 1);
    for (int64_t r = 0; r < rows; ++r)
      w[static_cast<size_t>(r * cols + column)] =
          from_fp8(static_cast<uint8_t>(r));  // 448 is in each block: scales of 1
    const PackedMatrix packed(w, rows, cols, DType::fp8);
    for (const auto& kernel : Linear::kernels()) {
      if (!supported(kernel.impl) || !takes(kernel, {}, DType::fp8)) continue;
      for (int64_t tokens : {1, 4, 29}) {
        std::vector<float> x(static_cast<size_t>(tokens * cols)), y(static_cast<size_t>(tokens * rows));
        for (int64_t n = 0; n < tokens; ++n) x[static_cast<size_t>(n * cols + column)] = static_cast<float>(n + 1);
        kernel.run({tokens, cols, rows}, {x.data(), packed.matrix(), y.data()});
        for (int64_t n = 0; n < tokens; ++n)
          for (int64_t r = 0; r < rows; ++r) {
            const float actual = y[static_cast<size_t>(n * rows + r)];
            if (r % 128 == 127)
              ASSERT_TRUE(std::isnan(actual)) << name(kernel.impl) << ' ' << r;
            else
              ASSERT_EQ(actual, static_cast<float>(n + 1) * from_fp8(static_cast<uint8_t>(r))) << name(kernel.impl);
          }
      }
    }
  }
}

// Groups of columns of very different size, one of zeros among them and the last one cut; tokens around the number that dots
// of bytes take. What is lost is relative to the sum of magnitudes.
TEST(Linear, IntegerWeightsMeetActivationsOfAnySize) {
  const int64_t rows = 19, cols = 5 * 16 + 6;
  std::vector<float> w(rows * cols);
  fill_normal(w, 3);
  for (DType dtype : {DType::int8, DType::int4}) {
    const PackedMatrix packed(w, rows, cols, dtype);
    for (const auto& kernel : Linear::kernels()) {
      if (!supported(kernel.impl) || !takes(kernel, {}, dtype)) continue;
      for (int64_t tokens : {1, 2, 3, 4, 5, 9, 17}) {
        std::vector<float> x(static_cast<size_t>(tokens * cols)), y(static_cast<size_t>(tokens * rows));
        fill_normal(x, 4);
        for (size_t i = 0; i < x.size(); ++i) {
          constexpr float kSizes[] = {1, 1e-6f, 0, 1e9f, 1e-20f, 3};
          x[i] *= kSizes[(i % cols / 16 + i / cols) % 6];
        }
        kernel.run({tokens, cols, rows}, {x.data(), packed.matrix(), y.data()});
        for (int64_t i = 0; i < tokens * rows; ++i) {
          double sum = 0, magnitude = 0;
          for (int64_t c = 0; c < cols; ++c) {
            const double product = packed.matrix().at(i % rows, c) * x[static_cast<size_t>(i / rows * cols + c)];
            sum += product;
            magnitude += std::abs(product);
          }
          ASSERT_NEAR(y[static_cast<size_t>(i)], sum, 3e-7 * magnitude)
              << name(kernel.impl) << ' ' << name(dtype) << ' ' << tokens << " tokens, " << i;
        }
      }
    }
  }
}

TEST(Linear, PeersMatchReference) {
  for (const Linear::Shape& shape : {Linear::Shape{1, 67, 50}, {5, 96, 64}, {33, 130, 17}})
    expect_peers_match_reference<Linear, reference::linear<double>>(shape);
}

TEST(Linear, FlopsAreCounted) {
  const Linear::Shape shape{3, 19, 21};
  EXPECT_EQ((counted_flops<Linear, reference::linear<Counted>>(shape, "panels")),
            Linear::cost(shape, DType::f32, "panels").flops);
}

TEST(Linear, PackedBytesAreTheMatrixForWholePanels) {
  EXPECT_EQ(matrix_bytes(2048, 7168, DType::bf16), 2048 * 7168 * 2);
  EXPECT_EQ(matrix_bytes(17, 3, DType::bf16), 32 * 4 * 2);
}

}  // namespace
}  // namespace mmb
