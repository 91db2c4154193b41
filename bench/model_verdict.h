// The verdict on whole models: tokens per second beside what their parts predict and what the machine allows, by batch and
// context, against the model's rivals; what several new tokens at a time need to pay; and what long thinking costs.
#pragma once

#include <iosfwd>
#include <map>
#include <span>
#include <string>

#include "reporter.h"

namespace mmb {

// Of a step that takes as long as `cost` times a plain one and verifies `drafts` drafts, each accepted with the same
// probability if those before it were: the probability from which on it pays. More than 1: never.
double break_even_acceptance(double cost, int64_t drafts);
// Tokens that such a step yields on average.
double tokens_per_step(double acceptance, int64_t drafts);

// Seconds of a token by the tokens cached, t = a + c * T, by least squares.
struct ContextFit {
  double a, c;
  bool grows() const { return c > 0; }  // else noise hides what the context costs
  double seconds(double cached) const { return a + c * cached; }
  // Of `count` tokens, one after the other, from a context of `first` tokens on.
  double seconds(double first, double count) const { return count * (a + c * (first + count / 2)); }
};
ContextFit fit_context(const std::map<double, double>& seconds_by_cached);
// What the fit says about 32K tokens from a prompt of 1K.
std::string long_thinking(const ContextFit& fit);
// Cached tokens from which on `b` is faster than `a`; negative or infinite: never.
double crossover(const ContextFit& a, const ContextFit& b);

struct Price {
  double usd_per_hour = 0;  // of this machine; 0: not given
};
void print_whole_models(const Suite& suite, std::span<const Result> results, const Price& price, std::ostream& out);

}  // namespace mmb
