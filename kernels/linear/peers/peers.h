// Well-known libraries on the same products, as configured in: rows to hold the kernels against. Weights lie as each library
// wants them, laid out outside the timing; oneDNN rounds the activations of a bf16 product to bf16, inside it.
#pragma once

#include <string>

#include "mmb/linear.h"

// y = x W^T on all threads of OpenMP.
#if defined(MMB_EIGEN_LEVEL)
namespace mmb::eigen {
// f32 only: its products of bf16 are summed in bf16, which leaves them off by several per cent.
void linear(const Linear::Shape& shape, const Linear::Args& args) noexcept;
std::string version();  // and the level that it was compiled for
}  // namespace mmb::eigen
#endif

#if defined(MMB_HAS_OPENBLAS)
namespace mmb::openblas {
void linear(const Linear::Shape& shape, const Linear::Args& args) noexcept;  // f32 only
std::string version();                                                       // and the core that it takes this CPU for
}  // namespace mmb::openblas
#endif

#if defined(MMB_HAS_ONEDNN)
namespace mmb::onednn {
void linear(const Linear::Shape& shape, const Linear::Args& args) noexcept;  // W as pack lays it out
bool takes(const Linear::Shape& shape, DType dtype);                         // bf16 not on every CPU
int64_t packed_bytes(const Linear::Shape& shape, DType dtype);
void pack(const Linear::Shape& shape, DType dtype, const void* row_major, void* packed);
void unpack(const Linear::Shape& shape, DType dtype, const void* packed, void* row_major);
std::string version();
}  // namespace mmb::onednn
#endif
