// The bench's own parts: a wrong kernel is caught whatever it does wrong, and flags say what they expected.
#include "bench.h"
#include "elsewhere.h"
#include "mmb/decode_step.h"
#include "mmb/prefill_step.h"
#include "model_verdict.h"
#include "pace.h"
#include "reporter.h"
#include "verdict.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <limits>

namespace mmb {
namespace {

// y = 2x, by one kernel that is right and many that are not. A unit is a row.
struct Double {
  static constexpr const char* name = "double";
  struct Shape {
    int64_t rows, cols;
  };
  struct Args {
    const float* x;
    float* y;
  };
  static std::string key(const Shape& shape) { return "rows:" + std::to_string(shape.rows); }
  static Cost cost(const Shape&, DType, std::string_view) { return {}; }
  static int64_t units(const Shape& shape) { return shape.rows; }
  static std::span<const Kernel<Double>> kernels() { return {}; }

  class Problem {
   public:
    explicit Problem(const Shape& shape)
        : cols_(shape.cols), x_(shape.rows * shape.cols), y_(x_.size()), expected_(x_.size()) {
      fill_normal(x_, 7);
      args_ = {x_.data(), y_.data()};
      expected_args_ = {x_.data(), expected_.data()};
    }
    const Args& args() const { return args_; }
    const Args& expected() const { return expected_args_; }
    std::vector<Output> outputs(const Args& args, int64_t unit) const {
      const float* y = args.y + unit * cols_;
      return {{"y", {y, y + cols_}, 1e-6}};
    }
    void next() {}
    bool intact() const { return y_.intact(); }

   private:
    int64_t cols_;
    Buffer<float> x_, y_, expected_;
    Args args_, expected_args_;
  };
};
static_assert(Operator<Double>);

void right(const Double::Shape& shape, const Double::Args& args) {
  for (int64_t i = 0; i < shape.rows * shape.cols; ++i) args.y[i] = 2 * args.x[i];
}

void reference_double(const Double::Shape& shape, const Double::Args& args, Range rows) {
  for (int64_t i = rows.begin * shape.cols; i < rows.end * shape.cols; ++i) args.y[i] = 2 * args.x[i];
}

// A reference so slow that only a sample can be checked.
void slow_reference(const Double::Shape& shape, const Double::Args& args, Range rows) {
  const auto start = std::chrono::steady_clock::now();
  while (detail::seconds_since(start) < 1e-4 * static_cast<double>(rows.end - rows.begin)) {
  }
  reference_double(shape, args, rows);
}

constexpr Double::Shape kShape = {50, 8};

template <auto Reference = reference_double>
Verification verify_double(void (*kernel)(const Double::Shape&, const Double::Args&), Double::Shape shape = kShape,
                           double budget = 10) {
  Double::Problem problem(shape);
  kernel(shape, problem.args());
  return verify<Double, Reference>(shape, problem, 1, budget);
}

TEST(Verify, ARightKernelPasses) {
  const Verification verification = verify_double(right);
  EXPECT_EQ(verification.failure, "");
  EXPECT_EQ(verification.err, 0);
}

TEST(Verify, WrongKernelsFail) {
  using Shape = Double::Shape;
  using Args = Double::Args;
  const auto fails = [](void (*kernel)(const Shape&, const Args&)) { return !verify_double(kernel).failure.empty(); };
  EXPECT_TRUE(
      fails([](const Shape& s, const Args& a) { right(s, a), a.y[17] = std::numeric_limits<float>::quiet_NaN(); }));
  EXPECT_TRUE(
      fails([](const Shape& s, const Args& a) { right(s, a), a.y[17] = std::numeric_limits<float>::infinity(); }));
  EXPECT_TRUE(fails([](const Shape& s, const Args& a) { right(s, a), a.y[17] *= 1.001f; })) << "one element";
  EXPECT_TRUE(fails([](const Shape& s, const Args& a) { right({s.rows - 1, s.cols}, a); })) << "dropped tail";
  EXPECT_TRUE(fails([](const Shape&, const Args&) {})) << "zeros";
  EXPECT_TRUE(fails([](const Shape& s, const Args& a) {
    right(s, a);
    for (int64_t i = 0; i < s.rows * s.cols; ++i) a.y[i] = -a.y[i];
  })) << "sign";
  EXPECT_TRUE(fails([](const Shape& s, const Args& a) {
    right(s, a);
    for (int64_t i = 0; i < s.cols; ++i) std::swap(a.y[i], a.y[s.cols + i]);
  })) << "swapped rows";
  EXPECT_TRUE(fails([](const Shape& s, const Args& a) { right(s, a), a.y[s.rows * s.cols] = 1; })) << "past the end";
}

TEST(Verify, SamplesOfALargeOutputHoldItsEndsAndItsMiddle) {
  using Shape = Double::Shape;
  using Args = Double::Args;
  const Shape large = {10000, 8};  // a second in full, 50 ms in samples
  const auto fails = [&](void (*kernel)(const Shape&, const Args&)) {
    return !verify_double<slow_reference>(kernel, large, 0.05).failure.empty();
  };
  EXPECT_FALSE(fails(right));
  EXPECT_TRUE(fails([](const Shape& s, const Args& a) { right(s, a), a.y[0] = 9; }));
  EXPECT_TRUE(fails([](const Shape& s, const Args& a) { right(s, a), a.y[s.rows * s.cols - 1] = 9; }));
  EXPECT_TRUE(fails([](const Shape& s, const Args& a) {
    right(s, a);
    for (int64_t i = s.rows / 3 * s.cols; i < s.rows / 2 * s.cols; ++i) a.y[i] = 0;
  }));
}

TEST(Flags, Counts) {
  const auto counts = [](const std::string& text) { return parse_counts("--context", text, 0); };
  EXPECT_EQ(counts("1,2,4"), (std::vector<int64_t>{1, 2, 4}));
  EXPECT_EQ(counts("3..6"), (std::vector<int64_t>{3, 4, 5, 6}));
  EXPECT_EQ(counts("1k..16k*2"), (std::vector<int64_t>{1024, 2048, 4096, 8192, 16384}));
  EXPECT_EQ(counts("0,1..100*10,10"), (std::vector<int64_t>{0, 1, 10, 100}));
  for (const char* bad : {"", ",", "1,", "-1", "1.5", "1..", "..2", "4..1", "1..8*1", "1..8*", "0..8*2", "1 2", "k",
                          "1x", "99999999999999999999", "2000000k", "1..1m", "1..100000", "4..8*4611686018427387904"}) {
    try {
      counts(bad);
      ADD_FAILURE() << "accepted '" << bad << "'";
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()).rfind("--context: expected ", 0), 0u) << error.what();
    }
  }
  EXPECT_THROW(parse_counts("--batch", "0", 1), Error);
}

