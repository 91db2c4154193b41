// The append of new keys, values or latents to a cache: rounded to the cache's type, each token at the slot after its
// sequence's cached tokens.
#pragma once

#include "mmb/sequences.h"
#include "simd.h"
#include "team.h"

namespace mmb {
namespace MMB_IMPL {
namespace {

// The elements of one row in the type of another.
template <class From, class To>
MMB_OP void convert_row(const From* x, int64_t width, To* row) {
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) store(row + i, load(x + i));
  if (i < width) store_partial(row + i, load_partial(x + i, width - i), width - i);
}

// place(n, b, slot) for this thread's new tokens n: token n belongs into slot `slot` of sequence b's cache.
template <class Place>
MMB_OP void each_slot(const Sequences& sequences, const Place& place) {
  const Share tokens = share(sequences.tokens());
  int64_t b = 0;
  for (int64_t n = tokens.begin; n < tokens.end; ++n) {
    while (n >= sequences.first[b + 1]) ++b;
    place(n, b, sequences.slot(b, n));
  }
}

// x [N, heads, width] into cache [B, heads, capacity, width]. The team shares the tokens; the caller puts the barrier.
template <class T>
MMB_OP void append(const Sequences& sequences, const float* x, int64_t heads, int64_t width, T* cache,
                   int64_t capacity) {
  each_slot(sequences, [&](int64_t n, int64_t b, int64_t slot) {
    for (int64_t h = 0; h < heads; ++h)
      convert_row(x + (n * heads + h) * width, width, cache + ((b * heads + h) * capacity + slot) * width);
  });
}

MMB_OP void append(const Sequences& sequences, const float* x, int64_t heads, int64_t width, void* cache, DType dtype,
                   int64_t capacity) {
  if (dtype == DType::f32)
    append(sequences, x, heads, width, static_cast<float*>(cache), capacity);
  else
    append(sequences, x, heads, width, static_cast<bf16*>(cache), capacity);
}

}  // namespace
}  // namespace MMB_IMPL
}  // namespace mmb
