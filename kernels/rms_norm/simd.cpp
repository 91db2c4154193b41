// Bound: the cache that holds a token; 7168 f32 are 28 KB, so the second pass reads L1.
// Idea: sum of squares in four independent accumulators (an FMA takes four cycles), then one scaled copy.
// Never worth a fork of its own: inside a layer the open team shares the tokens.
#include "mmb/rms_norm.h"

#include "../simd.h"
#include "../team.h"

namespace mmb::MMB_IMPL {
namespace {

constexpr int kChains = 4;

MMB_OP float sum_of_squares(const float* x, int64_t H) {
  Vec sums[kChains] = {};
  int64_t i = 0;
  for (; i + kChains * kLanes <= H; i += kChains * kLanes) {
    MMB_UNROLL
    for (int c = 0; c < kChains; ++c) {
      const Vec v = load(x + i + c * kLanes);
      sums[c] = fma(v, v, sums[c]);
    }
  }
  for (; i < H; i += kLanes) {
    const Vec v = H - i >= kLanes ? load(x + i) : load_partial(x + i, H - i);
    sums[0] = fma(v, v, sums[0]);
  }
  return reduce_add((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

MMB_OP void scale_token(const float* x, const float* weight, float scale, float* y, int64_t H) {
  const Vec s = broadcast(scale);
  int64_t i = 0;
  for (; i + kLanes <= H; i += kLanes) store(y + i, load(x + i) * s * load(weight + i));
  if (i < H) store_partial(y + i, load_partial(x + i, H - i) * s * load_partial(weight + i, H - i), H - i);
}

}  // namespace

void rms_norm(const RmsNorm::Shape& shape, const RmsNorm::Args& args) noexcept {
  const int64_t N = shape.tokens, H = shape.hidden_size;
  team([&] {
    const Share tokens = share(N);
    for (int64_t n = tokens.begin; n < tokens.end; ++n) {
      const float* x = args.x + n * H;
      const float mean = sum_of_squares(x, H) / static_cast<float>(H);
      scale_token(x, args.weight, 1.f / sqrtf(mean + args.eps), args.y + n * H, H);
    }
    barrier();
  });
}

}  // namespace mmb::MMB_IMPL
