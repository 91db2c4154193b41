#include "../reference.h"
#include "mmb/stream_read.h"

namespace mmb {

std::span<const Kernel<StreamRead>> StreamRead::kernels() {
  static constexpr Kernel<StreamRead> list[] = {
      {"streams", Impl::reference, reference::run<StreamRead, reference::stream_read>},
      MMB_KERNEL(StreamRead, "streams", stream_read)};
  return list;
}

std::string StreamRead::key(const Shape& shape) {
  return "working_set:" + std::to_string(shape.bytes) + "/passes:" + std::to_string(shape.passes);
}

Cost StreamRead::cost(const Shape& shape, DType, std::string_view) {
  return {.weight_bytes = static_cast<double>(shape.bytes) * static_cast<double>(shape.passes)};
}

StreamRead::Problem::Problem(const Shape& shape, DType, std::string_view, Arena& arena, uint64_t)
    : shape_(shape), arena_(arena), checksum_(1), expected_(1) {
  MMB_REQUIRE(shape.bytes > 0 && shape.bytes % 64 == 0 && shape.passes > 0, name << ": " << key(shape));
  args_ = {static_cast<const uint32_t*>(arena.take(shape.bytes)), checksum_.data()};
  expected_args_ = {args_.data, expected_.data()};
}

void StreamRead::Problem::next() {
  if (shape_.passes > 1) return;  // a set that is read several times is meant to be warm
  args_.data = expected_args_.data = static_cast<const uint32_t*>(arena_.take(shape_.bytes));
}

std::vector<Output> StreamRead::Problem::outputs(const Args& args, int64_t) const {
  return {{"checksum", {static_cast<double>(*args.checksum)}, 0}};
}

}  // namespace mmb
