#include "mmb/tensor.h"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <new>
#include <numeric>

#include "mmb/error.h"

namespace mmb {

const char* name(DType dtype) {
  static constexpr const char* kNames[] = {"f32", "bf16", "fp8", "int8", "int4"};
  return kNames[static_cast<int>(dtype)];
}

namespace {

// A float of `mantissa` bits of mantissa and a lowest exponent of `least`, without sign: nearest, ties to even. Exact in
// double: scaled so that a unit in the last place is 1.
int64_t round_magnitude(double x, int mantissa, int least) {
  const int exponent = x > 0 ? std::max(std::ilogb(x), least) : least;
  const auto units = static_cast<int64_t>(std::nearbyint(std::ldexp(x, mantissa - exponent)));
  return (static_cast<int64_t>(exponent - least) << mantissa) +
         units;  // a carry moves on to the next exponent, as it should
}

}  // namespace

float from_fp8(uint8_t bits) {
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  if ((bits & 0x7f) == 0x7f) return std::numeric_limits<float>::quiet_NaN();
  const float magnitude = exponent > 0 ? std::ldexp(static_cast<float>(8 + mantissa), exponent - 10)
                                       : std::ldexp(static_cast<float>(mantissa), -9);
  return bits & 0x80 ? -magnitude : magnitude;
}

uint8_t to_fp8(float x) {
  const auto sign = static_cast<uint8_t>(std::signbit(x) ? 0x80 : 0);
  if (std::isnan(x)) return sign | 0x7f;
  return static_cast<uint8_t>(sign | std::min<int64_t>(round_magnitude(std::min(std::abs(x), 512.f), 3, -6), 0x7e));
}

float from_f16(uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  float magnitude = exponent > 0 ? std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25)
                                 : std::ldexp(static_cast<float>(mantissa), -24);
  if (exponent == 31)
    magnitude = mantissa ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
  return bits & 0x8000 ? -magnitude : magnitude;
}

uint16_t to_f16(float x) {
  const auto sign = static_cast<uint16_t>(std::signbit(x) ? 0x8000 : 0);
  if (std::isnan(x)) return sign | 0x7e00;
  return static_cast<uint16_t>(sign |
                               std::min<int64_t>(round_magnitude(std::min(std::abs(x), 65536.f), 10, -14), 0x7c00));
}

namespace {

int nibble(const uint8_t* bytes, int64_t index) {
  const int bits = bytes[index / 2] >> index % 2 * 4 & 15;
  return bits < 8 ? bits : bits - 16;
}

}  // namespace

double element(const void* data, DType dtype, int64_t index) {
  switch (dtype) {
    case DType::f32:
      return static_cast<const float*>(data)[index];
    case DType::bf16:
      return to_float(static_cast<const bf16*>(data)[index]);
    case DType::fp8:
      return from_fp8(static_cast<const uint8_t*>(data)[index]);
    case DType::int8:
      return static_cast<const int8_t*>(data)[index];
    case DType::int4:
      return nibble(static_cast<const uint8_t*>(data), index);
  }
  return 0;
}

void set_element(void* data, DType dtype, int64_t index, float value) {
  const auto integer = [&](float least, float most) {
    return static_cast<int>(std::nearbyint(std::clamp(value, least, most)));
  };
  switch (dtype) {
    case DType::f32:
      static_cast<float*>(data)[index] = value;
      return;
    case DType::bf16:
      static_cast<bf16*>(data)[index] = to_bf16(value);
      return;
    case DType::fp8:
      static_cast<uint8_t*>(data)[index] = to_fp8(value);
      return;
    case DType::int8:
      static_cast<int8_t*>(data)[index] = static_cast<int8_t>(integer(-127, 127));
      return;
    case DType::int4: {
      uint8_t& byte = static_cast<uint8_t*>(data)[index / 2];
      const auto shift = static_cast<int>(index % 2 * 4);
      byte = static_cast<uint8_t>((byte & ~(15u << shift)) | static_cast<unsigned>(integer(-8, 7) & 15) << shift);
      return;
    }
  }
}