TEST(Flags, Numbers) {
  EXPECT_EQ(parse_numbers("--skew", "0,1,1.25,1e-2,1", 10), (std::vector<double>{0, 1, 1.25, 0.01}));
  for (const char* bad : {"", ",", "1,", "-1", "10.5", "x", "1x", " 1", "nan", "inf", "+1", "1..2", "1e999"}) {
    try {
      parse_numbers("--skew", bad, 10);
      ADD_FAILURE() << "accepted '" << bad << "'";
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()).rfind("--skew: expected numbers from 0 to 10, got '", 0), 0u) << error.what();
    }
  }
}

TEST(Flags, TracesHaveNamesThatRowsCanCarry) {
  EXPECT_EQ(parse_traces("a/wiki-en.2.txt,code_1+x"), (std::vector<std::string>{"a/wiki-en.2.txt", "code_1+x"}));
  for (const char* bad :
       {"", "a,", "uniform.txt", "b/zipf1", "zipf1.5.txt", "two words.txt", "x:y.txt", "a/", "a/x.txt,b/x.csv", "x\n"})
    EXPECT_THROW(parse_traces(bad), Error) << bad;
}

TEST(Flags, Bytes) {
  const auto bytes = [](const std::string& text) { return parse_bytes("--memory", text); };
  EXPECT_EQ(bytes("123"), 123);
  EXPECT_EQ(bytes("4G"), 4000000000);
  EXPECT_EQ(bytes("1.5GB"), 1500000000);
  EXPECT_EQ(bytes("512Mi"), 512 << 20);
  EXPECT_EQ(bytes("2GiB"), int64_t{2} << 30);
  for (const char* bad : {"", "G", "-1", "0", "4X", "4iG", "4G4", "4 G", "nan", "inf", "1e300", "4Gix", "i", "4i"})
    EXPECT_THROW(bytes(bad), Error) << bad;
}

TEST(Flags, ARowsSkewHasTheBoundsOfSkew) {
  const auto select = [](const std::string& routing) {
    Selection selection;
    select_row(selection, "moe_experts/grouped/bf16/reference/M/tokens:1/routing:" + routing + "/threads:all");
    return selection.skews;
  };
  EXPECT_EQ(select("zipf10"), std::vector<double>{10});
  for (const char* bad : {"zipfnan", "zipf-1", "zipf10.5", "zipfinf"}) EXPECT_THROW(select(bad), Error) << bad;
}

TEST(Flags, PeersAreTheFastestLevelAndTheLibraries) {
  const auto group = parse_impls("peers");
  ASSERT_EQ(group.size(), 1 + peers().size());
  EXPECT_EQ(group[0], fastest_impl());
  EXPECT_TRUE(std::equal(peers().begin(), peers().end(), group.begin() + 1));
  EXPECT_THROW(parse_impls("peer"), Error);
}

