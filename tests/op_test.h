// What the tests of all ops share: every supported kernel against the reference, with poison and canaries, for any number
// of threads, in every type; and the FLOPs counted.
#pragma once

#include <gtest/gtest.h>
#include <omp.h>

#include "mmb/compare.h"
#include "mmb/kernel.h"
#include "reference.h"

namespace mmb {

// Weights and caches of small test shapes.
inline Arena& test_arena() {
  static Arena arena(int64_t{64} << 20);
  return arena;
}

// Two results that should be equal but for rounding.
inline void expect_close(std::span<const float> actual, std::span<const float> expected, double tolerance,
                         const std::string& what) {
  const std::vector<double> a(actual.begin(), actual.end()), e(expected.begin(), expected.end());
  const Comparison c = compare(a, e);
  EXPECT_LE(c.max_err, tolerance) << what << " at " << c.worst_index;
}

// Compares the outputs of all units, tensor by tensor.
template <class Op>
void expect_equal(const typename Op::Problem& problem, const typename Op::Shape& shape, const std::string& row) {
  std::vector<Output> actual, expected;
  for (int64_t unit = 0; unit < Op::units(shape); ++unit) {
    const auto a = problem.outputs(problem.args(), unit), e = problem.outputs(problem.expected(), unit);
    actual.resize(a.size());
    expected.resize(e.size());
    for (size_t i = 0; i < a.size(); ++i) {
      actual[i].values.insert(actual[i].values.end(), a[i].values.begin(), a[i].values.end());
      expected[i].values.insert(expected[i].values.end(), e[i].values.begin(), e[i].values.end());
      expected[i].name = e[i].name;
      expected[i].tolerance = e[i].tolerance;
    }
  }
  ASSERT_FALSE(expected.empty()) << row;
  for (size_t i = 0; i < expected.size(); ++i) {
    const Comparison c = compare(actual[i].values, expected[i].values);
    EXPECT_LE(c.max_err, expected[i].tolerance) << row << ": " << expected[i].name << " at " << c.worst_index;
  }
  EXPECT_TRUE(problem.intact()) << row << ": wrote past the end of an output";
}

// One kernel's run against the double-precision reference, by one thread and by three; of weights with scales, whose work is
// cut as that of the others, by two alone.
template <class Op, auto Reference, class Run>
void expect_run_matches_reference(const typename Op::Shape& shape, DType dtype, std::string_view algo, uint64_t seed,
                                  const std::string& row, const Run& run) {
  const int saved = omp_get_max_threads();
  test_arena().rewind();  // the same weights whichever kernels this machine has had before
  typename Op::Problem problem(shape, dtype, algo, test_arena(), seed);
  Reference(shape, problem.expected(), Range{0, Op::units(shape)});
  for (int threads : is_scaled(dtype) ? std::vector{2} : std::vector{1, 3}) {
    omp_set_num_threads(threads);
    run(shape, problem.args());
    expect_equal<Op>(problem, shape, row + "/" + Op::key(shape) + "/threads:" + std::to_string(threads));
  }
  omp_set_num_threads(saved);
}

// The chosen kernels of Op, in both plain types and one of those with scales: which one turns with the name of the shape.
template <class Op, auto Reference, class Chosen>
void expect_chosen_match_reference(const typename Op::Shape& shape, uint64_t seed, const Chosen& chosen) {
  std::vector<DType> scaled;
  std::ranges::copy_if(types<Op>(), std::back_inserter(scaled), is_scaled);
  const size_t turn = std::hash<std::string>()(Op::key(shape));
  for (const Kernel<Op>& kernel : Op::kernels()) {
    if (kernel.impl == Impl::reference || !supported(kernel.impl) || !chosen(kernel)) continue;
    for (DType dtype : types<Op>()) {
      if (!takes(kernel, shape, dtype) || (is_scaled(dtype) && dtype != scaled[turn % scaled.size()])) continue;
      expect_run_matches_reference<Op, Reference>(
          shape, dtype, kernel.algo, seed,
          std::string(Op::name) + "/" + kernel.algo + "/" + mmb::name(dtype) + "/" + mmb::name(kernel.impl),
          kernel.run);
    }
  }
}

// Every supported kernel but other libraries', which take long to prepare; and those.
template <class Op, auto Reference>
void expect_kernels_match_reference(const typename Op::Shape& shape, uint64_t seed = 7) {
  expect_chosen_match_reference<Op, Reference>(shape, seed, [](const Kernel<Op>& kernel) { return !kernel.note; });
}
template <class Op, auto Reference>
void expect_peers_match_reference(const typename Op::Shape& shape, uint64_t seed = 7) {
  expect_chosen_match_reference<Op, Reference>(shape, seed, [](const Kernel<Op>& kernel) { return kernel.note; });
}

// FLOPs of one run, counted by running the reference on Counted.
template <class Op, auto CountedReference>
double counted_flops(const typename Op::Shape& shape, std::string_view algo) {
  typename Op::Problem problem(shape, DType::f32, algo, test_arena(), 7);
  Counted::operations = 0;
  CountedReference(shape, problem.expected(), Range{0, Op::units(shape)});
  return static_cast<double>(Counted::operations);
}

}  // namespace mmb
