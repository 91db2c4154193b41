// What the tests of mla_decode and mla_prefill share: shapes, and one case with every algo's inputs made from one latent
// cache and one pair of matrices.
#pragma once

#include "attend_reference.h"
#include "mmb/mla_prefill.h"
#include "mmb/random.h"
#include "op_test.h"

namespace mmb {

// Every dim is off the panels and vectors of every level.
inline MlaDecode::Shape mla_small(int64_t batch, int64_t new_tokens, int64_t context, int64_t shortest = 0) {
  return {batch, new_tokens, context, shortest, 3, 40, 24, 8, 20};
}

// Contexts around the block of 96 tokens, ragged batches, one head, many heads, odd dims, DeepSeek's head dims.
inline std::vector<MlaDecode::Shape> mla_ladder(int64_t new_tokens) {
  const int64_t n = new_tokens;
  return {mla_small(1, n, n),
          mla_small(1, n, 95 + n),
          mla_small(1, n, 96 + n),
          mla_small(3, n, 150 + n, n),
          {2, n, 70 + n, 1 + n, 1, 17, 5, 2, 3},
          {1, n, 20 + n, 0, 19, 33, 16, 6, 16},
          {1, n, 40 + n, 0, 2, 512, 128, 64, 128}};
}

// Seeded inputs whose every token depends on its place alone, so that a shorter case is the start of a longer one.
class MlaCase {
 public:
  MlaCase(const std::vector<int64_t>& new_tokens, const std::vector<int64_t>& context, DType dtype)
      : batch_(new_tokens, context), dtype_(dtype), capacity_(*std::max_element(context.begin(), context.end()) + 1) {
    const auto normal = [](int64_t count, uint64_t seed, double deviation) {
      std::vector<float> values(static_cast<size_t>(count));
      fill_normal(values, seed, deviation);
      return values;
    };
    const auto store = [&](const std::vector<float>& values) {
      Buffer<uint8_t> stored(static_cast<int64_t>(values.size()) * size_of(dtype));
      for (size_t i = 0; i < values.size(); ++i) set_element(stored.data(), dtype, static_cast<int64_t>(i), values[i]);
      return stored;
    };
    const int64_t B = static_cast<int64_t>(context.size());
    q_ = normal(batch_.tokens() * nh * (dn + D), 1, 1);
    const std::vector<float> w_uk = normal(nh * dn * R, 2, 0.2), w_uv = normal(nh * dv * R, 3, 0.2);
    w_uk_ = PackedMatrix(w_uk, dn, R, dtype, false, nh);
    w_uk_transposed_ = PackedMatrix(w_uk, dn, R, dtype, true, nh);
    w_uv_ = PackedMatrix(w_uv, dv, R, dtype, false, nh);
    cache_ = store(normal(B * capacity_ * (R + D), 4, 1));

    std::vector<float> k(static_cast<size_t>(B * nh * capacity_ * (dn + D))),
        v(static_cast<size_t>(B * nh * capacity_ * dv));
    for (int64_t b = 0; b < B; ++b)
      for (int64_t h = 0; h < nh; ++h)
        for (int64_t t = 0; t < capacity_; ++t) {
          const int64_t from = (b * capacity_ + t) * (R + D), to = (b * nh + h) * capacity_ + t;
          const auto latent = reference::vector<double>(cache_.data(), dtype, from, R);
          const auto rope = reference::vector<double>(cache_.data(), dtype, from + R, D);
          reference::store<double>(reference::times(w_uk_.matrix().nth(h), latent), k.data() + to * (dn + D));
          reference::store<double>(rope, k.data() + to * (dn + D) + dn);
          reference::store<double>(reference::times(w_uv_.matrix().nth(h), latent), v.data() + to * dv);
        }
    k_ = std::move(k);
    v_ = std::move(v);
  }

  // The expanded cache is f32 whatever the latents' type: rounding it would be another result.
  template <class Op>
  std::vector<double> run(const Kernel<Op>& kernel) const {
    const bool dense = std::is_same_v<Op, MlaDecode> && std::string_view(kernel.algo) == "expanded";
    const bool absorbed = std::string_view(kernel.algo) == "absorbed";
    std::vector<float> out(static_cast<size_t>(batch_.tokens() * nh * dv));
    const Sequences s = batch_.view();
    kernel.run(shape(), {s, q_.data(), cache_.data(), dense ? k_.data() : nullptr, dense ? v_.data() : nullptr,
                         dense ? DType::f32 : dtype_, capacity_, absorbed ? w_uk_transposed_.matrix() : w_uk_.matrix(),
                         w_uv_.matrix(), 0.3f, out.data()});
    return {out.begin(), out.end()};
  }

  // A shape has even new tokens; it counts the reference's units, and the lengths are the sequences'.
  MlaDecode::Shape shape() const { return {1, batch_.tokens(), capacity_, 0, nh, R, dn, D, dv}; }
  template <class Op>
  bool runs(const Kernel<Op>& kernel) const {
    return supported(kernel.impl) && takes(kernel, shape(), dtype_);
  }

  static constexpr int64_t nh = 3, R = 40, dn = 24, D = 8, dv = 20;

 private:
  Batch batch_;
  DType dtype_;
  int64_t capacity_;
  std::vector<float> q_, k_, v_;
  PackedMatrix w_uk_, w_uk_transposed_, w_uv_;
  Buffer<uint8_t> cache_;
};

template <class Op>
void expect_same_from_every_algo(const MlaCase& c) {
  const std::vector<double> expected = c.run(Op::kernels()[0]);
  for (const Kernel<Op>& kernel : Op::kernels()) {
    if (!c.runs(kernel)) continue;
    EXPECT_LE(compare(c.run(kernel), expected).max_err, 1e-5) << kernel.algo << " " << name(kernel.impl);
  }
}

}  // namespace mmb
