#include "mmb/tensor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <set>

#include "mmb/error.h"
#include "mmb/sequences.h"

namespace mmb {
namespace {

TEST(Bf16, EveryValueSurvives) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = to_float(bf16{static_cast<uint16_t>(bits)});
    if (std::isnan(value))
      EXPECT_TRUE(std::isnan(to_float(to_bf16(value))));
    else
      EXPECT_EQ(to_bf16(value).bits, bits);
  }
}

TEST(Bf16, RoundsToNearestEven) {
  EXPECT_EQ(to_float(to_bf16(1 + 0x1p-8f)), 1);                       // half way: to even
  EXPECT_EQ(to_float(to_bf16(1 + 3 * 0x1p-8f)), 1 + 0x1p-6f);         // half way: to even, upwards
  EXPECT_EQ(to_float(to_bf16(1 + 0x1p-8f + 0x1p-20f)), 1 + 0x1p-7f);  // beyond half way
  EXPECT_EQ(to_float(to_bf16(std::numeric_limits<float>::max())), std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(to_float(to_bf16(std::numeric_limits<float>::quiet_NaN()))));
}

TEST(Matrix, PackedElementsAreWhereTheyWere) {
  for (DType dtype : {DType::f32, DType::bf16})
    for (bool transposed : {false, true}) {
      const int64_t rows = 19, cols = 5, count = 2;
      std::vector<float> values(rows * cols * count);
      for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);  // exact in bf16 below 256
      const PackedMatrix packed(values, rows, cols, dtype, transposed, count);
      for (int64_t i = 0; i < count; ++i) {
        const Matrix m = packed.matrix().nth(i);
        std::vector<double> row(cols), product(rows);
        const double powers[] = {1, 1000, 1e6, 1e9, 1e12};  // digits that do not meet
        m.multiply(powers, product.data());
        for (int64_t r = 0; r < rows; ++r) {
          m.copy_row(r, row.data());
          EXPECT_EQ(product[r], std::inner_product(row.begin(), row.end(), powers, 0.0));
          for (int64_t c = 0; c < cols; ++c) {
            EXPECT_EQ(m.at(r, c), static_cast<double>((i * rows + r) * cols + c));
            EXPECT_EQ(row[c], m.at(r, c));
          }
        }
      }
    }
}

TEST(Matrix, OneLineIsSixteenOutputsAndFourBytesOfColumns) {
  std::vector<float> values(32 * 4);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  const PackedMatrix packed(values, 32, 4, DType::bf16);
  const auto* line = static_cast<const bf16*>(packed.matrix().data);
  for (int64_t row = 0; row < 16; ++row)
    for (int64_t col = 0; col < 2; ++col) EXPECT_EQ(to_float(line[row * 2 + col]), static_cast<float>(row * 4 + col));
}

TEST(Buffer, SeesAWritePastTheEnd) {
  Buffer<float> buffer(10);
  EXPECT_TRUE(buffer.intact());
  buffer.data()[10] = 0;
  EXPECT_FALSE(buffer.intact());
}

TEST(Arena, GoesRoundAndHoldsOrdinaryNumbers) {
  Arena arena(1 << 16);
  std::set<void*> slices;
  for (int i = 0; i < 16; ++i) slices.insert(arena.take(4096));
  EXPECT_EQ(slices.size(), 16u);
  void* again = arena.take(4000);
  EXPECT_EQ(again, *slices.begin());
  const auto* words = static_cast<const float*>(again);
  const auto* halves = static_cast<const bf16*>(again);
  int negative = 0;
  for (int i = 0; i < 1000; ++i) {
    EXPECT_GE(std::abs(words[i]), 0x1p-8f);
    EXPECT_LT(std::abs(words[i]), 0x1p-4f);
    EXPECT_GE(std::abs(to_float(halves[i])), 0x1p-8f);
    EXPECT_LT(std::abs(to_float(halves[i])), 0x1p-4f);
    negative += words[i] < 0;
  }
  EXPECT_NEAR(negative, 500, 100);
  EXPECT_THROW(arena.take((1 << 16) + 1), Error);
}

TEST(Batch, CountsWhatCausalAttentionLooksAt) {
  const Batch even(2, 3, 10);
  EXPECT_EQ(even.tokens(), 6);
  EXPECT_EQ(even.cached(), 20);
  EXPECT_EQ(even.attended(), 2 * (8 + 9 + 10));
  const Batch ramp(3, 1, 100, 20);
  EXPECT_EQ(ramp.view().context[0], 20);
  EXPECT_EQ(ramp.view().context[1], 60);
  EXPECT_EQ(ramp.view().context[2], 100);
  EXPECT_THROW(Batch(1, 5, 4), Error);
  EXPECT_THROW(Batch(0, 1, 4), Error);
  EXPECT_EQ(length_key(4096, 512), "512..4096");
  EXPECT_EQ(length_key(4096, 0), "4096");
}

}  // namespace
}  // namespace mmb
