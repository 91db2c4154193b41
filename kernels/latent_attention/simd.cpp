// Bound: the multiply rate: every head reads the same latents, 2(2R+D) FLOP for each of R+D cached elements.
// Idea and split: attend.h's, of one key-value head whose values are the first part of its keys. Rows with scales are
// dequantized to f32 where others are widened, once for all query rows of a tile: 37 lines a token, at 8 cycles each that L2
// takes. As many rows as lanes take int8 as it is stored, so few that this would show; for a matrix unit rows become bf16, which
// holds 8 bits exactly. Scales go to widened keys, or to the scores, and to the weights then.
// Roof: attend.h's. With 128 heads fp8 and int8 take the time of bf16 (within 3 %, AVX-512, November 2026), with 16 heads int8
// 1.1 and fp8 1.3 times as much. On AMX int8 takes 1.1 times the time of bf16 with 128 heads and 1.1 with 16, fp8, which has
// four scales for a latent, 1.3 to 1.4 times: converted rows are written to L2 once more, and weights are split for every scale.
#include "mmb/latent_attention.h"

#include "../attend.h"

namespace mmb::MMB_IMPL {
namespace {

// Loader (attend.h) over rows with scales, in f32 throughout. E is the type of the latent's elements.
template <class E>
struct ScaledLatents {
  static constexpr DType kStored = DType::f32;
  LatentRow row;
  const char* first;
  int64_t capacity;
  float* scratch;  // cache_scratch() floats
  const char* rows = nullptr;

  MMB_OP void select(int64_t sequence, int64_t) { rows = first + sequence * capacity * row.bytes(); }

  MMB_OP Block wide(int64_t, int64_t) const {
    const int64_t stride = Cache<float>::copy_stride(row.latent + row.rope);
    return {scratch, scratch, stride, stride};
  }
  MMB_OP void widen(int64_t begin, int64_t from, int64_t to) const {
    const int64_t stride = Cache<float>::copy_stride(row.latent + row.rope);
    for (int64_t t = from; t < to; ++t) dequantize(rows + (begin + t) * row.bytes(), scratch + t * stride);
  }
  MMB_OP Block stored(int64_t begin, int64_t count) const {
    widen(begin, 0, count);
    return wide(begin, count);
  }

  MMB_OP DType unscaled_type() const {
    const bool lines = row.latent % kLine == 0 && row.rope % kLine == 0;
    return !lines ? DType::f32 : kHasTiles ? DType::bf16 : kFp8 ? DType::f32 : DType::int8;
  }
  [[gnu::noinline]] Block unscaled(int64_t begin, int64_t count) const {
    const int64_t width = row.latent + row.rope, group = kFp8 ? kScaleBlock : row.latent,
                  groups = ceil_div(row.latent, group);
    auto* elements = reinterpret_cast<bf16*>(scratch);
    float* scales = scratch + kBlock * Cache<float>::copy_stride(width);
    for (int64_t t = 0; t < count; ++t) {
      const char* from = rows + (begin + t) * row.bytes();
      if constexpr (kHasTiles) to_bf16(from, elements + t * width);
      for (int64_t g = 0; g < groups; ++g) scales[g * kBlock + t] = kUnit * scale(from, g);
      scales[groups * kBlock + t] = kFp8 ? 1 : scale(from, 1);
    }
    for (int64_t t = count; t < round_up(count, kTileColumns); ++t)
      for (int64_t g = 0; g <= groups; ++g) scales[g * kBlock + t] = 0;
    if constexpr (kHasTiles) return {elements, elements, width, width, scales, group};
    const char* stored_rows = rows + begin * row.bytes();
    return {stored_rows, stored_rows, row.bytes(), row.bytes(), scales, group};
  }

  MMB_OP Ahead ahead(int64_t begin, int64_t count) const {
    const char* first_row = rows + begin * row.bytes();
    return {{first_row, count * row.bytes()}, {first_row, 0}};
  }

 private:
  static constexpr bool kFp8 = kTypeOf<E> == DType::fp8;
  static constexpr float kUnit = kFp8 ? kFp8Unit : 1;

