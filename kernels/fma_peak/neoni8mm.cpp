#include "dot_int8.h"

namespace mmb::MMB_IMPL {

void fma_peak(const FmaPeak::Shape& shape, const FmaPeak::Args& args) noexcept {
  peak_of<DotInt8>(shape, args);
}

}  // namespace mmb::MMB_IMPL
