#include <algorithm>
#include <cstring>

#include "../reference.h"
#include "mmb/compare.h"
#include "mmb/linear.h"
#include "mmb/random.h"
#include "peers/peers.h"

namespace mmb {

namespace {

[[maybe_unused]] bool is_f32(const Linear::Shape&, DType dtype) {
  return dtype == DType::f32;
}
[[maybe_unused]] bool is_bf16(const Linear::Shape&, DType dtype) {
  return dtype == DType::bf16;
}

// Some products round their activations to the weights' bf16, as oneDNN's do.
bool rounds(DType dtype, std::string_view algo) {
  return dtype == DType::bf16 && (algo == "rounded" || algo == "packed");
}

}  // namespace

std::span<const Kernel<Linear>> Linear::kernels() {
  static constexpr Kernel<Linear> list[] = {
    {"panels", Impl::reference, reference::run<Linear, reference::linear<double>>},
    MMB_KERNEL(Linear, "panels", linear)
#if defined(__x86_64__)
        {"rounded", Impl::amx, amx::linear_rounded, is_bf16},
#endif
#if defined(MMB_EIGEN_LEVEL)
    {"gemm", Impl::eigen, eigen::linear, is_f32, eigen::version},
#endif
#if defined(MMB_HAS_OPENBLAS)
    {"gemm", Impl::openblas, openblas::linear, is_f32, openblas::version},
#endif
#if defined(MMB_HAS_ONEDNN)
    {"packed", Impl::onednn, onednn::linear, onednn::takes, onednn::version},
#endif
  };
  return list;
}

std::string Linear::key(const Shape& shape) {
  return "tokens:" + std::to_string(shape.tokens) + "/in_features:" + std::to_string(shape.in_features) +
         "/out_features:" + std::to_string(shape.out_features);
}

Cost Linear::cost(const Shape& shape, DType dtype, std::string_view algo) {
  const auto N = static_cast<double>(shape.tokens), K = static_cast<double>(shape.in_features),
             M = static_cast<double>(shape.out_features);
  const double flops = 2 * N * M * K;
  return {.flops = flops,
          .bf16_flops = bf16_flops(flops, dtype),
          .rounded_flops = rounds(dtype, algo) ? flops : 0,
          .digit_flops = digit_flops(flops, dtype),
          .weight_bytes = weight_bytes(shape.out_features, shape.in_features, dtype),
          .activation_bytes = 4 * N * (K + M)};
}

#if defined(MMB_HAS_ONEDNN)
// The arena once over, as a library wants its weights: laid out anew in place, which leaves random values random.
class PackedForPeer {
 public:
  PackedForPeer(const Linear::Shape& shape, DType dtype, Arena& arena) : shape_(shape), dtype_(dtype) {
    bytes_ = round_up(onednn::packed_bytes(shape, dtype), 64);
    row_major_ = Buffer<uint8_t>(shape.out_features * shape.in_features * size_of(dtype));
    MMB_REQUIRE(bytes_ >= row_major_.size(), "onednn: packed weights of " << bytes_ << " bytes");
    constexpr int64_t kSmall = int64_t{1} << 20;  // no cache is cold to it
    count_ = bytes_ < kSmall ? 2 : std::max(arena.bytes() / bytes_, int64_t{1});
    block_ = static_cast<char*>(arena.take(count_ * bytes_));
    for (int64_t i = 0; i < count_; ++i) {
      std::memcpy(row_major_.data(), block_ + i * bytes_, static_cast<size_t>(row_major_.size()));
      onednn::pack(shape, dtype, row_major_.data(), block_ + i * bytes_);
    }
  }
  const void* next() { return block_ + ++index_ % count_ * bytes_; }
  const void* row_major() {
    onednn::unpack(shape_, dtype_, block_ + index_ % count_ * bytes_, row_major_.data());
    return row_major_.data();
  }

 private:
  Linear::Shape shape_;
  DType dtype_;
  int64_t bytes_, count_, index_ = 0;
  char* block_;
  Buffer<uint8_t> row_major_;
};
#else
class PackedForPeer {  // no kernel asks for one
 public:
  PackedForPeer(const Linear::Shape&, DType, Arena&) {}
  const void* next() { return nullptr; }
  const void* row_major() { return nullptr; }
};
#endif

Linear::Problem::Problem(const Shape& shape, DType dtype, std::string_view algo, Arena& arena, uint64_t seed)
    : arena_(arena), x_(shape.tokens * shape.in_features), y_(shape.tokens * shape.out_features), expected_(y_.size()) {
  MMB_REQUIRE(shape.tokens > 0 && shape.in_features > 0 && shape.out_features > 0, name << ": " << key(shape));
  fill_normal(x_, seed);
  args_ = {x_.data(), {nullptr, dtype, false, shape.out_features, shape.in_features}, y_.data()};
  args_.w.row_major = algo == "gemm" || algo == "packed";
  if (rounds(dtype, algo))  // the reference does not: its activations are round already
    for (float& x : x_) x = to_float(to_bf16(x));
  if (algo == "packed") packed_ = std::make_unique<PackedForPeer>(shape, dtype, arena);
  next();
}

Linear::Problem::~Problem() = default;

void Linear::Problem::next() {
  args_.w.data = packed_ ? packed_->next() : arena_.take(args_.w.bytes());
  expected_args_ = args_;
  expected_args_.y = expected_.data();
}

const Linear::Args& Linear::Problem::expected() const {
  if (packed_) expected_args_.w.data = packed_->row_major();
  return expected_args_;
}

std::vector<Output> Linear::Problem::outputs(const Args& args, int64_t unit) const {
  return {{"y", {args.y[unit]}, sum_tolerance(args.w.cols)}};
}

}  // namespace mmb
