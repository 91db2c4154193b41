#include "safetensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

namespace mmb {
namespace {

std::string with_length(uint64_t length, const std::string& rest) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + rest;
}

std::string file_of(const std::string& header, const std::string& data) {
  return with_length(header.size(), header + data);
}

std::string write(const std::string& bytes) {
  const std::string file = testing::TempDir() + "mmb_safetensors_test.safetensors";
  std::ofstream(file, std::ios::binary) << bytes;
  return file;
}

// The one-sentence Error of reading `bytes`, without the file's name.
std::string error_of(const std::string& bytes) {
  const std::string file = write(bytes);
  try {
    const Safetensors read(file);
  } catch (const Error& error) {
    const std::string what = error.what();
    EXPECT_EQ(what.substr(0, file.size() + 2), file + ": ");
    EXPECT_EQ(what.find('\n'), std::string::npos);
    return what.substr(file.size() + 2);
  }
  return "no error";
}

const std::string kFour = R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})";

TEST(Safetensors, ReadsBothTypesAndMetadata) {
  const float f[] = {1.5f, -2};
  const int64_t i[] = {-1};
  const std::string data =
      std::string(reinterpret_cast<const char*>(i), 8) + std::string(reinterpret_cast<const char*>(f), 8);
  const Safetensors read(write(file_of(R"({"__metadata__": {"kind": "k"},
      "f": {"dtype": "F32", "shape": [2, 1], "data_offsets": [8, 16]},
      "i": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}})",
                                       data)));
  EXPECT_EQ(read.f32("f", {2, 1}), (std::vector<float>{1.5f, -2}));
  EXPECT_EQ(read.i64("i", {1}), (std::vector<int64_t>{-1}));
  EXPECT_EQ(read.metadata().at("kind"), "k");
  EXPECT_TRUE(read.has("f") && !read.has("g"));
  EXPECT_THROW(read.f32("g", {2, 1}), Error);
  EXPECT_THROW(read.f32("f", {1, 2}), Error);
  EXPECT_THROW(read.f32("i", {1}), Error);
  EXPECT_THROW(read.i64("f", {2, 1}), Error);
}

TEST(Safetensors, RefusesWhatDoesNotAddUp) {
  EXPECT_EQ(error_of(""), "expected 8 bytes of header length");
  EXPECT_EQ(error_of(with_length(100, "{}")), "header: expected 100 bytes, the file ends before");
  EXPECT_EQ(error_of(with_length(~uint64_t{0}, "{}")),
            "header: expected 18446744073709551615 bytes, the file ends before");
  EXPECT_EQ(error_of(file_of("[]", "")), "header: expected a JSON object");
  EXPECT_EQ(error_of(file_of("{", "")), "header: expected a JSON object");
  EXPECT_EQ(error_of(file_of(std::string(200000, '['), "")), "header: expected a JSON object");
  EXPECT_EQ(error_of(file_of(R"({"a": 1})", "")), "a: shape: expected a list");
  EXPECT_EQ(error_of(file_of(R"({"__metadata__": {"a": 1}})", "")), "__metadata__: a: expected a string");
  EXPECT_EQ(error_of(file_of(R"({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}})", "0123")),
            "a: shape: expected whole numbers, not negative");
  EXPECT_EQ(error_of(file_of(R"({"a": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}})", "0123")),
            "a: dtype: expected F32 or I64, got \"F16\"");
  EXPECT_EQ(error_of(file_of(R"({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}})", "0123")),
            "a: data_offsets: expected the bytes of shape [2], got 4");
  EXPECT_EQ(error_of(file_of(R"({"a": {"dtype": "F32", "shape": [4294967296, 4294967297], "data_offsets": [0, 4]}})",
                             "0123")),
            "a: data_offsets: expected the bytes of shape [4294967296, 4294967297], got 4");
  EXPECT_EQ(error_of(file_of(R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}})", "0123")),
            "a: data_offsets: expected a range within the 4 bytes of data, got [4, 0]");
  EXPECT_EQ(error_of(file_of(kFour, "012")),
            "a: data_offsets: expected a range within the 3 bytes of data, got [0, 4]");
  EXPECT_EQ(error_of(file_of(kFour, "01234")), "expected 4 bytes of data, got 5");
  EXPECT_EQ(error_of(file_of(R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}})", "01234567")),
            "data_offsets: expected a tensor that begins at byte 0");
  EXPECT_EQ(error_of(file_of(kFour, "0123")), "no error");
  EXPECT_THROW(Safetensors("/nonexistent"), Error);
}

}  // namespace
}  // namespace mmb
