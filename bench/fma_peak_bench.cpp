// The arithmetic roof, as a row like any other.
#include "mmb/fma_peak.h"

#include "bench.h"
#include "ops.h"

namespace mmb {

void register_fma_peak(Suite& suite) {
  // Splits evenly over most counts of threads. A millisecond or more on any machine of today.
  for (int64_t blocks : suite.choose<int64_t>({}, {.smoke = {12}, .quick = {1920}, .full = {1920}}))
    suite.add<FmaPeak, reference::fma_peak<double>>(no_model(),
                                                    {suite.size("elements", FmaPeak::kBlock * blocks), 1000});
}

}  // namespace mmb
