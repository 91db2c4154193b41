#include "words.h"

#include <cstdarg>
#include <cstdio>

namespace mmb {

std::string text(const char* format, ...) {
  char buffer[512];
  va_list args;
  va_start(args, format);
  std::vsnprintf(buffer, sizeof buffer, format, args);
  va_end(args);
  return buffer;
}

std::string figure(double x) {
  return text(x < 0.1 ? "%.2g" : x < 1 ? "%.2f" : x < 20 ? "%.1f" : "%.0f", x);
}

std::string milliseconds(double seconds) {
  return figure(1e3 * seconds) + " ms";
}

std::string tokens(int64_t count) {
  return std::to_string(count) + (count == 1 ? " token" : " tokens");
}

}  // namespace mmb
