#include "mmb/rope.h"

#include "bench.h"
#include "ops.h"

namespace mmb {

void register_rope(Suite& suite) {
  suite.for_each_model({.smoke = {"tiny-mla-moe"}, .quick = {}, .full = bundled_models()}, [&](const Model& model) {
    for (int64_t tokens : suite.batches({.smoke = {1, 5}, .quick = {1}, .full = {1, 32}})) {
      const Rope::Shape usual = Rope::shape(model, tokens);
      suite.add<Rope, reference::rope<double>>(
          model, {tokens, suite.size("heads", usual.heads), suite.size("dims", usual.dims)});
    }
  });
}

}  // namespace mmb
