// Teams and scratch memory: how a kernel uses threads, alone or as a part of a layer.
#pragma once

#include <omp.h>
#include <stdint.h>

#include "mmb/tensor.h"

namespace mmb {

// A stack that the threads of a team move in lock-step, so that equal calls give equal addresses without a word between
// them. Address space is reserved once and pages come as they are touched. Calls from outside a team count as thread 0's.
int64_t scratch_mark() noexcept;
char* scratch_take(int64_t bytes) noexcept;
void scratch_release(int64_t mark) noexcept;

namespace MMB_IMPL {
namespace {

// Runs body on every thread: of the open parallel region if there is one (a layer calls its ops this way), else of a new one.
template <class Body>
[[gnu::always_inline]] inline void team(const Body& body) {
  if (omp_get_level() > 0) {
    body();
  } else {
#pragma omp parallel
    body();
  }
}

[[gnu::always_inline]] inline void barrier() {
#pragma omp barrier
}

[[gnu::always_inline]] inline int64_t thread_index() {
  return omp_get_thread_num();
}
[[gnu::always_inline]] inline int64_t thread_count() {
  return omp_get_num_threads();
}

// This thread's even share of n items.
struct Share {
  int64_t begin, end;
};
[[gnu::always_inline]] inline Share share(int64_t n) {
  return {n * thread_index() / thread_count(), n * (thread_index() + 1) / thread_count()};
}

// Scratch memory until the end of the scope, page aligned so that no two owners share a line.
class Scratch {
 public:
  [[gnu::always_inline]] Scratch() : mark_(scratch_mark()) {}
  [[gnu::always_inline]] ~Scratch() { scratch_release(mark_); }
  Scratch(const Scratch&) = delete;

  // One array for the whole team.
  template <class T>
  [[gnu::always_inline]] T* shared(int64_t count) {
    return reinterpret_cast<T*>(scratch_take(count * static_cast<int64_t>(sizeof(T))));
  }
  // An array for each thread; returns the caller's.
  template <class T>
  [[gnu::always_inline]] T* own(int64_t count) {
    const int64_t bytes = round_up(count * static_cast<int64_t>(sizeof(T)), 4096);
    return reinterpret_cast<T*>(scratch_take(bytes * thread_count()) + bytes * thread_index());
  }

 private:
  int64_t mark_;
};

}  // namespace
}  // namespace MMB_IMPL
}  // namespace mmb
