// attention_decode: one decode step of attention over a dense cache; MHA, GQA and MQA are the number of key-value heads.
// The contract is attention.h's with one new token for each sequence, which sees the whole cache.
// Bound   heads / key-value heads FLOP per byte of a bf16 cache: memory for MHA and small groups, compute for MQA
#pragma once

#include "mmb/attention.h"

namespace mmb {

struct AttentionDecode {
  static constexpr const char* name = "attention_decode";

  using Shape = AttentionShape;
  using Args = AttentionArgs;

  static std::string key(const Shape& shape);
  static Cost cost(const Shape& shape, DType dtype, std::string_view algo);
  static int64_t units(const Shape& shape) { return shape.batch * shape.num_attention_heads; }  // a (token, head) pair
  static std::span<const Kernel<AttentionDecode>> kernels();

  class Problem : public AttentionProblem {
   public:
    Problem(const Shape& shape, DType dtype, std::string_view algo, Arena& arena, uint64_t seed);
  };
};

namespace reference {
template <class S>
void attention_decode(const AttentionDecode::Shape& shape, const AttentionDecode::Args& args, Range units);
}
MMB_DECLARE_KERNEL(AttentionDecode, attention_decode)

}  // namespace mmb
