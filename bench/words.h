// Figures in words, for the verdict.
#pragma once

#include <string>

namespace mmb {

[[gnu::format(printf, 1, 2)]] std::string text(const char* format, ...);
// Two significant digits at the least: 0.0021, 0.63, 4.4, 71.
std::string figure(double x);
std::string milliseconds(double seconds);

}  // namespace mmb
