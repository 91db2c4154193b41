#include "mmb/attention_decode.h"

#include "op_test.h"

namespace mmb {
namespace {

constexpr auto expect_match = expect_kernels_match_reference<AttentionDecode, reference::attention_decode<double>>;

TEST(AttentionDecode, ContextsAndGroups) {
  for (int64_t context : {1, 2, 15, 16, 17, 95, 96, 97, 513, 1030})
    for (int64_t group : {1, 2, 3, 8, 16, 128}) {
      const int64_t kv_heads = group > 8 ? 1 : 2;
      expect_match({1, 1, context, 0, group * kv_heads, kv_heads, 16, 16}, 7);
    }
}

}  // namespace
}  // namespace mmb
