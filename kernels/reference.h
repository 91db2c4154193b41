// What the references share: a scalar that counts, and vectors of it. A reference is its header's maths read aloud, in
// Eigen, double, without blocking or threads.
#pragma once

#include <Eigen/Core>

#include "mmb/kernel.h"

namespace mmb {

// A double that counts the multiplies and adds done with it: run with it, a reference says how many FLOPs an op takes.
struct Counted {
  double value = 0;
  static inline int64_t operations = 0;

  Counted() = default;
  Counted(double v) : value(v) {}
  Counted& operator+=(Counted o) {
    ++operations;
    value += o.value;
    return *this;
  }
  friend Counted operator*(Counted a, Counted b) {
    ++operations;
    return a.value * b.value;
  }
};

}  // namespace mmb

namespace Eigen {
template <>
struct NumTraits<mmb::Counted> : NumTraits<double> {
  using Real = mmb::Counted;
  using NonInteger = mmb::Counted;
  using Nested = mmb::Counted;
};
}  // namespace Eigen

namespace mmb::reference {

template <class S>
using Vector = Eigen::Matrix<S, Eigen::Dynamic, 1>;

inline double value(double x) {
  return x;
}
inline double value(Counted x) {
  return x.value;
}

// Contraction, accumulated from zero: n multiplies and n adds.
inline double dot(const Vector<double>& a, const Vector<double>& b) {
  return a.dot(b);
}
inline Counted dot(const Vector<Counted>& a, const Vector<Counted>& b) {
  Counted sum;
  for (int64_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// sum += weight * x, for contractions over rows.
inline void add_scaled(Vector<double>& sum, double weight, const Vector<double>& x) {
  sum += weight * x;
}
inline void add_scaled(Vector<Counted>& sum, Counted weight, const Vector<Counted>& x) {
  for (int64_t i = 0; i < x.size(); ++i) sum[i] += weight * x[i];
}

template <class S>
Vector<S> zeros(int64_t n) {
  return Vector<S>::Constant(n, S(0));
}

// n elements from `data` on.
template <class S>
Vector<S> vector(const float* data, int64_t n) {
  Vector<S> v(n);
  for (int64_t i = 0; i < n; ++i) v[i] = S(static_cast<double>(data[i]));
  return v;
}

// n elements of an array of `dtype`, from element `begin` on.
template <class S>
Vector<S> vector(const void* data, DType dtype, int64_t begin, int64_t n) {
  Vector<S> v(n);
  for (int64_t i = 0; i < n; ++i) v[i] = S(element(data, dtype, begin + i));
  return v;
}

template <class S>
Vector<S> row(const Matrix& m, int64_t r) {
  Vector<double> v(m.cols);
  m.copy_row(r, v.data());
  if constexpr (std::is_same_v<S, double>)
    return v;
  else
    return v.unaryExpr([](double x) { return S(x); });
}

// W x
template <class S>
Vector<S> times(const Matrix& m, const Vector<S>& x) {
  Vector<S> y(m.rows);
  if constexpr (std::is_same_v<S, double>)
    m.multiply(x.data(), y.data());
  else
    for (int64_t r = 0; r < m.rows; ++r) y[r] = dot(row<S>(m, r), x);
  return y;
}

template <class S>
void store(const Vector<S>& v, float* out) {
  for (int64_t i = 0; i < v.size(); ++i) out[i] = static_cast<float>(value(v[i]));
}

inline double silu(double x) {
  return x / (1 + std::exp(-x));
}

// down (silu(gate x) * up x)
template <class S>
Vector<S> gated_ffn(const Matrix& gate, const Matrix& up, const Matrix& down, const Vector<S>& x) {
  Vector<S> hidden = times(gate, x);
  const Vector<S> linear = times(up, x);
  for (int64_t i = 0; i < hidden.size(); ++i) hidden[i] = S(silu(value(hidden[i])) * value(linear[i]));
  return times(down, hidden);
}

// The entry in a kernel list: every unit of the output.
template <class Op, auto Function>
void run(const typename Op::Shape& shape, const typename Op::Args& args) {
  Function(shape, args, Range{0, Op::units(shape)});
}

}  // namespace mmb::reference
