// Config: one JSON object of a config file, read field by field. Every value is checked as it is read, and whatever is
// wrong leaves as an Error "file: field: what was expected". null means absent, always.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mmb {

[[noreturn]] void refuse(const std::string& file, const std::string& field, const std::string& what);

// The object that a file holds. A file nested too deep or with a field given twice is refused.
nlohmann::json parse_object(std::string_view text, const std::string& file);

class Config {
 public:
  using json = nlohmann::json;
  using Names = std::vector<const char*>;  // the spellings of one field

  Config(const json& object, std::string file, std::string prefix = "")
      : object_(object), file_(std::move(file)), prefix_(std::move(prefix)) {}

  const json& object() const { return object_; }
  const json* find(const std::string& name) const;
  const json* find_object(const std::string& name) const;
  // A list of `size` entries, or of any number.
  const json* find_list(const std::string& name, std::optional<int64_t> size = {}) const;
  // The spelling under which a field is present, or null; two spellings may not disagree.
  const char* spelling(const Names& names) const;

  int64_t integer(const json& value, const std::string& name, int64_t min, int64_t max) const;
  int64_t integer(const Names& names, int64_t min, int64_t max, int64_t otherwise) const;
  // Without an `otherwise` the field may not be absent.
  double number(const Names& names, double min, double max, std::optional<double> otherwise = {}) const;
  bool boolean(const Names& names, bool otherwise) const;
  // One of `allowed`, or any string where that is empty.
  std::string word(const Names& names, std::initializer_list<std::string_view> allowed,
                   std::optional<std::string> otherwise = {}) const;

  [[noreturn]] void refuse(const std::string& field, const std::string& what) const;
  [[noreturn]] void refuse(const std::string& field, const std::string& expected, const json& found) const;

 private:
  const json& object_;
  std::string file_, prefix_;
};

}  // namespace mmb
