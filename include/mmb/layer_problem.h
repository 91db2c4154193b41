// What the Problems of the layers share: the cache that a layer appends to, positions and frequencies, the tolerance.
#pragma once

#include "mmb/sequences.h"

namespace mmb {

// A cache [B, heads, capacity] of rows of the arena's bytes. A layer fills the slots of the new tokens; what they held
// is put back before the bytes go to others, since the halves of an f32 are not bf16 of a sensible size; nor do others get
// them meanwhile.
class ArenaCache {
 public:
  ArenaCache(Arena& arena, const Sequences& sequences, int64_t heads, int64_t capacity, int64_t row_bytes);
  ~ArenaCache() { restore(); }
  ArenaCache(const ArenaCache&) = delete;

  void next();
  void* data() const { return data_; }
  // The same cache for a reference to append to; made by the first call after next().
  void* copy() const;

 private:
  void restore();
  // f(slot's bytes, bytes kept) for each slot that a new token fills.
  template <class F>
  void each_new_row(F f);

  Arena& arena_;
  Sequences sequences_;
  int64_t heads_, capacity_, row_bytes_;
  char* data_ = nullptr;
  Buffer<char> kept_;
  mutable Buffer<char> copy_;
};

// Each new token's place in its sequence.
Buffer<int64_t> positions_of(const Sequences& sequences);
// Rotary frequencies of `dims` dims, without scaling.
Buffer<double> plain_inv_freq(int64_t dims);

// Errors of a layer's output: f32 accumulation through several matrices and a softmax of scores of size 10; and a new key
// or value between two of the cache's may be rounded to either, one of `dims` terms of a score: in bf16 1 in 2^7 apart, in
// fp8 1 in 2^3, in int8 1 in 2^5 of what is a quarter of the largest.
double layer_tolerance(DType dtype, int64_t dims);

}  // namespace mmb
