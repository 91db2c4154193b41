// Sequences: how the new tokens of a batch lie in the activations, and how many tokens each cache holds.
#pragma once

#include <string>
#include <vector>

#include "mmb/tensor.h"

namespace mmb {

// The new tokens of a batch, packed without padding: those of sequence b are rows first[b] .. first[b+1]-1 of every
// activation. Sequence b's cache holds context[b] tokens, the new ones included; its new token i of n sees the first
// context[b] - n + i + 1 of them.
struct Sequences {
  int64_t batch = 0;
  const int64_t* first = nullptr;    // [batch + 1]
  const int64_t* context = nullptr;  // [batch]

  [[gnu::always_inline]] int64_t tokens() const { return first[batch]; }  // new ones
  // Where the cache of sequence b, which row n is of, holds its token.
  [[gnu::always_inline]] int64_t slot(int64_t b, int64_t n) const { return context[b] - (first[b + 1] - n); }
};

// The batch that a shape describes: every sequence has `new_tokens` new tokens; the caches hold `context` tokens, new ones
// included, or lengths spread evenly from `shortest` (first sequence) to `context` (last) where shortest is not 0.
class Batch {
 public:
  Batch(int64_t batch, int64_t new_tokens, int64_t context, int64_t shortest = 0);
  // Any lengths: new_tokens[b] and context[b].
  Batch(const std::vector<int64_t>& new_tokens, const std::vector<int64_t>& context);

  Sequences view() const { return {static_cast<int64_t>(context_.size()), first_.data(), context_.data()}; }
  int64_t tokens() const { return first_.back(); }
  int64_t cached() const;    // tokens in all caches
  int64_t attended() const;  // (new token, cached token) pairs that causal attention looks at

 private:
  std::vector<int64_t> first_, context_;
};

// As rows say it: "batch:8/q:1"; with what sequences attend to, "batch:8/q:1/ctx:4096" (uneven lengths: ctx:512..4096); with
// what was cached before, "batch:8/q:1/past:4095".
std::string batch_key(int64_t batch, int64_t new_tokens);
std::string context_key(int64_t batch, int64_t new_tokens, int64_t context, int64_t shortest = 0);
std::string past_key(int64_t batch, int64_t new_tokens, int64_t context, int64_t shortest = 0);

}  // namespace mmb
