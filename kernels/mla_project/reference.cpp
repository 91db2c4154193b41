#include "mmb/mla_project.h"

#include "../attend_reference.h"
#include "mmb/linear.h"
#include "mmb/rms_norm.h"
#include "mmb/rope.h"

namespace mmb::reference {

template <class S>
void mla_project(const MlaProject::Shape& shape, const MlaProject::Args& args, Range tokens) {
  const int64_t H = shape.hidden_size, nh = shape.num_attention_heads, Q = shape.q_lora_rank, R = shape.kv_lora_rank,
                D = shape.qk_rope_head_dim, d = shape.qk_nope_head_dim + D;
  const auto project = [](const Matrix& w, const float* x, float* y) {
    linear<S>({1, w.cols, w.rows}, {x, w, y}, {0, w.rows});
  };
  const auto normalise = [&](const float* weight, std::vector<float>& x, int64_t n) {
    rms_norm<S>({1, n}, {x.data(), weight, args.eps, x.data()}, {0, 1});
  };
  for (int64_t n = tokens.begin; n < tokens.end; ++n) {
    const auto rotate = [&](float* x, int64_t heads, int64_t head_stride) {
      rope<S>(
          {1, heads, D},
          {x, 0, head_stride, args.positions + n, args.inv_freq, args.attention_factor, Rope::Pairs::interleaved, x},
          {0, 1});
    };
    const float* x = args.x + n * H;
    float* q = args.q + n * nh * d;
    if (Q > 0) {
      std::vector<float> a(static_cast<size_t>(Q));
      project(args.q_a, x, a.data());
      normalise(args.q_a_norm, a, Q);
      project(args.q_b, a.data(), q);
    } else {
      project(args.q_b, x, q);
    }
    rotate(q + shape.qk_nope_head_dim, nh, d);

    std::vector<float> kv(static_cast<size_t>(R + D));
    project(args.kv_a, x, kv.data());
    normalise(args.kv_a_norm, kv, R);
    rotate(kv.data() + R, 1, D);
    const View seen = view(args.sequences, n);  // the token itself is the last that it sees
    const LatentRow row{args.cache_dtype, R, D};
    const int64_t slot = seen.sequence * args.capacity + seen.tokens - 1;
    row.store(kv.data(), static_cast<char*>(args.cache) + slot * row.bytes());
  }
}

template void mla_project<double>(const MlaProject::Shape&, const MlaProject::Args&, Range);
template void mla_project<Counted>(const MlaProject::Shape&, const MlaProject::Args&, Range);

}  // namespace mmb::reference
