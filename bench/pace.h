// Pace: how fast the machine was beside a row. A virtual machine, whose neighbours come and go, changes it by half within
// minutes; the ratio of two rows that were measured at different pace is then the machine's and not the algorithms'.
#pragma once

#include <iosfwd>
#include <map>
#include <span>
#include <string>

#include "reporter.h"

namespace mmb {

class Pace {
 public:
  explicit Pace(std::span<const Result> results);
  // The peak that bounds the row, measured beside it, over the middle one of all such rows: on as many threads, with the
  // same instructions. 1 for a row that was wrong.
  double beside(const Result& row) const;
  // Within a quarter of it, which is more than peaks differ by on a quiet machine; and not below what the row reached itself.
  bool usual(const Result& row) const;

 private:
  std::map<std::string, double> middle_;
};

// Names the rows that were measured at another pace than the others; silent where there are none.
void print_pace(std::span<const Result> results, std::ostream& out);

}  // namespace mmb
