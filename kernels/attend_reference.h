// The references of attention: one query over the tokens it sees.
#pragma once

#include <vector>

#include "mmb/latent_attention.h"
#include "mmb/sequences.h"
#include "reference.h"

namespace mmb::reference {

// Whose cache new token `n` of a packed batch reads, and how many of its tokens it sees.
struct View {
  int64_t sequence, tokens;
};

inline View view(const Sequences& s, int64_t n) {
  int64_t b = 0;
  while (n >= s.first[b + 1]) ++b;
  return {b, s.slot(b, n) + 1};
}

// The first n elements of token `t` of a cache of such rows.
template <class S>
Vector<S> latent_row(const LatentRow& row, const void* cache, int64_t t, int64_t n) {
  const char* data = static_cast<const char*>(cache) + t * row.bytes();
  Vector<S> v(n);
  for (int64_t i = 0; i < n; ++i) v[i] = S(row.at(data, i));
  return v;
}

// Softmax of the scores in plain double: its operations are not counted.
template <class S>
std::vector<double> softmax(const std::vector<S>& scores, double scale) {
  double largest = -std::numeric_limits<double>::infinity(), sum = 0;
  for (S s : scores) largest = std::max(largest, scale * value(s));
  std::vector<double> p;
  for (S s : scores) p.push_back(std::exp(scale * value(s) - largest));
  for (double x : p) sum += x;
  for (double& x : p) x /= sum;
  return p;
}

// softmax(scale * q K^T) V over `tokens` rows; key(t) and value(t) give row t.
template <class S, class Key, class Value>
Vector<S> attend(const Vector<S>& q, int64_t tokens, double scale, int64_t value_dim, Key key, Value value) {
  std::vector<S> scores;
  for (int64_t t = 0; t < tokens; ++t) scores.push_back(dot(q, key(t)));
  const std::vector<double> p = softmax(scores, scale);
  Vector<S> out = zeros<S>(value_dim);
  for (int64_t t = 0; t < tokens; ++t) add_scaled(out, S(p[static_cast<size_t>(t)]), value(t));
  return out;
}

}  // namespace mmb::reference
