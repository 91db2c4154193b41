// Experts by batch. Uniform routing is the worst case for bytes: every token wants experts of its own.
#include "mmb/moe_experts.h"

#include "bench.h"
#include "ops.h"

namespace mmb {

// Neighbouring tokens have been found to share 38 % of their experts.
constexpr Routing kUniform, kZipf = {.skew = 1}, kOverlap = {.overlap = 0.38}, kIdentical = {.overlap = 1};

void register_moe_experts(Suite& suite) {
  suite.for_each_model(
      {.smoke = {"tiny-mla-moe"}, .quick = {"DeepSeek-V2-Lite", "DeepSeek-V3"}, .full = bundled_models()},
      [&](const Model& model) {
        if (!model.moe_layers()) return;
        for (int64_t tokens :
             suite.batches({.smoke = {1, 5}, .quick = {1, 8, 32}, .full = {1, 2, 4, 8, 16, 32, 64, 128}}))
          // One token alone reads its K experts, whichever they are.
          for (const Routing& routing : suite.routings(
                   model,
                   {.smoke = {kUniform, kZipf},
                   .quick = {kUniform},
                   .full = tokens == 1 ? std::vector{kUniform} : std::vector{kUniform, kZipf, kOverlap, kIdentical}}))
            suite.add<MoeExperts, reference::moe_experts<double>>(
                model, MoeExperts::shape(model, tokens, routing),
                {.headline = tokens == 1 && model.name == "DeepSeek-V3" ? "grouped" : ""});
      });
}

}  // namespace mmb
