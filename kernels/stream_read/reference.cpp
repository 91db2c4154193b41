#include "mmb/stream_read.h"

namespace mmb::reference {

void stream_read(const StreamRead::Shape& shape, const StreamRead::Args& args, Range) {
  uint32_t sum = 0;
  for (int64_t i = 0; i < shape.bytes / 4; ++i) sum += args.data[i];
  *args.checksum = sum * static_cast<uint32_t>(shape.passes);
}

}  // namespace mmb::reference
