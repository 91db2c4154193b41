// Bound: the matrix unit: a product of 16 x 32 and 32 x 16 bf16, or 16 x 64 and 64 x 16 bytes, in 16 cycles, of latency 52, so
// that four chains of sums are enough. Of bf16 three for each step, the terms of an f32 (tiles.h): this is the rate of what
// kernels do with it.
#include "../tiles.h"
#include "chains.h"

namespace mmb::MMB_IMPL {

void fma_peak_tiles(const FmaPeak::Shape& shape, const FmaPeak::Args& args) noexcept {
  constexpr int64_t kSum = kTileRows * kPanel;
  each_block<kTileSums * kSum>(shape, args, [&](const float* x, float* y) {
    alignas(64) bf16 left[kTerms<float>][kTileRows * kTileColumns] = {}, right[kTileRows * kTileColumns];
    for (bf16& element : left[0]) element = to_bf16(args.a);  // exactly: the other terms are zero
    for (bf16& element : right) element = to_bf16(args.b);
    TileUnit unit(kTileRows);
    each_tile<kTerms<float>>([&](auto term) { unit.load_left<term>(left[term], 64); });
    unit.load_right(right, 64);
    each_tile<kTileSums>([&](auto i) { unit.load_sum<i>(x + i * kSum, 64); });
    for (int64_t step = 0; step < shape.steps; ++step) {
      each_tile<kTerms<float>>(
          [&](auto term) { each_tile<kTileSums>([&](auto i) { unit.dot<i, decltype(term)::value>(); }); });
    }
    each_tile<kTileSums>([&](auto i) { unit.store_sum<i>(y + i * kSum, 64); });
  });
}

void fma_peak_byte_tiles(const FmaPeak::Shape& shape, const FmaPeak::Args& args) noexcept {
  constexpr int64_t kSum = kTileRows * kPanel;
  each_block<kTileSums * kSum>(shape, args, [&](const float* x, float* y) {
    alignas(64) int32_t sums[kTileSums * kSum];
    alignas(64) uint8_t left[kTileBytes];
    alignas(64) int8_t right[kTileBytes];
    memset(left, static_cast<int>(args.a), sizeof left);
    memset(right, static_cast<int>(args.b), sizeof right);
    for (int64_t i = 0; i < kTileSums * kSum; ++i) sums[i] = static_cast<int32_t>(x[i]);
    TileUnit unit(kTileRows);
    unit.load_left<0>(left, 64);
    unit.load_right(right, 64);
    each_tile<kTileSums>([&](auto i) { unit.load_sum<i>(sums + i * kSum, 64); });
    for (int64_t step = 0; step < shape.steps; ++step) each_tile<kTileSums>([&](auto i) { unit.dot_bytes<i, 0>(); });
    each_tile<kTileSums>([&](auto i) { unit.store_sum<i>(sums + i * kSum, 64); });
    for (int64_t i = 0; i < kTileSums * kSum; ++i) y[i] = static_cast<float>(sums[i]);
  });
}

}  // namespace mmb::MMB_IMPL
