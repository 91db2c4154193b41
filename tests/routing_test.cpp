// Names of routings, and traces: what is read from a file, and how a bad one is refused.
#include "mmb/routing.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace mmb {
namespace {

class TraceFile : public testing::Test {
 protected:
  // 3 of 12 experts in 3 groups, of which a token may use 2.
  const Model model = load_model("tiny-mla-moe");
  const std::filesystem::path path =
      std::filesystem::path(testing::TempDir()) / ("mmb_" + std::to_string(::getpid())) / "wiki-en.2.txt";

  void SetUp() override { std::filesystem::create_directories(path.parent_path()); }
  void TearDown() override { std::filesystem::remove_all(path.parent_path()); }

  Trace load(const std::string& text) {
    std::ofstream(path, std::ios::binary) << text;
    return load_trace(path.string(), model);
  }
  std::string refusal(const std::string& text) {
    try {
      load(text);
    } catch (const TraceError& error) {
      const std::string what = error.what(), file = path.string() + ": ";
      EXPECT_EQ(what.rfind(file, 0), 0u) << what;
      for (char c : what) EXPECT_TRUE(c >= ' ' && c <= '~') << what;
      return what.substr(file.size());
    }
    return "accepted";
  }
};

TEST_F(TraceFile, ALineIsAToken) {
  const std::vector<int32_t> expected = {7, 0, 3, 11, 10, 9};
  for (const char* text : {"7 0 3\n11 10 9\n", "7 0 3\n11 10 9", "7,0,3\r\n11,10,9\r\n", "7, 0, 3\n\n\t11\t10 9  \n",
                           "# layer 5\n7 0 3 # the first\n#\n11 10 9\n#", "007 0 3\n11 10 9\n\n\n"}) {
    const Trace trace = load(text);
    EXPECT_EQ(trace.topk_indices, expected) << text;
    EXPECT_EQ(trace.tokens, 2);
    EXPECT_EQ(trace.num_experts_per_tok, 3);
    EXPECT_EQ(trace.n_routed_experts, 12);
    EXPECT_EQ(trace.name, "wiki-en.2");
  }
}

TEST_F(TraceFile, BadOnesAreRefusedWithLineAndField) {
  for (const auto& [text, expected] : std::initializer_list<std::pair<std::string, std::string>>{
           {"", "expected a line of experts for each token, got none"},
           {"# nothing\n\n", "expected a line of experts for each token, got none"},
           {"0 1 2\n3 x 4\n", "line 2: field 2: expected an expert from 0 to 11 (tiny-mla-moe), got 'x'"},
           {"0 1 2\n\n3 4 12\n", "line 3: field 3: expected an expert from 0 to 11 (tiny-mla-moe), got '12'"},
           {"-1 1 2", "line 1: field 1: expected an expert from 0 to 11 (tiny-mla-moe), got '-1'"},
           {"1.0 2 3", "line 1: field 1: expected an expert from 0 to 11 (tiny-mla-moe), got '1.0'"},
           {"+1 2 3", "line 1: field 1: expected an expert from 0 to 11 (tiny-mla-moe), got '+1'"},
           {"1;2;3", "line 1: field 1: expected an expert from 0 to 11 (tiny-mla-moe), got '1;2;3'"},
           {"0 1 4294967298", "line 1: field 3: expected an expert from 0 to 11 (tiny-mla-moe), got '4294967298'"},
           {"0 " + std::string(100, '9') + " 1",
            "line 1: field 2: expected an expert from 0 to 11 (tiny-mla-moe), got '" + std::string(24, '9') + "...'"},
           {"0 1\n", "line 1: field 3: expected 3 experts a token (tiny-mla-moe), got the end of the line"},
           {"0 1 # 2\n", "line 1: field 3: expected 3 experts a token (tiny-mla-moe), got the end of the line"},
           {"0 1 2 3\n", "line 1: field 4: expected 3 experts a token (tiny-mla-moe), got '3' after them"},
           {"0 1 2 3 4 5", "line 1: field 4: expected 3 experts a token (tiny-mla-moe), got '3' after them"},
           {"0 1 2\r3 4 5\r", "line 1: field 4: expected 3 experts a token (tiny-mla-moe), got '3' after them"},
           {"0 5 0\n", "line 1: field 3: expected different experts, got '0' again"},
           {"0 4 8\n", "line 1: field 3: expected experts of at most 2 of the 3 groups, got '8' of one more"},
           {std::string("0 1 2\0", 6), "line 1: field 3: expected an expert from 0 to 11 (tiny-mla-moe), got '2?'"},
           {"\x89PNG\x1b[31m\xff\n\x1a",
            "line 1: field 1: expected an expert from 0 to 11 (tiny-mla-moe), got '?PNG?[31m?'"}})
    EXPECT_EQ(refusal(text), expected) << text;
}

TEST_F(TraceFile, WhateverTheBytesItIsReadOrRefused) {
  uint32_t state = 1;
  for (int round = 0; round < 300; ++round) {
    std::string text;
    for (int i = 0; i < 200; ++i) {
      state = state * 1664525 + 1013904223;
      text += round % 2 ? static_cast<char>(state >> 24) : "0123456789 ,\n#\r-"[state >> 28];
    }
    EXPECT_NE(refusal(text), "");
  }
}

TEST_F(TraceFile, WhatIsNoFileIsRefused) {
  for (const std::string& file :
       {std::string(), path.string() + "x", path.parent_path().string(), std::string("/dev/zero")})
    EXPECT_THROW(load_trace(file, model), TraceError) << file;
}

TEST(Routing, KeysAreReadBack) {
  for (const auto& [skew, overlap, expected] :
       std::initializer_list<std::tuple<double, double, const char*>>{{0, 0, "routing:uniform"},
                                                                      {1, 0, "routing:zipf1"},
                                                                      {1.2, 0, "routing:zipf1.2"},
                                                                      {0, 0.38, "routing:uniform/overlap:0.38"},
                                                                      {0.1, 1, "routing:zipf0.1/overlap:1"},
                                                                      {1e-5, 0, "routing:zipf1e-05"},
                                                                      {1.0 / 3, 0, "routing:zipf0.3333333333333333"}}) {
    const std::string text = key({.skew = skew, .overlap = overlap});
    EXPECT_EQ(text, expected);
    EXPECT_EQ(skew_of(text.substr(8, text.find('/') - 8)), skew);
  }
  const Trace trace{
      .name = "wiki", .file = "", .n_routed_experts = 8, .num_experts_per_tok = 2, .tokens = 0, .topk_indices = {}};
  EXPECT_EQ(key({.trace = &trace}), "routing:wiki");
  for (const char* name : {"wiki", "", "zipf", "zipf-1x", "zipfian", "uniform2", "zipf1 "})
    EXPECT_FALSE(skew_of(name)) << name;
}

}  // namespace
}  // namespace mmb
