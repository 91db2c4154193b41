// A reader of safetensors files: 8-byte little-endian header length, JSON header, raw little-endian data. Strict:
// whatever does not add up is an Error naming file and tensor.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "mmb/error.h"

namespace mmb {

struct Tensor {
  std::vector<int64_t> shape;
  std::vector<float> f32;    // either this one
  std::vector<int64_t> i64;  // or this one is filled
};

class Safetensors {
 public:
  explicit Safetensors(const std::string& file);

  bool has(const std::string& tensor) const { return tensors_.contains(tensor); }
  // The tensor's elements; an Error where there is no such tensor, or it has another type or another shape.
  const std::vector<float>& f32(const std::string& tensor, const std::vector<int64_t>& shape) const;
  const std::vector<int64_t>& i64(const std::string& tensor, const std::vector<int64_t>& shape) const;
  // An Error where there is no such tensor.
  const std::vector<int64_t>& shape(const std::string& tensor) const { return find(tensor).shape; }

  // String values of the header's __metadata__.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::string& file() const { return file_; }

 private:
  const Tensor& find(const std::string& tensor) const;

  std::string file_;
  std::map<std::string, Tensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace mmb
