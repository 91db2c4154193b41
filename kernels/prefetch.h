// Prefetching, into L2 where nothing else is said, beside a loop's own work. Evenly: bursts stall on L1's fill buffers, of
// which a line holds one for as long as memory takes, and what the loop itself loads from L2 waits behind it. In the order of
// addresses, in several places at a time: the hardware's own prefetchers run ahead in each, and most lines are near when
// their turn comes.
#pragma once

#include "mmb/kernel.h"
#include "simd.h"

namespace mmb {
namespace MMB_IMPL {

struct Memory {
  const char* data;
  int64_t bytes;
};

namespace {

// Part `index` of `parts` of the memory.
MMB_OP Memory part(Memory memory, int64_t index, int64_t parts) {
  const int64_t from = memory.bytes * index / parts;
  return {memory.data + from, memory.bytes * (index + 1) / parts - from};
}

// Nothing, where others have fetched.
struct NoPrefetch {
  template <int kBytes>
  MMB_OP static constexpr int steps() {
    return 1;
  }
  template <int kLines>
  MMB_OP void fetch() {}
};

// A line at every step of a loop.
struct Prefetch {
  const char* next;
  int64_t step;  // bytes

  // Of a loop that reads so many bytes at a time elsewhere: steps to each fetch.
  template <int kBytes>
  MMB_OP static constexpr int steps() {
    return 1;
  }
  template <int kLines>
  MMB_OP void fetch() {
    prefetch_l2(next);
    next += step;
  }
};

// Part `index` of `parts` of the memory, over `steps` steps.
MMB_OP Prefetch spread(Memory memory, int64_t index, int64_t parts, int64_t steps) {
  return {memory.data + memory.bytes * index / parts, memory.bytes / parts / steps};
}

// Lines to prefetch at every step, one after the other.
struct Lines {
  const char* next = nullptr;
  int64_t each = 0;

  MMB_OP void fetch() {
    for (int64_t i = 0; i < each; ++i, next += 64) prefetch_l2(next);
  }
};

// Part `part` of `parts` of `bytes` bytes, over `steps` steps.
MMB_OP Lines part_of(const char* data, int64_t bytes, int64_t part, int64_t parts, int64_t steps) {
  const int64_t each = ceil_div(bytes, 64 * parts * steps);
  return {data + each * 64 * steps * part, each};
}

// Prefetches a block that is read once: in kStreams places at a time, as the hardware's prefetchers run ahead in each. All
// places in turn, so that what is fetched at once costs an instruction a line.
template <int kStreams>
struct Streams {
  const char* next;
  int64_t apart;  // bytes from place to place

  // Of a loop that reads so many bytes at a time, or a multiple: steps to each fetch.
  template <int kBytes>
  MMB_OP static constexpr int steps() {
    return kStreams * 64 / kBytes;
  }
  template <int kLines>
  MMB_OP void fetch() {
    static_assert(kLines % kStreams == 0);
    MMB_UNROLL
    for (int i = 0; i < kLines; ++i) prefetch_l2(next + i % kStreams * apart + i / kStreams * 64);
    next += kLines / kStreams * 64;
  }
};

// Of all of the memory, of which the first `done` bytes have been fetched.
template <int kStreams>
MMB_OP Streams<kStreams> streams(Memory memory, int64_t done) {
  return {memory.data + done / (64 * kStreams) * 64, memory.bytes / kStreams};
}

// Prefetches what is read once and in order from memory, from the line that is read now on.
struct Sequence {
  const char* line;
  int64_t far = far_lines * 64;  // bytes

  template <int kBytes>
  MMB_OP static constexpr int steps() {
    return 64 / kBytes;
  }
  template <int kLines>
  MMB_OP void fetch() {
    MMB_UNROLL
    for (int i = 0; i < kLines; ++i) {
      prefetch_l2(line + far + i * 64);
      prefetch(line + (kNearLines + i) * 64);
    }
    line += kLines * 64;
  }
};

// All of the memory, evenly over the steps of several loops.
struct BlockAhead {
  static constexpr int kStreams = 8;
  const char *next, *last;  // the line to prefetch, and where the last stream begins
  int64_t apart;            // bytes from stream to stream
  int64_t each;             // lines, at every step

  MMB_OP void fetch_line() {
    prefetch_l2(next);
    next += next < last ? apart : 64 - (kStreams - 1) * apart;
  }
  MMB_OP void fetch() {
    for (int64_t i = 0; i < each; ++i) fetch_line();
  }
};

// From data and places `apart` bytes from each other, of which the first `done` lines have been fetched.
MMB_OP BlockAhead block_ahead_at(const char* data, int64_t apart, int64_t done, int64_t each) {
  constexpr int kStreams = BlockAhead::kStreams;
  return {data + done % kStreams * apart + done / kStreams * 64, data + (kStreams - 1) * apart, apart, each};
}
MMB_OP BlockAhead block_ahead(Memory memory, int64_t steps) {
  return block_ahead_at(memory.data, memory.bytes / BlockAhead::kStreams, 0, ceil_div(memory.bytes, 64 * steps));
}

}  // namespace
}  // namespace MMB_IMPL
}  // namespace mmb
