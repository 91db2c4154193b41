// Bound: that of its layers, at decode memory. They run one after the other in one team, so that nothing is forked or joined
// between them.
#include "mmb/decode_step.h"

#include "../append.h"
#include "mmb/linear.h"
#include "mmb/rms_norm.h"

namespace mmb::MMB_IMPL {
namespace {

// h[n] = table[tokens[n]] for this thread's tokens.
template <class T>
MMB_OP void embed(const int32_t* tokens, const T* table, int64_t N, int64_t H, float* h) {
  const Share own = share(N);
  for (int64_t n = own.begin; n < own.end; ++n) convert_row(table + tokens[n] * H, H, h + n * H);
}

}  // namespace

void decode_step(const DecodeStep::Shape& shape, const DecodeStep::Args& args) noexcept {
  const int64_t N = shape.batch * shape.new_tokens, H = shape.hidden_size, L = args.layer_count;
  const int64_t M = shape.last_only ? shape.batch : N;
  team([&] {
    const auto done = [&](int64_t i) {
      if (args.seconds && thread_index() == 0) args.seconds[i] = omp_get_wtime();
    };
    if (args.embedding_dtype == DType::f32)
      embed(args.tokens, static_cast<const float*>(args.embedding), N, H, args.h);
    else
      embed(args.tokens, static_cast<const bf16*>(args.embedding), N, H, args.h);
    barrier();
    done(0);
    for (int64_t l = 0; l < L; ++l) {
      DecoderLayer::Args layer = args.layers[l];
      layer.x = args.h + l * N * H;
      layer.y = args.h + (l + 1) * N * H;
      decoder_layer(args.layer_shapes[l], layer);
      done(l + 1);
    }
    Scratch scratch;
    auto* last = scratch.shared<float>(M * H);
    const Share rows = share(M);
    for (int64_t m = rows.begin; m < rows.end; ++m)
      memcpy(last + m * H, args.h + (L * N + (m + 1) * (N / M) - 1) * H, static_cast<size_t>(4 * H));
    barrier();
    rms_norm({M, H}, {last, args.norm, args.eps, last});
    linear({M, H, shape.vocab_size}, {last, args.head, args.logits});
    done(L + 1);
  });
}

}  // namespace mmb::MMB_IMPL
