// Figures in words, for the verdict.
#pragma once

#include <cstdint>
#include <string>

namespace mmb {

[[gnu::format(printf, 1, 2)]] std::string text(const char* format, ...);
// Two significant digits at the least: 0.0021, 0.63, 4.4, 71.
std::string figure(double x);
std::string milliseconds(double seconds);
// 1 token, 2 tokens.
std::string tokens(int64_t count);

}  // namespace mmb
