#include "reporter.h"

#include "model_verdict.h"
#include "pace.h"

#include <unistd.h>

#include <cmath>
#include <ctime>
#include <fstream>
#include <iostream>

namespace mmb {
namespace {

using json = nlohmann::ordered_json;
using Run = benchmark::BenchmarkReporter::Run;

std::string printed(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::string three_digits(double value) {
  return printed(value < 9.995 ? "%.2f" : value < 99.95 ? "%.1f" : "%.0f", value);
}

json google_context(const benchmark::BenchmarkReporter::Context& context) {
  std::time_t now = std::time(nullptr);
  char date[64];
  std::strftime(date, sizeof date, "%FT%T%z", std::localtime(&now));
  json caches = json::array();
  for (const auto& cache : context.cpu_info.caches)
    caches.push_back(
        {{"type", cache.type}, {"level", cache.level}, {"size", cache.size}, {"num_sharing", cache.num_sharing}});
#ifdef NDEBUG
  const char* build = "release";
#else
  const char* build = "debug";
#endif
  // No host name and no path: people post these files.
  return {{"date", date},
          {"host_name", "host"},
          {"executable", "bench_mla"},
          {"num_cpus", context.cpu_info.num_cpus},
          {"mhz_per_cpu", std::lround(context.cpu_info.cycles_per_second / 1e6)},
          {"cpu_scaling_enabled", context.cpu_info.scaling == benchmark::CPUInfo::ENABLED},
          {"caches", caches},
          {"load_avg", context.cpu_info.load_avg},
          {"library_build_type", build}};
}

// One repetition as Google's JSONReporter writes it, under the name that we gave it.
json google_row(const Run& run, const std::string& name) {
  json row = {{"name", name},
              {"family_index", run.family_index},
              {"per_family_instance_index", run.per_family_instance_index},
              {"run_name", name},
              {"run_type", "iteration"},
              {"repetitions", run.repetitions},
              {"repetition_index", run.repetition_index},
              {"threads", run.threads}};
  if (run.error_occurred) {
    row["error_occurred"] = true;
    row["error_message"] = run.error_message;
  } else {
    row["label"] = run.report_label;  // the instructions whose peak the roof used; of another library, what it was
  }
  row["iterations"] = run.iterations;
  row["real_time"] = run.GetAdjustedRealTime();
  row["cpu_time"] = run.GetAdjustedCPUTime();
  row["time_unit"] = benchmark::GetTimeUnitString(run.time_unit);
  return row;
}

// Everything but the algo and the level: what the rivals of a row share.
std::string contest(const RowName& name) {
  return name.op + '/' + name.dtype + '/' + name.model + '/' + name.key + '/' + name.threads;
}

std::string cell(const Result& result, const char* counter, const char* format, double factor) {
  const auto found = result.counters.find(counter);
  return found == result.counters.end() ? "-" : printed(format, found->second * factor);
}

std::string right(const std::string& text, size_t width) {
  return std::string(text.size() < width ? width - text.size() : 0, ' ') + text;
}

}  // namespace

std::string short_number(double value) {
  const char* unit = "";
  for (const char* next : {"k", "M", "G", "T", "P"}) {
    if (value < 999.5) break;
    value /= 1000;
    unit = next;
  }
  return three_digits(value) + unit;
}

std::string short_time(double seconds) {
  if (seconds < 999.5e-9) return three_digits(seconds * 1e9) + " ns";
  if (seconds < 999.5e-6) return three_digits(seconds * 1e6) + " us";
  if (seconds < 999.5e-3) return three_digits(seconds * 1e3) + " ms";
  return three_digits(seconds) + " s";
}

double whole_seconds(const Result& result) {
  const auto rate = result.counters.find("model_tokens_per_second");
  if (rate == result.counters.end()) return result.seconds;
  return static_cast<double>(*key_value(result.name.key, "batch") * *key_value(result.name.key, "q")) / rate->second;
}

RowsByName rows_by_name(std::span<const Result> results) {
  RowsByName rows;
  for (const Result& result : results)
    if (result.error.empty()) rows[result.name.text()] = &result;
  return rows;
}

std::optional<double> seconds_of_parts(const Result& whole, const RowsByName& rows) {
  if (whole.parts.empty() || !whole.error.empty()) return {};
  double sum = 0, ideal = 0;
  for (size_t i = 0; i < whole.parts.size(); ++i) {
    const auto [own, of_base] = part_names(whole.name, whole.parts[i]);
    auto found = rows.find(own);
    if (found == rows.end()) found = rows.find(of_base);
    if (found == rows.end()) return {};
    ideal += whole.ideal_of_parts[i];
    sum += whole.ideal_of_parts[i] / found->second->counters.at("roof");
  }
  // The peaks may be another repetition's.
  return sum / ideal * whole.counters.at("roof") * whole.seconds;
}

double least_seconds(const Suite& suite, const Row& row) {
  constexpr double kMeasured = 0.1;  // what profiles measure is half or twice that
  const Machine& machine = suite.machines().at({row.threads, row.impl});
  const double ideal = row.parts.empty() ? ideal_seconds(row.cost, machine) : ideal_seconds(row.parts, machine);
  return static_cast<double>(suite.repetitions(row)) * std::max({ideal, kMeasured, suite.selection().min_time}) +
         row.verify_seconds;
}

namespace {

Error not_writable(const std::filesystem::path& file) {
  return Error("--out: expected a file that can be written, got '" + file.string() + "'");
}

// What becomes the file once it is whole: of this run alone.
std::filesystem::path partial_of(const std::filesystem::path& file) {
  return file.string() + "." + std::to_string(getpid()) + ".partial";
}

}  // namespace

std::filesystem::path result_file(const std::string& out) {
  namespace fs = std::filesystem;
  std::error_code failed;
  const auto is_regular_or_new = [&](const fs::file_status& status) {
    return status.type() == fs::file_type::regular || status.type() == fs::file_type::not_found;
  };
  if (!is_regular_or_new(fs::status(out, failed)))
    throw Error("--out: expected a regular file or none yet, got '" + out + "'");
  fs::path file = out;
  while (fs::is_symlink(file, failed)) file = file.parent_path() / fs::read_symlink(file, failed);
  const fs::path partial = partial_of(file);
  if (file.has_parent_path()) fs::create_directories(file.parent_path(), failed);
  if (!file.has_filename() || !is_regular_or_new(fs::symlink_status(partial, failed)) || !std::ofstream(partial))
    throw not_writable(file);
  fs::remove(partial, failed);
  return file;
}

Reporter::Reporter(Suite& suite, std::filesystem::path file, std::string header)
    : suite_(suite),
      file_(std::move(file)),
      header_(std::move(header)),
      stdout_is_terminal_(isatty(STDOUT_FILENO)),
      stderr_is_terminal_(isatty(STDERR_FILENO)),
      start_(std::chrono::steady_clock::now()) {
  for (const Row& row : suite.rows()) {
    name_width_ = std::max(name_width_, row.name.text().size());
    least_ += least_seconds(suite, row);
  }
}

void Reporter::set_context(const std::map<std::string, std::string>& facts) {
  for (const auto& [key, value] : facts) context_[key] = value;
}

int64_t Reporter::wrong() const {
  return std::count_if(results_.begin(), results_.end(), [](const Result& result) { return !result.error.empty(); });
}

void Reporter::write() const {
  std::map<std::string, double> best;
  for (const Result& result : results_) {
    if (!result.error.empty()) continue;
    const auto [found, fresh] = best.emplace(contest(result.name), result.seconds);
    if (!fresh) found->second = std::min(found->second, result.seconds);
  }
  std::map<std::string, double> vs_best;
  for (const Result& result : results_)
    if (result.error.empty()) vs_best[result.name.text()] = result.seconds / best[contest(result.name)];

  const RowsByName rows = rows_by_name(results_);
  std::map<std::string, double> parts_ratio;
  for (const Result& result : results_)
    if (const auto parts = seconds_of_parts(result, rows)) parts_ratio[result.name.text()] = *parts / result.seconds;

  const Pace pace(results_);
  std::map<std::string, double> break_even;  // of steps that verify drafts, beside a plain one
  for (const Result& result : results_) {
    const auto new_tokens = key_value(result.name.key, "q");
    if (result.name.op != "decode_step" || !result.error.empty() || new_tokens.value_or(1) == 1) continue;
    RowName plain = result.name;
    const std::string q = "/q:";
    const size_t at = plain.key.find(q) + q.size();
    plain.key.replace(at, plain.key.find('/', at) - at, "1");
    const auto found = rows.find(plain.text());
    if (found == rows.end() || !pace.usual(result) || !pace.usual(*found->second)) continue;
    const double least = break_even_acceptance(whole_seconds(result) / whole_seconds(*found->second), *new_tokens - 1);
    if (std::isfinite(least)) break_even[result.name.text()] = least;
  }

  json document = {{"context", context_}, {"benchmarks", runs_}};
  for (json& row : document["benchmarks"]) {
    const auto late = [&](const char* counter, const std::map<std::string, double>& values) {
      const auto found = values.find(row["name"]);
      if (found != values.end() && !row.contains("error_message")) row[counter] = found->second;
    };
    late("vs_best", vs_best);
    late("parts_ratio", parts_ratio);
    late("break_even_acceptance", break_even);
  }

  const std::filesystem::path partial = partial_of(file_);
  std::error_code failed;
  std::ofstream out(partial);
  out << document.dump(2, ' ', false, json::error_handler_t::replace) << '\n';
  out.close();
  if (out) std::filesystem::rename(partial, file_, failed);
  if (out && !failed) return;
  std::filesystem::remove(partial, failed);
  throw not_writable(file_);
}

bool Reporter::ReportContext(const Context& context) {
  context_.update(google_context(context));
  if (stdout_is_terminal_) {
    std::cout << header_ << '\n'
              << std::string(name_width_, ' ') << "      time  op tokens/s  GFLOP/s    GB/s  roof  bound       err\n";
  }
  print_progress();
  return true;
}

void Reporter::ReportRuns(const std::vector<Run>& runs) {
  std::vector<Result> repetitions;
  for (const Run& run : runs) {
    if (run.run_type == Run::RT_Aggregate) continue;
    if (run.error_occurred && interrupted()) return;
    // Without the /process_time/manual_time that 1.7.1 appends.
    const std::string& name = run.run_name.function_name;
    const Row& row = suite_.row(name);
    Result result;
    result.name = row.name;
    result.parts = row.parts;
    result.ideal_of_parts = row.ideal_of_parts;
    json entry = google_row(run, name);
    for (const auto& [counter, value] : run.counters) result.counters[counter] = value.value;
    if (run.error_occurred) {
      result.error = run.error_message;
      result.counters["err"] = row.verification->err;
    } else {
      result.seconds = run.real_accumulated_time / static_cast<double>(run.iterations);
      result.label = run.report_label;
    }
    for (const auto& [counter, value] : result.counters)
      if (std::isfinite(value)) entry[counter] = value;  // JSON has no word for the others
    runs_.push_back(std::move(entry));
    repetitions.push_back(std::move(result));
  }
  if (repetitions.empty()) return;
  // The middle one stands for the row.
  const auto middle = repetitions.begin() + static_cast<std::ptrdiff_t>((repetitions.size() - 1) / 2);
  std::nth_element(repetitions.begin(), middle, repetitions.end(),
                   [](const Result& a, const Result& b) { return a.seconds < b.seconds; });
  results_.push_back(std::move(*middle));
  least_of_done_ += least_seconds(suite_, suite_.row(results_.back().name.text()));
  write();
  print(results_.back());
  print_progress();
}

void Reporter::print(const Result& result) const {
  if (stderr_is_terminal_) std::cerr << "\r\033[K";
  std::string name = result.name.text();
  name.resize(std::max(name.size(), name_width_), ' ');
  if (!result.error.empty()) {
    std::cout << name << "  ERROR: " << result.error << std::endl;
    return;
  }
  const auto tokens = result.counters.find("items_per_second");
  std::cout << name << right(short_time(result.seconds), 10)
            << right(tokens == result.counters.end() ? "-" : short_number(tokens->second), 13)
            << right(cell(result, "gflops", "%.1f", 1), 9) << right(cell(result, "gbs", "%.2f", 1), 8)
            << right(cell(result, "roof", "%.0f%%", 100), 6)
            << (result.counters.at("bound") == 0 ? "  compute" : "  memory ")
            << right(cell(result, "err", "%.1e", 1), 10) << std::endl;
}

void Reporter::print_progress() const {
  const size_t done = results_.size(), all = suite_.rows().size();
  if (!stderr_is_terminal_ || done >= all) return;
  constexpr double kUsual = 2;  // what rows take, over what they must
  const double pace = done == 0 ? kUsual : detail::seconds_since(start_) / least_of_done_;
  std::cerr << "\r\033[K[" << done << '/' << all << "] about " << std::lround(pace * (least_ - least_of_done_))
            << " s left" << std::flush;
}

}  // namespace mmb
