#include "pace.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <ostream>
#include <vector>

#include "words.h"

namespace mmb {
namespace {

const char* peak_of(const Result& row) {
  return row.counters.at("bound") != 0 ? "peak_gbs" : "peak_gflops";
}

// Rows whose peaks are of one kind.
std::string kind(const Result& row) {
  const std::string peak = peak_of(row);
  return row.name.threads + ' ' + row.name.impl + ' ' + peak +
         (peak == "peak_gflops" ? ' ' + row.label.substr(0, row.label.find(';')) : "");
}

}  // namespace

Pace::Pace(std::span<const Result> results) {
  std::map<std::string, std::vector<double>> peaks;
  for (const Result& row : results)
    if (row.error.empty()) peaks[kind(row)].push_back(row.counters.at(peak_of(row)));
  for (auto& [rows, list] : peaks) {
    const auto middle = list.begin() + static_cast<std::ptrdiff_t>(list.size() / 2);
    std::nth_element(list.begin(), middle, list.end());
    middle_[rows] = *middle;
  }
}

double Pace::beside(const Result& row) const {
  return row.error.empty() ? row.counters.at(peak_of(row)) / middle_.at(kind(row)) : 1;
}

bool Pace::usual(const Result& row) const {
  constexpr double kFactor = 1.25, kMostRoof = 1.1;
  const double pace = beside(row);
  // What is not read from memory may be faster than memory.
  const bool outran = row.error.empty() && row.counters.at("cold") != 0 && row.counters.at("roof") > kMostRoof;
  return pace * kFactor >= 1 && pace <= kFactor && !outran;
}

void print_pace(std::span<const Result> results, std::ostream& out) {
  const Pace pace(results);
  std::vector<const Result*> other;
  for (const Result& row : results)
    if (!pace.usual(row)) other.push_back(&row);
  if (other.empty()) return;
  out << "Pace: beside " << other.size() << " of " << results.size()
      << " rows the machine's peaks were more than a quarter off their middle, or below what the row reached; "
      << "their times are the machine's as much as the kernels'. Those farthest off:\n";
  std::ranges::sort(other, std::greater(), [&](const Result* row) {
    return std::max(std::abs(std::log(pace.beside(*row))), std::log(row->counters.at("roof")));
  });
  constexpr size_t kMost = 3;
  for (size_t i = 0; i < std::min(other.size(), kMost); ++i)
    out << text("  %.2f, roof %.2f  ", pace.beside(*other[i]), other[i]->counters.at("roof")) << other[i]->name.text()
        << '\n';
}

}  // namespace mmb
