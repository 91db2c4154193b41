// What the tests of the dense attention ops share: one case of any lengths, with NaN in every cache row that no token may
// see.
#pragma once

#include <limits>

#include "mmb/attention.h"
#include "mmb/random.h"
#include "op_test.h"

namespace mmb {

struct AttentionDims {
  int64_t heads, kv_heads, qk_head_dim, v_head_dim;
};

class AttentionCase {
 public:
  AttentionCase(const AttentionDims& dims, const std::vector<int64_t>& new_tokens, const std::vector<int64_t>& context,
                DType dtype, double deviation = 1)
      : dims_(dims), batch_(new_tokens, context), dtype_(dtype) {
    const auto B = static_cast<int64_t>(context.size());
    const int64_t G = dims.kv_heads, dk = dims.qk_head_dim, dv = dims.v_head_dim;
    capacity_ = *std::max_element(context.begin(), context.end()) + 3;
    q_ = Buffer<float>(batch_.tokens() * dims.heads * dk);
    fill_normal(q_, 1, deviation);
    k_ = poisoned(B, G, dk, context, 2);
    v_ = poisoned(B, G, dv, context, 3);
  }

  AttentionArgs args(float* out, float scale = 0.25f) const {
    return {batch_.view(), q_.data(), k_.data(), v_.data(), dtype_, capacity_, scale, out};
  }
  // Units are counted from the shape; the lengths are the sequences'.
  AttentionShape shape() const {
    return {batch_.tokens(), 1, capacity_, 0, dims_.heads, dims_.kv_heads, dims_.qk_head_dim, dims_.v_head_dim};
  }
  int64_t out_size() const { return batch_.tokens() * dims_.heads * dims_.v_head_dim; }
  Buffer<float>& q() { return q_; }
  void* k() { return k_.data(); }
  void* v() { return v_.data(); }

  template <class Run>
  std::vector<double> run(const Run& run, float scale = 0.25f) const {
    Buffer<float> out(out_size());
    for (float& x : out) x = std::numeric_limits<float>::quiet_NaN();  // every element must be written
    run(shape(), args(out.data(), scale));
    EXPECT_TRUE(out.intact());
    return {out.begin(), out.end()};
  }

 private:
  Buffer<uint8_t> poisoned(int64_t B, int64_t G, int64_t d, const std::vector<int64_t>& context, uint64_t seed) const {
    Buffer<uint8_t> cache(B * G * capacity_ * d * size_of(dtype_));
    std::vector<float> row(static_cast<size_t>(d));
    for (int64_t i = 0; i < B * G * capacity_; ++i) {
      const bool seen = i % capacity_ < context[static_cast<size_t>(i / (G * capacity_))];
      fill_normal(row, seed + static_cast<uint64_t>(i) * 10);
      for (int64_t j = 0; j < d; ++j)
        set_element(cache.data(), dtype_, i * d + j,
                    seen ? row[static_cast<size_t>(j)] : std::numeric_limits<float>::quiet_NaN());
    }
    return cache;
  }

  AttentionDims dims_;
  Batch batch_;
  DType dtype_;
  int64_t capacity_;
  Buffer<float> q_;
  Buffer<uint8_t> k_, v_;
};

// Every kernel of Op against the reference, in every type; f32 sums of up to a few thousand terms, exp2 to 2.5e-7.
template <class Op, auto Reference>
void expect_case_matches_reference(const AttentionDims& dims, const std::vector<int64_t>& new_tokens,
                                   const std::vector<int64_t>& context, double deviation = 1, float scale = 0.25f,
                                   double tolerance = 64 * 0x1p-24) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    const AttentionCase test(dims, new_tokens, context, dtype, deviation);
    const auto expected = test.run(reference::run<Op, Reference>, scale);
    for (const auto& kernel : Op::kernels()) {
      if (kernel.impl == Impl::reference || !supported(kernel.impl)) continue;
      const Comparison c = compare(test.run(kernel.run, scale), expected);
      EXPECT_LE(c.max_err, tolerance) << name(kernel.impl) << ' ' << name(dtype) << " heads " << dims.heads << '/'
                                      << dims.kv_heads << " dims " << dims.qk_head_dim << '/' << dims.v_head_dim
                                      << " context " << context.front() << " at " << c.worst_index;
    }
  }
}

}  // namespace mmb
