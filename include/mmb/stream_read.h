// stream_read: the ruler of memory. Every byte of a working set is read once, and a checksum proves it.
//   checksum = sum_i data[i] mod 2^32, `passes` times over
// Shapes  data [bytes/4] 32-bit words · checksum one word
// Cost    flops = 0;  bytes = bytes * passes: every pass counts, unlike the unique bytes of other ops
// Bound   memory for one pass over the arena's next slice; for several passes the caches that hold it
// Source  the load-only kernel of J. McCalpin's STREAM family; the memory roof of Roofline, doi:10.1145/1498765.1498785
#pragma once

#include "mmb/kernel.h"

namespace mmb {

struct StreamRead {
  static constexpr const char* name = "stream_read";

  struct Shape {
    int64_t bytes, passes;
  };
  struct Args {
    const uint32_t* data;  // 64-byte aligned, whole lines
    uint32_t* checksum;
  };

  static std::string key(const Shape& shape);
  static Cost cost(const Shape& shape, DType dtype, std::string_view algo);
  static int64_t units(const Shape&) { return 1; }  // a unit is the checksum
  static std::span<const Kernel<StreamRead>> kernels();

  class Problem {
   public:
    Problem(const Shape& shape, DType dtype, std::string_view algo, Arena& arena, uint64_t seed);
    const Args& args() const { return args_; }
    const Args& expected() const { return expected_args_; }
    std::vector<Output> outputs(const Args& args, int64_t unit) const;
    void next();
    bool intact() const { return checksum_.intact(); }

   private:
    Shape shape_;
    Arena& arena_;
    Buffer<uint32_t> checksum_, expected_;
    Args args_, expected_args_;
  };
};

namespace reference {
void stream_read(const StreamRead::Shape& shape, const StreamRead::Args& args, Range checksum);
}
MMB_DECLARE_KERNEL(StreamRead, stream_read)

}  // namespace mmb
