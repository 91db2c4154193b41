// Golden vectors: every intermediate that an op exposes, from the reference and from every kernel, against the
// published implementations run in float64. The cases are the folders in $MMB_GOLDEN_DIR, or in tests/golden; what a
// folder holds is read from its files.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "mmb/attention_decode.h"
#include "mmb/attention_prefill.h"
#include "mmb/compare.h"
#include "mmb/decode_step.h"
#include "mmb/latent_attention.h"
#include "mmb/linear.h"
#include "mmb/mla_prefill.h"
#include "mmb/mla_project.h"
#include "mmb/rms_norm.h"
#include "reference.h"
#include "safetensors.h"

namespace mmb {
namespace {

namespace fs = std::filesystem;

using Values = std::vector<float>;

constexpr double kTolerance = 1e-5;  // relative to the tensor's largest expected value, or to 1
constexpr double kPlainScore = 32;   // attention scores beyond it carry their rounding into the weights
// DeepSeek's implementations normalise latents with this, whatever rms_norm_eps says.
constexpr float kLatentEps = 1e-6f;
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

Values poisoned(int64_t count) {
  return Values(static_cast<size_t>(count), kNaN);
}

int64_t size(const Values& values) {
  return static_cast<int64_t>(values.size());
}

// `max_score`: the largest attention score that the values hang on.
void expect_near(const std::string& what, const Values& actual, const Values& expected, double max_score = 0) {
  double largest = 0;
  for (float e : expected) largest = std::max(largest, std::abs(static_cast<double>(e)));
  const Comparison c =
      compare(std::vector<double>(actual.begin(), actual.end()), std::vector<double>(expected.begin(), expected.end()));
  const double scale = largest > 0 ? largest : 1;
  const double bound = kTolerance * std::max(1.0, largest) * std::max(1.0, max_score / kPlainScore);
  EXPECT_LE(c.max_err * scale, bound) << what << " at " << c.worst_index << " of " << expected.size();
}

std::vector<Impl> supported_impls() {
  std::vector<Impl> impls{Impl::reference};
#define MMB_ADD(LEVEL, ...) impls.push_back(Impl::LEVEL);
  MMB_LEVELS(MMB_ADD)
#undef MMB_ADD
  std::erase_if(impls, [](Impl impl) { return !supported(impl); });
  return impls;
}

// body(algo) after each kernel of `impl` for f32 has run.
template <class Op, class Body>
void each_algo(Impl impl, const typename Op::Shape& shape, const typename Op::Args& args, Body body) {
  int64_t kernels = 0;
  for (const Kernel<Op>& kernel : Op::kernels()) {
    if (kernel.impl != impl || !takes(kernel, shape, DType::f32)) continue;
    SCOPED_TRACE(std::string(Op::name) + "/" + kernel.algo + "/" + name(impl));
    kernel.run(shape, args);
    body(std::string_view(kernel.algo));
    ++kernels;
  }
  ASSERT_GT(kernels, 0) << Op::name << " has no kernel " << name(impl);
}

// The kernel of `impl`, of an op whose algos all run the same.
template <class Op>
void run(Impl impl, const typename Op::Shape& shape, const typename Op::Args& args) {
  for (const Kernel<Op>& kernel : Op::kernels())
    if (kernel.impl == impl) return kernel.run(shape, args);
  ADD_FAILURE() << Op::name << " has no kernel " << name(impl);
}

Values linear(Impl impl, const Values& x, const Matrix& w) {
  const int64_t N = size(x) / w.cols;
  Values y = poisoned(N * w.rows);
  run<Linear>(impl, {N, w.cols, w.rows}, {x.data(), w, y.data()});
  return y;
}

Values rms_norm(Impl impl, const Values& x, const Values& weight, double eps) {
  const int64_t H = size(weight), N = size(x) / H;
  Values y = poisoned(N * H);
  run<RmsNorm>(impl, {N, H}, {x.data(), weight.data(), static_cast<float>(eps), y.data()});
  return y;
}

Values sum(const Values& a, const Values& b) {
  Values y = a;
  for (size_t i = 0; i < y.size(); ++i) y[i] += b[i];
  return y;
}

// The weight [rows, cols] of a checkpoint's module.
PackedMatrix matrix(const Safetensors& file, const std::string& module, int64_t rows, int64_t cols) {
  return PackedMatrix(file.f32(module + ".weight", {rows, cols}), rows, cols, DType::f32);
}

// --- Steps: batches of sequences that grow ---

// The new tokens of one step, packed: slots whose position is -1 are padding, and sequences that have no new token are
// left out.
struct Step {
  std::string name;                     // "step0."
  std::vector<int64_t> padded;          // [the file's sequences, slots]
  std::vector<int64_t> slots;           // of each token, in the file's padded tensors
  std::vector<int64_t> sequence;        // the file's, of each sequence here
  std::vector<int64_t> first, context;  // as Sequences has them
  std::vector<int64_t> lengths;         // of the file's sequences after the step
  std::vector<int64_t> positions;       // [tokens]
  Values x;                             // [tokens, H]

  int64_t batch() const { return static_cast<int64_t>(sequence.size()); }
  int64_t tokens() const { return first.back(); }
  Sequences sequences() const { return {batch(), first.data(), context.data()}; }
  int64_t longest() const { return *std::max_element(lengths.begin(), lengths.end()); }
  // Shapes have one number of new tokens; that of a step is the longest sequence's.
  int64_t new_tokens() const {
    int64_t n = 0;
    for (size_t b = 0; b < context.size(); ++b) n = std::max(n, first[b + 1] - first[b]);
    return n;
  }

  // The tokens' rows of a padded tensor.
  template <class T>
  std::vector<T> pack(const std::vector<T>& values) const {
    const int64_t width = static_cast<int64_t>(values.size()) / (padded[0] * padded[1]);
    std::vector<T> rows;
    for (int64_t slot : slots)
      rows.insert(rows.end(), values.begin() + slot * width, values.begin() + (slot + 1) * width);
    return rows;
  }
  // The tokens' rows of stepK.out.`tensor` [sequences, slots, dims...].
  Values out(const Safetensors& file, const std::string& tensor, const std::vector<int64_t>& dims) const {
    return pack(file.f32(name + "out." + tensor, shape(dims)));
  }
  std::vector<int64_t> shape(const std::vector<int64_t>& dims) const {
    std::vector<int64_t> all = padded;
    all.insert(all.end(), dims.begin(), dims.end());
    return all;
  }
};

std::vector<Step> read_steps(const Safetensors& file, int64_t H) {
  std::vector<Step> steps;
  std::vector<int64_t> lengths;
  for (;;) {
    Step step;
    step.name = "step" + std::to_string(steps.size()) + ".";
    const std::string ids = step.name + "in.position_ids";
    if (!file.has(ids) && !steps.empty()) return steps;
    step.padded = file.shape(ids);
    if (step.padded.size() != 2 || (!steps.empty() && step.padded[0] != steps[0].padded[0]))
      throw Error(file.file() + ": " + ids + ": expected [sequences, slots], the same sequences in every step");
    const auto& positions = file.i64(ids, step.padded);
    lengths.resize(static_cast<size_t>(step.padded[0]));
    step.first = {0};
    for (int64_t b = 0; b < step.padded[0]; ++b) {
      for (int64_t slot = b * step.padded[1]; slot < (b + 1) * step.padded[1]; ++slot) {
        if (positions[static_cast<size_t>(slot)] < 0) continue;
        step.slots.push_back(slot);
        step.positions.push_back(positions[static_cast<size_t>(slot)]);
      }
      const auto tokens = static_cast<int64_t>(step.slots.size());
      if (tokens == step.first.back()) continue;
      lengths[static_cast<size_t>(b)] += tokens - step.first.back();
      step.sequence.push_back(b);
      step.first.push_back(tokens);
      step.context.push_back(lengths[static_cast<size_t>(b)]);
    }
    if (step.slots.empty()) throw Error(file.file() + ": " + ids + ": expected a token");
    step.lengths = lengths;
    step.x = step.pack(file.f32(step.name + "in.hidden_states", step.shape({H})));
    steps.push_back(step);
  }
}

// The cache of all the file's sequences; the kernels of a step are given its sequences' part.
struct Cache {
  int64_t heads, capacity, width;
  std::vector<Values> all;  // of each sequence: [heads, capacity, width]; what no token fills is NaN
  Values batch;             // of the step's sequences

