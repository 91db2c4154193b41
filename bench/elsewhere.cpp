#include "elsewhere.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "mmb/decode_step.h"
#include "mmb/machine.h"
#include "mmb/prefill_step.h"
#include "words.h"

namespace mmb {
namespace {

// Those that come with the program, for names without a path.
std::filesystem::path folder() {
  return std::filesystem::path(models_folder()).parent_path() / "machines";
}

Bound bound(const std::vector<Component>& parts, double tokens, const OtherMachine& other) {
  Machine machine;
  machine.flops_per_second = machine.bf16_flops_per_second = machine.rounded_flops_per_second =
      machine.int8_flops_per_second = other.flops_per_second;
  machine.bytes_per_second = other.bytes_per_second;
  const double seconds = ideal_seconds(parts, machine);
  return {seconds, tokens / seconds, other.usd_per_hour / 3600 * seconds / tokens * 1e6};
}

}  // namespace

OtherMachine load_machine(const std::string& spec, double usd_per_hour) {
  const bool path = spec.find('/') != std::string::npos || spec.ends_with(".json");
  const std::string file = path ? spec : (folder() / (spec + ".json")).string();
  std::ifstream in(file);
  if (!in) {
    std::set<std::string> known;
    std::error_code missing;
    for (const auto& entry : std::filesystem::directory_iterator(folder(), missing)) known.insert(entry.path().stem());
    std::string names;
    for (const std::string& name : known) names += (names.empty() ? "" : ", ") + name;
    throw Error("--machine: expected a file or any of " + names + ", got '" + spec + "'");
  }
  const auto json = nlohmann::json::parse(in, nullptr, false);
  if (!json.is_object()) throw Error(file + ": expected a JSON object");
  static const std::set<std::string> kFields = {"name",         "flops_per_second", "bytes_per_second",
                                                "memory_bytes", "usd_per_hour",     "source"};
  for (const auto& [field, value] : json.items())
    if (!kFields.count(field)) throw Error(file + ": " + field + ": not a field of a machine");
  const auto text_of = [&](const char* field) {
    if (!json.contains(field) || !json[field].is_string()) throw Error(file + ": " + field + ": expected a text");
    return json[field].get<std::string>();
  };
  const auto number = [&](const char* field) {
    const bool given = json.contains(field) && json[field].is_number();
    if (!given || !(json[field].get<double>() > 0 && std::isfinite(json[field].get<double>())))
      throw Error(file + ": " + field + ": expected a number above 0");
    return json[field].get<double>();
  };
  OtherMachine machine{text_of("name"),
                       text_of("source"),
                       number("flops_per_second"),
                       number("bytes_per_second"),
                       number("memory_bytes"),
                       json.contains("usd_per_hour") ? number("usd_per_hour") : 0};
  if (usd_per_hour > 0) machine.usd_per_hour = usd_per_hour;
  return machine;
}

Bound decode_bound(const Model& model, const OtherMachine& machine, int64_t batch, int64_t context, DType dtype) {
  const auto shape = DecodeStep::shape(model, model.need(&Model::num_hidden_layers), batch, 1, context);
  return bound(DecodeStep::parts(shape, dtype, ""), static_cast<double>(batch), machine);
}

Bound prefill_bound(const Model& model, const OtherMachine& machine, int64_t context, DType dtype) {
  const auto shape = PrefillStep::shape(model, model.need(&Model::num_hidden_layers), 1, context, 0);
  return bound(PrefillStep::parts(shape, dtype, ""), static_cast<double>(context), machine);
}

std::string bounds_in_words(const Model& model, const OtherMachine& machine, int64_t batch, int64_t context,
                            DType dtype) {
  const Bound decode = decode_bound(model, machine, batch, context, dtype),
              prefill = prefill_bound(model, machine, context, dtype);
  const auto shape = DecodeStep::shape(model, model.need(&Model::num_hidden_layers), batch, 1, context);
  const double resident = DecodeStep::resident_bytes(shape, dtype);
  const auto price = [](const Bound& b) {
    return b.usd_per_million > 0 ? text(", %.3g USD a million", b.usd_per_million) : std::string();
  };
  return model.name + ", " + name(dtype) + " weights, on " + machine.name +
         ": a bound from published peaks, not a measurement.\n" +
         text("  decode, batch %lld on %lld tokens: at most %.4g tokens/s (%.3g ms a step)",
              static_cast<long long>(batch), static_cast<long long>(context), decode.tokens_per_second,
              1e3 * decode.seconds) +
         price(decode) + "\n" +
         text("  a prompt of %lld tokens: at most %.4g tokens/s", static_cast<long long>(context),
              prefill.tokens_per_second) +
         price(prefill) + "\n" +
         text("  weights and caches take %.4g GB of its %.4g GB%s\n", resident * 1e-9, machine.memory_bytes * 1e-9,
              resident > machine.memory_bytes ? ": they do not fit" : "") +
         "  peaks: " + machine.source + "\n";
}

}  // namespace mmb
