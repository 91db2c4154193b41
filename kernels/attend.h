// Attention over cached keys and values, once for every variant: softmax(scale * q K^T) V, causal, online, in one pass.
// The core, attend, is compiled once per level, in attention_decode/simd.cpp; an op says here what it attends to and, by a
// loader, where the rows of the cached tokens come from.
#pragma once

#include "query_rows.h"

namespace mmb {
namespace MMB_IMPL {
namespace {

constexpr int64_t kBlock =
    kHasTiles ? 192 : 96;  // tokens that a loader gives at a time: a multiple of every token tile
constexpr int kDotTokens = kAccumulators / kLanes * kLanes;  // a multiple of the tokens that dots meet at once
constexpr int kStoredTokens =
    kHasTiles && kDotTokens % kTileRows ? 16 * kDotTokens : kDotTokens;  // and of a unit's tile

// Vectors that one load gives: bf16 come as the even and the odd elements of two vectors, which takes one instruction for
// each where elements in order take two. Queries and results are put in that order meanwhile.
template <class E>
constexpr int kSpan = 4 / sizeof(E);
// Elements that rows are readable in whole multiples of: spans, or steps of a matrix unit.
template <class E>
constexpr int64_t kRowMultiple = kHasTiles && sizeof(E) == 2 ? kTileColumns : kLanes* kSpan<E>;

}  // namespace

// Rows of consecutive tokens, readable up to kRowMultiple, where keys are finite; keys as if the tokens were a multiple of
// kStoredTokens (stored) or kBlock (wide).
struct Block {
  const void *k, *v;
  int64_t k_stride, v_stride;  // elements
  // Of rows with scales: one of every token, [kBlock], for each `group` dims of the value, and then for what dims the key has
  // beyond it; zeros for absent tokens, up to a step of a matrix unit.
  const float* scales = nullptr;
  int64_t group = 0;
};

struct Ahead {
  Memory k, v;
};

// A loader is an object with
//   kStored                    the type of what stored() gives
//   select(sequence, kv_head)  the cache that the calls after it are about
//   stored(begin, count)       rows of tokens [begin, begin + count), count <= kBlock
//   wide(begin, count)         the same as f32, once widen() has been called for them
//   widen(begin, from, to)     tokens [begin + from, begin + to) of what wide(begin, ...) gave
//   ahead(begin, count)        the memory that these calls will read of tokens, some of which may not exist, to prefetch;
//                              values of no bytes are those of the keys
//   unscaled_type()            the type of what unscaled() gives: bf16 for a matrix unit, or int8; f32 where there is none
//   unscaled(begin, count)     rows without their scales, if they have any, which are beside them
// Each thread has its own. This is any one of them, so that the core is compiled once.
struct Loader {
  void* self;
  DType stored_type;
  DType unscaled_type;
  void (*select_of)(void*, int64_t, int64_t);
  Block (*stored_of)(void*, int64_t, int64_t);
  Block (*wide_of)(void*, int64_t, int64_t);
  void (*widen_of)(void*, int64_t, int64_t, int64_t);
  Block (*unscaled_of)(void*, int64_t, int64_t);
  Ahead (*ahead_of)(void*, int64_t, int64_t);

  template <class L>
  explicit Loader(L& loader)
      : self(&loader),
        stored_type(L::kStored),
        unscaled_type(loader.unscaled_type()),
        select_of([](void* l, int64_t b, int64_t h) { static_cast<L*>(l)->select(b, h); }),
        stored_of([](void* l, int64_t begin, int64_t count) { return static_cast<L*>(l)->stored(begin, count); }),
        wide_of([](void* l, int64_t begin, int64_t count) { return static_cast<L*>(l)->wide(begin, count); }),
        widen_of([](void* l, int64_t begin, int64_t from, int64_t to) { static_cast<L*>(l)->widen(begin, from, to); }),
        unscaled_of([](void* l, int64_t begin, int64_t count) { return static_cast<L*>(l)->unscaled(begin, count); }),
        ahead_of([](void* l, int64_t begin, int64_t count) { return static_cast<L*>(l)->ahead(begin, count); }) {}

