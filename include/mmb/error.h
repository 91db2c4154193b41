// Error: bad input from outside (a file, a flag, a model field). One sentence, "where: field: what was expected";
// the program prints it and exits with status 2.
#pragma once

#include <stdexcept>

namespace mmb {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace mmb
