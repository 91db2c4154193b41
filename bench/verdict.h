// The verdict: what the rows of a run say, in words.
#pragma once

#include <iosfwd>
#include <span>

#include "reporter.h"

namespace mmb {

void print_verdict(std::span<const Result> results, std::ostream& out);

}  // namespace mmb
