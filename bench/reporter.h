// What becomes of the rows: lines on the console, and one file in Google Benchmark's JSON format.
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "bench.h"

namespace mmb {

// A row that has been run.
struct Result {
  RowName name;
  double seconds = 0;  // per iteration; of several repetitions, the middle one's, counters too
  std::map<std::string, double> counters;
  std::string label;                   // the instructions whose peak the roof used; and a note after a semicolon
  std::vector<Component> parts;        // of a composite
  std::vector<double> ideal_of_parts;  // seconds
  std::string error;                   // what was wrong; empty: nothing
};

// Of a whole model, of which some layers may have been run for all of their kind; of other rows, the row's own.
double whole_seconds(const Result& result);

// The rows that were right, by name.
using RowsByName = std::map<std::string, const Result*>;
RowsByName rows_by_name(std::span<const Result> results);
// What a composite takes by its parts, in seconds: each op at the roof of its own row, with the peaks measured beside the
// composite, so that a machine that changed its pace between the rows tips nothing, nor do layers that touch more experts
// than the row of one layer. Nothing where it was wrong or an op has no row. What a rival shares with the model that it
// comes from may be that one's row.
std::optional<double> seconds_of_parts(const Result& whole, const RowsByName& rows);

// What a row takes at the least: as long as it is measured, or where that is longer its ideal time, and its verification.
double least_seconds(const Suite& suite, const Row& row);

// The file that a run may write: what a link points to, made sure to be writable, and nothing but a regular file; or an Error.
std::filesystem::path result_file(const std::string& out);

// Writes results as they come. Google's own reporters are not used: 1.7.1 appends to names, writes NaN bare, warns of
// Debian's debug build of the library (the timing loop is inlined from ours), and leaves a broken file when it is stopped.
// Here the file is rewritten, through a temporary one, after every row, so that it is valid at any time and its context can
// change until the end; an older one stays until there is a row.
class Reporter : public benchmark::BenchmarkReporter {
 public:
  Reporter(Suite& suite, std::filesystem::path file, std::string header);

  void set_context(const std::map<std::string, std::string>& facts);
  const std::vector<Result>& results() const { return results_; }
  // Rows whose result was wrong.
  int64_t wrong() const;
  void write() const;

  bool ReportContext(const Context& context) override;
  void ReportRuns(const std::vector<Run>& runs) override;

 private:
  void print(const Result& result) const;
  void print_progress() const;

  Suite& suite_;
  std::filesystem::path file_;
  std::string header_;
  nlohmann::ordered_json context_ = nlohmann::ordered_json::object();
  std::vector<nlohmann::ordered_json> runs_;
  std::vector<Result> results_;
  size_t name_width_ = 0;
  double least_ = 0, least_of_done_ = 0;  // seconds of all rows, and of those done
  bool stdout_is_terminal_, stderr_is_terminal_;
  std::chrono::steady_clock::time_point start_;
};

// 3 significant digits and a decimal prefix: 1.23k, 45.6M.
std::string short_number(double value);
std::string short_time(double seconds);

}  // namespace mmb
