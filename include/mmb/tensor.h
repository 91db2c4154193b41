// Storage: the element types of weights and caches, the packed weight matrix, and buffers that show when they are overrun.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

namespace mmb {

// fp8 is e4m3 without infinities (the magnitude 0x7f is NaN); it and the integers come with scales (Matrix).
enum class DType : uint8_t { f32, bf16, fp8, int8, int4 };

inline constexpr std::array kPlainTypes = {DType::f32, DType::bf16};
inline constexpr std::array kWeightTypes = {DType::f32, DType::bf16, DType::fp8, DType::int8, DType::int4};

const char* name(DType dtype);

[[gnu::always_inline]] inline constexpr int64_t bits_of(DType dtype) {
  constexpr int64_t kBits[] = {32, 16, 8, 8, 4};
  return kBits[static_cast<int>(dtype)];
}
// Bytes of an element of whole bytes.
[[gnu::always_inline]] inline constexpr int64_t size_of(DType dtype) {
  return bits_of(dtype) / 8;
}
[[gnu::always_inline]] inline constexpr bool is_scaled(DType dtype) {
  return dtype > DType::bf16;
}
// Of keys, values and latents that a step appends beside weights of type `weights`: bf16 (f32 beside f32), or what was asked
// for, where that has scales.
[[gnu::always_inline]] inline constexpr DType cache_type(DType weights, DType asked = DType::bf16) {
  return is_scaled(asked) ? asked : weights == DType::f32 ? DType::f32 : DType::bf16;
}

// The upper half of an f32: 8 bits of exponent, 7 of mantissa.
struct bf16 {
  uint16_t bits;
};

[[gnu::always_inline]] inline float to_float(float x) {
  return x;
}

[[gnu::always_inline]] inline float to_float(bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// Round to nearest, ties to even; NaN stays NaN (rounding up could carry it into infinity).
[[gnu::always_inline]] inline bf16 to_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>(bits >> 16 | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

float from_fp8(uint8_t bits);
// Round to nearest, ties to even; beyond 448, the largest, to 448. NaN stays NaN.
uint8_t to_fp8(float x);
float from_f16(uint16_t bits);
uint16_t to_f16(float x);

// Element `index` of an array of `dtype`, without any scale.
double element(const void* data, DType dtype, int64_t index);
void set_element(void* data, DType dtype, int64_t index, float value);

// A weight matrix [rows, cols], rows = outputs: y[row] = sum_col at(row, col) * x[col].
// One layout for every kernel and type: panels of 16 rows, [rows/16][cols/q][16][q] with q = 32 / bits of an element, so that
// one 64-byte line holds 16 outputs x 4 bytes of columns: lanes are outputs, there are no horizontal sums, and the same line
// is the operand of a widening FMA, of a bf16 or int8 dot, and a row of an AMX tile. Rows and columns are padded with zeros.
// Scales follow the panels:  fp8   f32, one for every 128 x 128 block, [rows/128][cols/128], as DeepSeek-V3 ships
//                            int8  f32, one for every row
//                            int4  f16, one for every 32 columns of a row, [rows/16][cols/32][16]; elements are -8 .. 7
// `transposed`: the bytes are those of the [cols, rows] matrix (the key up-projection of absorbed MLA runs backwards).
// `row_major`: one row after the other, unpadded: what other libraries are given.
struct Matrix {
  const void* data = nullptr;
  DType dtype = DType::f32;
  bool transposed = false;
  int64_t rows = 0, cols = 0;
  bool row_major = false;

  double at(int64_t row, int64_t col) const;
  // Elements at(row, 0) .. at(row, cols - 1).
  void copy_row(int64_t row, double* out) const;
  // y = W x, for references.
  void multiply(const double* x, double* y) const;
  int64_t bytes() const;
  // Where the scales begin.
  const void* scales() const;
  // The `index`-th of consecutive matrices of this shape: one head's of a per-head projection.
  Matrix nth(int64_t index) const;
};

inline constexpr int64_t kScaleBlock = 128, kScaleGroup = 32;  // of fp8, of int4

inline constexpr int64_t kPanel = 16;  // outputs per panel

[[gnu::always_inline]] inline constexpr int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

[[gnu::always_inline]] inline constexpr int64_t ceil_div(int64_t n, int64_t d) {
  return (n + d - 1) / d;
}

// Columns of a 64-byte line.
[[gnu::always_inline]] inline constexpr int64_t line_columns(DType dtype) {
  return 32 / bits_of(dtype);
}

// Bytes that the panels of a matrix occupy, and the whole of it with its scales; padding included.
[[gnu::always_inline]] inline constexpr int64_t panel_bytes(int64_t rows, int64_t cols, DType dtype) {
  return ceil_div(rows, kPanel) * ceil_div(cols, line_columns(dtype)) * 64;
}
int64_t matrix_bytes(int64_t rows, int64_t cols, DType dtype);
// Bytes of `count` such matrices without padding: what accounts count.
double weight_bytes(int64_t rows, int64_t cols, DType dtype, int64_t count = 1);

// `bytes` of zeroed memory, 64-byte aligned (2 MiB aligned with huge pages advised from 4 MiB on).
void* allocate(int64_t bytes);
void deallocate(void* data, int64_t bytes);

// An array of T, NaN (integers: -1) until written, 64-byte aligned, with a guard behind it: intact() is false once something
// wrote past the end.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  // `fill` is every byte's value; zeros cost no pass over the memory.
  explicit Buffer(int64_t count, uint8_t fill = kNan) : count_(count), data_(static_cast<T*>(allocate(bytes()))) {
    if (fill) std::memset(data_, fill, static_cast<size_t>(bytes()));
    std::memset(guard(), kNan, kGuardBytes);
  }
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(count_, other.count_);
    std::swap(data_, other.data_);
    return *this;
  }
  ~Buffer() {
    if (data_) deallocate(data_, bytes());
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  int64_t size() const { return count_; }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }
  T* begin() { return data_; }
  T* end() { return data_ + count_; }
  const T* begin() const { return data_; }
  const T* end() const { return data_ + count_; }

  bool intact() const {
    for (int64_t i = 0; i < kGuardBytes; ++i)
      if (guard()[i] != kNan) return false;
    return true;
  }

 private:
  static constexpr int64_t kGuardBytes = 256;  // four vectors of the widest kernel
  static constexpr uint8_t kNan = 0xff;  // in every floating type: what is not written, or read past the end, shows too

  int64_t bytes() const { return count_ * static_cast<int64_t>(sizeof(T)) + kGuardBytes; }
  uint8_t* guard() { return reinterpret_cast<uint8_t*>(data_ + count_); }
  const uint8_t* guard() const { return reinterpret_cast<const uint8_t*>(data_ + count_); }

  int64_t count_ = 0;
  T* data_ = nullptr;
};

// A Matrix that owns its bytes, packed from row-major f32 values and rounded to `dtype`. `transposed` stores [cols, rows].
// Several heads' matrices packed one after the other are read by matrix().nth(head).
class PackedMatrix {
 public:
  PackedMatrix() = default;
  PackedMatrix(std::span<const float> row_major, int64_t rows, int64_t cols, DType dtype, bool transposed = false,
               int64_t count = 1);
  const Matrix& matrix() const { return matrix_; }

