#include "../reference.h"
#include "mmb/fma_peak.h"

namespace mmb::reference {

template <class S>
void fma_peak(const FmaPeak::Shape& shape, const FmaPeak::Args& args, Range elements) {
  for (int64_t i = elements.begin; i < elements.end; ++i) {
    S v(args.x[i]);
    for (int64_t step = 0; step < shape.steps; ++step) {
      if (args.products == 0) {
        S next(args.b);
        next += S(args.a) * v;
        v = next;
      }
      for (int64_t p = 0; p < args.products; ++p) v += S(args.a) * S(args.b);
    }
    args.y[i] = static_cast<float>(value(v));
  }
}

template void fma_peak<double>(const FmaPeak::Shape&, const FmaPeak::Args&, Range);
template void fma_peak<Counted>(const FmaPeak::Shape&, const FmaPeak::Args&, Range);

}  // namespace mmb::reference
