// Kernel: one way to run an op on this machine. An op is a struct with the members that concept Operator lists; its kernels
// are one list, which the tests and the benchmarks both walk.
#pragma once

#include <algorithm>
#include <concepts>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "mmb/cost.h"
#include "mmb/error.h"
#include "mmb/tensor.h"

namespace mmb {

// Who computes: the reference; one instruction-set level of the optimized kernels; one class of instructions beside such a
// level, which fma_peak and few kernels use; or a library that they are compared with.
enum class Impl {
  reference,
  generic,
  avx2,
  avx512,
  amx,
  neon,
  avx2vnni,
  avx512bf16,
  avx512fp16,
  avx512vnni,
  neoni8mm,
  eigen,
  openblas,
  onednn
};

const char* name(Impl impl);
// The levels that this build has, from narrow to wide; and these with the classes of instructions.
std::span<const Impl> levels();
std::span<const Impl> impls();
// The libraries that this build was configured with.
std::span<const Impl> peers();
// This CPU and operating system run it.
bool supported(Impl impl);
// The class of dots of bytes that some kernels of a level use where the CPU has it.
constexpr std::optional<Impl> byte_dots(Impl level) {
  switch (level) {
    case Impl::avx2:
      return Impl::avx2vnni;
    case Impl::avx512:
    case Impl::amx:
      return Impl::avx512vnni;
    case Impl::neon:
      return Impl::neoni8mm;
    default:
      return {};
  }
}
// This CPU has it; asked once.
bool has_byte_dots(Impl level) noexcept;
// Weights and caches that come from memory are prefetched far_lines ahead into L2 and kNearLines ahead into L1, counted over
// all streams that a loop reads: in two steps, or where both are kNearLines in one. Which of the two reads faster is the
// machine's to say (choose_far_lines, machine.h): on Intel's cores two by 4 to 10 %, on AMD's Zen 3 one by 10 to 25 %.
inline constexpr int64_t kNearLines = 64, kFarLines = 256;
extern int64_t far_lines;  // kFarLines until chosen
// The widest supported level. What is fastest is measured (machine.h).
Impl best_impl();

// The levels that this build contains: X(level) for each, from narrow to wide. A test compiles some kernels once more, for
// an emulated matrix unit.
#if defined(MMB_EMULATED_TILES)
#define MMB_LEVELS(X, ...) X(emulated, __VA_ARGS__)
#elif defined(__x86_64__)
#define MMB_LEVELS(X, ...) X(generic, __VA_ARGS__) X(avx2, __VA_ARGS__) X(avx512, __VA_ARGS__) X(amx, __VA_ARGS__)
#elif defined(__aarch64__)
#define MMB_LEVELS(X, ...) X(neon, __VA_ARGS__)
#else
#define MMB_LEVELS(X, ...) X(generic, __VA_ARGS__)
#endif
// Those that have the dots of bytes on CPUs that do.
#if defined(MMB_EMULATED_TILES)
#define MMB_DOT_LEVELS(X, ...)
#elif defined(__x86_64__)
#define MMB_DOT_LEVELS(X, ...) X(avx2, __VA_ARGS__) X(avx512, __VA_ARGS__) X(amx, __VA_ARGS__)
#elif defined(__aarch64__)
#define MMB_DOT_LEVELS(X, ...) X(neon, __VA_ARGS__)
#else
#define MMB_DOT_LEVELS(X, ...)
#endif

// In an op's header: declares kernel FUNCTION of OP in the namespace of every level.
#define MMB_DECLARE_KERNEL(OP, FUNCTION) MMB_LEVELS(MMB_DECLARE_KERNEL_AT, OP, FUNCTION)
#define MMB_DECLARE_KERNEL_AT(LEVEL, OP, FUNCTION)                      \
  namespace LEVEL {                                                     \
  void FUNCTION(const OP::Shape& shape, const OP::Args& args) noexcept; \
  }

// In an op's table.cpp: lists kernel FUNCTION of OP, and what it takes if that is not all, under the name ALGO: at every level,
// and at those with dots of bytes.
#define MMB_KERNEL(OP, ALGO, ...) MMB_LEVELS(MMB_KERNEL_AT, OP, ALGO, __VA_ARGS__)
#define MMB_DOT_KERNEL(OP, ALGO, ...) MMB_DOT_LEVELS(MMB_DOT_KERNEL_AT, OP, ALGO, __VA_ARGS__)
#define MMB_KERNEL_AT(LEVEL, OP, ALGO, ...) {ALGO, Impl::LEVEL, &LEVEL::__VA_ARGS__},
#define MMB_DOT_KERNEL_AT(LEVEL, OP, ALGO, FUNCTION, TAKES) {ALGO, Impl::LEVEL, &LEVEL::FUNCTION, TAKES, nullptr, true},

template <class Op>
struct Kernel {
  const char* algo;
  Impl impl;
  void (*run)(const typename Op::Shape&, const typename Op::Args&);
  bool (*takes)(const typename Op::Shape&, DType) = nullptr;  // null: every shape and type of the op
  std::string (*note)() = nullptr;  // of a library: its version, and what it makes of this CPU
  bool on_byte_dots = false;        // runs where the CPU has those of its level alone
};

// The types that an op stores weights or caches in.
template <class Op>
constexpr std::span<const DType> types() {
  if constexpr (requires { Op::kTypes; })
    return Op::kTypes;
  else
    return kPlainTypes;
}
template <class Op>
bool takes(const Kernel<Op>& kernel, const typename Op::Shape& shape, DType dtype) {
  return std::ranges::count(types<Op>(), dtype) > 0 && (!kernel.takes || kernel.takes(shape, dtype)) &&
         (!kernel.on_byte_dots || has_byte_dots(kernel.impl));
}

// Units [begin, end) of an op's output; a unit is the least part of the output that the reference can compute alone.
struct Range {
  int64_t begin = 0, end = 0;
};

// One named part of an op's output, converted for comparison; errors are relative to the largest expected value.
struct Output {
  std::string name;
  std::vector<double> values;
  double tolerance = 0;
};

// A Problem makes seeded inputs for a shape, with weights and caches from an arena:
//   Problem(shape, dtype, algo, arena, seed); args(); next() moves weights and caches on to the arena's next bytes;
//   outputs(unit): what args() has been given for this unit; expected(): args() with other memory for the outputs;
//   intact(): nothing was written past the end of an output.
template <class Op>
concept Operator = requires(const typename Op::Shape& shape, typename Op::Problem& problem, DType dtype, int64_t unit) {
  { Op::name } -> std::convertible_to<std::string_view>;
  { Op::key(shape) } -> std::same_as<std::string>;
  { Op::cost(shape, dtype, std::string_view()) } -> std::same_as<Cost>;
  { Op::units(shape) } -> std::same_as<int64_t>;
  { Op::kernels() } -> std::same_as<std::span<const Kernel<Op>>>;
  { problem.args() } -> std::same_as<const typename Op::Args&>;
  { problem.expected() } -> std::same_as<const typename Op::Args&>;
  { problem.outputs(problem.args(), unit) } -> std::same_as<std::vector<Output>>;
  problem.next();
  { problem.intact() } -> std::same_as<bool>;
};

// The most bytes that kernels ever had in use beside their arguments; memory comes as it is touched, and stays.
int64_t scratch_peak() noexcept;

// An op of a composite, by its first algo unless it is named.
template <class Op>
Component part_of(const typename Op::Shape& shape, DType dtype, std::string_view algo = Op::kernels()[0].algo) {
  return {Op::name, std::string(algo), dtype, Op::key(shape), Op::cost(shape, dtype, algo), shape};
}

// Throws with the condition and the values where a shape cannot be run.
#define MMB_REQUIRE(condition, values)                                                                        \
  do {                                                                                                        \
    if (!(condition)) throw ::mmb::Error((std::ostringstream() << values << ": expected " #condition).str()); \
  } while (false)

}  // namespace mmb
