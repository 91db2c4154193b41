#include "mmb/machine.h"

#include <gtest/gtest.h>
#include <omp.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>

#include "context.h"

namespace mmb {
namespace {

// 100 GFLOP/s and 10 GB/s: a balance of 10 FLOP per byte.
const Machine kRound = {.impl = Impl::generic,
                        .threads = 1,
                        .flops_per_second = 100e9,
                        .bf16_flops_per_second = 400e9,
                        .rounded_flops_per_second = 1200e9,
                        .int8_flops_per_second = 2000e9,
                        .bytes_per_second = 10e9,
                        .flops_extremes = {90e9, 110e9},
                        .bf16_flops_extremes = {380e9, 410e9},
                        .int8_flops_extremes = {1900e9, 2100e9},
                        .bytes_extremes = {9e9, 11e9},
                        .flops_class = "fma_f32",
                        .bf16_class = "tile_bf16",
                        .int8_class = "tile_int8"};

TEST(Machine, IdealIsTheLargerOfTwoTimes) {
  const Cost arithmetic{.flops = 200e9, .weight_bytes = 1e9},
      traffic{.flops = 10e9, .weight_bytes = 20e9, .kv_bytes = 10e9};
  EXPECT_DOUBLE_EQ(ideal_seconds(arithmetic, kRound), 2);
  EXPECT_DOUBLE_EQ(ideal_seconds(traffic, kRound), 3);
  EXPECT_FALSE(memory_bound(arithmetic, kRound));
  EXPECT_TRUE(memory_bound(traffic, kRound));
  EXPECT_EQ(ideal_seconds(Cost{}, kRound), 0);
}

TEST(Machine, WorkOnBf16HasItsOwnPeak) {
  EXPECT_DOUBLE_EQ(ideal_seconds({.flops = 400e9, .bf16_flops = 400e9}, kRound), 1);
  EXPECT_DOUBLE_EQ(ideal_seconds({.flops = 500e9, .bf16_flops = 400e9, .weight_bytes = 15e9}, kRound), 2);
  EXPECT_FALSE(memory_bound({.flops = 500e9, .bf16_flops = 400e9, .weight_bytes = 15e9}, kRound));
  EXPECT_TRUE(memory_bound({.flops = 500e9, .bf16_flops = 500e9, .weight_bytes = 15e9}, kRound));
  EXPECT_DOUBLE_EQ(ideal_seconds({.flops = 500e9, .bf16_flops = 500e9, .rounded_flops = 300e9}, kRound), 0.75);
  // int8 weights: three products of bytes, where those take less time than one of bf16.
  Machine bytes = kRound;
  bytes.int8_flops_per_second = 2400e9;
  EXPECT_DOUBLE_EQ(ideal_seconds({.flops = 800e9, .bf16_flops = 800e9, .digit_flops = 800e9}, bytes), 1);
  bytes.int8_flops_per_second = 900e9;
  EXPECT_DOUBLE_EQ(ideal_seconds({.flops = 800e9, .bf16_flops = 800e9, .digit_flops = 800e9}, bytes), 2);
  const Cost sum = Cost{.flops = 5, .bf16_flops = 3, .rounded_flops = 1, .digit_flops = 3} +
                   Cost{.flops = 7, .bf16_flops = 2, .rounded_flops = 2, .digit_flops = 1};
  EXPECT_EQ(sum.bf16_flops, 5);
  EXPECT_EQ(sum.rounded_flops, 3);
  EXPECT_EQ(sum.digit_flops, 4);
}

TEST(Machine, WorkOnInt8HasItsOwnPeak) {
  EXPECT_DOUBLE_EQ(ideal_seconds({.flops = 2000e9, .int8_flops = 2000e9}, kRound), 1);
  EXPECT_DOUBLE_EQ(ideal_seconds({.flops = 2500e9, .bf16_flops = 400e9, .int8_flops = 2000e9}, kRound), 1 + 1 + 1);
  EXPECT_EQ((Cost{.flops = 5, .int8_flops = 3} + Cost{.flops = 7, .int8_flops = 2}).int8_flops, 5);
}

TEST(Machine, CompositesAddUpAndTheOverlapBoundIsLess) {
  const Component parts[] = {{"a", "", DType::f32, "", {.flops = 200e9, .weight_bytes = 10e9}},
                             {"b", "", DType::f32, "", {.flops = 10e9, .activation_bytes = 30e9}}};
  EXPECT_DOUBLE_EQ(ideal_seconds(parts, kRound), 2 + 3);
  EXPECT_DOUBLE_EQ(overlap_bound(parts, kRound), 4);  // 4 s of traffic hide 2.1 s of arithmetic
}

TEST(Machine, MeasuresEveryLevel) {
  Arena arena(int64_t{32} << 20);
  const int threads = omp_get_max_threads();
  for (Impl impl : impls()) {
    if (!supported(impl)) continue;
    Ruler ruler(1, impl, arena);
    const Machine machine = measure(ruler, 0.01);
    EXPECT_EQ(machine.impl, impl);
    EXPECT_EQ(machine.threads, 1);
    const std::string_view bytes = impl == Impl::amx     ? "tile_int8"
                                   : has_byte_dots(impl) ? "dot_int8"
                                                         : machine.flops_class;
    EXPECT_EQ(machine.int8_class, bytes) << name(impl);
    // From an emulator on a slow core to anything there is.
    for (double rate : {machine.flops_per_second, machine.flops_extremes.min, machine.flops_extremes.max,
                        machine.bf16_flops_per_second, machine.int8_flops_per_second, machine.bytes_per_second,
                        machine.bytes_extremes.min, machine.bytes_extremes.max}) {
      EXPECT_GT(rate, 1e5) << name(impl);
      EXPECT_LT(rate, 1e13) << name(impl);
    }
    EXPECT_LE(machine.flops_extremes.min, machine.flops_per_second);
    EXPECT_GE(machine.flops_extremes.max, machine.flops_per_second);
    EXPECT_LE(machine.bytes_extremes.min, machine.bytes_per_second);
    EXPECT_GE(machine.bytes_extremes.max, machine.bytes_per_second);
  }
  EXPECT_EQ(omp_get_max_threads(), threads);
}

TEST(Machine, PrefetchingIsChosenOnce) {
  Arena arena(int64_t{32} << 20);
  EXPECT_EQ(far_lines, kFarLines);
  choose_far_lines(1, arena);
  const int64_t chosen = far_lines;
  EXPECT_TRUE(chosen == kNearLines || chosen == kFarLines) << chosen;
  far_lines = 0;
  choose_far_lines(1, arena);
  EXPECT_EQ(far_lines, chosen);
}

TEST(Machine, TheReferenceIsHeldAgainstTheFastestLevel) {
  Arena arena(int64_t{1} << 20);
  Ruler ruler(1, Impl::reference, arena);
  EXPECT_TRUE(supported(fastest_impl()));
  EXPECT_EQ(measure(ruler, 0).impl, fastest_impl());
  EXPECT_THROW(Ruler(1, supported(Impl::neon) ? Impl::avx2 : Impl::neon, arena), Error);
}

TEST(Context, SystemLimitsArePlausible) {
  EXPECT_GE(last_level_cache_bytes(), 4096);
  EXPECT_GT(available_memory_bytes(), int64_t{1} << 20);
  EXPECT_GE(default_threads(), 1);
  EXPECT_LE(default_threads(), std::max(omp_get_num_procs(), omp_get_max_threads()));
}

// Also run with OMP_PROC_BIND set: OpenMP then binds the first thread before main, which hides the other CPUs.
TEST(Context, BoundThreadsHideNoCpus) {
  EXPECT_EQ(run_context({}, {}).at("mmb.cpus_allowed"), std::to_string(omp_get_num_procs()));
}

TEST(Context, HoldsTheFactsAsPlainText) {
  setenv("OMP_DISPLAY_ENV", "a\nb\xff", 1);  // read at start-up only
  const RunFacts run{
      .profile = "quick", .seed = 5, .argv = {"/home/somebody/bench_mla", "run"}, .alias = "blue", .threads = 2};
  Machine broken = kRound;
  broken.threads = 2;
  broken.bytes_per_second = NAN;
  Context context = run_context(run, {kRound, broken});
  finish_context(context, kRound, broken);
  for (const auto& [key, value] : context) {
    EXPECT_TRUE(key.starts_with("mmb.")) << key;
    for (unsigned char c : value) EXPECT_TRUE(c >= ' ' && c != 127) << key;
    EXPECT_EQ(value.find("nan"), std::string::npos) << key;
    EXPECT_FALSE(value.empty() && key != "mmb.warnings") << key;
  }
  EXPECT_EQ(context.at("mmb.argv"), "bench_mla run");
  EXPECT_EQ(context.at("mmb.alias"), "blue");
  EXPECT_EQ(context.at("mmb.env_OMP_DISPLAY_ENV"), "a?b\ufffd");
  EXPECT_EQ(context.at("mmb.peak_gflops_fma_f32_generic_threads_1"), "100");
  EXPECT_EQ(context.at("mmb.peak_gflops_tile_bf16_generic_threads_1"), "400");
  EXPECT_EQ(context.at("mmb.peak_gflops_tile_int8_generic_threads_1"), "2000");
  EXPECT_EQ(context.at("mmb.peak_gbs_generic_threads_1_max"), "11");
  EXPECT_EQ(context.at("mmb.peak_gbs_generic_threads_all"), "unknown");
  EXPECT_EQ(context.at("mmb.canary_gbs_before"), "10");
  unsetenv("OMP_DISPLAY_ENV");
}

TEST(Context, WarnsOfSleepingThreads) {
  unsetenv("OMP_WAIT_POLICY");
  const size_t before = run_warnings(1).size();
  setenv("OMP_WAIT_POLICY", "PASSIVE", 1);
  EXPECT_EQ(run_warnings(1).size(), before + 1);
  unsetenv("OMP_WAIT_POLICY");
}

TEST(Context, NeverTheHostName) {
  char host[256] = {};
  ASSERT_EQ(gethostname(host, sizeof host - 1), 0);
  if (std::string(host).size() < 4) GTEST_SKIP() << "a host name as short as " << host << " is part of other words";
  for (const auto& [key, value] : run_context({}, {})) EXPECT_EQ(value.find(host), std::string::npos) << key;
}

}  // namespace
}  // namespace mmb