  // With room for more tokens than `last` has.
  Cache(const Step& last, int64_t head_count, int64_t row_width)
      : heads(head_count),
        capacity(last.longest() + 3),
        width(row_width),
        all(last.lengths.size(), poisoned(heads * capacity * width)) {}

  void gather(const Step& step) {
    batch.clear();
    for (int64_t b : step.sequence)
      batch.insert(batch.end(), all[static_cast<size_t>(b)].begin(), all[static_cast<size_t>(b)].end());
  }
  void scatter(const Step& step) {
    const int64_t size = heads * capacity * width;
    for (size_t i = 0; i < step.sequence.size(); ++i)
      std::copy_n(batch.begin() + static_cast<int64_t>(i) * size, size,
                  all[static_cast<size_t>(step.sequence[i])].begin());
  }
  // The filled rows, in order of sequence, token, head.
  Values filled(const Step& last) const {
    Values rows;
    for (size_t b = 0; b < all.size(); ++b)
      for (int64_t t = 0; t < last.lengths[b]; ++t)
        for (int64_t h = 0; h < heads; ++h) {
          const auto row = all[b].begin() + (h * capacity + t) * width;
          rows.insert(rows.end(), row, row + width);
        }
    return rows;
  }
};

struct KeyValueCache {
  Cache k, v;

  void gather(const Step& step) {
    k.gather(step);
    v.gather(step);
  }
  void scatter(const Step& step) {
    k.scatter(step);
    v.scatter(step);
  }
};

// The filled rows of a file's cache [sequences, longest, heads, width].
Values filled(const Values& cache, const Step& last) {
  const int64_t row = size(cache) / (last.padded[0] * last.longest());
  Values rows;
  for (size_t b = 0; b < last.lengths.size(); ++b) {
    const auto begin = cache.begin() + static_cast<int64_t>(b) * last.longest() * row;
    rows.insert(rows.end(), begin, begin + last.lengths[b] * row);
  }
  return rows;
}

// A cache tensor of the file, whose capacity is the longest sequence; `dims` follow [sequences, tokens].
Values file_cache(const Safetensors& file, const std::string& tensor, const Step& last, std::vector<int64_t> dims) {
  dims.insert(dims.begin(), {last.padded[0], last.longest()});
  return file.f32(tensor, dims);
}

// The largest |score| of the step's queries [N, nh, dk] on keys [B, capacity, nkv, dk] that they see.
double max_score(const Step& step, const Values& q, int64_t nh, const Values& keys, int64_t nkv, int64_t capacity,
                 double scale) {
  const int64_t dk = size(q) / (step.tokens() * nh);
  double largest = 0;
  for (size_t i = 0; i < step.sequence.size(); ++i) {
    const int64_t b = step.sequence[i];
    for (int64_t n = step.first[i]; n < step.first[i + 1]; ++n)
      for (int64_t h = 0; h < nh; ++h)
        for (int64_t t = 0; t < step.context[i] - (step.first[i + 1] - 1 - n); ++t) {
          const float* query = q.data() + (n * nh + h) * dk;
          const float* key = keys.data() + ((b * capacity + t) * nkv + h / (nh / nkv)) * dk;
          double dot = 0;
          for (int64_t d = 0; d < dk; ++d) dot += static_cast<double>(query[d]) * static_cast<double>(key[d]);
          largest = std::max(largest, std::abs(scale * dot));
        }
  }
  return largest;
}

// A reference computes the units of its shape; packed tokens of uneven sequences are as many as those of one sequence.
template <class Shape>
void pack_units(Shape& shape, int64_t tokens) {
  shape.batch = 1;
  shape.new_tokens = tokens;
}
void pack_units(DecoderLayer::Shape& shape, int64_t tokens) {
  pack_units(shape.attention_layer, tokens);
  pack_units(shape.mla_layer, tokens);
}

// The shape for a kernel of `impl` over the step's tokens.
template <class Op>
typename Op::Shape units_of(Impl impl, typename Op::Shape shape, const Step& step) {
  if (impl == Impl::reference) pack_units(shape, step.tokens());
  return shape;
}

// --- Attention over a dense cache ---

struct DenseAttention {
  const Model& model;
  int64_t H, nh, nkv, dk, dv;
  PackedMatrix q, k, v, o;
  Values q_bias, k_bias, v_bias, o_bias, q_norm, k_norm;
  RopeFrequencies frequencies;
  double scale;

  DenseAttention(const Safetensors& file, const Model& m, const std::string& prefix) : model(m) {
    const AttentionLayer::Shape s = AttentionLayer::shape(m, 1, 1, 1);
    H = s.hidden_size, nh = s.num_attention_heads, nkv = s.num_key_value_heads, dk = s.qk_head_dim, dv = s.v_head_dim;
    q = matrix(file, prefix + "q_proj", nh * dk, H);
    k = matrix(file, prefix + "k_proj", nkv * dk, H);
    v = matrix(file, prefix + "v_proj", nkv * dv, H);
    o = matrix(file, prefix + "o_proj", H, nh * dv);
    if (s.bias) {
      q_bias = file.f32(prefix + "q_proj.bias", {nh * dk});
      k_bias = file.f32(prefix + "k_proj.bias", {nkv * dk});
      v_bias = file.f32(prefix + "v_proj.bias", {nkv * dv});
    }
    if (s.output_bias) o_bias = file.f32(prefix + "o_proj.bias", {H});
    if (s.qk_norm) {
      q_norm = file.f32(prefix + "q_norm.weight", {dk});
      k_norm = file.f32(prefix + "k_norm.weight", {dk});
    }
    frequencies = rope_frequencies(m);
    scale = softmax_scale(m);
  }

  AttentionLayer::Shape shape(const Step& step) const {
    return AttentionLayer::shape(model, step.batch(), step.new_tokens(), step.longest());
  }

  KeyValueCache caches(const Step& last) const { return {Cache(last, nkv, dk), Cache(last, nkv, dv)}; }
  AttentionLayer::Args args(const Step& step, const Values& x, KeyValueCache& cache, Values& y) const {
    return {.sequences = step.sequences(),
            .x = x.data(),
            .positions = step.positions.data(),
            .q_a = {},
            .q = q.matrix(),
            .k = k.matrix(),
            .v = v.matrix(),
            .o = o.matrix(),
            .q_a_norm = nullptr,
            .q_bias = q_bias.data(),
            .k_bias = k_bias.data(),
            .v_bias = v_bias.data(),
            .o_bias = o_bias.data(),
            .q_norm = q_norm.data(),
            .k_norm = k_norm.data(),
            .eps = static_cast<float>(model.rms_norm_eps),
            .inv_freq = frequencies.inv_freq.data(),
            .attention_factor = frequencies.attention_factor,
            .k_cache = cache.k.batch.data(),
            .v_cache = cache.v.batch.data(),
            .cache_dtype = DType::f32,
            .capacity = cache.k.capacity,
            .scale = static_cast<float>(scale),
            .y = y.data()};
  }

