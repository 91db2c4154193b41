#include "selection.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "mmb/machine.h"
#include "mmb/routing.h"

namespace mmb {
namespace {

constexpr size_t kMostValues = 4096;

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (char c : text) {
    if (c == separator)
      parts.emplace_back();
    else
      parts.back() += c;
  }
  return parts;
}

// The whole of `text` as a whole number; false for anything else.
bool to_integer(std::string_view text, int64_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

bool to_count(std::string text, int64_t least, int64_t most, int64_t& value) {
  int64_t unit = 1;
  if (!text.empty() && (text.back() == 'k' || text.back() == 'K')) {
    unit = 1024;
    text.pop_back();
  }
  if (!to_integer(text, value) || value < 0 || value > most / unit) return false;
  value *= unit;
  return value >= least;
}

template <class T>
void append_once(std::vector<T>& list, const T& value) {
  if (std::find(list.begin(), list.end(), value) == list.end()) list.push_back(value);
}

// Names one by one; `find` returns false for a word that it does not know.
template <class T, class Find>
std::vector<T> parse_list(const std::string& flag, const std::string& text, const std::string& expected, Find find) {
  std::vector<T> values;
  for (const std::string& word : split(text, ',')) {
    T value{};
    if (!find(word, value)) throw Error(flag + ": expected " + expected + ", got '" + word + "'");
    append_once(values, value);
  }
  return values;
}

// The routing of this name: drawn, or one of the traces.
void select_routing(Selection& selection, const std::string& name) {
  if (const auto skew = skew_of(name)) {
    if (!(*skew >= 0 && *skew <= kMostSkew))
      throw Error((std::ostringstream() << "--row: routing: expected a skew from 0 to " << kMostSkew << ", got '"
                                        << name << "'")
                      .str());
    selection.skews = {*skew};
    selection.overlaps = {0};
    selection.traces.clear();
    return;
  }
  selection.skews.clear();
  selection.overlaps.clear();
  std::erase_if(selection.traces, [&](const std::string& file) { return trace_name(file) != name; });
  if (selection.traces.empty())
    throw Error("--row: routing: expected uniform, zipf and its exponent, or the name of a --trace FILE, got '" + name +
                "'");
}

std::vector<DType> parse_types(const std::string& flag, const std::string& text, const std::string& expected,
                               std::span<const DType> types) {
  return parse_list<DType>(flag, text, expected, [&](const std::string& word, DType& value) {
    for (DType dtype : types)
      if (word == name(dtype)) return value = dtype, true;
    return false;
  });
}

}  // namespace

Profile parse_profile(const std::string& text) {
  if (text == "smoke") return Profile::smoke;
  if (text == "quick") return Profile::quick;
  if (text == "full") return Profile::full;
  if (text == "model") return Profile::model;
  throw Error("--profile: expected smoke, quick, full or model, got '" + text + "'");
}

std::vector<std::string> parse_words(const std::string& flag, const std::string& text) {
  return parse_list<std::string>(flag, text, "names, separated by commas",
                                 [](const std::string& word, std::string& value) { return !(value = word).empty(); });
}

std::vector<DType> parse_dtypes(const std::string& text) {
  return parse_types("--dtype", text, "f32, bf16, fp8, int8 or int4, separated by commas", kWeightTypes);
}

std::vector<DType> parse_caches(const std::string& flag, const std::string& text) {
  return parse_types(flag, text, "bf16, fp8 or int8, separated by commas",
                     std::array{DType::bf16, DType::fp8, DType::int8});
}

std::vector<Impl> parse_impls(const std::string& text) {
  std::string expected = "reference";
  for (Impl impl : impls()) expected += std::string(", ") + name(impl);
  for (Impl impl : peers()) expected += std::string(", ") + name(impl);
  const auto groups = parse_list<std::vector<Impl>>(
      "--impl", text, "any of " + expected + ", or peers", [](const std::string& word, std::vector<Impl>& group) {
        if (word == "reference") group = {Impl::reference};
        for (const auto& known : {impls(), peers()})
          for (Impl impl : known)
            if (word == name(impl)) group = {impl};
        if (word == "peers") {  // the fastest level and every library beside it
          group = {fastest_impl()};
          group.insert(group.end(), peers().begin(), peers().end());
        }
        return !group.empty();
      });
  std::vector<Impl> all;
  for (const auto& group : groups)
    for (Impl impl : group) append_once(all, impl);
  return all;
}

std::vector<Threads> parse_threads(const std::string& text) {
  return parse_list<Threads>("--threads", text, "1, all or 1,all", [](const std::string& word, Threads& value) {
    value = word == "1" ? Threads::one : Threads::all;
    return word == "1" || word == "all";
  });
}

std::regex parse_regex(const std::string& flag, const std::string& text) {
  constexpr size_t kMost = 4096;  // nested so deep, it would not fit the stack
  if (text.size() > kMost)
    throw Error(flag + ": expected a regular expression of at most " + std::to_string(kMost) + " characters");
  auto syntax = std::regex::ECMAScript | std::regex::optimize;
#ifdef __GLIBCXX__
  syntax |= std::regex_constants::__polynomial;  // which else may search for years
#endif
  try {
    return std::regex(text, syntax);
  } catch (const std::regex_error&) {
    throw Error(flag + ": expected a regular expression without back references, got '" + text + "'");
  }
}

std::vector<int64_t> parse_counts(const std::string& flag, const std::string& text, int64_t least, int64_t most) {
  std::vector<int64_t> values;
  for (const std::string& item : split(text, ',')) {
    const auto fail = [&] {
      return Error(flag + ": expected whole numbers from " + std::to_string(least) + " to " + std::to_string(most) +
                   ", as 1,2,4 or 1..8 or 1k..16k*2 (" + std::to_string(kMostValues) + " at most), got '" + item + "'");
    };
    const size_t dots = item.find(".."), star = item.find('*');
    int64_t first = 0, last = 0, factor = 0;
    if (!to_count(item.substr(0, dots), least, most, first)) throw fail();
    if (dots == std::string::npos) {
      last = first;
    } else {
      if (!to_count(item.substr(dots + 2, star == std::string::npos ? star : star - dots - 2), least, most, last))
        throw fail();
      if (star != std::string::npos &&
          (!to_integer(item.substr(star + 1), factor) || factor < 2 || factor > kMostCount || first == 0))
        throw fail();
      if (last < first) throw fail();
    }
    for (int64_t value = first; value <= last; value = factor ? value * factor : value + 1) {
      append_once(values, value);
      if (values.size() > kMostValues) throw fail();
    }
  }
  return values;
}

std::vector<double> parse_numbers(const std::string& flag, const std::string& text, double most) {
  return parse_list<double>(flag, text, (std::ostringstream() << "numbers from 0 to " << most).str(),
                            [&](const std::string& word, double& value) {
                              const char* end = word.data() + word.size();
                              const auto [rest, error] = std::from_chars(word.data(), end, value);
                              return error == std::errc() && rest == end && value >= 0 && value <= most;
                            });
}

std::vector<std::string> parse_traces(const std::string& text) {
  const std::vector<std::string> files = parse_words("--trace", text);
  std::vector<std::string> names;
  for (const std::string& file : files) {
    const std::string name = trace_name(file);
    const bool plain = !name.empty() && std::ranges::all_of(name, [](unsigned char c) {
      return std::isalnum(c) || std::string_view("._+-").find(static_cast<char>(c)) != std::string_view::npos;
    });
    if (!plain || skew_of(name))
      throw Error(
          "--trace: expected files with names of letters, digits and ._+-, other than uniform and zipf1, got '" + file +
          "'");
    append_once(names, name);
  }
  if (names.size() < files.size()) throw Error("--trace: expected files of different names, got '" + text + "'");
  return files;
}

int64_t parse_integer(const std::string& flag, const std::string& text, int64_t least, int64_t most) {
  int64_t value = 0;
  if (!to_integer(text, value) || value < least || value > most)
    throw Error(flag + ": expected a whole number from " + std::to_string(least) + " to " + std::to_string(most) +
                ", got '" + text + "'");
  return value;
}

namespace {

double parse_number(const std::string& flag, const std::string& text, const std::string& what, double most) {
  double value = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failed != std::errc() || end != text.data() + text.size() || !(value > 0 && value <= most))
    throw Error(flag + ": expected " + what + ", got '" + text + "'");
  return value;
}

}  // namespace