  MMB_OP void select(int64_t sequence, int64_t kv_head) const { select_of(self, sequence, kv_head); }
  MMB_OP Block stored(int64_t begin, int64_t count) const { return stored_of(self, begin, count); }
  MMB_OP Block wide(int64_t begin, int64_t count) const { return wide_of(self, begin, count); }
  MMB_OP void widen(int64_t begin, int64_t from, int64_t to) const { widen_of(self, begin, from, to); }
  MMB_OP Block unscaled(int64_t begin, int64_t count) const { return unscaled_of(self, begin, count); }
  MMB_OP Ahead ahead(int64_t begin, int64_t count) const { return ahead_of(self, begin, count); }
};

// out for all of it; called by every thread of a team.
void attention_decode_core(const Attention& attention, const Loader& loader) noexcept;

namespace {

template <class L>
MMB_OP void attend(const Attention& attention, L& loader) {
  attention_decode_core(attention, Loader(loader));
}

// ---- Loader over a cache of rows in type T. Latent attention's values are the first part of its keys: v == k.

template <class T>
struct Cache {
  static constexpr DType kStored = sizeof(T) == 4 ? DType::f32 : DType::bf16;
  const T *first_k, *first_v;  // [sequences, kv_heads, capacity] rows
  int64_t kv_heads, capacity, k_stride, v_stride, dk, dv;
  float* scratch;  // cache_scratch() floats
  const T *k = nullptr, *v = nullptr;

  MMB_OP void select(int64_t sequence, int64_t kv_head) {
    const int64_t row = (sequence * kv_heads + kv_head) * capacity;
    k = first_k + row * k_stride;
    v = first_v + row * v_stride;
  }

  MMB_OP Block wide(int64_t begin, int64_t count) const {
    if constexpr (sizeof(T) == 4)
      return in_place(begin, count, kBlock);
    else
      return scratch_block<float>();
  }
  MMB_OP void widen(int64_t begin, int64_t from, int64_t to) const {
    if constexpr (sizeof(T) < 4) copy<float>(begin, from, to, true);
  }

  MMB_OP Block stored(int64_t begin, int64_t count) const { return in_place(begin, count, kStoredTokens); }
  MMB_OP DType unscaled_type() const { return kHasTiles ? kStored : DType::f32; }
  MMB_OP Block unscaled(int64_t begin, int64_t count) const { return stored(begin, count); }

  MMB_OP Ahead ahead(int64_t begin, int64_t count) const {
    constexpr auto size = static_cast<int64_t>(sizeof(T));
    return {{reinterpret_cast<const char*>(k + begin * k_stride), count * k_stride * size},
            {reinterpret_cast<const char*>(v + begin * v_stride), v == k ? 0 : count * v_stride * size}};
  }

 private:
  // Where it is, if whole spans and whole tiles of tokens can be read there.
  MMB_OP Block in_place(int64_t begin, int64_t count, int64_t tile) const {
    if (dk % kRowMultiple<T> || dv % kRowMultiple<T>) return copied<T>(begin, count, true);
    Block block{k + begin * k_stride, v + begin * v_stride, k_stride, v_stride};
    if (count % tile) {
      const Block copy = copied<T>(begin, count, false);
      block.k = copy.k;
      block.k_stride = copy.k_stride;
    }
    return block;
  }

  template <class E>
  MMB_OP Block copied(int64_t begin, int64_t count, bool values) const {
    copy<E>(begin, 0, count, values);
    return scratch_block<E>();
  }

  // Where copies go.
  template <class E>
  MMB_OP Block scratch_block() const {
    E* out = reinterpret_cast<E*>(scratch);
    const int64_t stride = copy_stride(dk);
    if (v == k) return {out, out, stride, stride};
    return {out, out + kBlock * stride, stride, copy_stride(dv)};
  }

  template <class E>
  MMB_OP void copy(int64_t begin, int64_t from, int64_t to, bool values) const {
    E* out = reinterpret_cast<E*>(scratch);
    const int64_t token = begin + from, count = to - from, stride = copy_stride(dk);
    copy_rows(k + token * k_stride, k_stride, dk, count, out + from * stride, stride);
    if (v == k || !values) return;
    E* out_v = out + kBlock * stride + from * copy_stride(dv);
    copy_rows(v + token * v_stride, v_stride, dv, count, out_v, copy_stride(dv));
  }

  template <class E>
  MMB_OP static void copy_rows(const T* in, int64_t in_stride, int64_t dims, int64_t count, E* out, int64_t stride) {
    const int64_t whole = dims / kLanes * kLanes;
    for (int64_t t = 0; t < count; ++t, in += in_stride, out += stride) {
      MMB_FEW_STEPS
      for (int64_t i = 0; i < whole; i += kLanes) store(out + i, load(in + i));
      for (int64_t i = whole; i < round_up(dims, kRowMultiple<E>); i += kLanes)
        store(out + i, i < dims ? load_partial(in + i, dims - i) : Vec{});
    }
  }

 public:
  // One line more than whole lines: rows of a multiple of 256 bytes would share few sets of L1.
  MMB_OP static int64_t copy_stride(int64_t dims) { return round_up(dims, 32) + 16; }
};

MMB_OP int64_t cache_scratch(int64_t dk, int64_t dv) {
  return kBlock * (Cache<float>::copy_stride(dk) + Cache<float>::copy_stride(dv));
}

}  // namespace
}  // namespace MMB_IMPL
}  // namespace mmb