  // The rotated queries [N, nh, dk].
  Values query(Impl impl, const Step& step, const Values& x) const {
    Values heads = linear(impl, x, q.matrix());
    for (size_t i = 0; i < heads.size() && !q_bias.empty(); ++i) heads[i] += q_bias[i % q_bias.size()];
    if (!q_norm.empty()) heads = rms_norm(impl, heads, q_norm, model.rms_norm_eps);
    const AttentionLayer::Shape s = shape(step);
    run<Rope>(impl, {step.tokens(), nh, s.rotary_dim},
              {heads.data(), nh * dk, dk, step.positions.data(), frequencies.inv_freq.data(),
               frequencies.attention_factor, s.pairs, heads.data()});
    return heads;
  }

  void expect_caches(const Safetensors& file, const std::string& prefix, const Step& last, const KeyValueCache& cache,
                     double score) const {
    for (bool keys : {true, false}) {
      const int64_t width = keys ? dk : dv;
      const std::string tensor = prefix + (keys ? "k" : "v");
      expect_near(tensor, (keys ? cache.k : cache.v).filled(last),
                  filled(file_cache(file, tensor, last, {nkv, width}), last), score);
    }
  }
};

void expect_metadata_near(const Safetensors& file, const std::string& key, double actual) {
  const auto found = file.metadata().find(key);
  if (found == file.metadata().end()) return;
  EXPECT_NEAR(actual, std::stod(found->second), 1e-9 * std::abs(actual)) << key;
}

// The file's value is rounded to f32.
void expect_inv_freq(const std::vector<double>& actual, const Values& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) EXPECT_NEAR(actual[i], expected[i], 1e-6 * actual[i]) << "inv_freq " << i;
}

void check_frequencies(const Safetensors& file, const RopeFrequencies& frequencies, double scale) {
  expect_metadata_near(file, "softmax_scale", scale);
  expect_metadata_near(file, "rope_attention_factor", frequencies.attention_factor);
  const auto half = static_cast<int64_t>(frequencies.inv_freq.size());
  if (file.has("rope.inv_freq")) expect_inv_freq(frequencies.inv_freq, file.f32("rope.inv_freq", {half}));
}

void gqa_attention(const Safetensors& file, const Model& model) {
  const DenseAttention layer(file, model, "model.layers.0.self_attn.");
  const int64_t H = layer.H, nh = layer.nh, nkv = layer.nkv, dk = layer.dk, dv = layer.dv;
  check_frequencies(file, layer.frequencies, layer.scale);
  const std::vector<Step> steps = read_steps(file, H);
  const Step& last = steps.back();
  const Values keys = file_cache(file, "cache.k", last, {nkv, dk});
  for (Impl impl : supported_impls()) {
    SCOPED_TRACE(name(impl));
    KeyValueCache cache = layer.caches(last);
    for (const Step& step : steps) {
      SCOPED_TRACE(step.name);
      cache.gather(step);
      const Values expected_q = step.out(file, "q", {nh, dk});
      const double score = max_score(step, expected_q, nh, keys, nkv, last.longest(), layer.scale);
      Values y = poisoned(step.tokens() * H);
      each_algo<AttentionLayer>(
          impl, units_of<AttentionLayer>(impl, layer.shape(step), step), layer.args(step, step.x, cache, y),
          [&](std::string_view) { expect_near("attn_output", y, step.out(file, "attn_output", {H}), score); });
      const Values q = layer.query(impl, step, step.x);
      expect_near("q", q, expected_q);

      Values context = poisoned(step.tokens() * nh * dv);
      const AttentionPrefill::Args args{step.sequences(),
                                        q.data(),
                                        cache.k.batch.data(),
                                        cache.v.batch.data(),
                                        DType::f32,
                                        cache.k.capacity,
                                        static_cast<float>(layer.scale),
                                        context.data()};
      const AttentionPrefill::Shape shape{step.batch(), step.new_tokens(), step.longest(), 0, nh, nkv, dk, dv};
      const auto compare_context = [&](std::string_view) {
        expect_near("attn_context", context, step.out(file, "attn_context", {nh * dv}), score);
        std::fill(context.begin(), context.end(), kNaN);
      };
      each_algo<AttentionPrefill>(impl, units_of<AttentionPrefill>(impl, shape, step), args, compare_context);
      // A decode step has one new token for each sequence.
      if (step.new_tokens() == 1) each_algo<AttentionDecode>(impl, shape, args, compare_context);
      cache.scatter(step);
    }
    layer.expect_caches(file, "cache.", last, cache, 0);
  }
}

// --- Multi-head latent attention ---

struct LatentAttentionWeights {
  const Model& model;
  int64_t H, nh, Q, R, dn, D, dv;
  PackedMatrix q_a, q_b, kv_a, o;
  Values q_a_norm, kv_a_norm;
  Values w_uk, w_uv;  // [nh, dn, R], [nh, dv, R]
  PackedMatrix uk, uk_transposed, uv;
  RopeFrequencies frequencies;
  double scale;

  LatentAttentionWeights(const Safetensors& file, const Model& m, const std::string& prefix) : model(m) {
    const MlaLayer::Shape s = MlaLayer::shape(m, 1, 1, 1);
    H = s.hidden_size, nh = s.num_attention_heads, Q = s.q_lora_rank, R = s.kv_lora_rank, dn = s.qk_nope_head_dim,
    D = s.qk_rope_head_dim, dv = s.v_head_dim;
    if (Q > 0) {
      q_a = matrix(file, prefix + "q_a_proj", Q, H);
      q_a_norm = file.f32(prefix + "q_a_layernorm.weight", {Q});
      q_b = matrix(file, prefix + "q_b_proj", nh * (dn + D), Q);
    } else {
      q_b = matrix(file, prefix + "q_proj", nh * (dn + D), H);
    }
    kv_a = matrix(file, prefix + "kv_a_proj_with_mqa", R + D, H);
    kv_a_norm = file.f32(prefix + "kv_a_layernorm.weight", {R});
    o = matrix(file, prefix + "o_proj", H, nh * dv);
    const Values& kv_b = file.f32(prefix + "kv_b_proj.weight", {nh * (dn + dv), R});
    for (int64_t h = 0; h < nh; ++h) {
      const auto key = kv_b.begin() + h * (dn + dv) * R, value = key + dn * R;
      w_uk.insert(w_uk.end(), key, value);
      w_uv.insert(w_uv.end(), value, value + dv * R);
    }
    uk = PackedMatrix(w_uk, dn, R, DType::f32, false, nh);
    uk_transposed = PackedMatrix(w_uk, dn, R, DType::f32, true, nh);
    uv = PackedMatrix(w_uv, dv, R, DType::f32, false, nh);
    frequencies = rope_frequencies(m);
    scale = softmax_scale(m);
  }

  MlaLayer::Shape shape(const Step& step) const {
    return MlaLayer::shape(model, step.batch(), step.new_tokens(), step.longest());
  }

  // One row for a token: [R + D].
  Cache cache(const Step& last) const { return Cache(last, 1, R + D); }
  MlaLayer::Args args(const Step& step, const Values& x, Cache& cache, Values& y) const {
    return {.sequences = step.sequences(),
            .x = x.data(),
            .positions = step.positions.data(),
            .q_a = q_a.matrix(),
            .q_b = q_b.matrix(),
            .q_a_norm = q_a_norm.data(),
            .kv_a = kv_a.matrix(),
            .kv_a_norm = kv_a_norm.data(),
            .eps = kLatentEps,
            .inv_freq = frequencies.inv_freq.data(),
            .attention_factor = frequencies.attention_factor,
            .cache = cache.batch.data(),
            .cache_dtype = DType::f32,
            .capacity = cache.capacity,
            .w_uk = uk.matrix(),
            .w_uv = uv.matrix(),
            .scale = static_cast<float>(scale),
            .o = o.matrix(),
            .y = y.data()};
  }
  const Matrix& key_matrix(std::string_view algo) const { return (algo == "absorbed" ? uk_transposed : uk).matrix(); }