TEST(Flags, WordsThatAreNotKnownAreRefused) {
  EXPECT_THROW(parse_profile("fast"), Error);
  EXPECT_THROW(parse_dtypes("f16"), Error);
  EXPECT_THROW(parse_caches("--cache-dtype", "f32"), Error);
  EXPECT_THROW(parse_impls("avx2,"), Error);
  EXPECT_THROW(parse_threads("2"), Error);
  EXPECT_THROW(parse_regex("--filter", "("), Error);
  EXPECT_THROW(parse_seconds("--min-time", "0"), Error);
  EXPECT_THROW(parse_seconds("--min-time", "nan"), Error);
  EXPECT_THROW(parse_integer("--seed", "1x", 0, 9), Error);
}

TEST(Rows, ARowIsFoundByItsNameWhateverTheProfile) {
  for (Profile profile : {Profile::smoke, Profile::quick, Profile::full, Profile::model}) {
    Selection selection;
    selection.profile = profile;
    selection.impls = {levels().front()};
    selection.memory = int64_t{32} << 20;
    if (profile == Profile::model) selection.models = {"tiny-mla-moe"};
    if (profile == Profile::smoke) selection.caches = {DType::bf16, DType::fp8, DType::int8};
    Suite all(selection);
    all.add_rows();
    ASSERT_FALSE(all.rows().empty());
    for (size_t i = 0; i < all.rows().size(); i += 1 + all.rows().size() / 8) {
      const std::string name = all.rows()[i].name.text();
      Selection of_one;
      if (profile == Profile::model) of_one.profile = profile;  // of its memory: how many layers
      of_one.memory = selection.memory;
      select_row(of_one, name);
      Suite one(std::move(of_one));
      ASSERT_NO_THROW(one.add_rows()) << name;
      ASSERT_EQ(one.rows().size(), 1u) << name;
      EXPECT_EQ(one.rows()[0].name.text(), name);
    }
  }
}

TEST(Rows, OfACounterfactualBesideItsModelHaveAModel) {
  Selection selection;
  selection.profile = Profile::full;
  selection.ops = {"dense_ffn"};
  selection.models = {"DeepSeek-V3", "DeepSeek-V3~gqa8"};
  Suite suite(std::move(selection));
  suite.add_rows();
  std::set<std::string> names;
  for (const Row& row : suite.rows()) names.insert(row.name.model);
  EXPECT_TRUE(names.contains("DeepSeek-V3~gqa8~dense_active"));
  for (const std::string& name : names) EXPECT_EQ(suite.model(name).name, name);
}

TEST(Rows, ALayersOpIsFoundBySizesThatNoProfileTimesByThemselves) {
  const auto rows = [](const std::string& op, const std::string& key) {
    const std::string name = op + "/bf16/" + mmb::name(fastest_impl()) + "/DeepSeek-V3~gqa8/" + key + "/threads:all";
    Selection selection;
    select_row(selection, name);
    Suite suite(std::move(selection));
    suite.add_rows();
    EXPECT_EQ(suite.rows()[0].name.text(), name);
    return suite.rows().size();
  };
  EXPECT_EQ(rows("linear/panels", "tokens:3/in_features:7/out_features:9"), 1u);
  EXPECT_EQ(rows("rms_norm/two_pass", "tokens:3/hidden_size:7"), 1u);
  EXPECT_EQ(rows("rope/half", "tokens:3/heads:7/dims:10"), 1u);
  for (const char* bad : {"in_features:0/out_features:7", "in_features:7/out_features:-1", "in_features:7"})
    EXPECT_THROW(rows("linear/panels", std::string("tokens:1/") + bad), Error) << bad;
}

TEST(Rows, LayersOfTheFullProfileHaveTheirOpsBeside) {
  Selection selection;
  selection.profile = Profile::full;
  selection.models = {"DeepSeek-V3", "Qwen3-30B-A3B"};
  selection.batches = {1, 8};
  selection.contexts = {1024};
  selection.dtypes = {DType::bf16, DType::int8};
  selection.caches = {DType::bf16, DType::int8};
  selection.memory = int64_t{8} << 30;
  Suite suite(selection);
  suite.add_rows();
  std::set<std::string> names, composites;
  for (const Row& row : suite.rows()) names.insert(row.name.text());
  for (const auto& [name, reason] : suite.skipped()) names.insert(name);
  for (const Row& row : suite.rows())
    for (const Component& part : row.parts) {
      composites.insert(row.name.op);
      const auto [own, of_base] = part_names(row.name, part);
      EXPECT_TRUE(names.count(own) || names.count(of_base)) << row.name.text() << ": " << own;
    }
  for (const char* op : {"attention_layer", "mla_layer", "moe_layer", "decoder_layer"})
    EXPECT_TRUE(composites.count(op)) << op;

  selection.filter = parse_regex("--filter", "^rope/");
  Suite filtered(selection);
  filtered.add_rows();
  EXPECT_EQ(filtered.rows().size(),
            static_cast<size_t>(std::ranges::count(suite.rows(), "rope", [](const Row& row) { return row.name.op; })));

  for (const Row& row : suite.rows()) {
    if (row.name.model != "DeepSeek-V3~gqa8" && row.name.model != "Qwen3-30B-A3B") continue;
    if (row.name.op != "linear" && row.name.op != "rms_norm" && row.name.op != "rope") continue;
    Selection of_one;
    select_row(of_one, row.name.text());
    Suite one(std::move(of_one));
    ASSERT_NO_THROW(one.add_rows()) << row.name.text();
    ASSERT_EQ(one.rows().size(), 1u) << row.name.text();
    EXPECT_EQ(one.rows()[0].name.text(), row.name.text());
  }
}

