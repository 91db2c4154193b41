// Context: the facts of a run that a reader of its results needs, as flat strings; what the system does not tell is
// "unknown". Never the host's name: people post result files.
#pragma once

#include <map>
#include <string>

#include "mmb/machine.h"

namespace mmb {

// Bytes of the last-level caches of all CPUs that this process may use, as the system reports them (a guest may see its
// host's); 32 MiB where it reports none.
int64_t last_level_cache_bytes();
// Bytes that this process can still take: what the system has available, or its control group's remainder if that is
// less.
int64_t available_memory_bytes();
// OMP_NUM_THREADS where it is set, else one for each core that this process may use, within its control group's quota:
// two hardware threads of one core share its multipliers. Within OMP_THREAD_LIMIT. Throws where threads would take longer to
// start than to work.
int default_threads();
// Lets the calling thread run on all CPUs that this process may use, though OpenMP may have bound it before main.
void unbind_thread();

// What the program itself knows of its run.
struct RunFacts {
  std::string profile;
  uint64_t seed = 0;
  std::vector<std::string> argv;
  std::string alias;  // empty: MMB_ALIAS
  Impl impl = fastest_impl();
  int threads = 1;  // of threads:all
};

using Context = std::map<std::string, std::string>;

// At the start, with every Machine that rows are held against.
Context run_context(const RunFacts& run, const std::vector<Machine>& machines);
// At the end: one of these machines, and what it is now.
void finish_context(Context& context, const Machine& before, const Machine& after);

// What may spoil a measurement that starts now, in sentences; also in the context.
std::vector<std::string> run_warnings(int threads);

}  // namespace mmb
