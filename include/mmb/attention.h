// What attention_decode and attention_prefill share: the contract of attention over a dense cache of keys and values.
//   s[n,h,t] = scale * (q[n,h,:] . k[b,g,t,:]);   o[n,h,:] = sum_t softmax_t(s[n,h,:])[t] * v[b,g,t,:]
//   over the tokens t that new token n of sequence b sees (sequences.h); g = h / (heads / key-value heads)
// Shapes  q [N, heads, qk dim] f32 · k [B, kv heads, capacity, qk dim], v [B, kv heads, capacity, v dim] cache type ·
//         o [N, heads, v dim] f32
// Cost    flops = 2*heads*(qk + v)*(pairs of a new token and a token it sees);  exps = heads*pairs;
//         bytes = cached tokens*kv heads*(qk + v)*size(cache) + 4*N*heads*(qk + v)
// Traps   masked pairs are not counted: a kernel that computes them is slow, not fast
// Source  Vaswani et al., arXiv:1706.03762, section 3.2; grouped heads: Ainslie et al., arXiv:2305.13245
#pragma once

#include "mmb/kernel.h"
#include "mmb/model.h"
#include "mmb/sequences.h"

namespace mmb {

// Every sequence has `new_tokens` new tokens; caches hold `context` tokens, new ones included, or lengths spread evenly
// from `shortest` to `context` where shortest is not 0.
struct AttentionShape {
  int64_t batch, new_tokens, context, shortest;
  int64_t num_attention_heads, num_key_value_heads, qk_head_dim, v_head_dim;
};

struct AttentionArgs {
  Sequences sequences;
  const float* q;
  const void *k, *v;
  DType cache_dtype;
  int64_t capacity;  // tokens that each sequence's cache has room for
  float scale;
  float* out;
};

// Of a model whose cache holds keys and values.
AttentionShape attention_shape(const Model& model, int64_t batch, int64_t new_tokens, int64_t context,
                               int64_t shortest = 0);
Cost attention_cost(const AttentionShape& shape, DType dtype);

class AttentionProblem {
 public:
  AttentionProblem(const AttentionShape& shape, DType dtype, std::string_view algo, Arena& arena, uint64_t seed);
  const AttentionArgs& args() const { return args_; }
  const AttentionArgs& expected() const { return expected_args_; }
  std::vector<Output> outputs(const AttentionArgs& args, int64_t unit) const;
  void next();
  bool intact() const { return out_.intact(); }

 private:
  AttentionShape shape_;
  Arena& arena_;
  Batch batch_;
  Buffer<float> q_, out_, expected_;
  AttentionArgs args_, expected_args_;
};

}  // namespace mmb
