#include <algorithm>
#include <cmath>

#include "../reference.h"
#include "mmb/fma_peak.h"
#include "mmb/random.h"

namespace mmb {

std::span<const Kernel<FmaPeak>> FmaPeak::kernels() {
  static constexpr Kernel<FmaPeak> list[] = {
    {"fma_f32", Impl::reference, reference::run<FmaPeak, reference::fma_peak<double>>},
    MMB_KERNEL(FmaPeak, "fma_f32", fma_peak)
#if defined(__x86_64__)
        {"dot_bf16", Impl::avx512bf16, avx512bf16::fma_peak},
    {"fma_f16", Impl::avx512fp16, avx512fp16::fma_peak},
    {"dot_int8", Impl::avx2vnni, avx2vnni::fma_peak},
    {"dot_int8", Impl::avx512vnni, avx512vnni::fma_peak},
    {"tile_bf16", Impl::amx, amx::fma_peak_tiles},
    {"tile_int8", Impl::amx, amx::fma_peak_byte_tiles},
#elif defined(__aarch64__)
        {"dot_int8", Impl::neoni8mm, neoni8mm::fma_peak},
#endif
  };
  return list;
}

int64_t FmaPeak::products(std::string_view algo) {
  if (algo == "fma_f16") return 1;
  if (algo == "dot_bf16") return 2;
  if (algo == "dot_int8") return 4;
  if (algo == "tile_bf16") return 32;
  if (algo == "tile_int8") return 64;
  return 0;
}

std::string FmaPeak::key(const Shape& shape) {
  return "elements:" + std::to_string(shape.elements) + "/steps:" + std::to_string(shape.steps);
}

Cost FmaPeak::cost(const Shape& shape, DType, std::string_view algo) {
  const auto E = static_cast<double>(shape.elements);
  const auto each = static_cast<double>(std::max(products(algo), int64_t{1}));
  const double flops = 2 * E * static_cast<double>(shape.steps) * each;
  return {.flops = flops,
          .bf16_flops = algo == "tile_bf16" ? flops : 0,
          .int8_flops = algo == "tile_int8" || algo == "dot_int8" ? flops : 0,
          .activation_bytes = 4 * 2 * E};
}

FmaPeak::Problem::Problem(const Shape& shape, DType, std::string_view algo, Arena&, uint64_t seed)
    : steps_(shape.steps), x_(shape.elements), y_(shape.elements), expected_(shape.elements) {
  MMB_REQUIRE(shape.elements > 0 && shape.steps > 0, name << ": " << key(shape));
  for (int64_t i = 0; i < shape.elements; ++i) x_[i] = static_cast<float>(1 + uniform(seed, static_cast<uint64_t>(i)));
  const int64_t products = FmaPeak::products(algo);
  // Whole numbers that every class holds exactly: a result is right or wrong.
  if (products > 0)
    for (float& x : x_) x = std::floor(8 * (x - 1));
  // From [1, 2) towards the fixed point 1/2, 1/e of the way left: y lies in [0.68, 1.06].
  const double a = std::exp(-1 / static_cast<double>(shape.steps));
  args_ = {x_.data(), static_cast<float>(a), static_cast<float>((1 - a) / 2), products, y_.data()};
  if (products > 0) args_.a = args_.b = 1;
  expected_args_ = args_;
  expected_args_.y = expected_.data();
}

std::vector<Output> FmaPeak::Problem::outputs(const Args& args, int64_t unit) const {
  // Half an epsilon for the product and half for the sum, in every step, and all of one sign: v creeps.
  if (args.products > 0) return {{"y", {args.y[unit]}, 0}};
  return {{"y", {args.y[unit]}, 2 * static_cast<double>(steps_) * 0x1p-24}};
}

}  // namespace mmb