  // Queries [N, nh, dn + D]; appends to the cache.
  Values project(Impl impl, const Step& step, const Values& x, Cache& cache) const {
    Values q = poisoned(step.tokens() * nh * (dn + D));
    const MlaProject::Shape s = MlaProject::shape(model, step.batch(), step.new_tokens(), step.longest());
    run<MlaProject>(impl, units_of<MlaProject>(impl, s, step),
                    {.sequences = step.sequences(),
                     .x = x.data(),
                     .positions = step.positions.data(),
                     .q_a = q_a.matrix(),
                     .q_b = q_b.matrix(),
                     .q_a_norm = q_a_norm.data(),
                     .kv_a = kv_a.matrix(),
                     .kv_a_norm = kv_a_norm.data(),
                     .eps = kLatentEps,
                     .inv_freq = frequencies.inv_freq.data(),
                     .attention_factor = frequencies.attention_factor,
                     .q = q.data(),
                     .cache = cache.batch.data(),
                     .cache_dtype = DType::f32,
                     .capacity = cache.capacity});
    return q;
  }

  // Expanded keys [B, capacity, nh, dn + D] of a file's cache, in double.
  Values expanded_keys(const Values& latents, const Values& rope_keys) const {
    Values keys;
    for (int64_t row = 0; row < size(latents) / R; ++row)
      for (int64_t h = 0; h < nh; ++h) {
        for (int64_t i = 0; i < dn; ++i) {
          double dot = 0;
          for (int64_t r = 0; r < R; ++r)
            dot += static_cast<double>(w_uk[static_cast<size_t>((h * dn + i) * R + r)]) *
                   static_cast<double>(latents[static_cast<size_t>(row * R + r)]);
          keys.push_back(static_cast<float>(dot));
        }
        keys.insert(keys.end(), rope_keys.begin() + row * D, rope_keys.begin() + (row + 1) * D);
      }
    return keys;
  }

  void expect_cache(const Safetensors& file, const std::string& prefix, const Step& last, const Cache& cache,
                    double score) const {
    const Values rows = cache.filled(last);
    for (bool latent : {true, false}) {
      const int64_t width = latent ? R : D;
      const std::string tensor = prefix + (latent ? "compressed_kv" : "k_pe");
      Values part;
      for (auto row = rows.begin(); row != rows.end(); row += R + D)
        part.insert(part.end(), latent ? row : row + R, latent ? row + R : row + R + D);
      expect_near(tensor, part, filled(file_cache(file, tensor, last, {width}), last), score);
    }
  }
};

// Columns [begin, end) of each row of `width`.
Values columns(const Values& rows, int64_t width, int64_t begin, int64_t end) {
  Values part;
  for (auto row = rows.begin(); row != rows.end(); row += width) part.insert(part.end(), row + begin, row + end);
  return part;
}

// Expands the latents of the step's tokens, head by head, by the kernels of `impl`.
void expand(Impl impl, const LatentAttentionWeights& w, const Step& step, const Cache& cache, KeyValueCache& expanded) {
  const int64_t dk = w.dn + w.D;
  for (size_t b = 0; b < step.context.size(); ++b) {
    const int64_t end = step.context[b], begin = end - (step.first[b + 1] - step.first[b]);
    const auto rows = cache.batch.begin() + static_cast<int64_t>(b) * cache.capacity * (w.R + w.D);
    const Values fresh(rows + begin * (w.R + w.D), rows + end * (w.R + w.D));
    const Values latents = columns(fresh, w.R + w.D, 0, w.R);
    for (int64_t h = 0; h < w.nh; ++h) {
      const Values keys = linear(impl, latents, w.uk.matrix().nth(h)),
                   values = linear(impl, latents, w.uv.matrix().nth(h));
      for (int64_t t = begin; t < end; ++t) {
        const int64_t i = t - begin, row = (static_cast<int64_t>(b) * w.nh + h) * cache.capacity + t;
        std::copy_n(keys.begin() + i * w.dn, w.dn, expanded.k.batch.begin() + row * dk);
        std::copy_n(fresh.begin() + i * (w.R + w.D) + w.R, w.D, expanded.k.batch.begin() + row * dk + w.dn);
        std::copy_n(values.begin() + i * w.dv, w.dv, expanded.v.batch.begin() + row * w.dv);
      }
    }
  }
}

// The absorbed queries [N, nh, R].
Values absorb(Impl impl, const LatentAttentionWeights& w, const Values& q_nope) {
  const int64_t N = size(q_nope) / (w.nh * w.dn);
  Values absorbed(static_cast<size_t>(N * w.nh * w.R));
  for (int64_t h = 0; h < w.nh; ++h) {
    Values transposed;  // [R, dn]
    for (int64_t r = 0; r < w.R; ++r)
      for (int64_t i = 0; i < w.dn; ++i) transposed.push_back(w.w_uk[static_cast<size_t>((h * w.dn + i) * w.R + r)]);
    const PackedMatrix packed(transposed, w.R, w.dn, DType::f32);
    const Values y = linear(impl, columns(q_nope, w.nh * w.dn, h * w.dn, (h + 1) * w.dn), packed.matrix());
    for (int64_t n = 0; n < N; ++n) std::copy_n(y.begin() + n * w.R, w.R, absorbed.begin() + (n * w.nh + h) * w.R);
  }
  return absorbed;
}

void mla_attention(const Safetensors& file, const Model& model) {
  const LatentAttentionWeights w(file, model, "model.layers.0.self_attn.");
  const int64_t H = w.H, nh = w.nh, R = w.R, dn = w.dn, D = w.D, dk = dn + D, dv = w.dv;
  check_frequencies(file, w.frequencies, w.scale);
  const std::vector<Step> steps = read_steps(file, H);
  const Step& last = steps.back();
  const Values keys = file_cache(file, "cache.k_full", last, {nh, dk});
  for (Impl impl : supported_impls()) {
    SCOPED_TRACE(name(impl));
    Cache cache = w.cache(last);
    KeyValueCache expanded{Cache(last, nh, dk), Cache(last, nh, dv)};
    for (const Step& step : steps) {
      SCOPED_TRACE(step.name);
      cache.gather(step);
      expanded.gather(step);
      const int64_t N = step.tokens();
      const Values q = w.project(impl, step, step.x, cache);
      const Values q_nope = columns(q, dk, 0, dn), q_pe = columns(q, dk, dn, dk);
      const Values expected_nope = step.out(file, "q_nope", {nh, dn}), expected_pe = step.out(file, "q_pe", {nh, D});
      expect_near("q_nope", q_nope, expected_nope);
      expect_near("q_pe", q_pe, expected_pe);
      Values expected_q;
      for (int64_t i = 0; i < N * nh; ++i) {
        expected_q.insert(expected_q.end(), expected_nope.begin() + i * dn, expected_nope.begin() + (i + 1) * dn);
        expected_q.insert(expected_q.end(), expected_pe.begin() + i * D, expected_pe.begin() + (i + 1) * D);
      }
      const double score = max_score(step, expected_q, nh, keys, nh, last.longest(), w.scale);

      const Values q_absorbed = absorb(impl, w, q_nope);
      expect_near("q_absorbed", q_absorbed, step.out(file, "q_absorbed", {nh, R}));
      Values q_latent;
      for (int64_t i = 0; i < N * nh; ++i) {
        q_latent.insert(q_latent.end(), q_absorbed.begin() + i * R, q_absorbed.begin() + (i + 1) * R);
        q_latent.insert(q_latent.end(), q_pe.begin() + i * D, q_pe.begin() + (i + 1) * D);
      }
      Values latent_context = poisoned(N * nh * R);
      each_algo<LatentAttention>(
          impl, units_of<LatentAttention>(impl, {step.batch(), step.new_tokens(), step.longest(), 0, nh, R, D}, step),
          {step.sequences(), q_latent.data(), cache.batch.data(), DType::f32, cache.capacity,
           static_cast<float>(w.scale), latent_context.data()},
          [&](std::string_view) {
            expect_near("latent_context", latent_context, step.out(file, "latent_context", {nh, R}), score);
          });

      expand(impl, w, step, cache, expanded);
      Values context = poisoned(N * nh * dv);
      const MlaDecode::Shape shape{step.batch(), step.new_tokens(), step.longest(), 0, nh, R, dn, D, dv};
      MlaDecode::Args args{step.sequences(),
                           q.data(),
                           cache.batch.data(),
                           nullptr,
                           nullptr,
                           DType::f32,
                           cache.capacity,
                           {},
                           w.uv.matrix(),
                           static_cast<float>(w.scale),
                           context.data()};
      const auto expect_context = [&](auto op) {
        using Op = decltype(op);
        for (const Kernel<Op>& kernel : Op::kernels()) {
          if (kernel.impl != impl || !takes(kernel, shape, DType::f32)) continue;
          SCOPED_TRACE(std::string(Op::name) + "/" + kernel.algo);
          args.w_uk = w.key_matrix(kernel.algo);
          const bool from_expanded = std::is_same_v<Op, MlaDecode> && kernel.algo == std::string_view("expanded");
          args.k = from_expanded ? expanded.k.batch.data() : nullptr;
          args.v = from_expanded ? expanded.v.batch.data() : nullptr;
          std::fill(context.begin(), context.end(), kNaN);
          kernel.run(units_of<Op>(impl, shape, step), args);
          expect_near("attn_context", context, step.out(file, "attn_context", {nh * dv}), score);
        }
      };
      expect_context(MlaPrefill());
      expect_context(MlaDecode());

      for (const Kernel<MlaLayer>& kernel : MlaLayer::kernels()) {
        if (kernel.impl != impl || !takes(kernel, w.shape(step), DType::f32)) continue;
        SCOPED_TRACE(std::string(MlaLayer::name) + "/" + kernel.algo);
        Values y = poisoned(N * H);
        MlaLayer::Args layer = w.args(step, step.x, cache, y);
        layer.w_uk = w.key_matrix(kernel.algo);
        kernel.run(units_of<MlaLayer>(impl, w.shape(step), step), layer);
        expect_near("attn_output", y, step.out(file, "attn_output", {H}), score);
      }
      cache.scatter(step);
      expanded.scatter(step);
    }
    w.expect_cache(file, "cache.", last, cache, 0);
    expect_near("k_full", expanded.k.filled(last), filled(keys, last));
    expect_near("v_full", expanded.v.filled(last), filled(file_cache(file, "cache.v_full", last, {nh, dv}), last));
  }
}

// --- Mixture of experts ---

struct Router {
  MoeRouter::Shape shape;  // of one token
  PackedMatrix gate;
  Values bias;

