#include "account.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "words.h"

namespace mmb {
namespace {

using json = nlohmann::ordered_json;

json number(double value) {
  const bool whole = value == std::floor(value) && std::abs(value) < 0x1p53;
  return whole ? json(static_cast<int64_t>(value)) : json(value);
}

json to_json(const Account& a) {
  json object = {
      {"model", a.model},
      {"total_parameters", a.total_parameters},
      {"active_parameters", a.active_parameters},
      {"kv_elements_per_token", a.kv_elements_per_token},
      {"kv_bytes_per_token", a.kv_bytes_per_token},
      {"kv_bytes_per_token_expanded", a.kv_bytes_per_token_expanded ? json(*a.kv_bytes_per_token_expanded) : json()},
      {"kv_bytes_at_context", a.kv_bytes_at_context},
      {"attention_flops_per_token", a.attention_flops_per_token},
      {"attention_flops_per_token_expanded", a.attention_flops_per_token_expanded},
      {"flops_per_token", a.flops_per_token},
      {"weight_bytes_per_step", a.weight_bytes_per_step},
      {"experts_touched", number(a.experts_touched)},
      {"training_flops_per_token_4k", a.training_flops_per_token_4k},
  };
  for (const auto& [name, value] : a.details) object[name] = number(value);
  return object;
}

std::string cell(const json& value) {
  if (value.is_null()) return "-";
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number_float()) {
    char text[32];
    std::snprintf(text, sizeof text, value.get<double>() < 1e6 ? "%.2f" : "%.6g", value.get<double>());
    return text;
  }
  std::string digits = value.dump();
  for (size_t i = digits.size(); i > 3;) digits.insert(i -= 3, ",");
  return digits;
}

}  // namespace

std::string account_json(const std::vector<Account>& accounts) {
  json all = json::array();
  for (const Account& a : accounts) all.push_back(to_json(a));
  return (all.size() == 1 ? all.front() : all).dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

std::string account_table(const std::vector<Account>& accounts) {
  // A detail that does not apply to a model is in the others' columns only.
  std::vector<json> objects;
  std::vector<std::vector<std::string>> columns(1);
  for (const Account& a : accounts) {
    objects.push_back(to_json(a));
    for (const auto& [name, value] : objects.back().items())
      if (std::find(columns[0].begin(), columns[0].end(), name) == columns[0].end()) columns[0].push_back(name);
  }
  for (const json& object : objects) {
    columns.emplace_back();
    for (const std::string& name : columns[0]) columns.back().push_back(cell(object.value(name, json())));
  }
  std::string table;
  for (size_t row = 0; row < columns[0].size(); ++row) {
    for (size_t c = 0; c < columns.size(); ++c) {
      size_t width = 0;
      for (const std::string& text : columns[c]) width = std::max(width, text.size());
      const std::string padding(width - columns[c][row].size(), ' ');
      table += c == 0 ? columns[c][row] + padding : "  " + padding + columns[c][row];
    }
    table += '\n';
  }
  return table;
}

std::string account_fact(const std::vector<Account>& accounts) {
  return joined(accounts, "; ", [](const Account& a) {
    std::string text = a.model + ":";
    const json object = to_json(a);
    for (const auto& [name, value] : object.items())
      if (value.is_number()) text += " " + name + " " + value.dump();
    return text;
  });
}

}  // namespace mmb
