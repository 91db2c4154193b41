// The verdict: what the rows of a run say of the two ideas, in words and with the run's own figures. Whatever the run did not
// time is left out, or stands as an ideal and says so. A gain is always given twice: as the machine's measured peaks allow it
// (the ratio of ideal times), and as measured.
#pragma once

#include <iosfwd>
#include <span>

#include "model_verdict.h"

namespace mmb {

void print_verdict(const Suite& suite, std::span<const Result> results, const Price& price, std::ostream& out);

}  // namespace mmb
