// Bound: the cache that holds x (two loads, two FMAs and a store per vector); with few heads, the D/2 sines and cosines
// of a token (about 20 ns each), which all of its heads share.
// Idea: a table per token, laid out so that a rotation is y = x * cosines + partner * sines with the sign in the sines.
// Interleaved partners are the two halves of a 64-bit lane: a rotation by 32 bits swaps them. Partners of halves are D/2
// apart, each its own vector.
// Split: (token, head) pairs, evenly and in order: heads of a single token go to all threads, each with its own table.
#include "mmb/rope.h"

#include "../simd.h"
#include "../team.h"

namespace mmb::MMB_IMPL {
namespace {

// cosines[D] and sines[D], at the dims that they multiply.
MMB_OP void make_table(const Rope::Args& args, int64_t n, int64_t D, float* cosines, float* sines) {
  const bool interleaved = args.pairs == Rope::Pairs::interleaved;
  for (int64_t i = 0; i < D / 2; ++i) {
    const double angle = static_cast<double>(args.positions[n]) * args.inv_freq[i];
    const auto c = static_cast<float>(::cos(angle) * args.attention_factor);
    const auto s = static_cast<float>(::sin(angle) * args.attention_factor);
    const int64_t a = interleaved ? 2 * i : i, b = interleaved ? a + 1 : a + D / 2;
    cosines[a] = cosines[b] = c;
    sines[a] = -s;
    sines[b] = s;
  }
}

MMB_OP Vec swap_pairs(Vec v) {
  typedef uint64_t Pairs __attribute__((vector_size(4 * kLanes)));
  return (Vec)((Pairs)v << 32 | (Pairs)v >> 32);
}

MMB_OP void rotate_interleaved(const float* x, const float* cosines, const float* sines, float* y, int64_t D) {
  int64_t i = 0;
  for (; i + kLanes <= D; i += kLanes) {
    const Vec v = load(x + i);
    store(y + i, fma(v, load(cosines + i), swap_pairs(v) * load(sines + i)));
  }
  if (i < D) {
    const Vec v = load_partial(x + i, D - i);
    const Vec c = load_partial(cosines + i, D - i), s = load_partial(sines + i, D - i);
    store_partial(y + i, fma(v, c, swap_pairs(v) * s), D - i);
  }
}

MMB_OP void rotate_half(const float* x, const float* cosines, const float* sines, float* y, int64_t D) {
  const int64_t half = D / 2;
  int64_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const Vec a = load(x + i), b = load(x + half + i), c = load(cosines + i), s = load(sines + half + i);
    store(y + i, fma(a, c, -(b * s)));
    store(y + half + i, fma(b, c, a * s));
  }
  if (i < half) {
    const int64_t n = half - i;
    const Vec a = load_partial(x + i, n), b = load_partial(x + half + i, n);
    const Vec c = load_partial(cosines + i, n), s = load_partial(sines + half + i, n);
    store_partial(y + i, fma(a, c, -(b * s)), n);
    store_partial(y + half + i, fma(b, c, a * s), n);
  }
}

}  // namespace

void rope(const Rope::Shape& shape, const Rope::Args& args) noexcept {
  const int64_t N = shape.tokens, nh = shape.heads, D = shape.dims;
  team([&] {
    Scratch scratch;
    auto* cosines = scratch.own<float>(2 * D);
    auto* sines = cosines + D;
    const Share pairs = share(N * nh);
    for (int64_t i = pairs.begin; i < pairs.end; ++i) {
      const int64_t n = i / nh, offset = n * args.token_stride + i % nh * args.head_stride;
      if (i == pairs.begin || i % nh == 0) make_table(args, n, D, cosines, sines);
      if (args.pairs == Rope::Pairs::interleaved)
        rotate_interleaved(args.x + offset, cosines, sines, args.y + offset, D);
      else
        rotate_half(args.x + offset, cosines, sines, args.y + offset, D);
    }
    barrier();
  });
}

}  // namespace mmb::MMB_IMPL