namespace {

// Index of (row, col) in the panel layout of a matrix with `cols` columns.
int64_t panel_index(int64_t row, int64_t col, int64_t cols, DType dtype) {
  const int64_t q = line_columns(dtype);
  return ((row / kPanel * ceil_div(cols, q) + col / q) * kPanel + row % kPanel) * q + col % q;
}

// Index of the scale of (row, col).
int64_t scale_index(int64_t row, int64_t col, int64_t cols, DType dtype) {
  if (dtype == DType::fp8) return row / kScaleBlock * ceil_div(cols, kScaleBlock) + col / kScaleBlock;
  if (dtype == DType::int8) return row;
  return (row / kPanel * ceil_div(cols, kScaleGroup) + col / kScaleGroup) * kPanel + row % kPanel;
}

double scale(const void* scales, DType dtype, int64_t index) {
  return dtype == DType::int4 ? from_f16(static_cast<const uint16_t*>(scales)[index])
                              : static_cast<const float*>(scales)[index];
}

int64_t scale_bytes(int64_t rows, int64_t cols, DType dtype) {
  switch (dtype) {
    case DType::fp8:
      return 4 * ceil_div(rows, kScaleBlock) * ceil_div(cols, kScaleBlock);
    case DType::int8:
      return 4 * rows;
    case DType::int4:
      return 2 * rows * ceil_div(cols, kScaleGroup);
    default:
      return 0;
  }
}

}  // namespace

int64_t matrix_bytes(int64_t rows, int64_t cols, DType dtype) {
  return panel_bytes(rows, cols, dtype) + round_up(scale_bytes(round_up(rows, kPanel), cols, dtype), 64);
}

double weight_bytes(int64_t rows, int64_t cols, DType dtype, int64_t count) {
  const auto elements = static_cast<double>(rows) * static_cast<double>(cols);
  return static_cast<double>(count) *
         (elements * static_cast<double>(bits_of(dtype)) / 8 + static_cast<double>(scale_bytes(rows, cols, dtype)));
}

const void* Matrix::scales() const {
  return static_cast<const char*>(data) +
         (transposed ? panel_bytes(cols, rows, dtype) : panel_bytes(rows, cols, dtype));
}

double Matrix::at(int64_t row, int64_t col) const {
  if (row_major) return element(data, dtype, row * cols + col);
  const int64_t r = transposed ? col : row, c = transposed ? row : col, width = transposed ? rows : cols;
  const double value = element(data, dtype, panel_index(r, c, width, dtype));
  return is_scaled(dtype) ? value * scale(scales(), dtype, scale_index(r, c, width, dtype)) : value;
}

namespace {

// What element() gives, where it is read often.
template <DType kType>
double value(const void* data, int64_t index) {
  if constexpr (kType == DType::fp8) {
    static const std::array<double, 256> values = [] {
      std::array<double, 256> all;
      for (int bits = 0; bits < 256; ++bits) all[static_cast<size_t>(bits)] = from_fp8(static_cast<uint8_t>(bits));
      return all;
    }();
    return values[static_cast<const uint8_t*>(data)[index]];
  } else {
    return element(data, kType, index);
  }
}

// Panel by panel, line by line, as they lie: row by row takes two to three times as long.
template <DType kType>
void multiply_panels(const Matrix& m, const double* x, double* y) {
  constexpr int64_t q = line_columns(kType);
  const auto* line = static_cast<const char*>(m.data);
  for (int64_t row = 0; row < m.rows; row += kPanel) {
    double sums[kPanel] = {}, scales[kPanel];
    std::fill_n(scales, kPanel, 1.0);
    for (int64_t first = 0; first < m.cols; first += q, line += 64) {
      if (is_scaled(kType) && first % kScaleGroup == 0)
        for (int64_t r = 0; r < kPanel; ++r)
          scales[r] = scale(m.scales(), kType, scale_index(row + r, first, m.cols, kType));
      for (int64_t c = 0; c < std::min(q, m.cols - first); ++c)
        for (int64_t r = 0; r < kPanel; ++r) sums[r] += value<kType>(line, r * q + c) * scales[r] * x[first + c];
    }
    std::copy(sums, sums + std::min(kPanel, m.rows - row), y + row);
  }
}

template <DType kType>
void copy_panel_row(const Matrix& m, int64_t row, double* out) {
  double factor = 1;
  for (int64_t c = 0; c < m.cols; ++c) {
    if (is_scaled(kType) && c % kScaleGroup == 0) factor = scale(m.scales(), kType, scale_index(row, c, m.cols, kType));
    out[c] = value<kType>(m.data, panel_index(row, c, m.cols, kType)) * factor;
  }
}

// f(integral_constant<DType, dtype>)
template <class F>
void with_type(DType dtype, F f) {
  switch (dtype) {
    case DType::f32:
      return f(std::integral_constant<DType, DType::f32>());
    case DType::bf16:
      return f(std::integral_constant<DType, DType::bf16>());
    case DType::fp8:
      return f(std::integral_constant<DType, DType::fp8>());
    case DType::int8:
      return f(std::integral_constant<DType, DType::int8>());
    case DType::int4:
      return f(std::integral_constant<DType, DType::int4>());
  }
}

}  // namespace

