#include "mmb/tensor.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <new>
#include <numeric>

#include "mmb/error.h"

namespace mmb {

const char* name(DType dtype) {
  return dtype == DType::f32 ? "f32" : "bf16";
}

double element(const void* data, DType dtype, int64_t index) {
  return dtype == DType::f32 ? static_cast<const float*>(data)[index] : to_float(static_cast<const bf16*>(data)[index]);
}

void set_element(void* data, DType dtype, int64_t index, float value) {
  if (dtype == DType::f32)
    static_cast<float*>(data)[index] = value;
  else
    static_cast<bf16*>(data)[index] = to_bf16(value);
}

namespace {

// Index of (row, col) in the panel layout of a matrix with `cols` columns.
int64_t panel_index(int64_t row, int64_t col, int64_t cols, DType dtype) {
  const int64_t q = 4 / size_of(dtype);
  return (row / kPanel * ceil_div(cols, q) + col / q) * kPanel * q + row % kPanel * q + col % q;
}

}  // namespace

int64_t matrix_bytes(int64_t rows, int64_t cols, DType dtype) {
  return round_up(rows, kPanel) * round_up(cols, 4 / size_of(dtype)) * size_of(dtype);
}

double Matrix::at(int64_t row, int64_t col) const {
  if (row_major) return element(data, dtype, row * cols + col);
  return element(data, dtype, transposed ? panel_index(col, row, rows, dtype) : panel_index(row, col, cols, dtype));
}

void Matrix::copy_row(int64_t row, double* out) const {
  if (transposed || row_major) {
    for (int64_t c = 0; c < cols; ++c) out[c] = at(row, c);
  } else if (dtype == DType::f32) {
    const float* line = static_cast<const float*>(data) + panel_index(row, 0, cols, dtype);
    for (int64_t c = 0; c < cols; ++c) out[c] = line[c * kPanel];
  } else {
    const bf16* line = static_cast<const bf16*>(data) + panel_index(row, 0, cols, dtype);
    for (int64_t c = 0; c < cols; ++c) out[c] = to_float(line[c / 2 * 2 * kPanel + c % 2]);
  }
}

namespace {

// One 64-byte line of a panel: the next columns of its 16 rows.
void accumulate(const float* line, const double* x, int64_t, double* sums) {
  for (int64_t r = 0; r < kPanel; ++r) sums[r] += static_cast<double>(line[r]) * x[0];
}
void accumulate(const bf16* line, const double* x, int64_t columns, double* sums) {
  uint32_t pairs[kPanel];
  std::memcpy(pairs, line, sizeof pairs);
  for (int64_t c = 0; c < columns; ++c) {
    uint32_t bits[kPanel];
    float values[kPanel];
    for (int64_t r = 0; r < kPanel; ++r) bits[r] = c == 0 ? pairs[r] << 16 : pairs[r] & 0xffff0000u;
    std::memcpy(values, bits, sizeof values);
    for (int64_t r = 0; r < kPanel; ++r) sums[r] += static_cast<double>(values[r]) * x[c];
  }
}

// Panel by panel: row by row, every line would be read 16 times.
template <class T>
void multiply_panels(const Matrix& m, const double* x, double* y) {
  constexpr int64_t q = 4 / static_cast<int64_t>(sizeof(T));
  const T* line = static_cast<const T*>(m.data);
  for (int64_t row = 0; row < m.rows; row += kPanel) {
    double sums[kPanel] = {};
    for (int64_t c = 0; c < m.cols; c += q, line += kPanel * q) accumulate(line, x + c, std::min(q, m.cols - c), sums);
    std::copy(sums, sums + std::min(kPanel, m.rows - row), y + row);
  }
}

}  // namespace

void Matrix::multiply(const double* x, double* y) const {
  if (transposed || row_major) {
    std::vector<double> row(static_cast<size_t>(cols));
    for (int64_t r = 0; r < rows; ++r) {
      copy_row(r, row.data());
      y[r] = std::inner_product(row.begin(), row.end(), x, 0.0);
    }
  } else if (dtype == DType::f32) {
    multiply_panels<float>(*this, x, y);
  } else {
    multiply_panels<bf16>(*this, x, y);
  }
}

int64_t Matrix::bytes() const {
  if (row_major) return rows * cols * size_of(dtype);
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
  for (int64_t i = 0; i < count; ++i) {
    void* out = storage_.data() + i * matrix_.bytes();
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < cols; ++c)
        set_element(out, dtype, transposed ? panel_index(c, r, rows, dtype) : panel_index(r, c, cols, dtype),
                    row_major[static_cast<size_t>((i * rows + r) * cols + c)]);
  }
}

Arena::Arena(int64_t bytes, uint64_t seed) : block_(round_up(bytes, 64), 0) {
  auto* out = reinterpret_cast<uint64_t*>(block_.data());
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < block_.size() / 8; ++i) {
    // splitmix64 of the index: the same values for any number of threads.
    uint64_t z = (static_cast<uint64_t>(i) + seed * 0x9e3779b97f4a7c15u) * 0x9e3779b97f4a7c15u + 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    // Four bf16: keep the sign, 7 bits of mantissa and 2 bits of exponent, above 2^-8.
    out[i] = (z & 0x81ff81ff81ff81ffu) + 0x3b803b803b803b80u;
  }
}

void* Arena::take(int64_t bytes) {
  bytes = round_up(bytes, 64);
  if (bytes > block_.size())
    throw Error("memory: " + std::to_string(bytes) + " bytes in one piece do not fit the arena of " +
                std::to_string(block_.size()));
  if (next_ + bytes > block_.size()) next_ = 0;
  void* data = block_.data() + next_;
  next_ += bytes;
  taken_ += bytes;
  return data;
}

}  // namespace mmb