double parse_seconds(const std::string& flag, const std::string& text) {
  return parse_number(flag, text, "seconds, more than 0 and at most 3600", 3600);
}

double parse_usd(const std::string& text) {
  return parse_number("--usd-per-hour", text, "US dollars, more than 0 and at most 1000000", 1e6);
}

int64_t parse_bytes(const std::string& flag, const std::string& text) {
  const Error error(flag + ": expected bytes, as 2000000000 or 4G (1e9) or 512Mi (2^20), got '" + text + "'");
  double number = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (failed != std::errc()) throw error;
  std::string unit(end, text.data() + text.size());
  if (!unit.empty() && unit.back() == 'B') unit.pop_back();
  const double step = unit.size() == 2 && unit[1] == 'i' ? 1024 : 1000;
  if (unit.size() > 1 && step == 1000) throw error;
  const size_t power = unit.empty() ? 0 : std::string("KMGT").find(static_cast<char>(std::toupper(unit[0]))) + 1;
  if (!unit.empty() && power == 0) throw error;  // npos + 1
  const double bytes = number * std::pow(step, static_cast<double>(power));
  if (!(bytes >= 1 && bytes <= 0x1p60)) throw error;
  return static_cast<int64_t>(bytes);
}

std::optional<std::string> key_word(const std::string& key, const std::string& name) {
  for (const std::string& part : split(key, '/'))
    if (part.starts_with(name + ':')) return part.substr(name.size() + 1);
  return {};
}

