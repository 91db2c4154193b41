#include "mmb/attention_decode.h"

#include "../attention.h"

namespace mmb::MMB_IMPL {

void attention_decode(const AttentionShape& shape, const AttentionArgs& args) noexcept {
  team([&] { attend_dense(shape, args); });
}

}  // namespace mmb::MMB_IMPL
