#include "../reference.h"
#include "mmb/linear.h"

namespace mmb::reference {

template <class S>
void linear(const Linear::Shape& shape, const Linear::Args& args, Range elements) {
  const int64_t K = shape.in_features, M = shape.out_features;
  for (int64_t i = elements.begin; i < elements.end; ++i)
    args.y[i] = static_cast<float>(value(dot(row<S>(args.w, i % M), vector<S>(args.x + i / M * K, K))));
}

template void linear<double>(const Linear::Shape&, const Linear::Args&, Range);
template void linear<Counted>(const Linear::Shape&, const Linear::Args&, Range);

}  // namespace mmb::reference
