// Bound: the reads in flight that a core can have, or its load ports for a working set in L1.
// Idea: four streams for each thread, prefetched in two steps or one (kernel.h). Emerald Rapids, 2 cores, from memory: 31.4 to
// 32.2 GB/s, with AVX2 0 to 1 % less; in one step, 2 KiB ahead in two streams, 28.8 to 32.0, with AVX2 27.7 to 30.3, as other
// work on the machine leaves it. Zen 3, 2 cores: 26 to 28 in two steps, 29 to 31 in one, 30 to 32 without any. Prefetches take
// load slots, which shows in L1 (277 of 356 GB/s): several passes over one set go without, in two streams.
// Split: contiguous parts, evenly over the threads, as first touched.
#include "mmb/stream_read.h"

#include "../simd.h"
#include "../team.h"

namespace mmb::MMB_IMPL {
namespace {

constexpr int64_t kLine = 16;  // words

MMB_OP void add_line(const uint32_t* line, VecBits (&sums)[kVecsPerPanel]) {
  MMB_UNROLL
  for (int v = 0; v < kVecsPerPanel; ++v) {
    VecBits words;
    memcpy(&words, line + v * kLanes, sizeof words);
    sums[v] += words;
  }
}

template <bool kFromMemory>
[[gnu::noinline]] uint32_t sum_of_lines(const uint32_t* data, int64_t lines) {
  constexpr int kStreams = kFromMemory ? 4 : 2;
  const int64_t each = lines / kStreams * kLine, far = far_lines / kStreams * kLine;
  VecBits sums[kStreams][kVecsPerPanel] = {};
  for (int64_t i = 0; i < each; i += kLine) {
    MMB_UNROLL
    for (int s = 0; s < kStreams; ++s) {
      const uint32_t* line = data + s * each + i;
      if (kFromMemory) {
        prefetch_l2(line + far);
        prefetch(line + kNearLines / kStreams * kLine);
      }
      add_line(line, sums[s]);
    }
  }
  for (int64_t i = each * kStreams; i < lines * kLine; i += kLine) add_line(data + i, sums[0]);
  uint32_t sum = 0;
  for (int s = 0; s < kStreams; ++s)
    for (int v = 0; v < kVecsPerPanel; ++v)
      for (int lane = 0; lane < kLanes; ++lane) sum += sums[s][v][lane];
  return sum;
}

}  // namespace

void stream_read(const StreamRead::Shape& shape, const StreamRead::Args& args) noexcept {
  team([&] {
    Scratch scratch;
    auto* sums = scratch.shared<uint32_t>(thread_count());
    const Share lines = share(shape.bytes / (4 * kLine));
    const uint32_t* data = args.data + lines.begin * kLine;
    const int64_t count = lines.end - lines.begin;
    uint32_t sum = 0;
    for (int64_t pass = 0; pass < shape.passes; ++pass) {
      sum += shape.passes == 1 ? sum_of_lines<true>(data, count) : sum_of_lines<false>(data, count);
      asm volatile("" ::: "memory");  // the next pass reads again
    }
    sums[thread_index()] = sum;
    barrier();
    if (thread_index() == 0) {
      uint32_t total = 0;
      for (int64_t t = 0; t < thread_count(); ++t) total += sums[t];
      *args.checksum = total;
    }
    barrier();
  });
}

}  // namespace mmb::MMB_IMPL
