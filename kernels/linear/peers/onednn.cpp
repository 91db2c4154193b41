#include <dnnl.hpp>
#include <map>
#include <tuple>

#include "peers.h"

namespace mmb::onednn {
namespace {

using dnnl::inner_product_forward;
using dnnl::memory;
using Tag = memory::format_tag;

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

dnnl::stream& stream() {
  static dnnl::stream s(engine());
  return s;
}

memory::data_type type(DType dtype) {
  return dtype == DType::f32 ? memory::data_type::f32 : memory::data_type::bf16;
}

// What a shape needs, made once: making it takes longer than small products.
struct Product {
  inner_product_forward::primitive_desc description;
  inner_product_forward run;
  memory rounded;  // activations, in the weights' type
};

Product& product(const Linear::Shape& shape, DType dtype) {
  static std::map<std::tuple<int64_t, int64_t, int64_t, DType>, Product> products;
  const auto key = std::make_tuple(shape.tokens, shape.in_features, shape.out_features, dtype);
  if (const auto found = products.find(key); found != products.end()) return found->second;
  const memory::desc x({shape.tokens, shape.in_features}, type(dtype), Tag::ab),
      w({shape.out_features, shape.in_features}, type(dtype), Tag::any),
      y({shape.tokens, shape.out_features}, memory::data_type::f32, Tag::ab);
  const inner_product_forward::primitive_desc description(
      inner_product_forward::desc(dnnl::prop_kind::forward_inference, x, w, y), engine());
  return products.emplace(key, Product{description, inner_product_forward(description), memory(x, engine())})
      .first->second;
}

memory::desc row_major(const Linear::Shape& shape, DType dtype) {
  return {{shape.out_features, shape.in_features}, type(dtype), Tag::ab};
}

void reorder(const memory::desc& from_layout, const void* from, const memory::desc& to_layout, void* to) {
  memory source(from_layout, engine(), const_cast<void*>(from)), target(to_layout, engine(), to);
  dnnl::reorder(source, target).execute(stream(), source, target);
  stream().wait();
}

}  // namespace

void linear(const Linear::Shape& shape, const Linear::Args& args) noexcept {
  const DType dtype = args.w.dtype;
  Product& p = product(shape, dtype);
  memory x({{shape.tokens, shape.in_features}, memory::data_type::f32, Tag::ab}, engine(), const_cast<float*>(args.x));
  memory w(p.description.weights_desc(), engine(), const_cast<void*>(args.w.data));
  memory y(p.description.dst_desc(), engine(), args.y);
  if (dtype != DType::f32) dnnl::reorder(x, p.rounded).execute(stream(), x, p.rounded);
  p.run.execute(stream(),
                {{DNNL_ARG_SRC, dtype == DType::f32 ? x : p.rounded}, {DNNL_ARG_WEIGHTS, w}, {DNNL_ARG_DST, y}});
  stream().wait();
}

bool takes(const Linear::Shape&, DType dtype) {
  if (is_scaled(dtype)) return false;
  try {
    product({1, 16, 16}, dtype);
    return true;
  } catch (const dnnl::error&) {
    return false;
  }
}

int64_t packed_bytes(const Linear::Shape& shape, DType dtype) {
  return static_cast<int64_t>(product(shape, dtype).description.weights_desc().get_size());
}

void pack(const Linear::Shape& shape, DType dtype, const void* from, void* packed) {
  reorder(row_major(shape, dtype), from, product(shape, dtype).description.weights_desc(), packed);
}

void unpack(const Linear::Shape& shape, DType dtype, const void* packed, void* to) {
  reorder(product(shape, dtype).description.weights_desc(), packed, row_major(shape, dtype), to);
}

std::string version() {
  const dnnl_version_t* v = dnnl_version();
  return "oneDNN " + std::to_string(v->major) + "." + std::to_string(v->minor) + "." + std::to_string(v->patch);
}

}  // namespace mmb::onednn