  // Whole lines of elements of 8 bits, which bf16 holds exactly. fp8: 2^-8 of them.
  static constexpr int64_t kLine = 64;
  MMB_OP static void to_bf16(const E* in, int64_t count, bf16* out) {
    const auto pair = [](Vec even, Vec odd) { return (Vec)((VecBits)even >> 16 | ((VecBits)odd & 0xffff0000u)); };
    for (int64_t i = 0; i < count; i += kLine) {
      MMB_UNROLL
      for (int v = 0; v < kVecsPerPanel; ++v) {
        Vec columns[4];
        load_columns(in + i, v, columns);
        Vec a = pair(columns[0], columns[1]), b = pair(columns[2], columns[3]);
        zip(a, b, a, b, Lanes());
        memcpy(out + i + 4 * kLanes * v, &a, sizeof a);
        memcpy(out + i + 4 * kLanes * v + 2 * kLanes, &b, sizeof b);
      }
    }
  }

  MMB_OP void to_bf16(const char* from, bf16* to) const {
    const auto* latent = reinterpret_cast<const E*>(from);
    to_bf16(latent, row.latent, to);
    if constexpr (kFp8)
      memcpy(to + row.latent, from + row.fp8_rope(), static_cast<size_t>(2 * row.rope));
    else
      to_bf16(latent + row.latent, row.rope, to + row.latent);
  }

  MMB_OP void dequantize(const char* from, float* out) const {
    const auto* latent = reinterpret_cast<const E*>(from);
    for (int64_t i = 0; i < row.latent; i += kScaleBlock) {
      const int64_t left = row.latent - i, n = left < kScaleBlock ? left : kScaleBlock;
      widen(latent + i, n, kUnit * scale(from, kFp8 ? i / kScaleBlock : 0), out + i);
    }
    float* rope = out + row.latent;
    if constexpr (kFp8)
      widen(reinterpret_cast<const bf16*>(from + row.fp8_rope()), row.rope, 1, rope);
    else
      widen(latent + row.latent, row.rope, scale(from, 1), rope);
    store(rope + row.rope, Vec{});
  }

  MMB_OP float scale(const char* from, int64_t index) const {
    float value;
    memcpy(&value, from + row.scales() + 4 * index, 4);
    return value;
  }

  template <class T>
  MMB_OP static void widen(const T* in, int64_t count, float scale, float* out) {
    int64_t i = 0;
    MMB_FEW_STEPS
    for (; i + kLanes <= count; i += kLanes) store(out + i, scale * load(in + i));
    if (i < count) store(out + i, scale * load_partial(in + i, count - i));
  }
};

template <class L>
MMB_OP void attend_latents(const LatentAttention::Shape& shape, const LatentAttention::Args& args, L& cache) {
  const int64_t R = shape.kv_lora_rank, width = R + shape.qk_rope_head_dim;
  attend(
      {args.sequences, shape.num_attention_heads, 1, width, R, args.q, args.scale, args.out, tile_rows_for(width, R)},
      cache);
}

template <class T>
MMB_OP void attend_plain(const LatentAttention::Shape& shape, const LatentAttention::Args& args) {
  const int64_t R = shape.kv_lora_rank, width = R + shape.qk_rope_head_dim;
  Scratch scratch;
  const T* rows = static_cast<const T*>(args.cache);
  Cache<T> cache{rows, rows, 1, args.capacity, width, width, width, R, scratch.own<float>(cache_scratch(width, R))};
  attend_latents(shape, args, cache);
}

template <class E>
MMB_OP void attend_scaled(const LatentAttention::Shape& shape, const LatentAttention::Args& args) {
  const int64_t R = shape.kv_lora_rank, D = shape.qk_rope_head_dim;
  Scratch scratch;
  ScaledLatents<E> cache{{args.cache_dtype, R, D},
                         static_cast<const char*>(args.cache),
                         args.capacity,
                         scratch.own<float>(cache_scratch(R + D, R))};
  attend_latents(shape, args, cache);
}

}  // namespace

void latent_attention(const LatentAttention::Shape& shape, const LatentAttention::Args& args) noexcept {
  team([&] {
    if (args.cache_dtype == DType::f32)
      attend_plain<float>(shape, args);
    else if (args.cache_dtype == DType::bf16)
      attend_plain<bf16>(shape, args);
    else if (args.cache_dtype == DType::fp8)
      attend_scaled<fp8>(shape, args);
    else
      attend_scaled<int8>(shape, args);
  });
}

}  // namespace mmb::MMB_IMPL
