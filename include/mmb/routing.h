// Routing: which experts the tokens of a shape choose. It is a fact of the shape, drawn from seeds of its own or read from
// a trace, and not a matter of weights and rounding.
//   skew s     each draw takes an expert of rank r with probability as 1/r^s among those not yet taken (Zipf); which expert
//              has which rank is drawn too. 0: uniform
//   overlap o  a token keeps each expert of the token before it with probability o, and draws the others as it would alone.
//              0: tokens choose independently; 1: all choose alike. The token before: of the shape's tokens in their order,
//              as if all were of one sequence. What is dropped may be drawn again: of uniform routing's experts neighbours
//              share K/E by chance at o = 0, and about o + (1 - o)^2 K/E in all (0.39 for DeepSeek-V3 at o = 0.38)
//   trace      in place of both: what a model's router chose
// Group-limited routing (moe_router.h) as the router does it: of the groups in the order of their best experts the first
// topk_group, and the best experts in these.
#pragma once

#include <optional>

#include "mmb/error.h"
#include "mmb/model.h"

namespace mmb {

// A file of the experts chosen by the tokens of one MoE layer, in the order of decoding: a token a line, K different whole
// numbers from 0 to E-1, separated by spaces, tabs or commas. Comments run from # to the end of the line; empty lines count
// for nothing.
struct Trace {
  std::string name;  // the file's, without folder and ending
  std::string file;
  int64_t n_routed_experts, num_experts_per_tok, tokens;
  std::vector<int32_t> topk_indices;  // [tokens, num_experts_per_tok]
};

// A trace that is malformed, does not fit a model, or is too short for a shape. Such a run is refused as a whole, where rows
// that only lack memory are left out.
struct TraceError : Error {
  using Error::Error;
};

std::string trace_name(const std::string& file);
// Throws TraceError, "file: line: field: what was expected".
Trace load_trace(const std::string& file, const Model& model);

struct Routing {
  double skew = 0, overlap = 0;
  const Trace* trace = nullptr;  // not owned; its first lines, one a token
  int64_t layer = 0;  // layers are drawn apart, and begin apart in a trace, which then is read round and round

  bool operator==(const Routing&) const = default;
};

constexpr double kMostSkew = 10;

// As rows say it: routing:uniform, routing:zipf1.2/overlap:0.38, routing:NAME of a trace.
std::string key(const Routing& routing);
// The skew that `routing:name` stands for; none: a trace's name.
std::optional<double> skew_of(std::string_view name);

}  // namespace mmb