  // `prefix` is "model.layers.L.".
  Router(const Safetensors& file, const Model& model, const std::string& prefix) : shape(MoeRouter::shape(model, 1)) {
    const bool mixtral = file.has(prefix + "block_sparse_moe.gate.weight");
    const std::string module = prefix + (mixtral ? "block_sparse_moe." : "mlp.") + "gate";
    gate = matrix(file, module, shape.n_routed_experts, shape.hidden_size);
    if (file.has(module + ".e_score_correction_bias"))
      bias = file.f32(module + ".e_score_correction_bias", {shape.n_routed_experts});
  }

  const float* bias_or_null() const { return bias.empty() ? nullptr : bias.data(); }

  struct Choice {
    Values scores, weights;
    std::vector<int32_t> indices;
  };
  Choice choose(Impl impl, const Values& x) const {
    const int64_t N = size(x) / shape.hidden_size, E = shape.n_routed_experts, K = shape.num_experts_per_tok;
    Choice choice{poisoned(N * E), poisoned(N * K), std::vector<int32_t>(static_cast<size_t>(N * K), -1)};
    MoeRouter::Shape of_x = shape;
    of_x.tokens = N;
    run<MoeRouter>(
        impl, of_x,
        {x.data(), gate.matrix(), bias_or_null(), choice.scores.data(), choice.indices.data(), choice.weights.data()});
    return choice;
  }
  // What the implementations make of logits, in double.
  Values scores(const Values& logits) const {
    const int64_t E = shape.n_routed_experts;
    Values scores;
    for (auto row = logits.begin(); row != logits.end(); row += E) {
      const double largest = *std::max_element(row, row + E);
      double total = 0;
      for (auto l = row; l != row + E; ++l) total += std::exp(*l - largest);
      for (auto l = row; l != row + E; ++l)
        scores.push_back(static_cast<float>(shape.scoring == MoeRouter::Scoring::sigmoid
                                                ? 1 / (1 + std::exp(-static_cast<double>(*l)))
                                                : std::exp(*l - largest) / total));
    }
    return scores;
  }
};

// Each row of K values in rising order: implementations give the chosen experts in no order.
template <class T>
std::vector<T> sorted_rows(std::vector<T> values, int64_t K) {
  for (auto row = values.begin(); row != values.end(); row += K) std::sort(row, row + K);
  return values;
}

// A router's or MoE block's tokens and choices.
struct RoutedTokens {
  int64_t N, E, K;
  Values x;
  std::vector<int64_t> mask;  // [N, E]: 1 must be chosen, 2 may be (an exact tie at the boundary), 0 must not

  RoutedTokens(const Safetensors& file, const Model& model) {
    N = file.shape("in.hidden_states").at(0);
    const MoeRouter::Shape s = MoeRouter::shape(model, N);
    E = s.n_routed_experts, K = s.num_experts_per_tok;
    x = file.f32("in.hidden_states", {N, s.hidden_size});
    mask = file.i64("out.select_mask", {N, E});
  }

  bool ambiguous(int64_t n) const {
    return std::find(mask.begin() + n * E, mask.begin() + (n + 1) * E, 2) != mask.begin() + (n + 1) * E;
  }
  // Rows of `width` of the tokens whose choice the mask leaves open are put to zero.
  Values unambiguous(Values rows, int64_t width) const {
    for (int64_t n = 0; n < N; ++n)
      if (ambiguous(n)) std::fill(rows.begin() + n * width, rows.begin() + (n + 1) * width, 0.f);
    return rows;
  }

  void expect_choice(const Safetensors& file, const Router::Choice& choice) const {
    expect_near("router_scores", choice.scores, file.f32("out.router_scores", {N, E}));
    Values dense(static_cast<size_t>(N * E), 0);
    for (int64_t n = 0; n < N; ++n) {
      std::set<int64_t> chosen;
      for (int64_t k = 0; k < K; ++k) {
        const int64_t e = choice.indices[static_cast<size_t>(n * K + k)];
        ASSERT_TRUE(e >= 0 && e < E) << "topk_indices of token " << n;
        chosen.insert(e);
        dense[static_cast<size_t>(n * E + e)] = choice.weights[static_cast<size_t>(n * K + k)];
      }
      EXPECT_EQ(static_cast<int64_t>(chosen.size()), K) << "topk_indices of token " << n;
      for (int64_t e = 0; e < E; ++e) {
        const int64_t may = mask[static_cast<size_t>(n * E + e)];
        EXPECT_TRUE(may == 2 || chosen.contains(e) == (may == 1)) << "topk_indices of token " << n << ", expert " << e;
      }
    }
    expect_near("topk_weights", sorted_rows(choice.weights, K), sorted_rows(file.f32("out.topk_weights", {N, K}), K));
    expect_near("dense_weights", unambiguous(dense, E), unambiguous(file.f32("out.dense_weights", {N, E}), E));
  }
};

void router(const Safetensors& file, const Model& model) {
  const RoutedTokens tokens(file, model);
  const Router router(file, model, "model.layers.0.");
  for (Impl impl : supported_impls()) {
    SCOPED_TRACE(name(impl));
    tokens.expect_choice(file, router.choose(impl, tokens.x));
  }
}

// One gated FFN's matrices, which it owns.
struct Ffn {
  PackedMatrix gate, up, down;

