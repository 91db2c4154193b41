// The kernels that are written for a matrix unit, on an emulated one: their tests on a machine that has none.
#include "mmb/attention_prefill.h"
#include "mmb/dense_ffn.h"
#include "mmb/latent_attention.h"
#include "mmb/linear.h"
#include "mmb/mla_decode.h"
#include "mmb/mla_prefill.h"
#include "mmb/moe_experts.h"
#include "op_test.h"

#define MMB_EMULATED(OP, FUNCTION) MMB_DECLARE_KERNEL_AT(emulated, OP, FUNCTION)
namespace mmb {
MMB_EMULATED(Linear, linear)
MMB_EMULATED(Linear, linear_rounded)
MMB_EMULATED(DenseFfn, dense_ffn)
MMB_EMULATED(MoeExperts, moe_experts)
MMB_EMULATED(LatentAttention, latent_attention)
MMB_EMULATED(LatentAttention, latent_attention_integer)
MMB_EMULATED(AttentionPrefill, attention_decode)
MMB_EMULATED(MlaDecode, mla_decode_absorbed)
MMB_EMULATED(MlaPrefill, mla_prefill_expanded)

namespace {

template <class Op, auto Reference, auto Run>
void expect_matches_reference(const typename Op::Shape& shape, std::string_view algo, DType dtype = DType::bf16) {
  expect_run_matches_reference<Op, Reference>(shape, dtype, algo, 7, Op::name, Run);
}

// One tile of tokens and more, tiles of uneven height, groups of fewer panels, columns that end inside a step, outputs that
// end inside a panel, and more than a near block of each: of columns 128 in bf16, 512 in bytes.
TEST(Tiles, Linear) {
  for (const Linear::Shape& shape : {Linear::Shape{5, 3, 7},
                                     {8, 32, 16},
                                     {9, 33, 17},
                                     {16, 70, 64},
                                     {17, 64, 48},
                                     {33, 95, 33},
                                     {40, 1100, 40},
                                     {270, 40, 20},
                                     {20, 40, 530}}) {
    for (DType dtype : {DType::bf16, DType::fp8, DType::int8})
      expect_matches_reference<Linear, reference::linear<double>, emulated::linear>(shape, "panels", dtype);
    expect_matches_reference<Linear, reference::linear<double>, emulated::linear_rounded>(shape, "rounded");
  }
}

TEST(Tiles, DenseFfn) {
  for (const DenseFfn::Shape& shape : {DenseFfn::Shape{10, 40, 48}, {21, 65, 33}, {50, 33, 600}})
    for (DType dtype : {DType::bf16, DType::int8})
      expect_matches_reference<DenseFfn, reference::dense_ffn<double>, emulated::dense_ffn>(shape, "panels", dtype);
}

TEST(Tiles, MoeExperts) {
  MoeExperts::Shape shape{};
  shape.hidden_size = 40;
  shape.moe_intermediate_size = 50;
  shape.shared_intermediate_size = 33;
  shape.n_routed_experts = 6;
  shape.num_experts_per_tok = 2;
  for (int64_t tokens : {7, 45})  // with both more and fewer than byte tiles take for an expert
    for (DType dtype : {DType::bf16, DType::int8}) {
      shape.tokens = tokens;
      expect_matches_reference<MoeExperts, reference::moe_experts<double>, emulated::moe_experts>(shape, "grouped",
                                                                                                  dtype);
    }
}

// Heads below, at and above a tile of rows; contexts that end inside a tile, a step and a block.
TEST(Tiles, LatentAttention) {
  for (int64_t heads : {9, 16, 17, 40})
    for (int64_t context : {1, 31, 33, 200, 500})
      expect_matches_reference<LatentAttention, reference::latent_attention<double>, emulated::latent_attention>(
          {2, 1, context, 0, heads, 40, 8}, "flash");
  expect_matches_reference<LatentAttention, reference::latent_attention<double>, emulated::latent_attention>(
      {3, 2, 300, 7, 20, 96, 32}, "flash");
}

// Latents with one scale, with two of which the second is of fewer dims, and with four.
TEST(Tiles, LatentAttentionOverCachesWithScales) {
  for (DType dtype : {DType::fp8, DType::int8})
    for (int64_t latent : {64, 192, 512})
      for (int64_t context : {1, 33, 200, 500})
        expect_matches_reference<LatentAttention, reference::latent_attention<double>, emulated::latent_attention>(
            {2, 1, context, context / 2 + 1, 20, latent, 64}, "flash", dtype);
}

TEST(Tiles, LatentAttentionInIntegers) {
  const auto expect_match = expect_matches_reference<LatentAttention, reference::latent_attention<double>,
                                                     emulated::latent_attention_integer>;
  for (int64_t heads : {3, 16, 17, 40})
    for (int64_t context : {1, 31, 65, 200, 500})
      expect_match({2, 1, context, 0, heads, 40, 8}, "integer", DType::int8);
  expect_match({3, 2, 300, 7, 20, 96, 32}, "integer", DType::int8);
}

TEST(Tiles, AttentionPrefill) {
  for (const AttentionPrefill::Shape& shape : {AttentionPrefill::Shape{1, 20, 20, 0, 2, 2, 24, 16},
                                               {2, 37, 250, 0, 4, 2, 40, 72},
                                               {1, 210, 210, 0, 1, 1, 64, 64}})
    expect_matches_reference<AttentionPrefill, reference::attention_prefill<double>, emulated::attention_decode>(
        shape, "flash");
}

TEST(Tiles, MlaDecode) {
  for (int64_t batch : {1, 9})
    for (DType dtype : {DType::bf16, DType::int8})
      expect_matches_reference<MlaDecode, reference::mla_decode<double>, emulated::mla_decode_absorbed>(
          {batch, 1, 70, 0, 12, 48, 24, 8, 20}, "absorbed", dtype);
}

TEST(Tiles, MlaPrefill) {
  for (DType dtype : {DType::bf16, DType::int8})
    expect_matches_reference<MlaPrefill, reference::mla_prefill<double>, emulated::mla_prefill_expanded>(
        {1, 10, 230, 0, 3, 48, 24, 8, 20}, "expanded", dtype);
}

}  // namespace
}  // namespace mmb
