#include "elsewhere.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>

#include "../kernels/config.h"
#include "mmb/accounting.h"
#include "mmb/decode_step.h"
#include "mmb/machine.h"
#include "words.h"

namespace mmb {
namespace {

constexpr size_t kMostBytes = size_t{1} << 20;  // of a file

// Those that come with the program, for names without a path.
std::filesystem::path folder() {
  return std::filesystem::path(models_folder()).parent_path() / "machines";
}

// A step of one sequence, whose experts are those of one token: of more, each would be drawn.
DecodeStep::Shape one_of(const Model& model, int64_t new_tokens, int64_t context) {
  auto step = DecodeStep::shape(model, model.need(&Model::num_hidden_layers), 1, new_tokens, context);
  for (DecoderLayer::Shape& layer : step.layers) layer.moe_layer.experts.tokens = 1;
  return step;
}

// What `batch` of them ask for: of everything that many times as much, but of the weights, which they share, and of the
// experts, which are those that all tokens are expected to touch.
std::vector<Component> parts_of(const DecodeStep::Shape& one, int64_t batch, DType dtype) {
  std::vector<Component> parts = DecodeStep::parts(one, dtype, "");
  const int64_t tokens = batch * DecodeStep::tokens(one);
  for (Component& part : parts) {
    const bool of_experts = part.op == MoeExperts::name;
    for (double Cost::*each : {&Cost::flops, &Cost::bf16_flops, &Cost::rounded_flops, &Cost::digit_flops,
                               &Cost::int8_flops, &Cost::kv_bytes, &Cost::activation_bytes, &Cost::exps})
      part.cost.*each *= static_cast<double>(of_experts ? tokens : batch);
    if (!of_experts) continue;
    const MoeExperts::Shape& s =
        std::ranges::find(one.layers, DecoderLayer::Ffn::moe, &DecoderLayer::Shape::ffn)->moe_layer.experts;
    const double more =
        experts_touched(s.n_routed_experts, s.num_experts_per_tok, tokens) - static_cast<double>(s.num_experts_per_tok);
    part.cost.weight_bytes +=
        static_cast<double>(one.moe_layers) * more * ffn_bytes(s.hidden_size, s.moe_intermediate_size, dtype);
  }
  return parts;
}

Bound bound(const DecodeStep::Shape& one, int64_t batch, DType dtype, const OtherMachine& other) {
  Machine machine;
  machine.flops_per_second = machine.bf16_flops_per_second = machine.rounded_flops_per_second =
      machine.int8_flops_per_second = other.flops_per_second;
  machine.bytes_per_second = other.bytes_per_second;
  const double seconds = ideal_seconds(parts_of(one, batch, dtype), machine),
               tokens = static_cast<double>(batch * DecodeStep::tokens(one));
  return {seconds, tokens / seconds, other.usd_per_hour / 3600 * seconds / tokens * 1e6};
}

}  // namespace

OtherMachine load_machine(const std::string& spec, double usd_per_hour) {
  const bool path = spec.find('/') != std::string::npos || spec.ends_with(".json");
  const std::string file = path ? spec : (folder() / (spec + ".json")).string();
  std::error_code error;
  std::ifstream in;
  if (std::filesystem::is_regular_file(file, error)) in.open(file, std::ios::binary);
  if (!in.is_open()) {
    std::set<std::string> known;
    std::error_code missing;
    for (const auto& entry : std::filesystem::directory_iterator(folder(), missing)) known.insert(entry.path().stem());
    throw Error("--machine: expected a regular file that can be read or any of " + joined(known, ", ") + ", got '" +
                spec + "'");
  }
  std::string content(kMostBytes + 1, '\0');
  in.read(content.data(), static_cast<std::streamsize>(content.size()));
  content.resize(static_cast<size_t>(in.gcount()));
  if (content.size() > kMostBytes)
    throw Error(file + ": expected a file of at most " + std::to_string(kMostBytes) + " bytes");
  const nlohmann::json object = parse_object(content, file);
  const Config config(object, file);
  static const std::set<std::string> kFields = {"name",         "flops_per_second", "bytes_per_second",
                                                "memory_bytes", "usd_per_hour",     "source"};
  for (const auto& [field, value] : object.items())
    if (!kFields.count(field)) config.refuse(field, "expected it absent, as no field of a machine");
  const auto words = [&](const char* field) {
    const std::string word = config.word({field}, {});
    if (word.empty() || std::ranges::any_of(word, [](unsigned char c) { return c < ' ' || c == 127; }))
      config.refuse(field, "expected printable text");
    return word;
  };
  const auto amount = [&](const char* field) { return config.number({field}, 1, 1e24); };
  OtherMachine machine{words("name"),
                       words("source"),
                       amount("flops_per_second"),
                       amount("bytes_per_second"),
                       amount("memory_bytes"),
                       config.number({"usd_per_hour"}, 0, 1e6, 0)};
  if (usd_per_hour > 0) machine.usd_per_hour = usd_per_hour;
  return machine;
}

Bound decode_bound(const Model& model, const OtherMachine& machine, int64_t batch, int64_t context, DType dtype) {
  return bound(one_of(model, 1, context), batch, dtype, machine);
}

Bound prefill_bound(const Model& model, const OtherMachine& machine, int64_t context, DType dtype) {
  auto one = one_of(model, context, context);
  one.last_only = true;
  return bound(one, 1, dtype, machine);
}

std::string bounds_in_words(const Model& model, const OtherMachine& machine, int64_t batch, int64_t context,
                            DType dtype) {
  const Bound decode = decode_bound(model, machine, batch, context, dtype),
              prefill = prefill_bound(model, machine, context, dtype);
  const auto one = one_of(model, 1, context);
  const double resident = DecodeStep::resident_bytes(one, dtype) +
                          static_cast<double>(batch - 1) * sum(DecodeStep::parts(one, dtype, "")).kv_bytes;
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