 private:
  Buffer<uint8_t> storage_;
  Matrix matrix_;
};

// One block of random values, read from start to end and round again: every taker gets bytes that no cache still holds, as
// long as the block is several times the last-level cache. Any slice is a valid array of bf16 or of f32, of either sign and
// magnitude in [2^-8, 2^-4): weights and cached keys and values of trained models' size. It is one of every other type too,
// no fp8 of it NaN and one in 2^13 subnormal, with scales of either sign.
class Arena {
 public:
  static constexpr double kRms = 0.0279;  // of f32 and bf16
  // Of the elements of a Matrix of this type, scales included.
  static double rms(DType dtype);

  explicit Arena(int64_t bytes, uint64_t seed = 1);
  // Of zeros, which take no memory before they are touched: to find out what fits.
  static Arena untouched(int64_t bytes);
  // The next `bytes` bytes, 64-byte aligned; starts again from the beginning where they would pass the end.
  void* take(int64_t bytes);
  // From now on take() goes round these bytes, where there is room beside them: a cache that is written to would be no valid
  // array of what else may come to lie there.
  void keep(const void* data, int64_t bytes) {
    kept_ = static_cast<const uint8_t*>(data) - data_;
    kept_end_ = kept_ + bytes;
  }
  void keep_nothing() { kept_ = kept_end_ = 0; }
  // The next bytes are the first ones again.
  void rewind() { next_ = 0; }
  int64_t bytes() const { return bytes_; }
  // Bytes that were taken so far.
  int64_t taken() const { return taken_; }

 private:
  struct Unmap {
    int64_t bytes;
    void operator()(uint8_t* data) const;
  };
  Arena() = default;

  Buffer<uint8_t> block_;
  std::unique_ptr<uint8_t, Unmap> untouched_;  // instead of block_
  uint8_t* data_ = nullptr;
  int64_t bytes_ = 0, next_ = 0, taken_ = 0, kept_ = 0, kept_end_ = 0;
};

}  // namespace mmb