  Ffn() = default;
  Ffn(const Safetensors& file, const std::string& module, const std::array<const char*, 3>& names, int64_t H, int64_t I)
      : gate(matrix(file, module + names[0], I, H)),
        up(matrix(file, module + names[1], I, H)),
        down(matrix(file, module + names[2], H, I)) {}
  Expert view() const { return {gate.matrix(), up.matrix(), down.matrix()}; }
};

constexpr std::array<const char*, 3> kFfnNames = {"gate_proj", "up_proj", "down_proj"};
constexpr std::array<const char*, 3> kMixtralNames = {"w1", "w3", "w2"};

Values dense_ffn(Impl impl, const Ffn& ffn, const Values& x) {
  const Expert slab = ffn.view();
  const int64_t H = slab.gate.cols, I = slab.gate.rows, N = size(x) / H;
  Values y = poisoned(N * H);
  run<DenseFfn>(impl, {N, H, I}, {x.data(), &slab, 1, y.data()});
  return y;
}

struct Moe {
  Router router;
  std::vector<Ffn> owned;
  std::vector<Expert> experts;
  Ffn shared;

  Moe(const Safetensors& file, const Model& model, const std::string& prefix) : router(file, model, prefix) {
    const bool mixtral = file.has(prefix + "block_sparse_moe.gate.weight");
    const MoeExperts::Shape s = MoeExperts::shape(model, 1);
    const int64_t H = s.hidden_size, I = s.moe_intermediate_size, Is = s.shared_intermediate_size;
    for (int64_t e = 0; e < s.n_routed_experts; ++e)
      owned.emplace_back(file,
                         prefix + (mixtral ? "block_sparse_moe.experts." : "mlp.experts.") + std::to_string(e) + ".",
                         mixtral ? kMixtralNames : kFfnNames, H, I);
    for (const Ffn& expert : owned) experts.push_back(expert.view());
    if (Is > 0) shared = Ffn(file, prefix + "mlp.shared_experts.", kFfnNames, H, Is);
  }

  MoeLayer::Args args(const Values& x, Values& y) const {
    return {x.data(), router.gate.matrix(), router.bias_or_null(), experts.data(), shared.view(), y.data()};
  }
};

void moe_block(const Safetensors& file, const Model& model) {
  const RoutedTokens tokens(file, model);
  const int64_t N = tokens.N, E = tokens.E, K = tokens.K;
  const Moe moe(file, model, "model.layers.0.");
  const MoeLayer::Shape shape = MoeLayer::shape(model, N);
  const int64_t H = shape.experts.hidden_size;
  const auto& chosen = file.i64("out.topk_indices", {N, K});
  const std::vector<int32_t> indices(chosen.begin(), chosen.end());
  for (int32_t e : indices)
    if (e < 0 || e >= E) throw Error(file.file() + ": out.topk_indices: expected experts below " + std::to_string(E));
  const Values &weights = file.f32("out.topk_weights", {N, K}), &moe_output = file.f32("out.moe_output", {N, H});
  const Values& expert_outputs = file.f32("out.expert_outputs", {N, K, H});
  for (Impl impl : supported_impls()) {
    SCOPED_TRACE(name(impl));
    tokens.expect_choice(file, moe.router.choose(impl, tokens.x));

    // The file's choice: one of each token's experts, then all of them, then with the shared one.
    const auto experts = [&](int64_t k, bool shared, const std::vector<int32_t>& e, const Values& w) {
      MoeExperts::Shape s = shape.experts;
      s.num_experts_per_tok = k;
      if (!shared) s.shared_intermediate_size = 0;
      Values y = poisoned(N * H);
      run<MoeExperts>(impl, s, {tokens.x.data(), e.data(), w.data(), moe.experts.data(), moe.shared.view(), y.data()});
      return y;
    };
    for (int64_t k = 0; k < K; ++k) {
      std::vector<int32_t> one;
      for (int64_t n = 0; n < N; ++n) one.push_back(indices[static_cast<size_t>(n * K + k)]);
      expect_near("expert_outputs", experts(1, false, one, Values(static_cast<size_t>(N), 1)),
                  columns(expert_outputs, K * H, k * H, (k + 1) * H));
    }
    expect_near("routed_output", experts(K, false, indices, weights), file.f32("out.routed_output", {N, H}));
    expect_near("moe_output", experts(K, true, indices, weights), moe_output);
    if (shape.experts.shared_intermediate_size > 0)
      expect_near("shared_output", dense_ffn(impl, moe.shared, tokens.x), file.f32("out.shared_output", {N, H}));

    Values y = poisoned(N * H);
    run<MoeLayer>(impl, shape, moe.args(tokens.x, y));
    expect_near("moe_output", tokens.unambiguous(y, H), tokens.unambiguous(moe_output, H));
  }
}

// --- Decoders ---

// One layer's weights.
struct Block {
  Values input_norm, post_norm;
  std::optional<DenseAttention> dense;
  std::optional<LatentAttentionWeights> latent;
  Values keys;  // the file's cache, expanded: [sequences, longest, heads, dk]
  std::optional<Moe> moe;
  std::optional<Ffn> ffn;

  Block(const Safetensors& file, const Model& model, int64_t layer, const Step& last) {
    const int64_t H = model.need(&Model::hidden_size);
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    const std::string cache = "cache.layer" + std::to_string(layer) + ".";
    input_norm = file.f32(prefix + "input_layernorm.weight", {H});
    post_norm = file.f32(prefix + "post_attention_layernorm.weight", {H});
    if (model.is_mla()) {
      latent.emplace(file, model, prefix + "self_attn.");
      keys = latent->expanded_keys(file_cache(file, cache + "compressed_kv", last, {latent->R}),
                                   file_cache(file, cache + "k_pe", last, {latent->D}));
    } else {
      dense.emplace(file, model, prefix + "self_attn.");
      keys = file_cache(file, cache + "k", last, {dense->nkv, dense->dk});
    }
    if (model.is_moe_layer(layer))
      moe.emplace(file, model, prefix);
    else
      ffn.emplace(file, prefix + "mlp.", kFfnNames, H, DenseFfn::shape(model, layer, 1).intermediate_size);
  }
};

// The layers of a decoder, one after the other, with the caches carried from step to step, by the kernels of one impl.
class Decoder {
 public:
  Decoder(const Safetensors& file, const Model& model, const std::vector<Step>& steps, const std::vector<Block>& blocks,
          Impl impl)
      : file_(file), model_(model), blocks_(blocks), impl_(impl), last_(steps.back()), H_(model.hidden_size) {
    for (const Block& block : blocks) {
      if (block.dense) caches_.push_back(block.dense->caches(last_));
      if (block.latent) latent_caches_.push_back(block.latent->cache(last_));
    }
    for (const Step& step : steps) run_step(step);
    for (size_t l = 0; l < blocks.size(); ++l) {
      const std::string cache = "cache.layer" + std::to_string(l) + ".";
      if (blocks[l].dense) blocks[l].dense->expect_caches(file, cache, last_, caches_[l], score_);
      if (blocks[l].latent) blocks[l].latent->expect_cache(file, cache, last_, latent_caches_[l], score_);
    }
  }

