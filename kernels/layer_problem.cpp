#include "mmb/layer_problem.h"

#include <cmath>

namespace mmb {

ArenaCache::ArenaCache(Arena& arena, const Sequences& sequences, int64_t heads, int64_t capacity, int64_t row_bytes)
    : arena_(arena),
      sequences_(sequences),
      heads_(heads),
      capacity_(capacity),
      row_bytes_(row_bytes),
      kept_(sequences.tokens() * heads * row_bytes_) {
  next();
}

template <class F>
void ArenaCache::each_new_row(F f) {
  char* kept = kept_.data();
  for (int64_t b = 0; b < sequences_.batch; ++b) {
    const int64_t fresh = sequences_.first[b + 1] - sequences_.first[b];
    for (int64_t h = 0; h < heads_; ++h)
      for (int64_t slot = sequences_.context[b] - fresh; slot < sequences_.context[b]; ++slot, kept += row_bytes_)
        f(data_ + ((b * heads_ + h) * capacity_ + slot) * row_bytes_, kept);
  }
}

void ArenaCache::restore() {
  each_new_row([&](char* row, const char* kept) { std::memcpy(row, kept, static_cast<size_t>(row_bytes_)); });
  arena_.keep_nothing();
}

void ArenaCache::next() {
  if (data_) restore();
  const int64_t bytes = sequences_.batch * heads_ * capacity_ * row_bytes_;
  data_ = static_cast<char*>(arena_.take(bytes));
  arena_.keep(data_, bytes);
  each_new_row([&](const char* row, char* kept) { std::memcpy(kept, row, static_cast<size_t>(row_bytes_)); });
  copy_ = Buffer<char>();
}

void* ArenaCache::copy() const {
  if (copy_.size() == 0) {
    copy_ = Buffer<char>(sequences_.batch * heads_ * capacity_ * row_bytes_);
    std::memcpy(copy_.data(), data_, static_cast<size_t>(copy_.size()));
  }
  return copy_.data();
}

Buffer<int64_t> positions_of(const Sequences& sequences) {
  Buffer<int64_t> positions(sequences.tokens());
  for (int64_t b = 0; b < sequences.batch; ++b)
    for (int64_t n = sequences.first[b]; n < sequences.first[b + 1]; ++n) positions[n] = sequences.slot(b, n);
  return positions;
}

Buffer<double> plain_inv_freq(int64_t dims) {
  Buffer<double> inv_freq(dims / 2);
  for (int64_t i = 0; i < inv_freq.size(); ++i)
    inv_freq[i] = std::pow(10000, -2 * static_cast<double>(i) / static_cast<double>(dims));
  return inv_freq;
}

double layer_tolerance(DType dtype, int64_t dims) {
  const double step = dtype == DType::bf16 ? 0x1p-7 : dtype == DType::int8 ? 0x1p-5 : dtype == DType::fp8 ? 0x1p-3 : 0;
  return 1024 * 0x1p-24 + 2 * step / std::sqrt(static_cast<double>(dims));
}

}  // namespace mmb
