#include "dots.h"

namespace mmb::MMB_IMPL {

void latent_attention_integer(const LatentAttention::Shape& shape, const LatentAttention::Args& args) noexcept {
  team([&] { attend_integers<Dots>(shape, args); });
}

}  // namespace mmb::MMB_IMPL
