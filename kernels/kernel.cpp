#include "mmb/kernel.h"

#include <algorithm>
#include <array>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace mmb {
namespace {

bool is_peer(Impl impl) {
  return std::find(peers().begin(), peers().end(), impl) != peers().end();
}

}  // namespace

const char* name(Impl impl) {
  switch (impl) {
    case Impl::reference:
      return "reference";
    case Impl::generic:
      return "generic";
    case Impl::avx2:
      return "avx2";
    case Impl::avx512:
      return "avx512";
    case Impl::amx:
      return "amx";
    case Impl::neon:
      return "neon";
    case Impl::avx2vnni:
      return "avx2vnni";
    case Impl::avx512bf16:
      return "avx512bf16";
    case Impl::avx512fp16:
      return "avx512fp16";
    case Impl::avx512vnni:
      return "avx512vnni";
    case Impl::neoni8mm:
      return "neoni8mm";
    case Impl::eigen:
      return "eigen";
    case Impl::openblas:
      return "openblas";
    case Impl::onednn:
      return "onednn";
  }
  return "unknown";
}

#if defined(__x86_64__)
namespace {

// The operating system saves the registers named by `mask` of XCR0.
bool os_saves(uint32_t mask) {
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & mask) == mask;
}

struct Registers {
  uint32_t a = 0, b = 0, c = 0, d = 0;
};

// The features of CPUID leaf 7; none where the CPU lacks the leaf.
Registers leaf_7(uint32_t subleaf) {
  Registers r;
  __get_cpuid_count(7, subleaf, &r.a, &r.b, &r.c, &r.d);
  return r;
}

bool cpu_has_avx2() {
  uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return false;
  const uint32_t needed = bit_FMA | bit_F16C | bit_AVX | bit_OSXSAVE;
  if ((c & needed) != needed || !os_saves(0x6)) return false;  // xmm and ymm state
  return leaf_7(0).b & bit_AVX2;
}

bool cpu_has_avx512() {
  if (!cpu_has_avx2() || !os_saves(0xe6)) return false;  // also opmask and both halves of the zmm state
  const uint32_t needed = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
  return (leaf_7(0).b & needed) == needed;
}

// The state of its tiles is 8 KiB for each thread, which Linux saves for a process that has asked.
bool cpu_has_amx() {
  const uint32_t needed = 1u << 25 | 1u << 24 | 1u << 22;  // AMX-INT8, AMX-TILE, AMX-BF16
  if ((leaf_7(0).d & needed) != needed || !os_saves(0x60000)) return false;
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace

bool supported(Impl impl) {
  switch (impl) {
    case Impl::reference:
    case Impl::generic:
      return true;
    case Impl::avx2:
      return cpu_has_avx2();
    case Impl::avx512:
      return cpu_has_avx512();
    case Impl::amx: {
      static const bool has = cpu_has_avx512() && cpu_has_amx();
      return has;
    }
    case Impl::avx2vnni:
      return cpu_has_avx2() && (leaf_7(1).a & 1u << 4);
    case Impl::avx512bf16:
      return cpu_has_avx512() && (leaf_7(1).a & 1u << 5);
    case Impl::avx512fp16:
      return cpu_has_avx512() && (leaf_7(0).d & 1u << 23);
    case Impl::avx512vnni:
      return cpu_has_avx512() && (leaf_7(0).c & 1u << 11);
#if defined(MMB_EIGEN_LEVEL)
    case Impl::eigen:
      return supported(Impl::MMB_EIGEN_LEVEL);
#endif
    default:
      return is_peer(impl);
  }
}
#elif defined(__aarch64__)
bool supported(Impl impl) {
  if (impl == Impl::neoni8mm) return getauxval(AT_HWCAP2) & HWCAP2_I8MM;
  return impl == Impl::reference || impl == Impl::neon || is_peer(impl);
}
#else
bool supported(Impl impl) {
  return impl == Impl::reference || impl == Impl::generic || is_peer(impl);
}
#endif

bool has_byte_dots(Impl level) noexcept {
  static const auto having = [] {
    uint32_t set = 0;
    for (Impl each : levels())
      if (const auto dots = byte_dots(each); dots && supported(*dots)) set |= 1u << static_cast<int>(each);
    return set;
  }();
  return having >> static_cast<int>(level) & 1;
}

#define MMB_LIST(LEVEL, ...) Impl::LEVEL,
std::span<const Impl> levels() {
  static constexpr Impl list[] = {MMB_LEVELS(MMB_LIST)};
  return list;
}

std::span<const Impl> impls() {
  static constexpr Impl list[] = {
    MMB_LEVELS(MMB_LIST)
#if defined(__x86_64__)
        Impl::avx2vnni,
    Impl::avx512bf16,
    Impl::avx512fp16,
    Impl::avx512vnni,
#elif defined(__aarch64__)
        Impl::neoni8mm,
#endif
  };
  return list;
}
#undef MMB_LIST

std::span<const Impl> peers() {
  static constexpr auto list = std::to_array({
#if defined(MMB_EIGEN_LEVEL)
    Impl::eigen,
#endif
#if defined(MMB_HAS_OPENBLAS)
        Impl::openblas,
#endif
#if defined(MMB_HAS_ONEDNN)
        Impl::onednn,
#endif
        Impl::reference
  });
  return std::span(list).first(list.size() - 1);  // an array has one element at the least
}

int64_t far_lines = kFarLines;

Impl best_impl() {
  Impl best = Impl::reference;
  for (Impl impl : levels())
    if (supported(impl)) best = impl;
  return best;
}

}  // namespace mmb
