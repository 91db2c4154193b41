// Figures and lists in words.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace mmb {

[[gnu::format(printf, 1, 2)]] std::string text(const char* format, ...);
// Two significant digits at the least: 0.0021, 0.63, 4.4, 71.
std::string figure(double x);
std::string milliseconds(double seconds);
// 1 token, 2 tokens.
std::string tokens(int64_t count);
// What `word` makes of each item.
template <class Items, class Word = std::identity>
std::string joined(const Items& items, const char* between, Word word = {}) {
  std::string list;
  for (const auto& item : items) {
    if (!list.empty()) list += between;
    list += std::invoke(word, item);
  }
  return list;
}

}  // namespace mmb