 private:
  void run_step(const Step& step) {
    for (KeyValueCache& cache : caches_) cache.gather(step);
    for (Cache& cache : latent_caches_) cache.gather(step);
    Values hidden = step.x, expected_hidden = step.x;
    std::vector<DecoderLayer::Shape> shapes(blocks_.size());
    std::vector<DecoderLayer::Args> layers(blocks_.size());
    std::vector<Expert> slabs(blocks_.size());
    for (size_t l = 0; l < blocks_.size(); ++l) {
      const std::string out = "layer" + std::to_string(l) + ".";
      SCOPED_TRACE(step.name + out);
      const Block& block = blocks_[l];
      const Values normed = rms_norm(impl_, hidden, block.input_norm, model_.rms_norm_eps);
      note_score(step, block, rms_norm(Impl::reference, expected_hidden, block.input_norm, model_.rms_norm_eps));
      DecoderLayer::Shape& shape = shapes[l];
      DecoderLayer::Args& args = layers[l];
      const Values attended = attention(step, l, normed, shape, args);
      const Values after = rms_norm(impl_, sum(hidden, attended), block.post_norm, model_.rms_norm_eps);
      feed_forward(step, l, after, slabs[l], shape, args);

      // The block as one op.
      args.x = hidden.data();
      args.input_norm = block.input_norm.data();
      args.post_norm = block.post_norm.data();
      args.eps = static_cast<float>(model_.rms_norm_eps);
      expected_hidden = step.out(file_, out + "block_output", {H_});
      Values y;
      for (const auto way :
           {DecoderLayer::Attention::dense, DecoderLayer::Attention::absorbed, DecoderLayer::Attention::expanded}) {
        if ((way == DecoderLayer::Attention::dense) != block.dense.has_value()) continue;
        shape.attention = way;
        if (block.latent)
          args.mla_layer.w_uk = block.latent->key_matrix(way == DecoderLayer::Attention::absorbed ? "absorbed" : "");
        y = poisoned(step.tokens() * H_);
        args.y = y.data();
        run<DecoderLayer>(impl_, units_of<DecoderLayer>(impl_, shape, step), args);
        expect_near("block_output", y, expected_hidden, score_);
      }
      hidden = y;
    }
    expect_near(step.name + "final_norm",
                rms_norm(impl_, hidden, file_.f32("model.norm.weight", {H_}), model_.rms_norm_eps),
                step.out(file_, "final_norm", {H_}), score_);
    whole_model(step, shapes, layers);
    for (KeyValueCache& cache : caches_) cache.scatter(step);
    for (Cache& cache : latent_caches_) cache.scatter(step);
  }

  // All layers as one op: the step's tokens are the rows of its embedding, and its head passes the final norm on.
  void whole_model(const Step& step, std::vector<DecoderLayer::Shape>& shapes,
                   const std::vector<DecoderLayer::Args>& layers) {
    const auto N = step.tokens(), L = static_cast<int64_t>(layers.size());
    for (DecoderLayer::Shape& shape : shapes) shape = units_of<DecoderLayer>(impl_, shape, step);
    std::vector<int32_t> tokens(static_cast<size_t>(N));
    std::iota(tokens.begin(), tokens.end(), 0);
    Values identity(static_cast<size_t>(H_ * H_));
    for (int64_t i = 0; i < H_; ++i) identity[static_cast<size_t>(i * H_ + i)] = 1;
    const PackedMatrix head(identity, H_, H_, DType::f32);
    const Values& norm = file_.f32("model.norm.weight", {H_});
    Values h = poisoned((L + 1) * N * H_), logits = poisoned(N * H_);
    const DecodeStep::Shape shape{.batch = N,
                                  .new_tokens = 1,
                                  .context = 1,
                                  .hidden_size = H_,
                                  .vocab_size = H_,
                                  .last_only = false,
                                  .layers = shapes,
                                  .dense_layers = 0,
                                  .moe_layers = 0};
    run<DecodeStep>(impl_, shape,
                    {.tokens = tokens.data(),
                     .embedding = step.x.data(),
                     .embedding_dtype = DType::f32,
                     .layer_shapes = shapes.data(),
                     .layers = layers.data(),
                     .layer_count = L,
                     .norm = norm.data(),
                     .eps = static_cast<float>(model_.rms_norm_eps),
                     .head = head.matrix(),
                     .h = h.data(),
                     .logits = logits.data(),
                     .seconds = nullptr});
    for (int64_t l = 0; l < L; ++l)
      expect_near("layer" + std::to_string(l) + ".h",
                  Values(h.begin() + (l + 1) * N * H_, h.begin() + (l + 2) * N * H_),
                  step.out(file_, "layer" + std::to_string(l) + ".block_output", {H_}), score_);
    expect_near("logits", logits, step.out(file_, "final_norm", {H_}), score_);
  }

  // From the file's values, by the reference: what everything after this layer hangs on.
  void note_score(const Step& step, const Block& block, const Values& normed) {
    if (block.dense) {
      const DenseAttention& a = *block.dense;
      const Values q = a.query(Impl::reference, step, normed);
      score_ = std::max(score_, max_score(step, q, a.nh, block.keys, a.nkv, last_.longest(), a.scale));
    } else {
      const LatentAttentionWeights& a = *block.latent;
      Cache unused = a.cache(last_);
      unused.gather(step);
      const Values q = a.project(Impl::reference, step, normed, unused);
      score_ = std::max(score_, max_score(step, q, a.nh, block.keys, a.nh, last_.longest(), a.scale));
    }
  }

  // What attention adds; fills in its part of `shape` and `args`.
  Values attention(const Step& step, size_t l, const Values& normed, DecoderLayer::Shape& shape,
                   DecoderLayer::Args& args) {
    const Values expected = step.out(file_, "layer" + std::to_string(l) + ".attn_output", {H_});
    Values y = poisoned(step.tokens() * H_);
    if (blocks_[l].dense) {
      shape.attention_layer = blocks_[l].dense->shape(step);
      args.attention_layer = blocks_[l].dense->args(step, normed, caches_[l], y);
      run<AttentionLayer>(impl_, units_of<AttentionLayer>(impl_, shape.attention_layer, step), args.attention_layer);
      expect_near("attn_output", y, expected, score_);
      return y;
    }
    shape.mla_layer = blocks_[l].latent->shape(step);
    args.mla_layer = blocks_[l].latent->args(step, normed, latent_caches_[l], y);
    for (const Kernel<MlaLayer>& kernel : MlaLayer::kernels()) {
      if (kernel.impl != impl_ || !takes(kernel, shape.mla_layer, DType::f32)) continue;
      SCOPED_TRACE(kernel.algo);
      args.mla_layer.w_uk = blocks_[l].latent->key_matrix(kernel.algo);
      std::fill(y.begin(), y.end(), kNaN);
      kernel.run(units_of<MlaLayer>(impl_, shape.mla_layer, step), args.mla_layer);
      expect_near("attn_output", y, expected, score_);
    }
    return y;
  }

