// The verdict: what the rows of a run say of the two ideas, in words and with the run's own figures. Whatever the run did not
// time is left out, or stands as an ideal and says so. A gain is always given twice: as the machine's measured peaks allow it
// (the ratio of ideal times), and as measured.
#pragma once

#include <iosfwd>
#include <map>
#include <span>
#include <string>

#include "model_verdict.h"

namespace mmb {

void print_verdict(const Suite& suite, std::span<const Result> results, const Price& price, std::ostream& out);

// For the context: by model with experts, the parameters of a dense model that decodes as fast as it, at each batch:
// "model: batch parameters batch parameters; model: ...". The ideal goes by the machine's measured peaks.
std::map<std::string, std::string> dense_equivalents(const Suite& suite, std::span<const Result> results);

}  // namespace mmb
