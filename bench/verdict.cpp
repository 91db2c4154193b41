#include "verdict.h"

namespace mmb {

void print_verdict(std::span<const Result>, std::ostream&) {}

}  // namespace mmb
