// The matrix unit of kernels/tiles.h in plain C++, for machines that lack one: a level compiled with this header in front
// runs the kernels that are written for a unit, and the compiler sees every access that they make. What takes long is not
// inlined, which would take long to compile in every kernel.
#pragma once

#include <stdint.h>
#include <string.h>

namespace mmb {
namespace MMB_IMPL {
namespace {

class TileUnit {
 public:
  explicit TileUnit(int64_t rows) : rows_(rows) {}

  template <int S>
  void zero() {
    memset(sums_[S], 0, sizeof sums_[S]);
  }
  template <int S>
  [[gnu::noinline]] void load_sum(const void* p, int64_t bytes) {
    for (int64_t row = 0; row < rows_; ++row) memcpy(sums_[S][row], at(p, row * bytes), 64);
  }
  template <int S>
  [[gnu::noinline]] void store_sum(void* p, int64_t bytes) {
    for (int64_t row = 0; row < rows_; ++row) memcpy(const_cast<char*>(at(p, row * bytes)), sums_[S][row], 64);
  }
  template <int L>
  [[gnu::noinline]] void load_left(const void* p, int64_t bytes) {
    for (int64_t row = 0; row < rows_; ++row) memcpy(left_[L][row], at(p, row * bytes), 64);
  }
  [[gnu::noinline]] void load_right(const void* p, int64_t bytes) {
    for (int64_t line = 0; line < 16; ++line) memcpy(right_[line], at(p, line * bytes), 64);
  }
  template <int S, int L>
  [[gnu::noinline]] void dot() {
    for (int64_t row = 0; row < rows_; ++row)
      for (int k = 0; k < 32; ++k)
        for (int column = 0; column < 16; ++column)
          sums_[S][row][column] += value(left_[L][row][k]) * value(right_[k / 2][2 * column + k % 2]);
  }
  template <int S, int L>
  void dot_bytes() {
    dot_of<uint8_t, S, L>();
  }
  template <int S, int L>
  void dot_signed() {
    dot_of<int8_t, S, L>();
  }

 private:
  template <class Left, int S, int L>
  [[gnu::noinline]] void dot_of() {
    for (int64_t row = 0; row < rows_; ++row)
      for (int column = 0; column < 16; ++column) {
        int32_t sum;
        memcpy(&sum, &sums_[S][row][column], 4);
        for (int k = 0; k < 64; ++k)
          sum += static_cast<Left>(bytes(left_[L][row])[k]) *
                 static_cast<int8_t>(bytes(right_[k / 4])[4 * column + k % 4]);
        memcpy(&sums_[S][row][column], &sum, 4);
      }
  }
  static const uint8_t* bytes(const uint16_t* line) { return reinterpret_cast<const uint8_t*>(line); }
  static const char* at(const void* p, int64_t bytes) { return static_cast<const char*>(p) + bytes; }
  static float value(uint16_t bits) {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
  }

  int64_t rows_;
  float sums_[4][16][16];
  uint16_t left_[3][16][32], right_[16][32];
};

}  // namespace
}  // namespace MMB_IMPL
}  // namespace mmb