void Matrix::copy_row(int64_t row, double* out) const {
  if (transposed || row_major) {
    for (int64_t c = 0; c < cols; ++c) out[c] = at(row, c);
    return;
  }
  with_type(dtype, [&](auto type) { copy_panel_row<type>(*this, row, out); });
}

void Matrix::multiply(const double* x, double* y) const {
  if (transposed || row_major) {
    std::vector<double> row(static_cast<size_t>(cols));
    for (int64_t r = 0; r < rows; ++r) {
      copy_row(r, row.data());
      y[r] = std::inner_product(row.begin(), row.end(), x, 0.0);
    }
  } else {
    with_type(dtype, [&](auto type) { multiply_panels<type>(*this, x, y); });
  }
}

int64_t Matrix::bytes() const {
  if (row_major) return rows * cols * bits_of(dtype) / 8;
  return transposed ? matrix_bytes(cols, rows, dtype) : matrix_bytes(rows, cols, dtype);
}

Matrix Matrix::nth(int64_t index) const {
  Matrix m = *this;
  m.data = static_cast<const char*>(data) + index * bytes();
  return m;
}

namespace {
constexpr int64_t kHugePage = int64_t{2} << 20;
}

void* allocate(int64_t bytes) {
  const bool huge = bytes >= 2 * kHugePage;
  void* data = std::aligned_alloc(huge ? kHugePage : 64, round_up(bytes, huge ? kHugePage : 64));
  if (!data) throw std::bad_alloc();
  if (huge) madvise(data, round_up(bytes, kHugePage), MADV_HUGEPAGE);
  const int64_t block = huge ? kHugePage : bytes;
  // Pages belong to the thread that first touches them: the static split of the kernels.
#pragma omp parallel for schedule(static) if (huge)
  for (int64_t begin = 0; begin < bytes; begin += block)
    std::memset(static_cast<char*>(data) + begin, 0, static_cast<size_t>(std::min(block, bytes - begin)));
  return data;
}

void deallocate(void* data, int64_t) {
  std::free(data);
}

PackedMatrix::PackedMatrix(std::span<const float> row_major, int64_t rows, int64_t cols, DType dtype, bool transposed,
                           int64_t count)
    : matrix_{nullptr, dtype, transposed, rows, cols} {
  if (static_cast<int64_t>(row_major.size()) != rows * cols * count)
    throw Error("PackedMatrix: expected " + std::to_string(rows * cols * count) + " values, got " +
                std::to_string(row_major.size()));
  storage_ = Buffer<uint8_t>(count * matrix_.bytes(), 0);
  matrix_.data = storage_.data();
  const int64_t height = transposed ? cols : rows, width = transposed ? rows : cols;  // as stored
  for (int64_t i = 0; i < count; ++i) {
    void* out = storage_.data() + i * matrix_.bytes();
    const auto value = [&](int64_t r, int64_t c) {
      return row_major[static_cast<size_t>(i * rows * cols + (transposed ? c * cols + r : r * cols + c))];
    };
    std::vector<float> largest, scales;  // of each scale's elements
    if (is_scaled(dtype)) {
      largest.resize(static_cast<size_t>(scale_index(round_up(height, kPanel) - 1, width - 1, width, dtype) + 1));
      for (int64_t r = 0; r < height; ++r)
        for (int64_t c = 0; c < width; ++c) {
          float& most = largest[static_cast<size_t>(scale_index(r, c, width, dtype))];
          most = std::max(most, std::abs(value(r, c)));
        }
      void* stored = static_cast<char*>(out) + panel_bytes(height, width, dtype);
      for (size_t s = 0; s < largest.size(); ++s) {
        const float exact = largest[s] / (dtype == DType::fp8 ? 448.f : dtype == DType::int8 ? 127.f : 7.f);
        if (dtype == DType::int4)
          static_cast<uint16_t*>(stored)[s] = to_f16(exact);
        else
          static_cast<float*>(stored)[s] = exact;
        scales.push_back(static_cast<float>(scale(stored, dtype, static_cast<int64_t>(s))));
      }
    }
    for (int64_t r = 0; r < height; ++r)
      for (int64_t c = 0; c < width; ++c) {
        const float unit = is_scaled(dtype) ? scales[static_cast<size_t>(scale_index(r, c, width, dtype))] : 1;
        set_element(out, dtype, panel_index(r, c, width, dtype), unit != 0 ? value(r, c) / unit : 0);
      }
  }
}

