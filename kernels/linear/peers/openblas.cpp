#include <cblas.h>
#include <omp.h>

#include "peers.h"

namespace mmb::openblas {

void linear(const Linear::Shape& shape, const Linear::Args& args) noexcept {
  const auto N = static_cast<blasint>(shape.tokens), K = static_cast<blasint>(shape.in_features),
             M = static_cast<blasint>(shape.out_features);
  openblas_set_num_threads(omp_get_max_threads());
  const auto* w = static_cast<const float*>(args.w.data);
  if (N == 1)
    cblas_sgemv(CblasRowMajor, CblasNoTrans, M, K, 1, w, K, args.x, 1, 0, args.y, 1);
  else
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, N, M, K, 1, args.x, K, w, K, 0, args.y, M);
}

std::string version() {
  const std::string config = openblas_get_config();  // "OpenBLAS 0.3.21 NO_LAPACKE ..."
  return config.substr(0, config.find(' ', config.find(' ') + 1)) + ", core " + openblas_get_corename();
}

}  // namespace mmb::openblas
