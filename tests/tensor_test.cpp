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

// e4m3 of the OCP 8-bit floating-point specification: bias 7, no infinities, NaN at the top, subnormals of 2^-9.
TEST(Fp8, EveryPatternIsItsNumberAndSurvives) {
  std::set<float> values;
  for (int bits = 0; bits < 256; ++bits) {
    const auto pattern = static_cast<uint8_t>(bits);
    const float value = from_fp8(pattern);
    const int exponent = bits >> 3 & 15, mantissa = bits & 7;
    if ((bits & 127) == 127) {
      EXPECT_TRUE(std::isnan(value));
      EXPECT_EQ(to_fp8(value) & 127, 127);
      continue;
    }
    const double magnitude = exponent == 0 ? mantissa * 0x1p-9 : (1 + mantissa / 8.0) * std::pow(2, exponent - 7);
    EXPECT_EQ(value, bits < 128 ? magnitude : -magnitude);
    EXPECT_EQ(to_fp8(value), pattern);
    values.insert(value);
  }
  EXPECT_EQ(values.size(), 253u);  // the two zeros are equal
  EXPECT_EQ(from_fp8(0x7e), 448);
}

// Against a search for the nearest of all: between neighbours, at their middle, and beyond the largest.
TEST(Fp8, RoundsToNearestEven) {
  for (int bits = 0; bits < 126; ++bits) {
    const float a = from_fp8(static_cast<uint8_t>(bits)), b = from_fp8(static_cast<uint8_t>(bits + 1)),
                middle = (a + b) / 2;
    EXPECT_EQ(to_fp8(std::nextafter(middle, 0.f)), bits);
    EXPECT_EQ(to_fp8(std::nextafter(middle, 1e9f)), bits + 1);
    EXPECT_EQ(to_fp8(middle), bits % 2 ? bits + 1 : bits);
    EXPECT_EQ(to_fp8(-b), 0x80 | (bits + 1));
  }
  EXPECT_EQ(to_fp8(1e9f), 0x7e);
  EXPECT_EQ(to_fp8(-INFINITY), 0xfe);
}

TEST(F16, EveryValueSurvives) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = from_f16(static_cast<uint16_t>(bits));
    if (std::isnan(value))
      EXPECT_TRUE(std::isnan(from_f16(to_f16(value))));
    else
      EXPECT_EQ(to_f16(value), bits);
  }
  EXPECT_EQ(from_f16(0x3c00), 1);
  EXPECT_EQ(from_f16(0x0001), 0x1p-24f);
  EXPECT_EQ(from_f16(0xfbff), -65504);
}

// What is stored differs from what was given by half a unit of the last place at the most.
TEST(Matrix, ScaledTypesAreAsCloseAsTheirBitsAllow) {
  const struct {
    DType dtype;
    double unit;  // of the largest element of a scale
  } cases[] = {{DType::fp8, 16.0 / 448}, {DType::int8, 0.5 / 127}, {DType::int4, 0.51 / 7}};
  for (const auto& [dtype, unit] : cases)
    for (bool transposed : {false, true}) {
      const int64_t rows = 150, cols = 131, count = 2;
      std::vector<float> values(rows * cols * count);
      for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<float>(i * i % 1009));
      const PackedMatrix packed(values, rows, cols, dtype, transposed, count);
      for (int64_t i = 0; i < count; ++i) {
        const Matrix m = packed.matrix().nth(i);
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t c = 0; c < cols; ++c)
            ASSERT_NEAR(m.at(r, c), values[static_cast<size_t>((i * rows + r) * cols + c)], unit) << name(dtype);
        std::vector<double> row(cols), product(rows), ones(cols, 1);
        m.multiply(ones.data(), product.data());
        for (int64_t r = 0; r < rows; ++r) {
          m.copy_row(r, row.data());
          for (int64_t c = 0; c < cols; ++c) ASSERT_EQ(row[static_cast<size_t>(c)], m.at(r, c));
          ASSERT_NEAR(product[static_cast<size_t>(r)], std::accumulate(row.begin(), row.end(), 0.0), 1e-12);
        }
      }
    }
}

TEST(Matrix, BytesOfScaledTypes) {
  EXPECT_EQ(weight_bytes(2048, 7168, DType::bf16), 2048 * 7168 * 2);
  EXPECT_EQ(weight_bytes(2048, 7168, DType::fp8), 2048 * 7168 + 4 * 16 * 56);
  EXPECT_EQ(weight_bytes(2048, 7168, DType::int8), 2048 * 7168 + 4 * 2048);
  EXPECT_EQ(weight_bytes(2048, 7168, DType::int4), 2048 * 7168 / 32 * 18);
  EXPECT_EQ(weight_bytes(576, 7168, DType::fp8, 3), 3 * (576 * 7168 + 4 * 5 * 56));
  for (DType dtype : kWeightTypes)
    EXPECT_EQ(static_cast<double>(matrix_bytes(2048, 7168, dtype)), weight_bytes(2048, 7168, dtype)) << name(dtype);
  EXPECT_EQ(matrix_bytes(17, 3, DType::int8), 2 * 64 + 32 * 4);
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
  for (DType dtype : {DType::fp8, DType::int8, DType::int4}) {
    double squares = 0;
    const Matrix m{again, dtype, false, 16, 96};
    for (int64_t r = 0; r < m.rows; ++r)
      for (int64_t c = 0; c < m.cols; ++c) squares += m.at(r, c) * m.at(r, c);
    const double rms = std::sqrt(squares / static_cast<double>(m.rows * m.cols));  // NaN, were there one
    EXPECT_GT(rms, Arena::rms(dtype) / 4) << name(dtype);
    EXPECT_LT(rms, Arena::rms(dtype) * 4) << name(dtype);
  }
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
  EXPECT_EQ(context_key(2, 1, 4096, 512), "batch:2/q:1/ctx:512..4096");
  EXPECT_EQ(context_key(2, 1, 4096), "batch:2/q:1/ctx:4096");
  EXPECT_EQ(past_key(2, 16, 4112, 16), "batch:2/q:16/past:0..4096");
}

}  // namespace
}  // namespace mmb
