// Bound: memory. One token reads 3*H*I weights of each of its experts; experts are shared by so few tokens that only
// hundreds of them reach the machine's balance.
// Roof, bf16, 2 cores of a Xeon, AVX-512 (November 2026, medians of 3 to 7): V3 1 token 0.96, 8 tokens 0.96, 64 tokens
// 0.83-0.94; V2-Lite 0.92, 0.90 and 0.73 (AVX2 0.63, the matrix unit 0.74-0.84). At 64 tokens V2-Lite's shared expert takes
// arithmetic and most of its routed ones, of 6 tokens, memory: one after the other they may take 1.17 times the roof's time.
// Idea: the (token, expert) pairs are counted and sorted by expert, each expert's tokens are gathered and packed, and
// ffn.h does the experts as small dense FFNs; one token is the same with a list of K experts of one token each. The
// shared expert is the last of the list, over all tokens.
// Split: panels of gate and up of all experts as one list of even cost, then panels of outputs (ffn.h). Experts go in
// waves whose gathered tokens stay in the last-level cache.
#include "mmb/moe_experts.h"

#include "../ffn.h"

namespace mmb::MMB_IMPL {
namespace {

constexpr int64_t kWaveFloats = int64_t{4} << 20;  // 16 MiB of gathered tokens

// Lists the touched experts in `works`, and in `rows` and `weights` their tokens, by expert, in token order. Returns
// how many. `end` is [E + 1].
MMB_OP int64_t sort_by_expert(const MoeExperts::Shape& s, const MoeExperts::Args& args, int64_t* end, int32_t* rows,
                              float* weights, FfnWork* works) {
  const int64_t N = s.tokens, K = s.num_experts_per_tok, E = s.n_routed_experts;
  memset(end, 0, static_cast<size_t>(8 * (E + 1)));
  for (int64_t i = 0; i < N * K; ++i) ++end[args.topk_indices[i] + 1];
  for (int64_t e = 0; e < E; ++e) end[e + 1] += end[e];
  // end[e] is where expert e begins, and moves to where it ends.
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t i = n * K; i < (n + 1) * K; ++i) {
      const int64_t entry = end[args.topk_indices[i]]++;
      rows[entry] = static_cast<int32_t>(n);
      weights[entry] = args.topk_weights[i];
    }
  }
  int64_t count = 0, begin = 0;
  for (int64_t e = 0; e < E; ++e) {
    if (end[e] > begin) works[count++] = {args.experts + e, begin, end[e] - begin, rows + begin, weights + begin};
    begin = end[e];
  }
  if (s.shared_intermediate_size > 0) works[count++] = {&args.shared, begin, N, nullptr, nullptr};
  return count;
}

}  // namespace

void moe_experts(const MoeExperts::Shape& shape, const MoeExperts::Args& args) noexcept {
  const int64_t N = shape.tokens, H = shape.hidden_size, K = shape.num_experts_per_tok, E = shape.n_routed_experts;
  const int64_t I = shape.moe_intermediate_size, Is = shape.shared_intermediate_size;
  team([&] {
    Scratch scratch;
    auto* rows = scratch.shared<int32_t>(N * K);
    auto* weights = scratch.shared<float>(N * K);
    auto* works = scratch.shared<FfnWork>((E < N * K ? E : N * K) + 1);
    auto* works_count = scratch.shared<int64_t>(1);
    auto* end = scratch.shared<int64_t>(E + 1);
    if (thread_index() == 0) *works_count = sort_by_expert(shape, args, end, rows, weights, works);
    clear_own_outputs(args.y, N, H);
    barrier();

    const int64_t count = *works_count, width = I > Is ? I : Is;
    int64_t wave_entries = kWaveFloats / H;  // or one expert with more tokens than that
    for (int64_t i = 0; i < count; ++i)
      if (works[i].tokens > wave_entries) wave_entries = works[i].tokens;
    const int64_t entries = works[count - 1].first + works[count - 1].tokens;
    if (entries < wave_entries) wave_entries = entries;
    const DType dtype = works[0].ffn->gate.dtype;
    auto* x = scratch.shared<float>(packed_size(wave_entries, H));
    auto* hidden = scratch.shared<float>(packed_size(wave_entries, width));

    for (int64_t i = 0, next; i < count; i = next) {
      const FfnWork* wave = works + i;
      for (next = i; next < count && works[next].first + works[next].tokens - wave->first <= wave_entries; ++next)
        pack_tokens(args.x, H, works[next].rows, works[next].tokens, H, dtype,
                    x + (works[next].first - wave->first) * packed_row(H));
      barrier();
      add_ffns(wave, next - i, x, hidden, width, H, args.y);
    }
  });
}

}  // namespace mmb::MMB_IMPL
