#include "mmb/prefill_step.h"

#include "../reference.h"

namespace mmb::reference {

template <class S>
void prefill_step(const PrefillStep::Shape& shape, const PrefillStep::Args& args, Range units) {
  decode_step<S>(shape, args, units);
}

template void prefill_step<double>(const PrefillStep::Shape&, const PrefillStep::Args&, Range);
template void prefill_step<Counted>(const PrefillStep::Shape&, const PrefillStep::Args&, Range);

}  // namespace mmb::reference