TEST(Rows, RoutingsAreEverySkewWithEveryOverlapAndTheTraces) {
  const std::filesystem::path file = std::filesystem::path(testing::TempDir()) / "mmb_bench_test_trace.txt";
  std::ofstream(file) << "0 1 2\n3 4 5\n";
  Selection selection;
  selection.profile = Profile::smoke;
  selection.ops = {"moe_experts", "moe_layer", "decoder_layer"};
  selection.batches = {2};
  selection.new_tokens = {1};
  selection.impls = {levels().front()};
  selection.skews = {0, 1.5};
  selection.overlaps = {0.38, 0};
  selection.traces = {file.string()};
  Suite all(selection);
  all.add_rows();
  std::map<std::string, std::vector<std::string>> routings;
  for (const Row& row : all.rows()) {
    const std::string& key = row.name.key;
    routings[row.name.op + row.name.model].push_back(key.substr(key.find("routing:")));
    EXPECT_LE(row.counters.at("experts_touched"), 6) << key;
    EXPECT_DOUBLE_EQ(row.counters.at("experts_expected"), 12 * (1 - 0.75 * 0.75)) << key;
    EXPECT_DOUBLE_EQ(row.counters.at("expert_load_mean") * row.counters.at("experts_touched"), 6) << key;
    EXPECT_EQ(row.counters.at("expert_load_max"), row.counters.at("expert_overlap") > 0 ? 2 : 1) << key;

    Selection of_one;
    of_one.traces = selection.traces;
    select_row(of_one, row.name.text());
    Suite one(std::move(of_one));
    one.add_rows();
    ASSERT_EQ(one.rows().size(), 1u) << key;
    EXPECT_EQ(one.rows()[0].counters, row.counters) << key;
  }
  EXPECT_EQ(routings.size(), 4u);  // decoder_layer of tiny-mla-moe and of its ~gqa8
  for (const auto& [op, keys] : routings)
    EXPECT_EQ(keys, (std::vector<std::string>{"routing:uniform/overlap:0.38", "routing:uniform",
                                              "routing:zipf1.5/overlap:0.38", "routing:zipf1.5",
                                              "routing:mmb_bench_test_trace"}))
        << op;

  // A trace that is too short ends the run, though other rows are left.
  selection.batches = {1, 3};
  Suite too_long(selection);
  EXPECT_THROW(too_long.add_rows(), TraceError);
  Selection without_trace;
  EXPECT_THROW(select_row(without_trace, all.rows().back().name.text()), Error);
  std::filesystem::remove(file);
}

TEST(Rows, HeavyOnesAreExpectedToTakeLonger) {
  Selection selection;
  selection.profile = Profile::smoke;
  selection.ops = {"linear"};
  selection.models = {"Llama-3.1-8B"};
  selection.dtypes = {DType::bf16};
  selection.batches = {1, 4096};
  selection.memory = int64_t{2} << 30;
  Suite suite(selection);
  suite.add_rows();
  suite.measure_machines();
  for (const Row& row : suite.rows()) {
    const double ideal = ideal_seconds(row.cost, suite.machines().at({row.threads, row.impl}));
    EXPECT_GE(least_seconds(suite, row), ideal) << row.name.text();
    EXPECT_LE(least_seconds(suite, row), ideal + 0.3) << row.name.text();
  }
}

TEST(Results, GoToRegularFilesAlone) {
  namespace fs = std::filesystem;
  const fs::path folder = fs::path(testing::TempDir()) / "mmb_bench_test_out";
  fs::remove_all(folder);
  fs::create_directory(folder);
  EXPECT_EQ(result_file((folder / "new" / "a.json").string()), folder / "new" / "a.json");
  EXPECT_TRUE(fs::is_empty(folder / "new"));
  const fs::path old = folder / "old.json";
  std::ofstream(old) << "old";
  fs::create_symlink("old.json", folder / "link.json");
  fs::create_symlink(folder / "link.json", folder / "links.json");
  EXPECT_EQ(result_file((folder / "links.json").string()), old);
  EXPECT_EQ(fs::file_size(old), 3u);
  fs::create_symlink("later.json", folder / "dangling.json");
  EXPECT_EQ(result_file((folder / "dangling.json").string()), folder / "later.json");
  fs::create_symlink("loop.json", folder / "loop.json");
  fs::create_symlink("/dev/null", folder / "null.json");
  fs::create_directory(folder / ("taken.json." + std::to_string(getpid()) + ".partial"));
  for (const fs::path& bad : {fs::path("/dev/null"), folder, folder / "none/", old / "a.json", folder / "loop.json",
                              folder / "null.json", folder / "taken.json"})
    EXPECT_THROW(result_file(bad.string()), Error) << bad;
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
  fs::remove_all(folder);
}

