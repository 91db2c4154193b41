#include "mmb/prefill_step.h"

#include "op_test.h"

namespace mmb {
namespace {

PrefillStep::Shape tiny(int64_t new_tokens, int64_t past) {
  const Model model = load_model("tiny-mla-moe");
  return PrefillStep::shape(model, model.num_hidden_layers, 2, new_tokens, past);
}

TEST(PrefillStep, KernelsMatchReference) {
  for (int64_t past : {0, 20})
    for (int64_t new_tokens : {1, 19})
      expect_kernels_match_reference<PrefillStep, reference::prefill_step<double>>(tiny(new_tokens, past));
}

TEST(PrefillStep, FlopsAreCounted) {
  const auto shape = tiny(7, 3);
  EXPECT_EQ((counted_flops<PrefillStep, reference::prefill_step<Counted>>(shape, "composed")),
            PrefillStep::cost(shape, DType::f32, "composed").flops);
}

// A prompt's last logits are those of a decode step over the same cache.
TEST(PrefillStep, OneTokenIsADecodeStep) {
  const PrefillStep::Shape shape = tiny(1, 8);
  for (const auto& kernel : PrefillStep::kernels()) {
    if (!supported(kernel.impl)) continue;
    PrefillStep::Problem problem(shape, DType::f32, kernel.algo, test_arena(), 5);
    kernel.run(shape, problem.args());
    const std::vector<float> prefilled(problem.args().logits, problem.args().logits + 2 * shape.vocab_size);
    DecodeStep::Shape step = shape;
    step.last_only = false;
    kernel.run(step, problem.args());
    EXPECT_EQ(prefilled, std::vector<float>(problem.args().logits, problem.args().logits + 2 * shape.vocab_size));
  }
}

TEST(PrefillStep, KeySaysWhatIsNewAndWhatIsCached) {
  EXPECT_EQ(PrefillStep::key(tiny(19, 20)), "batch:2/q:19/past:20/layers:3/routing:uniform");
  EXPECT_EQ(DecodeStep::logit_rows(tiny(19, 20)), 2);
}

}  // namespace
}  // namespace mmb
