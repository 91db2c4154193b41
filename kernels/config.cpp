#include "config.h"

#include <algorithm>
#include <set>

#include "mmb/error.h"

namespace mmb {

using nlohmann::json;

void refuse(const std::string& file, const std::string& field, const std::string& what) {
  std::string sentence = file + ": " + field + ": " + what;
  std::replace_if(
      sentence.begin(), sentence.end(), [](unsigned char c) { return c < ' '; }, '?');  // names are the file's
  throw Error(sentence);
}

json parse_object(std::string_view text, const std::string& file) {
  constexpr int kMaxDepth = 32;  // real configs need 4; nothing recursive may see more
  std::vector<std::set<std::string>> keys;
  const auto check = [&](int depth, json::parse_event_t event, json& value) {
    if (depth > kMaxDepth) refuse(file, "JSON", "expected at most " + std::to_string(kMaxDepth) + " levels of nesting");
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second)
      refuse(file, value.get<std::string>(), "expected once, found twice");
    return true;
  };
  try {
    json root = json::parse(text, check);
    if (!root.is_object()) refuse(file, "JSON", std::string("expected an object, found one ") + root.type_name());
    return root;
  } catch (const json::parse_error& error) {
    refuse(file, "JSON", "expected well-formed JSON in UTF-8, but it breaks at byte " + std::to_string(error.byte));
  } catch (const json::exception&) {
    refuse(file, "JSON", "expected numbers that a double can hold");
  }
}

void Config::refuse(const std::string& field, const std::string& what) const {
  mmb::refuse(file_, prefix_ + field, what);
}

void Config::refuse(const std::string& field, const std::string& expected, const json& found) const {
  std::string text = found.dump(-1, ' ', /*ensure_ascii=*/true);
  if (text.size() > 40) text = text.substr(0, 37) + "...";
  refuse(field, "expected " + expected + ", found " + text);
}

const json* Config::find(const std::string& name) const {
  const auto it = object_.find(name);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

const json* Config::find_object(const std::string& name) const {
  const json* value = find(name);
  if (value && !value->is_object()) refuse(name, "an object", *value);
  return value;
}

const json* Config::find_list(const std::string& name, std::optional<int64_t> size) const {
  const json* value = find(name);
  if (!value) return nullptr;
  if (!value->is_array()) refuse(name, "a list", *value);
  if (size && static_cast<int64_t>(value->size()) != *size)
    refuse(name, "expected " + std::to_string(*size) + " entries, found " + std::to_string(value->size()));
  return value;
}

const char* Config::spelling(const Names& names) const {
  const char* present = nullptr;
  for (const char* name : names) {
    if (!find(name)) continue;
    if (!present) present = name;
    if (*find(name) != *find(present)) refuse(name, std::string("the same as ") + present, *find(name));
  }
  return present;
}

int64_t Config::integer(const json& value, const std::string& name, int64_t min, int64_t max) const {
  // No min is negative, and an unsigned beyond int64_t reads as negative.
  if (!value.is_number_integer() || value.get<int64_t>() < min || value.get<int64_t>() > max)
    refuse(name, "an integer from " + std::to_string(min) + " to " + std::to_string(max), value);
  return value.get<int64_t>();
}

int64_t Config::integer(const Names& names, int64_t min, int64_t max, int64_t otherwise) const {
  const char* name = spelling(names);
  return name ? integer(*find(name), name, min, max) : otherwise;
}

double Config::number(const Names& names, double min, double max, std::optional<double> otherwise) const {
  const char* name = spelling(names);
  const std::string expected = "a number from " + json(min).dump() + " to " + json(max).dump();
  if (!name && !otherwise) refuse(names.front(), "expected " + expected + ", but the field is missing");
  if (!name) return *otherwise;
  const json& value = *find(name);
  if (!value.is_number() || value.get<double>() < min || value.get<double>() > max) refuse(name, expected, value);
  return value.get<double>();
}

bool Config::boolean(const Names& names, bool otherwise) const {
  const char* name = spelling(names);
  if (!name) return otherwise;
  if (!find(name)->is_boolean()) refuse(name, "true or false", *find(name));
  return find(name)->get<bool>();
}

std::string Config::word(const Names& names, std::initializer_list<std::string_view> allowed,
                         std::optional<std::string> otherwise) const {
  std::string expected = allowed.size() == 0 ? "a string" : "";
  for (std::string_view word : allowed) expected += (expected.empty() ? "" : " or ") + std::string(word);
  const char* name = spelling(names);
  if (!name && !otherwise) refuse(names.front(), "expected " + expected + ", but the field is missing");
  if (!name) return *otherwise;
  const json& value = *find(name);
  const bool known = value.is_string() && (allowed.size() == 0 || std::count(allowed.begin(), allowed.end(),
                                                                             value.get_ref<const std::string&>()) > 0);
  if (!known) refuse(name, expected, value);
  return value.get<std::string>();
}

}  // namespace mmb
