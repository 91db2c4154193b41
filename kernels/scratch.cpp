// The one block of scratch memory behind Scratch (team.h).
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>

#define MMB_IMPL scratch
#include "team.h"

namespace mmb {
namespace {

// Address space, not memory: far beyond what any shape needs, small enough for emulators.
constexpr int64_t kReserved = int64_t{16} << 30;

char* reserve() {
  void* base = mmap(nullptr, kReserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) {
    std::perror("mmb: cannot reserve 16 GiB of address space for scratch memory (ulimit -v)");
    std::exit(2);
  }
  madvise(base, kReserved, MADV_HUGEPAGE);
  return static_cast<char*>(base);
}

char* base() {
  static char* const block = reserve();
  return block;
}

thread_local int64_t used = 0;
std::atomic<int64_t> peak{0};

}  // namespace

int64_t scratch_mark() noexcept {
  return used;
}

char* scratch_take(int64_t bytes) noexcept {
  char* data = base() + used;
  used += round_up(bytes, 4096);
  if (used > kReserved) {
    std::fprintf(stderr, "mmb: scratch: %lld bytes are more than the %lld reserved\n", static_cast<long long>(used),
                 static_cast<long long>(kReserved));
    std::exit(2);
  }
  int64_t seen = peak.load(std::memory_order_relaxed);
  while (used > seen && !peak.compare_exchange_weak(seen, used, std::memory_order_relaxed)) {
  }
  return data;
}

void scratch_release(int64_t mark) noexcept {
  used = mark;
}

int64_t scratch_peak() noexcept {
  return peak.load();
}

}  // namespace mmb