TEST(Rows, ACounterfactualNamedBesideItsModelIsOneRow) {
  Selection selection;
  selection.ops = {"attention_decode"};
  selection.batches = {1};
  selection.contexts = {64};
  const auto rows = [&](const std::vector<std::string>& models) {
    selection.models = models;
    Suite suite(selection);
    suite.add_rows();
    return suite.rows().size();
  };
  EXPECT_EQ(rows({"DeepSeek-V2-Lite", "DeepSeek-V2-Lite~mha"}), rows({"DeepSeek-V2-Lite"}));
}

TEST(Rows, ConclusionsAreAboutTheLevelThatARunHasByItself) {
  const auto level = [](std::vector<std::string> ops, std::vector<Impl> impls, Profile profile) {
    Selection selection;
    selection.profile = profile;
    selection.ops = std::move(ops);
    selection.impls = std::move(impls);
    selection.memory = int64_t{1} << 30;
    Suite suite(selection);
    suite.add_rows();
    return suite.level();
  };
  EXPECT_EQ(level({"fma_peak", "rms_norm"}, {}, Profile::full), fastest_impl());  // the ruler has rows of every level
  EXPECT_EQ(level({"fma_peak"}, {}, Profile::full), fastest_impl());
  EXPECT_EQ(level({"rms_norm"}, {Impl::reference, fastest_impl()}, Profile::smoke), fastest_impl());
  EXPECT_EQ(level({"rms_norm"}, {Impl::reference}, Profile::smoke), Impl::reference);
}

TEST(Rows, AModelOfWhichNoLayerFitsIsSkipped) {
  Selection selection;
  selection.profile = Profile::model;
  selection.ops = {"decode_step"};
  selection.models = {"DeepSeek-V3", "tiny-mla-moe"};
  selection.batches = {1};
  selection.contexts = {33};
  selection.memory = int64_t{1} << 30;
  Suite suite(selection);
  suite.add_rows();
  for (const Row& row : suite.rows()) EXPECT_EQ(row.name.model.find("DeepSeek"), std::string::npos) << row.name.text();
  EXPECT_FALSE(suite.rows().empty());
  ASSERT_FALSE(suite.skipped().empty());
  const auto& [row, reason] = suite.skipped().front();
  EXPECT_EQ(row.find("decode_step/.../DeepSeek-V3/batch:1/"), 0u) << row;
  EXPECT_NE(reason.find("memory: a single layer"), std::string::npos) << reason;
}

TEST(Rows, NamesHaveEveryPart) {
  Selection selection;
  selection.profile = Profile::smoke;
  Suite suite(selection);
  suite.add_rows();
  for (const Row& row : suite.rows()) {
    const RowName& name = row.name;
    for (const std::string& part : {name.op, name.algo, name.dtype, name.impl, name.model}) {
      EXPECT_FALSE(part.empty()) << name.text();
      EXPECT_EQ(part.find('/'), std::string::npos) << name.text();
    }
    EXPECT_TRUE(std::regex_match(name.key, std::regex("([a-z_]+:[^/:]+)(/[a-z_]+:[^/:]+)*"))) << name.text();
  }
}

// Its key is the same for any number of heads. That of a matrix says all of it, and the model's stands for its rival's.
TEST(WholeModel, ARivalsAttentionIsARowOfItsOwn) {
  Selection selection;
  selection.profile = Profile::model;
  selection.models = {"Llama-3.1-8B", "Llama-3.1-8B~mha"};
  selection.dtypes = {DType::int4};
  selection.batches = {1};
  selection.contexts = {33};
  selection.new_tokens = {1};
  selection.memory = int64_t{4} << 30;
  Suite suite(selection);
  suite.add_rows();
  std::multiset<std::string> rows;
  for (const Row& row : suite.rows()) rows.insert(row.name.model + ' ' + row.name.op + ' ' + row.name.key);
  for (const char* model : {"Llama-3.1-8B", "Llama-3.1-8B~mha"})
    EXPECT_EQ(rows.count(std::string(model) + " attention_decode batch:1/q:1/ctx:33"), 1u) << model;
  const std::string output = " linear tokens:1/in_features:4096/out_features:4096";
  EXPECT_EQ(rows.count("Llama-3.1-8B" + output), 1u);
  EXPECT_EQ(rows.count("Llama-3.1-8B~mha" + output), 0u);
}

