// Selection: what the command line chose to run. What it left open, the profile decides (each <op>_bench.cpp says how).
#pragma once

#include <map>
#include <optional>
#include <regex>
#include <string>
#include <vector>

#include "mmb/kernel.h"

namespace mmb {

// smoke: tiny shapes, for emulators and sanitizers; quick: a minute on two cores; full: every model; model: one model whole,
// in most of the memory.
enum class Profile { smoke, quick, full, model };
// Row keys say `all`, so that names match across machines; the count is a counter.
enum class Threads { one, all };

struct Selection {
  Profile profile = Profile::quick;
  std::vector<std::string> ops, models;
  std::vector<int64_t> batches, contexts, new_tokens;
  std::vector<double> skews, overlaps;  // each with each
  std::vector<std::string> traces;      // files, beside these
  std::vector<DType> dtypes = {DType::bf16};
  std::vector<DType> caches = {DType::bf16};  // of latents; plain: as the weights have it
  std::vector<Impl> impls;                    // empty: the fastest level, and in the full profile every fma_peak
  std::vector<Threads> threads;               // empty: all, and one for the headline rows
  std::optional<std::regex> filter;
  std::string row;                       // only the row of this name
  std::map<std::string, int64_t> sizes;  // of that row, where no flag chooses them
  int64_t memory = 0;                    // bytes that the run may use; 0: what the profile says
  double min_time = 0;                   // seconds per row; 0: what the profile says
  int64_t repetitions = 0;               // 0: what the profile says
  uint64_t seed = 1;
};

// The words and numbers of flags. Each throws Error, "flag: what was expected", for anything else.
Profile parse_profile(const std::string& text);
std::vector<std::string> parse_words(const std::string& flag, const std::string& text);
std::vector<DType> parse_dtypes(const std::string& text);
std::vector<DType> parse_caches(const std::string& flag, const std::string& text);
std::vector<Impl> parse_impls(const std::string& text);
std::vector<Threads> parse_threads(const std::string& text);
std::regex parse_regex(const std::string& flag, const std::string& text);
// "1,2,4", "1..8" (each), "1k..16k*2" (geometric); k is 1024. In order of appearance, without repeats.
inline constexpr int64_t kMostCount = int64_t{1} << 30;  // products of a few still fit 64 bits
inline constexpr int64_t kMostRepetitions = 1000;
inline constexpr int64_t kMostTokens = 1 << 17;  // of a step: each is drawn experts
std::vector<int64_t> parse_counts(const std::string& flag, const std::string& text, int64_t least,
                                  int64_t most = kMostCount);
// "0,0.38": numbers from 0 to `most`.
std::vector<double> parse_numbers(const std::string& flag, const std::string& text, double most);
// Files of different stems, which rows can carry.
std::vector<std::string> parse_traces(const std::string& text);
int64_t parse_integer(const std::string& flag, const std::string& text, int64_t least, int64_t most);
double parse_seconds(const std::string& flag, const std::string& text);
double parse_usd(const std::string& text);
// "4G" is 4e9 bytes, "4Gi" is 4 * 2^30.
int64_t parse_bytes(const std::string& flag, const std::string& text);
// The word, or the number, behind `name:` in a row's key.
std::optional<std::string> key_word(const std::string& key, const std::string& name);
std::optional<int64_t> key_value(const std::string& key, const std::string& name);
// Chooses exactly the row of this name: its op, model, types and sizes, whatever the profile would time.
void select_row(Selection& selection, const std::string& name);

}  // namespace mmb
