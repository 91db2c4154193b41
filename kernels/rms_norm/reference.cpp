#include "../reference.h"
#include "mmb/rms_norm.h"

namespace mmb::reference {

template <class S>
void rms_norm(const RmsNorm::Shape& shape, const RmsNorm::Args& args, Range tokens) {
  const int64_t H = shape.hidden_size;
  for (int64_t n = tokens.begin; n < tokens.end; ++n) {
    const Vector<double> x = vector<double>(args.x + n * H, H);
    const double scale = 1 / std::sqrt(x.squaredNorm() / static_cast<double>(H) + args.eps);
    store<double>(scale * x.cwiseProduct(vector<double>(args.weight, H)), args.y + n * H);
  }
}

template void rms_norm<double>(const RmsNorm::Shape&, const RmsNorm::Args&, Range);
template void rms_norm<Counted>(const RmsNorm::Shape&, const RmsNorm::Args&, Range);

}  // namespace mmb::reference