TEST(WholeModel, PartsAddUpAtTheirOwnRoofs) {
  const auto row = [](const char* op, const char* model, double seconds, double roof) {
    Result result;
    result.name = {op, "some", "bf16", "avx2", model, "n:1", "all"};
    result.seconds = seconds;
    result.counters = {{"roof", roof}};
    return result;
  };
  // Ideal: 12 s of 20. The peaks that the parts' times are from are half of those, of another repetition.
  Result whole = row("whole", "M~mha", 20, 0.6);
  whole.parts = {{"a", "some", DType::bf16, "n:1", {}}, {"b", "some", DType::bf16, "n:1", {}}};
  whole.ideal_of_parts = {8, 16};
  // However long their rows took. The model's own row stands for its rival's.
  std::vector<Result> results{row("a", "M~mha", 77, 0.5), row("a", "M", 88, 0.25), row("b", "M", 99, 0.8)};
  EXPECT_DOUBLE_EQ(seconds_of_parts(whole, rows_by_name(results)).value(), 4 / 0.5 + 8 / 0.8);
  Result wrong = whole;  // such a row has neither a roof nor what is ideal
  wrong.error = "wrong";
  wrong.counters.clear();
  wrong.ideal_of_parts.clear();
  EXPECT_FALSE(seconds_of_parts(wrong, rows_by_name(results)));
  results[0].error = "wrong";
  EXPECT_DOUBLE_EQ(seconds_of_parts(whole, rows_by_name(results)).value(), 4 / 0.25 + 8 / 0.8);
  results[2].error = "wrong";
  EXPECT_FALSE(seconds_of_parts(whole, rows_by_name(results)));
  whole.parts.clear();
  EXPECT_FALSE(seconds_of_parts(whole, rows_by_name(results)));
}

// Peaks of what bounds a row, beside those of its kind: other instructions, another level and one thread have peaks of their
// own.
TEST(Pace, IsARowsPeakOverTheMiddleOfItsKind) {
  const auto row = [](const char* key, double bound, double gbs, double gflops, const char* label = "fma_f32") {
    Result result;
    result.name = {"some", "algo", "bf16", "avx2", "M", key, "all"};
    result.counters = {{"bound", bound}, {"peak_gbs", gbs}, {"peak_gflops", gflops}, {"roof", 1.05}, {"cold", 1}};
    result.label = label;
    return result;
  };
  std::vector<Result> rows{row("a:1", 1, 20, 1),
                           row("b:1", 1, 24, 2),
                           row("c:1", 1, 10, 3),
                           row("d:1", 0, 1, 300),
                           row("e:1", 0, 2, 330, "fma_f32; of a library"),
                           row("f:1", 0, 3, 150),
                           row("g:1", 0, 4, 900, "dot_int8")};
  Result single = row("h:1", 1, 8, 1);
  single.name.threads = "1";
  rows.push_back(single);
  const Pace pace(rows);
  const double expected[] = {1, 1.2, 0.5, 1, 1.1, 0.5, 1, 1};
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_DOUBLE_EQ(pace.beside(rows[i]), expected[i]) << rows[i].name.text();
    EXPECT_EQ(pace.usual(rows[i]), expected[i] != 0.5) << rows[i].name.text();
  }
  rows[1].counters["roof"] = 1.2;  // faster than the peak beside it
  EXPECT_FALSE(pace.usual(rows[1]));
  rows[1].counters["cold"] = 0;  // and read nothing from memory
  EXPECT_TRUE(pace.usual(rows[1]));
  rows[1].counters["roof"] = 1;
  std::ostringstream said, nothing;
  print_pace(rows, said);
  EXPECT_EQ(said.str().find("Pace: beside 2 of 8 rows"), 0);
  EXPECT_NE(said.str().find("  0.50, roof 1.05  some/algo/bf16/avx2/M/c:1/threads:all\n"), std::string::npos)
      << said.str();
  // Slower or faster, those farthest off come first.
  const std::vector<Result> uneven{row("a:1", 1, 20, 1), row("b:1", 1, 20, 1), row("c:1", 1, 15, 1),
                                   row("d:1", 1, 60, 1), row("e:1", 1, 20, 1)};
  std::ostringstream order;
  print_pace(uneven, order);
  EXPECT_LT(order.str().find("  3.00, "), order.str().find("  0.75, ")) << order.str();
  Result wrong = row("i:1", 1, 1, 1);  // has no peaks
  wrong.error = "wrong";
  wrong.counters.clear();
  rows = {rows[0], rows[1], wrong};
  EXPECT_DOUBLE_EQ(Pace(rows).beside(wrong), 1);
  print_pace(rows, nothing);
  EXPECT_EQ(nothing.str(), "");
}

