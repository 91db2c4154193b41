#include "mmb/rope.h"

#include "../reference.h"

namespace mmb::reference {

template <class S>
void rope(const Rope::Shape& shape, const Rope::Args& args, Range tokens) {
  const int64_t D = shape.dims;
  const bool interleaved = args.pairs == Rope::Pairs::interleaved;
  for (int64_t n = tokens.begin; n < tokens.end; ++n)
    for (int64_t head = 0; head < shape.heads; ++head)
      for (int64_t i = 0; i < D / 2; ++i) {
        const int64_t offset = n * args.token_stride + head * args.head_stride;
        const int64_t a = offset + (interleaved ? 2 * i : i), b = interleaved ? a + 1 : a + D / 2;
        const double angle = static_cast<double>(args.positions[n]) * args.inv_freq[i];
        const double x_a = args.x[a], x_b = args.x[b];
        args.y[a] = static_cast<float>((x_a * std::cos(angle) - x_b * std::sin(angle)) * args.attention_factor);
        args.y[b] = static_cast<float>((x_b * std::cos(angle) + x_a * std::sin(angle)) * args.attention_factor);
      }
}

template void rope<double>(const Rope::Shape&, const Rope::Args&, Range);
template void rope<Counted>(const Rope::Shape&, const Rope::Args&, Range);

}  // namespace mmb::reference
