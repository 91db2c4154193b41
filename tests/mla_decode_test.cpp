#include "mmb/mla_decode.h"

#include "mla_test.h"

namespace mmb {
namespace {

TEST(MlaDecode, KernelsMatchReference) {
  for (const MlaDecode::Shape& shape : mla_ladder(1))
    expect_kernels_match_reference<MlaDecode, reference::mla_decode<double>>(shape);
  expect_kernels_match_reference<MlaDecode, reference::mla_decode<double>>(
      mla_small(2, 3, 50));  // speculative decoding
}

// Latents with scales, of whole and of cut blocks of them.
TEST(MlaDecode, AbsorbedReadsScaledCaches) {
  for (DType cache : {DType::fp8, DType::int8})
    for (MlaDecode::Shape shape : mla_ladder(1)) {
      shape.cache = cache;
      expect_kernels_match_reference<MlaDecode, reference::mla_decode<double>>(shape);
      for (const auto& kernel : MlaDecode::kernels()) {
        const std::string_view algo = kernel.algo;
        EXPECT_EQ(takes(kernel, shape, DType::bf16),
                  algo == "absorbed" || (algo == "integer" && cache == DType::int8 && has_byte_dots(kernel.impl)));
      }
    }
}

TEST(MlaDecode, EveryAlgoGivesTheSame) {
  for (DType dtype : {DType::f32, DType::bf16})
    for (const MlaCase& c : {MlaCase({1}, {1}, dtype), MlaCase({1, 1, 1}, {130, 7, 64}, dtype)})
      expect_same_from_every_algo<MlaDecode>(c);
}

TEST(MlaDecode, FlopsAreCounted) {
  const MlaDecode::Shape shape = mla_small(2, 1, 9, 5);
  constexpr auto direct = reference::mla_decode<Counted>, expanding = reference::mla_prefill_expanded<Counted>;
  const auto flops = [&](const char* algo) { return MlaDecode::cost(shape, DType::f32, algo).flops; };
  EXPECT_EQ((counted_flops<MlaDecode, direct>(shape, "absorbed")), flops("absorbed"));
  EXPECT_EQ((counted_flops<MlaDecode, direct>(shape, "expanded")), flops("expanded"));
  EXPECT_EQ((counted_flops<MlaDecode, expanding>(shape, "reexpanded")), flops("reexpanded"));
  EXPECT_EQ(MlaDecode::useful_flops(shape), flops("expanded"));
}

// DeepSeek-V3: 16,990.2 kFLOP absorbed and 4,997.1 expanded per cached token and 61 layers (278.5 and 81.9 a layer);
// 70,272 bytes of cache against 4,997,120.
TEST(MlaDecode, CostsOfDeepSeekV3) {
  MlaDecode::Shape longer{1, 1, 4096, 0, 128, 512, 128, 64, 128};
  MlaDecode::Shape shorter = longer;
  shorter.context = 4095;
  const auto step = [&](const char* algo, auto member) {
    return MlaDecode::cost(longer, DType::bf16, algo).*member - MlaDecode::cost(shorter, DType::bf16, algo).*member;
  };
  EXPECT_EQ(61 * step("absorbed", &Cost::flops), 16990208);
  EXPECT_EQ(61 * step("expanded", &Cost::flops), 4997120);
  EXPECT_EQ(61 * step("absorbed", &Cost::kv_bytes), 70272);
  EXPECT_EQ(61 * step("expanded", &Cost::kv_bytes), 4997120);
  EXPECT_EQ(MlaDecode::cost(longer, DType::bf16, "absorbed").weight_bytes, 33554432);
  for (const auto& [cache, bytes] : {std::pair{DType::fp8, 656}, std::pair{DType::int8, 584}}) {
    longer.cache = shorter.cache = cache;
    EXPECT_EQ(61 * step("absorbed", &Cost::kv_bytes), 61 * bytes);
  }
  EXPECT_EQ(step("integer", &Cost::kv_bytes), 584);
  EXPECT_EQ(step("integer", &Cost::flops), step("absorbed", &Cost::flops));
  EXPECT_EQ(step("integer", &Cost::int8_flops), step("absorbed", &Cost::flops));
  EXPECT_EQ(step("integer", &Cost::bf16_flops), 0);
}

}  // namespace
}  // namespace mmb