  // What the FFN adds; fills in its part of `shape` and `args`, which may refer to `slab`.
  void feed_forward(const Step& step, size_t l, const Values& x, Expert& slab, DecoderLayer::Shape& shape,
                    DecoderLayer::Args& args) {
    const std::string out = "layer" + std::to_string(l) + ".";
    Values y = poisoned(step.tokens() * H_);
    if (blocks_[l].moe) {
      const Moe& moe = *blocks_[l].moe;
      const int64_t E = moe.router.shape.n_routed_experts, K = moe.router.shape.num_experts_per_tok;
      const Router::Choice choice = moe.router.choose(impl_, x);
      expect_near("router_scores", choice.scores, moe.router.scores(step.out(file_, out + "router_logits", {E})),
                  score_);
      const std::vector<int64_t> indices =
          step.pack(file_.i64(step.name + "out." + out + "topk_indices", step.shape({K})));
      EXPECT_EQ(sorted_rows(std::vector<int64_t>(choice.indices.begin(), choice.indices.end()), K),
                sorted_rows(indices, K));
      expect_near("topk_weights", sorted_rows(choice.weights, K),
                  sorted_rows(step.out(file_, out + "topk_weights", {K}), K), score_);
      shape.ffn = DecoderLayer::Ffn::moe;
      shape.moe_layer = MoeLayer::shape(model_, step.tokens());
      args.moe_layer = moe.args(x, y);
      run<MoeLayer>(impl_, shape.moe_layer, args.moe_layer);
    } else {
      slab = blocks_[l].ffn->view();
      shape.ffn = DecoderLayer::Ffn::dense;
      shape.dense_ffn = {step.tokens(), H_, slab.gate.rows};
      args.dense_ffn = {x.data(), &slab, 1, y.data()};
      run<DenseFfn>(impl_, shape.dense_ffn, args.dense_ffn);
    }
    expect_near("ffn_output", y, step.out(file_, out + "ffn_output", {H_}), score_);
  }

  const Safetensors& file_;
  const Model& model_;
  const std::vector<Block>& blocks_;
  Impl impl_;
  const Step& last_;
  int64_t H_;
  std::vector<KeyValueCache> caches_;  // of each layer, these ...
  std::vector<Cache> latent_caches_;   // ... or these
  double score_ = 0;                   // the largest so far
};

void decoder(const Safetensors& file, const Model& model) {
  const std::vector<Step> steps = read_steps(file, model.need(&Model::hidden_size));
  std::vector<Block> blocks;
  for (int64_t l = 0; l < model.need(&Model::num_hidden_layers); ++l) blocks.emplace_back(file, model, l, steps.back());
  for (Impl impl : supported_impls()) {
    SCOPED_TRACE(name(impl));
    Decoder(file, model, steps, blocks, impl);
  }
}

// --- Norm, FFN, rotation ---

void rmsnorm_swiglu(const Safetensors& file, const Model& model) {
  const int64_t H = model.need(&Model::hidden_size), I = model.need(&Model::intermediate_size);
  const std::string layer = "model.layers.0.";
  const int64_t N = file.shape("in.norm_input").at(0), M = file.shape("in.mlp_input").at(0);
  const Ffn ffn(file, layer + "mlp.", kFfnNames, H, I);
  for (Impl impl : supported_impls()) {
    SCOPED_TRACE(name(impl));
    expect_near("norm_output",
                rms_norm(impl, file.f32("in.norm_input", {N, H}), file.f32(layer + "input_layernorm.weight", {H}),
                         model.rms_norm_eps),
                file.f32("out.norm_output", {N, H}));
    expect_near("mlp_output", dense_ffn(impl, ffn, file.f32("in.mlp_input", {M, H})),
                file.f32("out.mlp_output", {M, H}));
  }
}

void rope(const Safetensors& file) {
  const int64_t N = file.shape("in.position_ids").at(0);
  const auto& positions = file.i64("in.position_ids", {N});
  int64_t variants = 0;
  for (const auto& [key, text] : file.metadata()) {
    if (!key.starts_with("config.")) continue;
    ++variants;
    const std::string variant = key.substr(7);
    SCOPED_TRACE(variant);
    // The settings are those of one rotated head.
    nlohmann::json config = nlohmann::json::parse(text);
    const int64_t D = config.at("qk_rope_head_dim"), half = D / 2;
    config.erase("qk_rope_head_dim");
    config.update({{"model_type", "llama"},
                   {"hidden_size", D},
                   {"num_attention_heads", 1},
                   {"head_dim", D},
                   {"num_hidden_layers", 1},
                   {"intermediate_size", 1}});
    const RopeFrequencies frequencies = rope_frequencies(parse_model(config.dump(), file.file()));
    expect_inv_freq(frequencies.inv_freq, file.f32(variant + ".out.inv_freq", {half}));

    const Values& x = file.f32(variant + ".in.x", {N, D});
    // The implementations of x_half first bring the pairs of their checkpoint's layout, (2i, 2i+1), to (i, i + D/2).
    Values halves;
    for (int64_t n = 0; n < N; ++n)
      for (int64_t i = 0; i < D; ++i) halves.push_back(x[static_cast<size_t>(n * D + i % half * 2 + i / half)]);
    // A pair (1, 0) turns into its cosine and sine.
    Values unit;
    for (int64_t i = 0; i < N * D; ++i) unit.push_back(i % 2 == 0 ? 1.f : 0.f);
    for (Impl impl : supported_impls()) {
      SCOPED_TRACE(name(impl));
      const auto rotate = [&](const Values& in, Rope::Pairs pairs) {
        Values y = poisoned(N * D);
        run<Rope>(impl, {N, 1, D},
                  {in.data(), D, D, positions.data(), frequencies.inv_freq.data(), frequencies.attention_factor, pairs,
                   y.data()});
        return y;
      };
      const Values turned = rotate(unit, Rope::Pairs::interleaved);
      expect_near("cos", columns(turned, 2, 0, 1), file.f32(variant + ".out.cos", {N, half}));
      expect_near("sin", columns(turned, 2, 1, 2), file.f32(variant + ".out.sin", {N, half}));
      expect_near("x_interleaved", rotate(x, Rope::Pairs::interleaved),
                  file.f32(variant + ".out.x_interleaved", {N, D}));
      expect_near("x_half", rotate(halves, Rope::Pairs::half), file.f32(variant + ".out.x_half", {N, D}));
    }
  }
  EXPECT_GT(variants, 0) << file.file() << ": __metadata__: expected a config.V";
}

// --- Cases ---

std::string golden_folder() {
  const char* given = std::getenv("MMB_GOLDEN_DIR");
  return given ? given : MMB_SOURCE_DIR "/tests/golden";
}

std::vector<std::string> cases() {
  std::vector<std::string> folders;
  std::error_code missing;
  for (const auto& entry : fs::directory_iterator(golden_folder(), missing))
    if (entry.is_directory()) folders.push_back(entry.path().string());
  std::sort(folders.begin(), folders.end());
  return folders;
}

TEST(Golden, FolderHasCases) {
  EXPECT_FALSE(cases().empty()) << golden_folder() << ": expected a folder with one folder for each case";
}

class GoldenCase : public testing::TestWithParam<std::string> {};

TEST_P(GoldenCase, EveryKernel) {
  const Safetensors file(GetParam() + "/case.safetensors");
  const auto kind = file.metadata().find("kind");
  if (kind == file.metadata().end()) throw Error(file.file() + ": __metadata__: expected a kind");
  if (kind->second == "rope") return rope(file);
  static const std::map<std::string, void (*)(const Safetensors&, const Model&)> kinds = {
      {"rmsnorm_swiglu", rmsnorm_swiglu}, {"mla_attention", mla_attention},
      {"gqa_attention", gqa_attention},   {"router", router},
      {"moe_block", moe_block},           {"decoder", decoder}};
  const auto check = kinds.find(kind->second);
  if (check == kinds.end()) throw Error(file.file() + ": kind: expected one that is known, got " + kind->second);
  check->second(file, load_model(GetParam() + "/config.json"));
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(GoldenCase);
INSTANTIATE_TEST_SUITE_P(, GoldenCase, testing::ValuesIn(cases()));

}  // namespace
}  // namespace mmb