// Whatever sentence it is, and the curve of the file.
TEST(Verdict, RowsAtAnotherPaceAreComparedWithNone) {
  Selection selection;
  selection.profile = Profile::smoke;
  selection.ops = {"moe_experts"};
  selection.memory = int64_t{32} << 20;
  Suite suite(selection);
  suite.add_rows();
  const auto said = [&](double pace) {
    const auto row = [&](const char* op, const char* algo, const std::string& model, const char* key, double gbs) {
      Result result;
      result.name = {op, algo, "bf16", name(suite.level()), model, key, "all"};
      result.seconds = 0.01;
      result.counters = {{"bound", 1},       {"roof", 0.9}, {"cold", 1},   {"peak_gbs", gbs},
                         {"peak_gflops", 1}, {"gbs", gbs},  {"gflops", 1}, {"experts_touched", 5}};
      return result;
    };
    const std::string model = "tiny-mla-moe";
    const std::vector<Result> rows{row("fma_peak", "fma_f32", "none", "elements:1/steps:1", 20),
                                   row("stream_read", "streams", "none", "working_set:1/passes:1", 20),
                                   row("mla_prefill", "absorbed", model, "batch:1/q:17/past:33", 20),
                                   row("mla_prefill", "expanded", model, "batch:1/q:17/past:33", 20 * pace),
                                   row("moe_experts", "grouped", model, "tokens:5/routing:uniform", 20),
                                   row("moe_experts", "grouped", model, "tokens:5/routing:zipf1", 20 * pace),
                                   row("dense_ffn", "panels", model + "~dense_active", "tokens:5/x:1", 20 * pace)};
    std::ostringstream out;
    print_verdict(suite, rows, {}, out);
    return out.str() + dense_equivalents(suite, rows).at("mmb.dense_equivalent_parameters_measured");
  };
  for (const char* words : {"On 33 cached", "routing:zipf1: 5 experts, 1.0x faster (ideal 1.0x) than uniform.\n",
                            "than dense of equal active", "tiny-mla-moe: 5 "}) {
    EXPECT_NE(said(1).find(words), std::string::npos) << said(1);
    EXPECT_EQ(said(0.5).find(words), std::string::npos) << said(0.5);
  }
}

TEST(WholeModel, LayersThatWereNotRunCount) {
  Result result;
  result.name.key = "batch:2/q:3/ctx:9/layers:1";
  result.seconds = 5;
  EXPECT_EQ(whole_seconds(result), 5);
  result.counters["model_tokens_per_second"] = 0.5;
  EXPECT_EQ(whole_seconds(result), 12);
}

TEST(WholeModel, DraftsPayFromWhereTheirCostIsMet) {
  EXPECT_DOUBLE_EQ(tokens_per_step(0.5, 1), 1.5);
  EXPECT_DOUBLE_EQ(tokens_per_step(0.5, 3), 1 + 0.5 + 0.25 + 0.125);
  EXPECT_NEAR(break_even_acceptance(1.25, 1), 0.25, 1e-9);
  EXPECT_NEAR(tokens_per_step(break_even_acceptance(2.5, 3), 3), 2.5, 1e-9);
  EXPECT_GT(break_even_acceptance(2.1, 1), 1);  // two tokens at the most
}

TEST(WholeModel, ALineThroughContextsIsFoundAndSummed) {
  const ContextFit fit = fit_context({{0, 10}, {100, 12}, {400, 18}});
  EXPECT_NEAR(fit.a, 10, 1e-12);
  EXPECT_NEAR(fit.c, 0.02, 1e-12);
  // 1000 tokens from 100 on: the mean context is 600.
  EXPECT_NEAR(fit.seconds(100, 1000), 1000 * (10 + 0.02 * 600), 1e-9);
  EXPECT_NEAR(crossover(fit, {14, 0.01}), 400, 1e-9);
  EXPECT_TRUE(std::isinf(crossover(fit, {14, fit.c})));
  EXPECT_EQ(long_thinking({0.1, 1e-6}).find("a = 100 ms, c = 1.0 us; 32K tokens take 3847 s, 1.16x"), 0);
  EXPECT_EQ(long_thinking({0.4, -1e-6}).find("took no longer"), 0);
}

// 1 GB/s and 1 GFLOP/s: a step of DeepSeek-V3 in fp8 takes its bytes' seconds at batch 1.
TEST(OtherMachine, BoundsComeFromItsPeaks) {
  const OtherMachine slow{"slow", "made up", 1e18, 1e9, 1e12, 3.6};
  const Model v3 = load_model("DeepSeek-V3");
  const Bound decode = decode_bound(v3, slow, 1, 1, DType::fp8);
  EXPECT_NEAR(decode.seconds, 36.9, 0.5);  // 36.6 GB of active weights, their scales, and the f32 router
  EXPECT_DOUBLE_EQ(decode.tokens_per_second, 1 / decode.seconds);
  EXPECT_NEAR(decode.usd_per_million, 3.6 / 3600 * decode.seconds * 1e6, 1e-6);
  EXPECT_GT(prefill_bound(v3, slow, 512, DType::fp8).tokens_per_second, 10 * decode.tokens_per_second);
  EXPECT_NE(bounds_in_words(v3, slow, 1, 1, DType::bf16).find("they do not fit"), std::string::npos);
}

