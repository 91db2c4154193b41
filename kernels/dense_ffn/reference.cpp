#include "mmb/dense_ffn.h"

#include <map>
#include <tuple>

#include "../reference.h"

namespace mmb::reference {

template <class S>
void dense_ffn(const DenseFfn::Shape& shape, const DenseFfn::Args& args, Range tokens) {
  const int64_t H = shape.hidden_size;
  for (int64_t n = tokens.begin; n < tokens.end; ++n) {
    const Vector<S> x = vector<S>(args.x + n * H, H);
    Vector<double> y = zeros<double>(H);
    // Slabs that go round an arena come back: each is computed once.
    std::map<std::tuple<const void*, const void*, const void*, int64_t>, Vector<S>> parts;
    for (int64_t i = 0; i < args.slab_count; ++i) {
      const Expert& slab = args.slabs[i];
      const auto [known, fresh] = parts.try_emplace({slab.gate.data, slab.up.data, slab.down.data, slab.gate.rows});
      if (fresh) known->second = gated_ffn<S>(slab.gate, slab.up, slab.down, x);
      const Vector<S>& part = known->second;
      for (int64_t h = 0; h < H; ++h) y[h] += value(part[h]);
    }
    store<double>(y, args.y + n * H);
  }
}

template void dense_ffn<double>(const DenseFfn::Shape&, const DenseFfn::Args&, Range);
template void dense_ffn<Counted>(const DenseFfn::Shape&, const DenseFfn::Args&, Range);

}  // namespace mmb::reference
