#include "mmb/sequences.h"

#include "mmb/kernel.h"

namespace mmb {

Batch::Batch(int64_t batch, int64_t new_tokens, int64_t context, int64_t shortest) : first_{0} {
  if (shortest == 0) shortest = context;
  MMB_REQUIRE(batch > 0 && new_tokens > 0 && shortest >= new_tokens && context >= shortest,
              context_key(batch, new_tokens, context, shortest));
  for (int64_t b = 0; b < batch; ++b) {
    first_.push_back(first_.back() + new_tokens);
    context_.push_back(batch == 1 ? context : shortest + (context - shortest) * b / (batch - 1));
  }
}

Batch::Batch(const std::vector<int64_t>& new_tokens, const std::vector<int64_t>& context)
    : first_{0}, context_(context) {
  MMB_REQUIRE(!context.empty() && new_tokens.size() == context.size(),
              new_tokens.size() << " counts of new tokens, " << context.size() << " contexts");
  for (size_t b = 0; b < context.size(); ++b) {
    MMB_REQUIRE(new_tokens[b] > 0 && context[b] >= new_tokens[b],
                "sequence " << b << ": new tokens " << new_tokens[b] << ", context " << context[b]);
    first_.push_back(first_.back() + new_tokens[b]);
  }
}

int64_t Batch::cached() const {
  int64_t sum = 0;
  for (int64_t length : context_) sum += length;
  return sum;
}

int64_t Batch::attended() const {
  int64_t pairs = 0;
  for (size_t b = 0; b < context_.size(); ++b) {
    const int64_t n = first_[b + 1] - first_[b];
    pairs += n * context_[b] - n * (n - 1) / 2;
  }
  return pairs;
}

std::string batch_key(int64_t batch, int64_t new_tokens) {
  return "batch:" + std::to_string(batch) + "/q:" + std::to_string(new_tokens);
}

std::string context_key(int64_t batch, int64_t new_tokens, int64_t context, int64_t shortest) {
  const bool uneven = shortest != 0 && shortest != context;
  return batch_key(batch, new_tokens) + "/ctx:" + (uneven ? std::to_string(shortest) + ".." : "") +
         std::to_string(context);
}

std::string past_key(int64_t batch, int64_t new_tokens, int64_t context, int64_t shortest) {
  return batch_key(batch, new_tokens) + "/past:" + (shortest ? std::to_string(shortest - new_tokens) + ".." : "") +
         std::to_string(context - new_tokens);
}

}  // namespace mmb
