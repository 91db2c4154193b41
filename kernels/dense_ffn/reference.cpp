#include "mmb/dense_ffn.h"

#include "../reference.h"

namespace mmb::reference {

template <class S>
void dense_ffn(const DenseFfn::Shape& shape, const DenseFfn::Args& args, Range tokens) {
  const int64_t H = shape.hidden_size;
  for (int64_t n = tokens.begin; n < tokens.end; ++n) {
    const Vector<S> x = vector<S>(args.x + n * H, H);
    Vector<double> y = zeros<double>(H);
    for (int64_t i = 0; i < args.slab_count; ++i) {
      const Vector<S> part = gated_ffn<S>(args.slabs[i].gate, args.slabs[i].up, args.slabs[i].down, x);
      for (int64_t h = 0; h < H; ++h) y[h] += value(part[h]);
    }
    store<double>(y, args.y + n * H);
  }
}

template void dense_ffn<double>(const DenseFfn::Shape&, const DenseFfn::Args&, Range);
template void dense_ffn<Counted>(const DenseFfn::Shape&, const DenseFfn::Args&, Range);

}  // namespace mmb::reference
