// attention_prefill: causal attention of many new tokens, over a dense cache that holds them and what came before.
// The contract is attention.h's; the kernel is attention_decode's, which takes any number of new tokens.
// Bound   compute: every cached element serves new tokens * heads / key-value heads query rows
#pragma once

#include "mmb/attention.h"

namespace mmb {

struct AttentionPrefill {
  static constexpr const char* name = "attention_prefill";

  using Shape = AttentionShape;
  using Args = AttentionArgs;
  using Problem = AttentionProblem;

  static std::string key(const Shape& shape);
  static Cost cost(const Shape& shape, DType dtype, std::string_view algo);
  static int64_t units(const Shape& shape) {  // a unit is a (token, head) pair
    return shape.batch * shape.new_tokens * shape.num_attention_heads;
  }
  static std::span<const Kernel<AttentionPrefill>> kernels();
};

namespace reference {
template <class S>
void attention_prefill(const AttentionPrefill::Shape& shape, const AttentionPrefill::Args& args, Range units);
}

}  // namespace mmb
