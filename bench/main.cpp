// The command line. Exit status: 0 fine, 1 a wrong result, 2 bad input, 128 + signal when interrupted.
#include <sys/prctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <ctime>
#include <iostream>

#include "account.h"
#include "context.h"
#include "elsewhere.h"
#include "reporter.h"
#include "verdict.h"
#include "words.h"

namespace mmb {
namespace {

constexpr int kWrongResult = 1, kBadInput = 2;

// Flags as typed; empty: not given.
struct Flags {
  std::string profile = "quick", models, batches, contexts, new_tokens, dtypes, caches, threads, impls, ops, filter,
              row, memory, skews, overlaps, traces;
  std::string min_time, repetitions, seed = "1", out, alias, usd_per_hour;
};

struct AccountFlags {
  std::string context = "4096", batch = "1", dtype = "bf16", cache_dtype = "bf16", format = "table", machine,
              usd_per_hour;
  bool details = false;
};

void add_selection_flags(CLI::App& command, Flags& flags) {
  command
      .add_option("--profile", flags.profile,
                  "what is timed where no flag says: smoke, quick, full, or model: one whole")
      ->capture_default_str();
  command.add_option("--op", flags.ops, "only these ops: mla_decode,moe_experts");
  command.add_option("--model", flags.models,
                     "names or config.json files: DeepSeek-V3,DeepSeek-V3~gqa8,./my/config.json");
  command.add_option("--batch", flags.batches, "sequences (tokens of an FFN): 1,2,4 or 1..8 or 1..128*2");
  command.add_option("--context", flags.contexts,
                     "tokens in the cache; of a prefill, before its new tokens: 1k..16k*2");
  command.add_option("--new-tokens", flags.new_tokens, "new tokens of each sequence of a prefill: 1..256*4");
  command.add_option("--skew", flags.skews,
                     "routing: expert of rank r with probability as 1/r^skew (Zipf): 0,1 (default: the profile's)");
  command.add_option("--overlap", flags.overlaps,
                     "routing: share of its experts that a token keeps of the last: 0,0.38");
  command.add_option("--trace", flags.traces, "routing: files of the experts chosen, a token a line");
  command.add_option("--dtype", flags.dtypes,
                     "storage of weights and caches: f32, bf16, fp8, int8, int4 (default bf16; model: bf16,int8)");
  command.add_option("--cache-dtype", flags.caches,
                     "storage of cached latents in decoding: bf16 (f32 beside f32 weights), fp8, int8 (default bf16)");
  command.add_option("--threads", flags.threads, "1, all or 1,all (default all, and 1 for the headline rows)");
  command.add_option(
      "--impl", flags.impls,
      "instruction-set levels, reference, or peers: other libraries beside the fastest (default the fastest)");
  command.add_option("--filter", flags.filter, "only the rows in whose name this regular expression is found");
  command.add_option("--row", flags.row, "exactly this row, whatever the profile: a name that list prints");
  command.add_option("--memory", flags.memory,
                     "bytes the run may use: 4G, 512Mi (default 2G; full: up to 8Gi; model: most of it)");
  command.add_option("--seed", flags.seed, "seed of all inputs")->capture_default_str();
}

Selection selection_of(const Flags& flags) {
  Selection selection;
  selection.profile = parse_profile(flags.profile);
  if (!flags.ops.empty()) selection.ops = parse_words("--op", flags.ops);
  if (!flags.models.empty()) selection.models = parse_words("--model", flags.models);
  if (!flags.batches.empty()) selection.batches = parse_counts("--batch", flags.batches, 1, kMostTokens);
  if (!flags.contexts.empty()) selection.contexts = parse_counts("--context", flags.contexts, 0);
  if (!flags.new_tokens.empty()) selection.new_tokens = parse_counts("--new-tokens", flags.new_tokens, 1, kMostTokens);
  if (!flags.skews.empty()) selection.skews = parse_numbers("--skew", flags.skews, kMostSkew);
  if (!flags.overlaps.empty()) selection.overlaps = parse_numbers("--overlap", flags.overlaps, 1);
  if (!flags.traces.empty()) selection.traces = parse_traces(flags.traces);
  if (!flags.dtypes.empty())
    selection.dtypes = parse_dtypes(flags.dtypes);
  else if (selection.profile == Profile::smoke)
    selection.dtypes = {kPlainTypes.begin(), kPlainTypes.end()};
  else if (selection.profile == Profile::model)
    selection.dtypes = {DType::bf16, DType::int8};
  if (!flags.caches.empty()) selection.caches = parse_caches("--cache-dtype", flags.caches);
  if (!flags.threads.empty()) selection.threads = parse_threads(flags.threads);
  if (!flags.impls.empty()) selection.impls = parse_impls(flags.impls);
  if (!flags.filter.empty()) selection.filter = parse_regex("--filter", flags.filter);
  if (!flags.row.empty()) select_row(selection, flags.row);
  if (!flags.memory.empty()) selection.memory = parse_bytes("--memory", flags.memory);
  if (!flags.min_time.empty()) selection.min_time = parse_seconds("--min-time", flags.min_time);
  if (!flags.repetitions.empty())
    selection.repetitions = parse_integer("--repetitions", flags.repetitions, 1, kMostRepetitions);
  selection.seed = static_cast<uint64_t>(parse_integer("--seed", flags.seed, 0, INT64_MAX));
  return selection;
}

void print_skipped(const Suite& suite, std::ostream& out) {
  for (const auto& [row, reason] : suite.skipped()) out << "skipped " << row << ": " << reason << '\n';
}

std::string default_file() {
  const std::time_t now = std::time(nullptr);
  char text[64];
  std::strftime(text, sizeof text, "results/%Y%m%dT%H%M%SZ.json", std::gmtime(&now));
  return text;
}

bool given(const std::vector<std::string>& google_flags, const std::string& flag) {
  return std::any_of(google_flags.begin(), google_flags.end(),
                     [&](const std::string& text) { return text.compare(0, flag.size(), flag) == 0; });
}

// A trace that no row takes would not even be read.
void add_rows(Suite& suite, const Flags& flags) {
  suite.add_rows();
  for (const std::string& file : flags.traces.empty() ? std::vector<std::string>() : parse_traces(flags.traces)) {
    const auto is_taken = [&](const std::string& row) { return key_word(row, "routing") == trace_name(file); };
    if (std::ranges::none_of(suite.rows(), is_taken, [](const Row& row) { return row.name.text(); }) &&
        std::ranges::none_of(suite.skipped(), is_taken, &std::pair<std::string, std::string>::first))
      throw Error("--trace: expected rows of models with experts, but no row takes '" + file + "'");
  }
}

// The machine in two lines.
std::string header(const Context& context, const Machine& machine) {
  std::ostringstream text;
  text << context.at("mmb.cpu_model") << ", " << machine.threads << " threads, " << name(machine.impl)
       << ", last-level cache " << short_number(static_cast<double>(last_level_cache_bytes())) << "B\n"
       << "peaks measured now: " << short_number(machine.flops_per_second) << "FLOP/s in f32, "
       << short_number(machine.bf16_flops_per_second) << "FLOP/s in f32 times bf16, "
       << short_number(machine.bytes_per_second) << "B/s from memory";
  return text.str();
}

// The rows that are not run, and why.
std::string skipped_fact(const Suite& suite) {
  return joined(suite.skipped(), "; ", [](const auto& skipped) { return skipped.first + ": " + skipped.second; });
}

// Every model that the rows name.
std::vector<Model> models(Suite& suite) {
  std::set<std::string> names;
  for (const Row& row : suite.rows()) names.insert(row.name.model);
  names.erase(no_model().name);
  std::vector<Model> all;
  for (const std::string& name : names) all.push_back(suite.model(name));
  return all;
}

// Their dimensions.
std::string models_fact(const std::vector<Model>& models) {
  static constexpr std::pair<const char*, int64_t Model::*> kFields[] = {
      {"hidden_size", &Model::hidden_size},
      {"num_hidden_layers", &Model::num_hidden_layers},
      {"num_attention_heads", &Model::num_attention_heads},
      {"num_key_value_heads", &Model::num_key_value_heads},
      {"head_dim", &Model::head_dim},
      {"v_head_dim", &Model::v_head_dim},
      {"q_lora_rank", &Model::q_lora_rank},
      {"kv_lora_rank", &Model::kv_lora_rank},
      {"qk_nope_head_dim", &Model::qk_nope_head_dim},
      {"qk_rope_head_dim", &Model::qk_rope_head_dim},
      {"intermediate_size", &Model::intermediate_size},
      {"moe_intermediate_size", &Model::moe_intermediate_size},
      {"n_routed_experts", &Model::n_routed_experts},
      {"num_experts_per_tok", &Model::num_experts_per_tok},
      {"shared_expert_intermediate_size", &Model::shared_expert_intermediate_size},
  };
  return joined(models, "; ", [](const Model& model) {
    std::string text = model.name + ":";
    for (const auto& [field, member] : kFields)
      if (model.*member) text += std::string(" ") + field + " " + std::to_string(model.*member);
    return text;
  });
}

// Their accounts, at the defaults of `bench_mla account`; of a config without what an account asks for, none.
std::string accounts_fact(const std::vector<Model>& models) {
  std::vector<Account> accounts;
  for (const Model& model : models) try {
      accounts.push_back(account(model));
    } catch (const Error&) {
    }
  return account_fact(accounts);
}

// With details, the dense bundled models are the rivals.
std::vector<Account> accounts_of(const std::vector<std::string>& specs, const AccountOptions& options, bool details) {
  std::vector<Model> rivals;
  for (const std::string& name : details ? bundled_models() : std::vector<std::string>())
    if (Model model = load_model(name); model.moe_layers() == 0) rivals.push_back(std::move(model));
  std::vector<Account> accounts;
  for (const std::string& spec : specs) {
    const Model model = load_model(spec);
    accounts.push_back(account(model, options));
    if (details) accounts.back().details = account_details(model, rivals);
  }
  return accounts;
}

int run(const Flags& flags, const std::vector<std::string>& command_line,
        const std::vector<std::string>& google_flags) {
  const Price price{flags.usd_per_hour.empty() ? 0 : parse_usd(flags.usd_per_hour)};
  Suite suite(selection_of(flags));
  add_rows(suite, flags);
  const std::filesystem::path file = result_file(flags.out.empty() ? default_file() : flags.out);
  stop_on_signals();
  suite.measure_machines();
  std::vector<Machine> machines;
  for (const auto& [on, machine] : suite.machines()) machines.push_back(machine);
  const Machine& best = suite.machines().at({Threads::all, fastest_impl()});
  Context context = run_context({.profile = flags.profile,
                                 .seed = suite.selection().seed,
                                 .argv = command_line,
                                 .alias = flags.alias,
                                 .impl = suite.level(),
                                 .threads = suite.count(Threads::all)},
                                machines);
  context["mmb.arena_bytes"] = std::to_string(suite.arena_bytes());
  context["mmb.skipped"] = skipped_fact(suite);
  const std::vector<Model> timed = models(suite);
  context["mmb.models"] = models_fact(timed);
  context["mmb.accounts"] = accounts_fact(timed);
  context["mmb.bundled_accounts"] = account_fact(accounts_of(bundled_models(), {}, /*details=*/true));
  Reporter reporter(suite, file, header(context, best));
  reporter.set_context(context);
  suite.register_rows(!given(google_flags, "--benchmark_min_time"), !given(google_flags, "--benchmark_repetitions"));
  benchmark::RunSpecifiedBenchmarks(&reporter);
  std::ostringstream verdict;
  if (!interrupted()) {
    finish_context(context, best, suite.measure_machine(Threads::all, best.impl));
    print_verdict(suite, reporter.results(), price, verdict);
    context["mmb.verdict"] = verdict.str();
    context.merge(dense_equivalents(suite, reporter.results()));
  }
  if (reporter.results().empty()) {
    std::cerr << "bench_mla: interrupted: no row finished, nothing is written to " << file.string() << '\n';
    return 128 + interrupted();
  }
  reporter.set_context(context);
  reporter.write();

  print_skipped(suite, std::cerr);
  std::cerr << reporter.results().size() << " rows in " << file.string() << '\n';
  if (interrupted()) {
    std::cerr << "bench_mla: interrupted: the file holds the rows that finished\n";
    return 128 + interrupted();
  }
  (isatty(STDOUT_FILENO) ? std::cout : std::cerr) << verdict.str();
  if (reporter.wrong() == 0) return 0;
  std::cerr << "bench_mla: " << reporter.wrong() << " of " << reporter.results().size()
            << " rows gave a wrong result\n";
  return kWrongResult;
}

int verify(const Flags& flags) {
  Suite suite(selection_of(flags));
  add_rows(suite, flags);
  stop_on_signals();
  int status = 0;
  for (Row& row : suite.rows()) {
    if (interrupted()) return 128 + interrupted();
    const Verification& verification = suite.verify(row);
    std::cout << (verification.failure.empty() ? "ok    " : "WRONG ") << row.name.text() << "  err "
              << verification.err;
    if (!verification.failure.empty()) {
      std::cout << "  " << verification.failure;
      status = kWrongResult;
    }
    std::cout << std::endl;
  }
  print_skipped(suite, std::cerr);
  return status;
}

int list(const Flags& flags) {
  Suite suite(selection_of(flags));
  add_rows(suite, flags);
  for (const Row& row : suite.rows()) std::cout << row.name.text() << '\n';
  print_skipped(suite, std::cerr);
  return 0;
}

int print_machine() {
  Suite suite({});
  stop_on_signals();
  std::vector<Machine> machines;
  const auto measure = [&](Threads threads, Impl impl) {
    if (!interrupted() && supported(impl)) machines.push_back(suite.measure_machine(threads, impl));
  };
  measure(Threads::one, fastest_impl());
  for (Impl impl : impls()) measure(Threads::all, impl);
  if (interrupted()) return 128 + interrupted();
  RunFacts run;
  run.threads = suite.count(Threads::all);
  for (const auto& [key, value] : run_context(run, machines))
    std::cout << key.substr(4) << std::string(key.size() < 44 ? 44 - key.size() : 1, ' ') << value << '\n';
  return 0;
}

int print_account(const Flags& flags, const AccountFlags& account_flags) {
  AccountOptions options;
  constexpr int64_t kMost = 1 << 26;  // of an account
  options.context = parse_integer("--context", account_flags.context, 1, kMost);
  options.batch = parse_integer("--batch", account_flags.batch, 1, kMost);
  options.dtype = account_flags.dtype;
  options.cache_dtype = account_flags.cache_dtype;
  if (account_flags.format != "table" && account_flags.format != "json")
    throw Error("--format: expected table or json, got '" + account_flags.format + "'");
  if (!account_flags.machine.empty()) {
    const OtherMachine machine = load_machine(
        account_flags.machine, account_flags.usd_per_hour.empty() ? 0 : parse_usd(account_flags.usd_per_hour));
    const std::vector<DType> dtypes = parse_dtypes(account_flags.dtype);
    std::string bounds;
    for (const std::string& spec : flags.models.empty() ? bundled_models() : parse_words("--model", flags.models))
      for (DType dtype : dtypes)
        bounds += bounds_in_words(load_model(spec), machine, options.batch, options.context, dtype);
    std::cout << bounds;
    return 0;
  }
  const std::vector<Account> accounts = accounts_of(
      flags.models.empty() ? bundled_models() : parse_words("--model", flags.models), options, account_flags.details);
  std::cout << (account_flags.format == "json" ? account_json(accounts) : account_table(accounts));
  return 0;
}

// Flags for Google Benchmark itself; the rest have an equal here, or would turn our file into another.
std::vector<std::string> take_google_flags(std::vector<std::string>& arguments) {
  static const char* const kPassed[] = {"min_time", "min_warmup_time", "repetitions", "enable_random_interleaving",
                                        "perf_counters"};
  std::vector<std::string> taken, left;
  for (const std::string& argument : arguments) {
    const std::string prefix = "--benchmark_";
    if (argument.compare(0, prefix.size(), prefix) != 0) {
      left.push_back(argument);
      continue;
    }
    const std::string flag = argument.substr(prefix.size(), argument.find('=') - prefix.size());
    if (std::find(std::begin(kPassed), std::end(kPassed), flag) == std::end(kPassed) ||
        argument.find('=') == std::string::npos)
      throw Error(argument + ": expected --benchmark_FLAG=VALUE, FLAG any of " + joined(kPassed, ", ") +
                  "; rows are chosen by --filter");
    const std::string value = argument.substr(argument.find('=') + 1);
    if (flag.ends_with("time")) parse_seconds(prefix + flag, value);
    if (flag == "repetitions") parse_integer(prefix + flag, value, 1, kMostRepetitions);
    taken.push_back(argument);
  }
  arguments = left;
  return taken;
}

void initialize_google(const std::vector<std::string>& flags) {
  // All of these may stand in the environment, as BENCHMARK_FILTER, and would have other rows, files or no rows at all.
  std::vector<std::string> all = {"--benchmark_filter=all",
                                  "--benchmark_list_tests=false",
                                  "--benchmark_format=console",
                                  "--benchmark_out_format=json",
                                  "--benchmark_out=",
                                  "--benchmark_report_aggregates_only=false",
                                  "--benchmark_display_aggregates_only=false",
                                  "--benchmark_enable_random_interleaving=false"};
  all.insert(all.end(), flags.begin(), flags.end());
  std::vector<char*> argv = {const_cast<char*>("bench_mla")};
  for (const std::string& flag : all) argv.push_back(const_cast<char*>(flag.c_str()));
  int argc = static_cast<int>(argv.size());
  benchmark::Initialize(&argc, argv.data());
  if (argc > 1) throw Error(std::string(argv[1]) + ": expected a value that Google Benchmark takes");
}

// OpenMP and OpenBLAS read their environment before main, so the program starts itself again where something is missing.
void set_environment(char** argv) {
  const std::vector<const char*> binding = {"OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY"};
  // Unbound, two threads may share a core for whole rows; not where the user has said anything about binding, be it
  // OMP_PROC_BIND=false.
  const bool bind = std::ranges::none_of(binding, [](const char* variable) { return std::getenv(variable); });
  // OpenBLAS takes a CPU whose model it does not know for the oldest.
  const char* core = supported(Impl::avx512) ? "SkylakeX" : supported(Impl::avx2) ? "Haswell" : nullptr;
  const bool name_core = core && !std::getenv("OPENBLAS_CORETYPE");
  if (bind) {
    setenv("OMP_PROC_BIND", "close", 1);
    setenv("OMP_PLACES", "cores", 1);
  }
  if (name_core) setenv("OPENBLAS_CORETYPE", core, 1);
  if (bind || name_core) {
    unbind_thread();                // or the program would find a single CPU
    execv("/proc/self/exe", argv);  // returns where that is not possible: unbound, which a warning says
  }
  prctl(PR_SET_NAME, "bench_mla");  // not exe, as started from there, to those who look for it in top or by pkill
}

// Where a word is expected, there is one: a variable of a shell may have been unset.
void refuse_empty(const std::vector<std::string>& arguments) {
  std::string flag = "command line";
  for (const std::string& argument : arguments) {
    const size_t equals = argument.find('=');
    if (argument.empty()) throw Error(flag + ": expected a value, got ''");
    flag = argument.substr(0, equals);
    if (flag.starts_with("--") && equals == argument.size() - 1) throw Error(flag + ": expected a value, got ''");
  }
}

int main(std::vector<std::string> arguments) {
  refuse_empty(arguments);
  std::vector<std::string> command_line = arguments;
  command_line.insert(command_line.begin(), "bench_mla");
  const std::vector<std::string> google_flags = take_google_flags(arguments);
  initialize_google(google_flags);
  // Without a command: the quick profile, then what it says.
  const bool asks =
      !arguments.empty() && (arguments[0] == "-h" || arguments[0] == "--help" || arguments[0] == "--version");
  if (arguments.empty() || (arguments[0][0] == '-' && !asks)) arguments.insert(arguments.begin(), "run");

  Flags flags;
  AccountFlags account_flags;
  CLI::App app(
      "Times dense attention, multi-head latent attention and mixture-of-experts layers of real models on this "
      "machine.\n"
      "Without a command: run, the quick profile.",
      "bench_mla");
  app.set_version_flag("--version", "bench_mla " MMB_VERSION);
  app.require_subcommand(1);
  app.footer("A command's own flags: bench_mla run --help");
  CLI::App* run_command = app.add_subcommand("run", "verify and time rows; write them to a file");
  CLI::App* account_command =
      app.add_subcommand("account", "parameters, KV bytes and FLOPs of models: exact, no timing");
  CLI::App* machine_command = app.add_subcommand("machine", "the measured peaks of this machine, and its topology");
  CLI::App* verify_command = app.add_subcommand("verify", "check every selected kernel against its reference");
  CLI::App* list_command = app.add_subcommand("list", "the rows that run would time, and what is skipped and why");
  for (CLI::App* command : {run_command, verify_command, list_command}) add_selection_flags(*command, flags);
  run_command->add_option("--out", flags.out, "the result file (default results/<time>.json)");
  run_command->add_option("--alias", flags.alias, "what the file calls this machine (default: nothing)");
  run_command->add_option("--usd-per-hour", flags.usd_per_hour,
                          "what this machine costs: whole models' rows then say what a million tokens do");
  run_command->add_option("--repetitions", flags.repetitions,
                          "times that each row is measured (default 1; model: 3 but of prompts)");
  run_command->add_option("--min-time", flags.min_time,
                          "seconds that a measurement lasts at least (default: the profile's)");
  run_command->footer("Flags of Google Benchmark are passed on: --benchmark_enable_random_interleaving=true");
  account_command->add_option("--model", flags.models, "names or config.json files (default: all bundled models)");
  account_command->add_option("--context", account_flags.context, "tokens in the cache")->capture_default_str();
  account_command->add_option("--batch", account_flags.batch, "sequences of a decode step")->capture_default_str();
  account_command
      ->add_option(
          "--dtype", account_flags.dtype,
          "of the weights: f32, bf16, f16, fp8, int8, or native: as published; with --machine any of f32, bf16, "
          "fp8, int8, int4")
      ->capture_default_str();
  CLI::Option* cache = account_command
                           ->add_option("--cache-dtype", account_flags.cache_dtype,
                                        "of the KV cache: f32, bf16, f16, fp8, int8, or fp8_flashmla: fp8 latents with "
                                        "scales and keys in bf16, which --cache-dtype fp8 of run is")
                           ->capture_default_str();
  CLI::Option* format =
      account_command->add_option("--format", account_flags.format, "table or json")->capture_default_str();
  CLI::Option* details = account_command->add_flag(
      "--details", account_flags.details,
      "more figures: by batch, by bits, by part; where models are equal; each names what it is at");
  CLI::Option* machine =
      account_command
          ->add_option("--machine", account_flags.machine,
                       "tokens/s that another machine's peaks allow, instead: H800x8, or a file like those in "
                       "bench/machines")
          ->excludes(cache, format, details);
  account_command->add_option("--usd-per-hour", account_flags.usd_per_hour, "what that machine costs")->needs(machine);

  const auto commands = app.get_subcommands(nullptr);
  const auto called = [](const CLI::App* command) { return command->get_name(); };
  if (!asks && std::ranges::count(commands, arguments[0], called) == 0)
    throw Error("expected any of the commands " + joined(commands, ", ", called) + ", got '" + arguments[0] + "'");
  try {
    std::reverse(arguments.begin(), arguments.end());  // the order that CLI11 takes a vector in
    app.parse(arguments);
  } catch (const CLI::Success& request) {  // --help, --version
    return app.exit(request);
  } catch (const CLI::ParseError& error) {
    throw Error(error.what());
  }
  if (!run_command->parsed() && !google_flags.empty())
    throw Error(google_flags[0] + ": expected with the command run alone");
  if (account_command->parsed()) return print_account(flags, account_flags);
  if (machine_command->parsed()) return print_machine();
  if (verify_command->parsed()) return verify(flags);
  if (list_command->parsed()) return list(flags);
  return run(flags, command_line, google_flags);
}

}  // namespace
}  // namespace mmb

int main(int argc, char** argv) {
  mmb::set_environment(argv);
  try {
    const int status = mmb::main({argv + 1, argv + argc});
    if (!std::cout.flush()) throw mmb::Error("standard output: expected that all of it can be written");
    return status;
  } catch (const std::bad_alloc&) {
    std::cerr << "bench_mla: memory: expected more than this process may have (ulimit -v, or --memory is too much)\n";
  } catch (const std::exception& error) {
    std::cerr << "bench_mla: " << error.what() << '\n';
  }
  return mmb::kBadInput;
}
