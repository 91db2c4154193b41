#include "mmb/routing.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <set>

#include "mmb/moe_router.h"

namespace mmb {
namespace {

constexpr uintmax_t kMostBytes = uintmax_t{1} << 30;
constexpr std::string_view kZipf = "zipf", kSeparators = " \t\r,";

// What a file said, fit to stand in a sentence.
std::string quoted(std::string_view text) {
  constexpr size_t kMost = 24;
  std::string quote = "'";
  for (char c : text.substr(0, kMost)) quote += c >= ' ' && c <= '~' ? c : '?';
  return quote + (text.size() > kMost ? "...'" : "'");
}

// One line's experts, appended to the trace. `where` is its file and number.
void append_line(Trace& trace, std::string_view line, const std::string& where, const MoeRouter::Shape& router,
                 const std::string& model) {
  const int64_t E = router.n_routed_experts, K = router.num_experts_per_tok;
  std::vector<int32_t> experts;
  std::set<int64_t> groups;
  const auto refuse = [&](size_t field, const std::string& expected) {
    throw TraceError(where + "field " + std::to_string(field) + ": expected " + expected);
  };
  const auto count = [&] { return std::to_string(K) + " experts a token (" + model + ")"; };
  for (size_t begin = 0; (begin = line.find_first_not_of(kSeparators, begin)) != line.npos;) {
    const size_t end = std::min(line.find_first_of(kSeparators, begin), line.size()), field = experts.size() + 1;
    const std::string_view text = line.substr(begin, end - begin);
    begin = end;
    if (static_cast<int64_t>(field) > K) refuse(field, count() + ", got " + quoted(text) + " after them");
    int32_t e = -1;
    const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), e);
    if (error != std::errc() || rest != text.data() + text.size() || e < 0 || e >= E)
      refuse(field, "an expert from 0 to " + std::to_string(E - 1) + " (" + model + "), got " + quoted(text));
    if (std::find(experts.begin(), experts.end(), e) != experts.end())
      refuse(field, "different experts, got " + quoted(text) + " again");
    experts.push_back(e);
    groups.insert(e / (E / router.n_group));
    if (static_cast<int64_t>(groups.size()) > router.topk_group)
      refuse(field, "experts of at most " + std::to_string(router.topk_group) + " of the " +
                        std::to_string(router.n_group) + " groups, got " + quoted(text) + " of one more");
  }
  if (experts.empty()) return;
  if (static_cast<int64_t>(experts.size()) != K) refuse(experts.size() + 1, count() + ", got the end of the line");
  trace.topk_indices.insert(trace.topk_indices.end(), experts.begin(), experts.end());
  ++trace.tokens;
}

// The shortest decimal that is read back as the same number.
std::string decimal(double value) {
  char text[32];
  return {text, std::to_chars(text, text + sizeof text, value).ptr};
}

}  // namespace

std::string trace_name(const std::string& file) {
  return std::filesystem::path(file).stem().string();
}

Trace load_trace(const std::string& file, const Model& model) {
  const MoeRouter::Shape router = MoeRouter::shape(model, 1);
  const TraceError unreadable(file + ": expected a regular file that can be read");
  std::error_code error;
  if (!std::filesystem::is_regular_file(file, error)) throw unreadable;
  if (const auto bytes = std::filesystem::file_size(file, error); error || bytes > kMostBytes)
    throw TraceError(file + ": expected a file of at most 1 GiB");
  std::ifstream stream(file, std::ios::binary);
  if (!stream) throw unreadable;
  Trace trace{.name = trace_name(file),
              .file = file,
              .n_routed_experts = router.n_routed_experts,
              .num_experts_per_tok = router.num_experts_per_tok,
              .tokens = 0,
              .topk_indices = {}};
  std::string line;
  for (int64_t number = 1; std::getline(stream, line); ++number)
    append_line(trace, std::string_view(line).substr(0, line.find('#')),
                file + ": line " + std::to_string(number) + ": ", router, model.name);
  if (stream.bad()) throw unreadable;
  if (trace.tokens == 0) throw TraceError(file + ": expected a line of experts for each token, got none");
  return trace;
}

std::string key(const Routing& routing) {
  if (routing.trace) return "routing:" + routing.trace->name;
  return "routing:" + (routing.skew == 0 ? "uniform" : std::string(kZipf) + decimal(routing.skew)) +
         (routing.overlap == 0 ? "" : "/overlap:" + decimal(routing.overlap));
}

std::optional<double> skew_of(std::string_view name) {
  if (name == "uniform") return 0;
  double skew = 0;
  const char* end = name.data() + name.size();
  if (!name.starts_with(kZipf)) return {};
  const auto [rest, error] = std::from_chars(name.data() + kZipf.size(), end, skew);
  if (error != std::errc() || rest != end) return {};
  return skew;
}

}  // namespace mmb