TEST(OtherMachine, BoundsAreThoseOfTheStepsTheyAreFor) {
  const OtherMachine other{"other", "made up", 3e12, 1e12, 1e12, 0};
  Machine machine;
  machine.flops_per_second = machine.bf16_flops_per_second = machine.rounded_flops_per_second =
      machine.int8_flops_per_second = other.flops_per_second;
  machine.bytes_per_second = other.bytes_per_second;
  // 64 tokens touch all of the 12 experts, drawn or expected.
  for (const Model& model : {load_model("tiny-mla-moe"), load_model("Llama-3.1-8B")}) {
    const auto step = DecodeStep::shape(model, model.num_hidden_layers, 64, 1, 33);
    EXPECT_DOUBLE_EQ(decode_bound(model, other, 64, 33, DType::int8).seconds,
                     ideal_seconds(DecodeStep::parts(step, DType::int8, ""), machine));
    const auto prompt = PrefillStep::shape(model, model.num_hidden_layers, 1, 64, 0);
    EXPECT_DOUBLE_EQ(prefill_bound(model, other, 64, DType::int8).seconds,
                     ideal_seconds(PrefillStep::parts(prompt, DType::int8, ""), machine));
    const std::string words = bounds_in_words(model, other, 64, 33, DType::int8);
    char resident[64];
    std::snprintf(resident, sizeof resident, "take %.4g GB", DecodeStep::resident_bytes(step, DType::int8) * 1e-9);
    EXPECT_NE(words.find(resident), std::string::npos) << words;
  }
}

TEST(OtherMachine, BoundsOfAnySizeTakeNoTime) {
  const OtherMachine other{"other", "made up", 1e15, 1e13, 1e12, 0};
  const Model v3 = load_model("DeepSeek-V3");
  const auto start = std::chrono::steady_clock::now();
  const double most = 1 << 26;
  EXPECT_GT(decode_bound(v3, other, 1 << 26, 1 << 26, DType::bf16).seconds, most);
  EXPECT_GT(prefill_bound(v3, other, 1 << 26, DType::bf16).seconds, most / 100);
  EXPECT_LT(detail::seconds_since(start), 5);
}

TEST(OtherMachine, BundledOnesHaveSources) {
  for (const char* name : {"H800x8", "H100x8", "Xeon-6980P-x2"}) EXPECT_FALSE(load_machine(name).source.empty());
  EXPECT_EQ(load_machine("H800x8", 5).usd_per_hour, 5);
}

TEST(OtherMachine, BadFilesAreRefusedByFileAndField) {
  const auto file = std::filesystem::temp_directory_path() / "mmb_machine.json";
  const auto message = [&](const std::string& content) {
    std::ofstream(file) << content;
    try {
      load_machine(file.string());
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  const std::string head = R"({"name": "x", "source": "y", "flops_per_second": 1, "bytes_per_second": )";
  const std::string json = file.string() + ": JSON: expected ", amount = ": expected a number from 1.0 to 1e+24, ";
  EXPECT_EQ(message("").find(json + "well-formed JSON"), 0u);
  EXPECT_EQ(message(head),
            json + "well-formed JSON in UTF-8, but it breaks at byte " + std::to_string(head.size() + 1));
  EXPECT_EQ(message("[1]"), json + "an object, found one array");
  EXPECT_EQ(message(R"({"source": "y"})"), file.string() + ": name: expected a string, but the field is missing");
  EXPECT_EQ(message(head + R"(0, "memory_bytes": 1})"), file.string() + ": bytes_per_second" + amount + "found 0");
  EXPECT_EQ(message(head + R"(1e300, "memory_bytes": 1})").find(file.string() + ": bytes_per_second" + amount), 0u);
  EXPECT_EQ(message(head + R"(1})"), file.string() + ": memory_bytes" + amount + "but the field is missing");
  EXPECT_EQ(message(head + R"(1, "memory_bytes": 1, "co\u001bres": 4})"),
            file.string() + ": co?res: expected it absent, as no field of a machine");
  EXPECT_EQ(message(head + R"(1, "memory_bytes": 1, "bytes_per_second": 2})"),
            file.string() + ": bytes_per_second: expected once, found twice");
  for (const char* name : {"", "a\\nb", "\\u001b[2J", "\\u007f"})
    EXPECT_EQ(message(std::string(R"({"name": ")") + name + "\"}"), file.string() + ": name: expected printable text");
  EXPECT_EQ(message(std::string(2 << 20, ' ')), file.string() + ": expected a file of at most 1048576 bytes");
  std::filesystem::remove(file);
  EXPECT_THROW(load_machine("no-such-machine"), Error);
  EXPECT_THROW(load_machine(testing::TempDir()), Error);
}

}  // namespace
}  // namespace mmb
