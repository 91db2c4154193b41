#include "safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>

namespace mmb {
namespace {

static_assert(std::endian::native == std::endian::little, "the data of a safetensors file is little-endian");

std::string read_bytes(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw Error(file + ": expected a readable file");
  return {std::istreambuf_iterator<char>(in), {}};
}

std::string text(const std::vector<int64_t>& shape) {
  std::string list = "[";
  for (size_t i = 0; i < shape.size(); ++i) list += (i ? ", " : "") + std::to_string(shape[i]);
  return list + "]";
}

std::vector<int64_t> sizes(const nlohmann::json& entry, const char* field, const std::string& where) {
  std::vector<int64_t> list;
  if (!entry.is_object() || !entry.contains(field) || !entry[field].is_array())
    throw Error(where + ": " + field + ": expected a list");
  for (const auto& item : entry[field]) {
    const bool fits = item.is_number_unsigned() && item.get<uint64_t>() <= std::numeric_limits<int64_t>::max();
    if (!fits) throw Error(where + ": " + field + ": expected whole numbers, not negative");
    list.push_back(item.get<int64_t>());
  }
  return list;
}

// Bytes of a tensor; -1 beyond `limit`, so that nothing overflows.
int64_t bytes_of(const std::vector<int64_t>& shape, int64_t element, int64_t limit) {
  int64_t bytes = element;
  for (int64_t size : shape) {
    if (size == 0) return 0;
    if (bytes > limit / size) return -1;
    bytes *= size;
  }
  return bytes;
}

template <class T>
std::vector<T> elements(const char* data, int64_t bytes) {
  std::vector<T> values(static_cast<size_t>(bytes) / sizeof(T));
  std::memcpy(values.data(), data, static_cast<size_t>(bytes));
  return values;
}

}  // namespace

Safetensors::Safetensors(const std::string& file) : file_(file) {
  const std::string bytes = read_bytes(file);
  uint64_t header_bytes = 0;
  if (bytes.size() < sizeof header_bytes) throw Error(file + ": expected 8 bytes of header length");
  std::memcpy(&header_bytes, bytes.data(), sizeof header_bytes);
  if (header_bytes > bytes.size() - sizeof header_bytes)
    throw Error(file + ": header: expected " + std::to_string(header_bytes) + " bytes, the file ends before");
  const char* begin = bytes.data() + sizeof header_bytes;
  const char* data = begin + header_bytes;
  const auto data_bytes = static_cast<int64_t>(bytes.size() - sizeof header_bytes - header_bytes);
  const auto header = nlohmann::json::parse(begin, data, nullptr, false);
  if (!header.is_object()) throw Error(file + ": header: expected a JSON object");

  std::vector<std::pair<int64_t, int64_t>> ranges;
  for (const auto& [name, entry] : header.items()) {
    const std::string where = file + ": " + name;
    if (name == "__metadata__") {
      if (!entry.is_object()) throw Error(where + ": expected an object");
      for (const auto& [key, value] : entry.items()) {
        if (!value.is_string()) throw Error(where + ": " + key + ": expected a string");
        metadata_[key] = value;
      }
      continue;
    }
    Tensor tensor;
    tensor.shape = sizes(entry, "shape", where);
    const std::vector<int64_t> offsets = sizes(entry, "data_offsets", where);
    const nlohmann::json dtype = entry.value("dtype", nlohmann::json());
    if (dtype != "F32" && dtype != "I64") throw Error(where + ": dtype: expected F32 or I64, got " + dtype.dump());
    if (offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] > data_bytes)
      throw Error(where + ": data_offsets: expected a range within the " + std::to_string(data_bytes) +
                  " bytes of data, got " + text(offsets));
    const int64_t length = offsets[1] - offsets[0];
    if (bytes_of(tensor.shape, dtype == "F32" ? 4 : 8, data_bytes) != length)
      throw Error(where + ": data_offsets: expected the bytes of shape " + text(tensor.shape) + ", got " +
                  std::to_string(length));
    if (dtype == "F32")
      tensor.f32 = elements<float>(data + offsets[0], length);
    else
      tensor.i64 = elements<int64_t>(data + offsets[0], length);
    ranges.emplace_back(offsets[0], offsets[1]);
    tensors_[name] = std::move(tensor);
  }

  // Tensors fill the data without gaps or overlaps.
  std::sort(ranges.begin(), ranges.end());
  int64_t end = 0;
  for (const auto& [first, last] : ranges) {
    if (first != end)
      throw Error(file + ": data_offsets: expected a tensor that begins at byte " + std::to_string(end));
    end = last;
  }
  if (end != data_bytes)
    throw Error(file + ": expected " + std::to_string(end) + " bytes of data, got " + std::to_string(data_bytes));
}

const Tensor& Safetensors::find(const std::string& tensor) const {
  const auto found = tensors_.find(tensor);
  if (found == tensors_.end()) throw Error(file_ + ": " + tensor + ": expected a tensor of this name");
  return found->second;
}

const std::vector<float>& Safetensors::f32(const std::string& tensor, const std::vector<int64_t>& shape) const {
  const Tensor& t = find(tensor);
  if (t.shape != shape)
    throw Error(file_ + ": " + tensor + ": expected shape " + text(shape) + ", got " + text(t.shape));
  if (!t.i64.empty()) throw Error(file_ + ": " + tensor + ": expected F32, got I64");
  return t.f32;
}

const std::vector<int64_t>& Safetensors::i64(const std::string& tensor, const std::vector<int64_t>& shape) const {
  const Tensor& t = find(tensor);
  if (t.shape != shape)
    throw Error(file_ + ": " + tensor + ": expected shape " + text(shape) + ", got " + text(t.shape));
  if (!t.f32.empty()) throw Error(file_ + ": " + tensor + ": expected I64, got F32");
  return t.i64;
}

}  // namespace mmb
