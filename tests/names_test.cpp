// One header, one folder, one test and one bench file per op, and nothing beside them that is not listed here.
#include <gtest/gtest.h>

#include <filesystem>
#include <set>
#include <string>

namespace mmb {
namespace {

using Names = std::set<std::string>;
namespace fs = std::filesystem;

const fs::path kSource = MMB_SOURCE_DIR;

// Headers of include/mmb and tests that belong to no op.
const Names kSharedHeaders = {"accounting", "attention", "compare", "cost",    "error",     "kernel", "layer_problem",
                              "machine",    "model",     "random",  "routing", "sequences", "tensor"};
const Names kSharedTests = {"accounting", "bench", "compare", "golden",      "kernel", "machine",
                            "model",      "names", "routing", "safetensors", "tensor", "tiles"};

// The files of a folder that end in `ending`, without it.
Names files(const char* folder, const std::string& ending) {
  Names names;
  for (const auto& entry : fs::directory_iterator(kSource / folder)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(ending)) names.insert(name.substr(0, name.size() - ending.size()));
  }
  return names;
}

Names folders_of_kernels() {
  Names names;
  for (const auto& entry : fs::directory_iterator(kSource / "kernels"))
    if (entry.is_directory()) names.insert(entry.path().filename().string());
  return names;
}

Names with(Names names, const Names& others) {
  names.insert(others.begin(), others.end());
  return names;
}

TEST(Names, EveryFolderOfKernelsIsAnOp) {
  for (const std::string& op : folders_of_kernels()) {
    EXPECT_TRUE(fs::exists(kSource / "kernels" / op / "table.cpp")) << op;
    EXPECT_TRUE(fs::exists(kSource / "kernels" / op / "reference.cpp")) << op;
  }
}

TEST(Names, OneHeaderPerOp) {
  EXPECT_EQ(files("include/mmb", ".h"), with(folders_of_kernels(), kSharedHeaders));
}

TEST(Names, OneTestPerOp) {
  EXPECT_EQ(files("tests", "_test.cpp"), with(folders_of_kernels(), kSharedTests));
}

TEST(Names, OneBenchFilePerOp) {
  EXPECT_EQ(files("bench", "_bench.cpp"), folders_of_kernels());
}

}  // namespace
}  // namespace mmb
