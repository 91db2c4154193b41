// The output of `bench_mla account`.
#pragma once

#include <string>
#include <vector>

#include "mmb/accounting.h"

namespace mmb {

std::string account_json(const std::vector<Account>& accounts);   // one object, or an array of several
std::string account_table(const std::vector<Account>& accounts);  // a row per figure, a column per model
std::string account_fact(const std::vector<Account>& accounts);   // "model: figure value figure value; model: ..."

}  // namespace mmb
