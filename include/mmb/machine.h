// Machine: the ruler. What this machine reaches now, on so many threads and with one level's instructions, measured by
// the ops fma_peak and stream_read; and the one place where a Cost becomes seconds. Giga is 1e9.
#pragma once

#include <algorithm>
#include <memory>

#include "mmb/kernel.h"

namespace mmb {

inline constexpr double kGiga = 1e9;

struct Machine {
  // The slowest and the fastest burst.
  struct Extremes {
    double min = 0, max = 0;
  };

  Impl impl = Impl::reference;
  int threads = 0;
  double flops_per_second = 0;       // of the class's instructions, or of multiply-adds in f32; medians, all of these
  double bf16_flops_per_second = 0;  // of f32 times bf16: the same after widening, or a matrix unit's
  double rounded_flops_per_second = 0;  // of bf16 times bf16: the same, or three times a matrix unit's
  double int8_flops_per_second = 0;     // of int8 times int8: the f32 rate, or that of dot products of integers
  double bytes_per_second = 0;
  // Of f32 times int8 weights: as bf16, or as the digits of the f32 in three products of bytes (matmul.h).
  double digit_flops_per_second() const { return std::max(bf16_flops_per_second, int8_flops_per_second / 3); }
  Extremes flops_extremes, bf16_flops_extremes, int8_flops_extremes, bytes_extremes;  // per second too
  const char *flops_class = "", *bf16_class = "", *int8_class = "";  // the algos of fma_peak that these were
};

// What runs fastest here, of the levels that the CPU supports: found by timing them, once, since what a CPU has is not always
// what is fast on it.
Impl fastest_impl();

// Sets far_lines (kernel.h) to what the threads read the arena faster by, once in a process; before anything is timed.
void choose_far_lines(int threads, Arena& arena);

// Short bursts of arithmetic and of reading the arena, in turn, so that both see the same minute. What is timed has its own
// ruler, with bursts before, between and after its iterations: a virtual machine's clock and bandwidth move within seconds.
// The reference and other libraries are held against the fastest level. Throws where this CPU does not run
// `impl`.
class Ruler {
 public:
  Ruler(int threads, Impl impl, Arena& arena);
  ~Ruler();
  void burst();             // a few milliseconds of reading, then one of arithmetic: shorter ones read 9 % too low
  void forget();            // the bursts so far
  Machine machine() const;  // of the bursts since; one at the least

 private:
  struct Probes;
  std::unique_ptr<Probes> probes_;
  Impl impl_;
  int threads_;
};

// `seconds` of bursts, and five at the least. Called at the start and at the end of a run, it shows whether the machine
// drifted.
Machine measure(Ruler& ruler, double seconds);

// An op's ideal time is the larger of its two: arithmetic and memory traffic overlap perfectly.
double ideal_seconds(const Cost& cost, const Machine& machine);
// The traffic takes longer than the arithmetic.
bool memory_bound(const Cost& cost, const Machine& machine);

// Ops in a row do not overlap with each other: a composite's ideal is the sum of its parts'. Its overlap bound lets
// them, and is the larger of the sums.
double ideal_seconds(std::span<const Component> parts, const Machine& machine);
double overlap_bound(std::span<const Component> parts, const Machine& machine);

}  // namespace mmb
