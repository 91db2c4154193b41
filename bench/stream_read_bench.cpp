// The memory roof, as a row like any other; in the full profile the caches' too.
#include "mmb/stream_read.h"

#include "bench.h"
#include "ops.h"

namespace mmb {

void register_stream_read(Suite& suite) {
  constexpr int64_t kMi = 1 << 20;
  if (const int64_t bytes = suite.size("working_set", 0))
    return suite.add<StreamRead, reference::stream_read>(no_model(), {bytes, suite.size("passes", 1)});
  for (int64_t bytes : suite.choose<int64_t>({}, {.smoke = {kMi}, .quick = {64 * kMi}, .full = {64 * kMi, 256 * kMi}}))
    suite.add<StreamRead, reference::stream_read>(no_model(), {bytes, 1});
  // Sets that some cache holds, read several times over.
  for (int64_t bytes :
       suite.choose<int64_t>({}, {.smoke = {}, .quick = {}, .full = {kMi / 32, kMi / 2, 2 * kMi, 16 * kMi}}))
    suite.add<StreamRead, reference::stream_read>(no_model(), {bytes, 64});
}

}  // namespace mmb