std::optional<int64_t> key_value(const std::string& key, const std::string& name) {
  const auto word = key_word(key, name);
  if (!word) return {};
  return std::strtoll(word->c_str(), nullptr, 10);
}

void select_row(Selection& selection, const std::string& name) {
  const Error error(
      "--row: expected a name that `bench_mla list` prints, op/algo/dtype/impl/model/key:value.../threads:n, got '" +
      name + "'");
  const std::vector<std::string> parts = split(name, '/');
  if (parts.size() < 7) throw error;
  selection.row = name;
  selection.ops = {parts[0]};
  try {
    selection.dtypes = parse_dtypes(parts[2]);
    selection.impls = parse_impls(parts[3]);
  } catch (const Error&) {
    throw error;
  }
  if (selection.models.empty() && parts[4] != "none") selection.models = {parts[4]};
  for (size_t i = 5; i < parts.size(); ++i) {
    const size_t colon = parts[i].find(':');
    if (colon == std::string::npos) throw error;
    const std::string key = parts[i].substr(0, colon), value = parts[i].substr(colon + 1);
    const auto longest = [&] { return value.substr(value.find("..") == std::string::npos ? 0 : value.find("..") + 2); };
    if (key == "threads") selection.threads = parse_threads(value);
    if (key == "batch" || key == "tokens") selection.batches = parse_counts("--row: " + key, value, 1, kMostTokens);
    if (key == "ctx" || key == "past") selection.contexts = parse_counts("--row: " + key, longest(), 0);
    if (key == "routing") select_routing(selection, value);
    if (key == "overlap") selection.overlaps = parse_numbers("--row: " + key, value, 1);
    if (key == "cache") selection.caches = parse_caches("--row: " + key, value);
    if (key == "q") selection.new_tokens = parse_counts("--row: " + key, value, 1, kMostTokens);
    constexpr std::string_view kSizes[] = {"in_features", "out_features", "hidden_size", "heads",  "dims",
                                           "layers",      "working_set",  "elements",    "passes", "intermediate_size"};
    if (std::ranges::count(kSizes, key) > 0) selection.sizes[key] = parse_counts("--row: " + key, value, 1).front();
  }
}

}  // namespace mmb
