#include "context.h"

#include <omp.h>
#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <Eigen/Core>
#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "mmb/linear.h"
#include "words.h"

#if __has_include("mmb_git.h")
#include "mmb_git.h"
#else
#define MMB_GIT_HASH "unknown"
#define MMB_GIT_DIRTY "unknown"
#endif
#ifndef MMB_BUILD_TYPE
#define MMB_BUILD_TYPE "unknown"
#endif
#ifndef MMB_BUILD_FLAGS
#define MMB_BUILD_FLAGS "unknown"
#endif
#ifndef MMB_BENCHMARK_VERSION
#define MMB_BENCHMARK_VERSION "unknown"
#endif

namespace mmb {
namespace {

const std::string kUnknown = "unknown";

std::string known(const std::string& text) {
  return text.empty() ? kUnknown : text;
}
std::string known(int64_t value) {
  return value < 0 ? kUnknown : std::to_string(value);
}

std::string decimal(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.5g", value);
  return std::isfinite(value) ? text : kUnknown;
}

// Without control characters, which Google Benchmark 1.7.1 writes as they are, and what is no UTF-8.
std::string printable(std::string text) {
  for (char& c : text)
    if (const auto code = static_cast<unsigned char>(c); code < ' ' || code == 127) c = '?';
  using nlohmann::json;
  return json::parse(json(text).dump(-1, ' ', false, json::error_handler_t::replace)).get<std::string>();
}

// As a shell reads it.
std::string shell_word(const std::string& word) {
  const auto plain = [](unsigned char c) { return std::isalnum(c) || std::strchr("%+,-./:=@_~", c); };
  if (!word.empty() && std::ranges::all_of(word, plain)) return word;
  std::string text = "'";
  for (char c : word) text += c == '\'' ? "'\\''" : std::string(1, c);
  return text + "'";
}

std::string environment(const char* variable) {
  const char* value = std::getenv(variable);
  return value ? value : "";
}

// The first line of a file; empty where there is none.
std::string line_of(const std::string& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

// The value of the first line "key : value"; empty where there is none.
std::string field_of(const std::string& path, const std::string& key) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos || line.substr(0, line.find_last_not_of(" \t:", colon) + 1) != key) continue;
    const size_t begin = line.find_first_not_of(" \t", colon + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

// A leading number; -1 where there is none ("max", an empty line). A K behind it, as sysfs and /proc have it, is a
// factor.
int64_t number(const std::string& text) {
  char* end = nullptr;
  const int64_t value = std::strtoll(text.c_str(), &end, 10);
  if (end == text.c_str()) return -1;
  while (*end == ' ') ++end;
  return *end == 'K' || *end == 'k' ? value * 1024 : value;
}

// ---- CPUs and caches

// CPUs as the system takes and gives them: a single cpu_set_t ends at 1024.
struct CpuSet {
  std::vector<cpu_set_t> sets = std::vector<cpu_set_t>(64);
  size_t bytes() const { return sets.size() * sizeof(cpu_set_t); }
};

// The CPUs that this process may run on. Where OpenMP binds threads, it has already put the calling one on a single
// place: the places are then what is left to the team.
std::set<int> allowed_cpus() {
  std::set<int> cpus;
  for (int place = 0; place < omp_get_num_places(); ++place) {
    std::vector<int> members(static_cast<size_t>(omp_get_place_num_procs(place)));
    omp_get_place_proc_ids(place, members.data());
    cpus.insert(members.begin(), members.end());
  }
  if (!cpus.empty()) return cpus;
  CpuSet set;
  if (sched_getaffinity(0, set.bytes(), set.sets.data()) == 0)
    for (size_t cpu = 0; cpu < 8 * set.bytes(); ++cpu)
      if (CPU_ISSET_S(cpu, set.bytes(), set.sets.data())) cpus.insert(static_cast<int>(cpu));
  return cpus;
}

std::string cpu_folder(int cpu) {
  return "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/";
}

// Cores among the allowed CPUs: each has one list of its hardware threads.
int allowed_cores() {
  std::set<std::string> cores;
  for (int cpu : allowed_cpus()) {
    const std::string siblings = line_of(cpu_folder(cpu) + "topology/thread_siblings_list");
    cores.insert(siblings.empty() ? "cpu" + std::to_string(cpu) : siblings);
  }
  return std::max(1, static_cast<int>(cores.size()));
}

struct Cache {
  int64_t bytes = 0;  // of one
  int64_t total = 0;  // of all that the allowed CPUs use
};

// The caches of data, by level.
std::map<int64_t, Cache> caches() {
  std::map<int64_t, Cache> levels;
  std::set<std::string> seen;
  for (int cpu : allowed_cpus()) {
    for (int index = 0; index < 8; ++index) {
      const std::string folder = cpu_folder(cpu) + "cache/index" + std::to_string(index) + "/";
      const int64_t level = number(line_of(folder + "level")), bytes = number(line_of(folder + "size"));
      if (level < 0 || bytes <= 0 || line_of(folder + "type") == "Instruction") continue;
      if (!seen.insert(std::to_string(level) + " " + line_of(folder + "shared_cpu_list")).second) continue;
      levels[level].bytes = bytes;
      levels[level].total += bytes;
    }
  }
  if (!levels.empty()) return levels;
  const int sizes[] = {_SC_LEVEL1_DCACHE_SIZE, _SC_LEVEL2_CACHE_SIZE, _SC_LEVEL3_CACHE_SIZE};
  for (int i = 0; i < 3; ++i)
    if (const int64_t bytes = sysconf(sizes[i]); bytes > 0) levels[i + 1] = {bytes, bytes};
  return levels;
}

// The first of these fields that there is: x86 and Arm name different ones.
std::string cpu_field(std::initializer_list<const char*> keys) {
  for (const char* key : keys)
    if (const std::string value = field_of("/proc/cpuinfo", key); !value.empty()) return value;
  return kUnknown;
}

std::string isa_found() {
  static const std::set<std::string> kRelevant = {"fma",         "f16c",        "avx",         "avx2",     "avx_vnni",
                                                  "avx512f",     "avx512bw",    "avx512vl",    "avx512dq", "avx512vbmi",
                                                  "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16",
                                                  "amx_int8",    "amx_fp16",    "asimd",       "asimdhp",  "asimddp",
                                                  "bf16",        "i8mm",        "sve",         "sve2",     "svebf16"};
  std::istringstream flags(cpu_field({"flags", "Features"}));
  std::vector<std::string> found;
  for (std::string flag; flags >> flag;)
    if (kRelevant.count(flag)) found.push_back(flag);
  return known(joined(found, " "));
}

std::string hypervisor() {
#if defined(__x86_64__)
  uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return kUnknown;
  if (!(c >> 31)) return "none";  // the bit that hypervisors set
  uint32_t vendor[4] = {};
  __cpuid(0x40000000, a, vendor[0], vendor[1], vendor[2]);
  return known(reinterpret_cast<const char*>(vendor));
#else
  return known(line_of("/sys/hypervisor/type"));
#endif
}

// ---- Control groups

// The least that `limit` finds in the folders of this process's control group and of the groups above it; -1 for none.
template <class Limit>
int64_t least_in_groups(const std::string& controller, const Limit& limit) {
  std::ifstream in("/proc/self/cgroup");
  int64_t least = -1;
  for (std::string line; std::getline(in, line);) {  // "0::/path" (version 2) or "4:memory:/path" (version 1)
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = ',' + line.substr(first + 1, second - first - 1) + ',';
    const bool unified = controllers == ",,";
    if (!unified && controllers.find(',' + controller + ',') == std::string::npos) continue;
    const std::string root = unified ? "/sys/fs/cgroup" : "/sys/fs/cgroup/" + controller;
    for (std::string path = line.substr(second + 1);; path.resize(path.rfind('/'))) {
      const int64_t found = limit(root + path + "/");
      if (found >= 0 && (least < 0 || found < least)) least = found;
      if (path.rfind('/') == std::string::npos) break;
    }
  }
  return least;
}

int64_t memory_left(const std::string& group) {
  const bool unified = number(line_of(group + "memory.current")) >= 0;
  const int64_t limit = number(line_of(group + (unified ? "memory.max" : "memory.limit_in_bytes")));
  const int64_t used = number(line_of(group + (unified ? "memory.current" : "memory.usage_in_bytes")));
  if (limit < 0 || used < 0) return -1;
  // Pages of files count as used, and go when they are needed.
  int64_t files = 0;
  std::ifstream stat(group + "memory.stat");
  std::string key;
  for (int64_t value; stat >> key >> value;)
    if (key == (unified ? "inactive_file" : "total_inactive_file")) files = value;
  return std::max<int64_t>(0, limit - used + files);
}

// Whole CPUs of a quota, rounded up.
int64_t cpu_quota(const std::string& group) {
  int64_t quota = -1, period = -1;
  std::ifstream unified(group + "cpu.max");
  if (!(unified >> quota >> period)) {
    quota = number(line_of(group + "cpu.cfs_quota_us"));
    period = number(line_of(group + "cpu.cfs_period_us"));
  }
  return quota > 0 && period > 0 ? ceil_div(quota, period) : -1;
}

// ---- The rest of the system

int64_t numa_nodes() {
  int64_t nodes = 0;
  while (std::filesystem::exists("/sys/devices/system/node/node" + std::to_string(nodes))) ++nodes;
  return nodes > 0 ? nodes : -1;
}

// "always [madvise] never": the one in brackets.
std::string huge_pages() {
  const std::string line = line_of("/sys/kernel/mm/transparent_hugepage/enabled");
  const size_t open = line.find('['), close = line.find(']');
  return open == std::string::npos || close < open ? kUnknown : line.substr(open + 1, close - open - 1);
}

std::string governor() {
  const auto cpus = allowed_cpus();
  return cpus.empty() ? kUnknown : known(line_of(cpu_folder(*cpus.begin()) + "cpufreq/scaling_governor"));
}

std::string kernel_release() {
  utsname system;
  return uname(&system) == 0 ? std::string(system.sysname) + " " + system.release + " " + system.machine : kUnknown;
}

// Runnable threads on average over the last minute.
double load() {
  double average;
  return getloadavg(&average, 1) == 1 ? average : NAN;
}

std::string proc_bind() {
  switch (omp_get_proc_bind()) {
    case omp_proc_bind_false:
      return "false";
    case omp_proc_bind_close:
      return "close";
    case omp_proc_bind_spread:
      return "spread";
    default:
      return "true";
  }
}

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#else
  return "GCC " __VERSION__;
#endif
}

std::string version(int major, int minor, int patch) {
  return std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(patch);
}

void add_peak(Context& context, const std::string& peak, double rate, Machine::Extremes extremes) {
  context["mmb.peak_" + peak] = decimal(rate / kGiga);
  context["mmb.peak_" + peak + "_min"] = decimal(extremes.min / kGiga);
  context["mmb.peak_" + peak + "_max"] = decimal(extremes.max / kGiga);
}

}  // namespace

int64_t last_level_cache_bytes() {
  const auto levels = caches();
  return levels.empty() ? int64_t{32} << 20 : levels.rbegin()->second.total;
}

int64_t available_memory_bytes() {
  int64_t bytes = number(field_of("/proc/meminfo", "MemAvailable"));
  if (bytes < 0) bytes = int64_t{sysconf(_SC_AVPHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  const int64_t left = least_in_groups("memory", memory_left);
  return left < 0 ? bytes : std::min(bytes, left);
}

int default_threads() {
  const int64_t cores = allowed_cores(), quota = least_in_groups("cpu", cpu_quota), limit = omp_get_thread_limit(),
                most = std::max<int64_t>(64, 16 * cores);
  const int64_t asked =
      environment("OMP_NUM_THREADS").empty() ? quota < 1 ? cores : std::min(cores, quota) : omp_get_max_threads();
  if (asked > most)
    throw Error("OMP_NUM_THREADS: expected at most " + std::to_string(most) + " threads, got " + std::to_string(asked));
  return static_cast<int>(std::min(asked, limit));
}

void unbind_thread() {
  CpuSet set;
  for (const int cpu : allowed_cpus()) CPU_SET_S(cpu, set.bytes(), set.sets.data());
  sched_setaffinity(0, set.bytes(), set.sets.data());
}

std::vector<std::string> run_warnings(int threads) {
  std::vector<std::string> warnings;
  std::string policy = environment("OMP_WAIT_POLICY");
  for (char& c : policy) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (policy == "passive")
    warnings.push_back("OMP_WAIT_POLICY is passive: threads sleep between kernels, and waking them takes about 70 us");
  if (threads > 1 && omp_get_proc_bind() == omp_proc_bind_false)
    warnings.push_back("threads are not bound to cores: set OMP_PROC_BIND=close and OMP_PLACES=cores");
  if (load() > 0.5) warnings.push_back("load average is " + decimal(load()) + ": something else is running");
  if (governor() == "powersave") warnings.push_back("CPU frequency governor is powersave: short runs see low clocks");
  const std::string vendor = hypervisor();
  if (vendor != "none" && vendor != kUnknown)
    warnings.push_back("virtual machine (" + vendor + "): neighbours may share caches and memory bandwidth");
  if (std::string(MMB_BUILD_TYPE) == "Debug") warnings.push_back("build type is Debug");
  return warnings;
}

Context run_context(const RunFacts& run, const std::vector<Machine>& machines) {
  const auto levels = caches();
  const auto cache_bytes = [&](int level) { return levels.count(level) ? known(levels.at(level).bytes) : kUnknown; };
  std::vector<std::string> impls, argv = run.argv;
  for (Impl impl : mmb::impls())
    if (supported(impl)) impls.push_back(name(impl));
  if (!argv.empty()) argv[0] = std::filesystem::path(argv[0]).filename();
  std::string alias = run.alias.empty() ? environment("MMB_ALIAS") : run.alias;

  Context context = {
      {"mmb.schema_version", "1"},
      {"mmb.alias", alias.empty() ? "none" : alias},
      {"mmb.profile", run.profile},
      {"mmb.seed", std::to_string(run.seed)},
      {"mmb.argv", joined(argv, " ", shell_word)},
      {"mmb.warnings", joined(run_warnings(run.threads), "; ")},
      {"mmb.cpu_model", cpu_field({"model name", "Model", "CPU part"})},
      {"mmb.cpu_vendor", cpu_field({"vendor_id", "CPU implementer"})},
      {"mmb.cpu_family", cpu_field({"cpu family", "CPU architecture"})},
      {"mmb.cpu_model_number", cpu_field({"model", "CPU part"})},
      {"mmb.cpu_stepping", cpu_field({"stepping", "CPU revision"})},
      {"mmb.isa_found", isa_found()},
      {"mmb.impls_supported", joined(impls, " ")},
      {"mmb.impl_used", name(run.impl)},
      {"mmb.cpus_online", known(sysconf(_SC_NPROCESSORS_ONLN))},
      {"mmb.cpus_allowed", std::to_string(allowed_cpus().size())},
      {"mmb.cores_allowed", std::to_string(allowed_cores())},
      {"mmb.threads_all", std::to_string(run.threads)},
      {"mmb.prefetch_lines", std::to_string(far_lines)},
      {"mmb.cache_l1d_bytes", cache_bytes(1)},
      {"mmb.cache_l2_bytes", cache_bytes(2)},
      {"mmb.cache_l3_bytes", cache_bytes(3)},
      {"mmb.last_level_cache_bytes", std::to_string(last_level_cache_bytes())},
      {"mmb.hypervisor", hypervisor()},
      {"mmb.memory_total_bytes", known(number(field_of("/proc/meminfo", "MemTotal")))},
      {"mmb.memory_available_bytes", std::to_string(available_memory_bytes())},
      {"mmb.numa_nodes", known(numa_nodes())},
      {"mmb.transparent_huge_pages", huge_pages()},
      {"mmb.governor", governor()},
      {"mmb.kernel", kernel_release()},
      {"mmb.load_before", decimal(load())},
      {"mmb.build_type", MMB_BUILD_TYPE},
      {"mmb.build_compiler", compiler()},
      {"mmb.build_flags", MMB_BUILD_FLAGS},
      {"mmb.build_git_hash", MMB_GIT_HASH},
      {"mmb.build_git_dirty", MMB_GIT_DIRTY},
      {"mmb.library_benchmark", MMB_BENCHMARK_VERSION},
      {"mmb.library_eigen", version(EIGEN_WORLD_VERSION, EIGEN_MAJOR_VERSION, EIGEN_MINOR_VERSION)},
      {"mmb.library_nlohmann_json",
       version(NLOHMANN_JSON_VERSION_MAJOR, NLOHMANN_JSON_VERSION_MINOR, NLOHMANN_JSON_VERSION_PATCH)},
      {"mmb.library_openmp", std::to_string(_OPENMP)},
      {"mmb.openmp_max_threads", std::to_string(omp_get_max_threads())},
      {"mmb.openmp_proc_bind", proc_bind()},
      {"mmb.openmp_places", std::to_string(omp_get_num_places())},
  };
  // The others say it themselves, with what they take this CPU for.
  for (const Kernel<Linear>& kernel : Linear::kernels())
    if (kernel.note) context.emplace(std::string("mmb.library_") + name(kernel.impl), kernel.note());
  // OMP_PLACES, OMP_WAIT_POLICY, GOMP_SPINCOUNT ...: those that are set.
  for (char** variable = environ; *variable; ++variable) {
    const std::string text = *variable;
    if (text.starts_with("OMP_") || text.starts_with("GOMP_") || text.starts_with("KMP_"))
      context["mmb.env_" + text.substr(0, text.find('='))] = text.substr(text.find('=') + 1);
  }
  for (const Machine& machine : machines) {
    const std::string of =
        std::string(name(machine.impl)) + "_threads_" + (machine.threads == run.threads ? "all" : "1");
    const auto add_flops = [&](const char* instructions, double rate, Machine::Extremes extremes) {
      add_peak(context, std::string("gflops_") + instructions + "_" + of, rate, extremes);
    };
    add_flops(machine.flops_class, machine.flops_per_second, machine.flops_extremes);
    add_flops(machine.bf16_class, machine.bf16_flops_per_second, machine.bf16_flops_extremes);
    add_flops(machine.int8_class, machine.int8_flops_per_second, machine.int8_flops_extremes);
    add_peak(context, "gbs_" + of, machine.bytes_per_second, machine.bytes_extremes);
  }
  for (auto& [key, value] : context) value = printable(value);
  return context;
}

void finish_context(Context& context, const Machine& before, const Machine& after) {
  context["mmb.load_after"] = decimal(load());
  context["mmb.canary_gflops_before"] = decimal(before.flops_per_second / kGiga);
  context["mmb.canary_gflops_after"] = decimal(after.flops_per_second / kGiga);
  context["mmb.canary_bf16_gflops_before"] = decimal(before.bf16_flops_per_second / kGiga);
  context["mmb.canary_bf16_gflops_after"] = decimal(after.bf16_flops_per_second / kGiga);
  context["mmb.canary_gbs_before"] = decimal(before.bytes_per_second / kGiga);
  context["mmb.canary_gbs_after"] = decimal(after.bytes_per_second / kGiga);
}

}  // namespace mmb