void Arena::Unmap::operator()(uint8_t* data) const {
  munmap(data, static_cast<size_t>(bytes));
}

Arena Arena::untouched(int64_t bytes) {
  Arena arena;
  arena.bytes_ = round_up(std::max<int64_t>(bytes, 1), 64);
  void* data = mmap(nullptr, static_cast<size_t>(arena.bytes_), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) throw std::bad_alloc();
  arena.data_ = static_cast<uint8_t*>(data);
  arena.untouched_ = {arena.data_, Unmap{arena.bytes_}};
  return arena;
}

Arena::Arena(int64_t bytes, uint64_t seed)
    : block_(round_up(bytes, 64), 0), data_(block_.data()), bytes_(block_.size()) {
  auto* out = reinterpret_cast<uint64_t*>(block_.data());
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < block_.size() / 8; ++i) {
    // splitmix64 of the index: the same values for any number of threads.
    uint64_t z = (static_cast<uint64_t>(i) + seed * 0x9e3779b97f4a7c15u) * 0x9e3779b97f4a7c15u + 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    // Four bf16: the sign, 5 bits of mantissa and 2 bits of exponent, above 2^-8. Bytes are even, which fp8's NaN is not, and
    // their fp8's exponent is not 0: but for one byte of 1024 words, as many as are subnormal of normally distributed weights
    // whose scale has 128 x 128 of them.
    const bool subnormal = (z & 0x1e007e00u) == 0;
    out[i] = ((z & 0x81f681f681f681f6u) + 0x3b883b883b883b88u) & ~(subnormal ? uint64_t{0x78} : 0);
  }
}

double Arena::rms(DType dtype) {
  if (!is_scaled(dtype)) return kRms;
  static const std::array<double, 3> all = [] {
    const Arena sample(1 << 16);
    const auto root_mean_square = [](int64_t count, auto value) {
      double squares = 0;
      for (int64_t i = 0; i < count; ++i) squares += value(i) * value(i);
      return std::sqrt(squares / static_cast<double>(count));
    };
    const void* data = sample.block_.data();
    const auto of = [&](DType type) {
      const double elements = root_mean_square(1 << 14, [&](int64_t i) { return element(data, type, i); });
      return elements * root_mean_square(1 << 12, [&](int64_t i) { return scale(data, type, i); });
    };
    return std::array<double, 3>{of(DType::fp8), of(DType::int8), of(DType::int4)};
  }();
  return all[static_cast<size_t>(dtype) - static_cast<size_t>(DType::fp8)];
}

void* Arena::take(int64_t bytes) {
  bytes = round_up(bytes, 64);
  if (bytes > bytes_)
    throw Error("memory: " + std::to_string(bytes) + " bytes in one piece do not fit the arena of " +
                std::to_string(bytes_));
  if (next_ + bytes > bytes_) next_ = 0;
  if (next_ < kept_end_ && next_ + bytes > kept_) {
    if (kept_end_ + bytes <= bytes_)
      next_ = kept_end_;
    else if (bytes <= kept_)
      next_ = 0;
  }
  void* data = data_ + next_;
  next_ += bytes;
  taken_ += bytes;
  return data;
}

}  // namespace mmb
