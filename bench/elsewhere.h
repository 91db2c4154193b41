// What another machine could do at the best: the ideal time of a whole model's steps from that machine's published peaks. A
// bound, not a measurement: no kernel, no network between devices, no idle hour is in it.
#pragma once

#include <string>

#include "mmb/model.h"
#include "mmb/tensor.h"

namespace mmb {

struct OtherMachine {
  std::string name, source;
  double flops_per_second = 0, bytes_per_second = 0, memory_bytes = 0;
  double usd_per_hour = 0;  // 0: not given
};
// The name of a file in bench/machines or the path of one (it has a '/' or ends in .json); or an Error that names file and
// field. `usd_per_hour`, where it is not 0, takes the place of the file's.
OtherMachine load_machine(const std::string& spec, double usd_per_hour = 0);

struct Bound {
  double seconds, tokens_per_second;
  double usd_per_million;  // 0: no price
};
// A decode step of `batch` sequences on `context` cached tokens; a prompt of `context` tokens.
Bound decode_bound(const Model& model, const OtherMachine& machine, int64_t batch, int64_t context, DType dtype);
Bound prefill_bound(const Model& model, const OtherMachine& machine, int64_t context, DType dtype);

// Both, by the sentence.
std::string bounds_in_words(const Model& model, const OtherMachine& machine, int64_t batch, int64_t context,
                            DType dtype);

}  // namespace mmb
