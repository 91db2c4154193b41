#include "mmb/stream_read.h"

#include <numeric>

#include "op_test.h"

namespace mmb {
namespace {

TEST(StreamRead, LiteralCase) {
  Buffer<uint32_t> data(3 * 16);
  std::iota(data.begin(), data.end(), 1u);  // 1 + 2 + ... + 48 = 1176
  data[20] += 0xffffffffu;                  // wraps round: one less
  uint32_t checksum;
  for (const auto& kernel : StreamRead::kernels()) {
    if (!supported(kernel.impl)) continue;
    kernel.run({3 * 64, 1}, {data.data(), &checksum});
    EXPECT_EQ(checksum, 1175u) << name(kernel.impl);
    kernel.run({3 * 64, 5}, {data.data(), &checksum});
    EXPECT_EQ(checksum, 5 * 1175u) << name(kernel.impl);
  }
}

// Fewer lines than threads and streams, ragged ones, and lengths around a prefetch.
TEST(StreamRead, KernelsMatchReference) {
  for (int64_t lines : {1, 2, 3, 5, 33, 1000})
    for (int64_t passes : {1, 3})
      expect_kernels_match_reference<StreamRead, reference::stream_read>({64 * lines, passes});
}

TEST(StreamRead, ColdSetsMoveOnAndWarmOnesStay) {
  StreamRead::Problem cold({4096, 1}, DType::f32, "streams", test_arena(), 7),
      warm({4096, 2}, DType::f32, "streams", test_arena(), 7);
  const uint32_t *cold_data = cold.args().data, *warm_data = warm.args().data;
  cold.next();
  warm.next();
  EXPECT_NE(cold.args().data, cold_data);
  EXPECT_EQ(cold.args().data, cold.expected().data);
  EXPECT_EQ(warm.args().data, warm_data);
}

TEST(StreamRead, PartOfALineIsRefused) {
  EXPECT_THROW(StreamRead::Problem({65, 1}, DType::f32, "streams", test_arena(), 7), Error);
}

TEST(StreamRead, EveryPassCounts) {
  EXPECT_EQ(StreamRead::cost({640, 3}, DType::f32, "streams").bytes(), 1920);
}

}  // namespace
}  // namespace mmb
