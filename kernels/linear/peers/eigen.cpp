// In a shared library of its own, with the flags of the CPU that builds it: Eigen chooses its instructions when it is
// compiled, and its inline functions must not become the program's.
#include <Eigen/Core>

#include "peers.h"

namespace mmb::eigen {
namespace {

using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

}  // namespace

[[gnu::visibility("default")]] void linear(const Linear::Shape& shape, const Linear::Args& args) noexcept {
  const int64_t N = shape.tokens, K = shape.in_features, M = shape.out_features;
  const Eigen::Map<const Rows> x(args.x, N, K), w(static_cast<const float*>(args.w.data), M, K);
  Eigen::Map<Rows> y(args.y, N, M);
  if (N == 1)
    y.row(0).transpose().noalias() = w * x.row(0).transpose();
  else
    y.noalias() = x * w.transpose();
}

[[gnu::visibility("default")]] std::string version() {
  return "Eigen " + std::to_string(EIGEN_WORLD_VERSION) + "." + std::to_string(EIGEN_MAJOR_VERSION) + "." +
         std::to_string(EIGEN_MINOR_VERSION) + ", " + Eigen::SimdInstructionSetsInUse();
}

}  // namespace mmb::eigen
