#include <algorithm>

#include "../reference.h"
#include "mmb/compare.h"
#include "mmb/decode_step.h"
#include "mmb/latent_attention.h"
#include "mmb/layer_problem.h"
#include "mmb/linear.h"
#include "mmb/random.h"
#include "mmb/rms_norm.h"

namespace mmb {

std::span<const Kernel<DecodeStep>> DecodeStep::kernels() {
  [[maybe_unused]] constexpr auto integers = [](const Shape& shape, DType dtype) {
    return over_int8(shape.layers.front().mla_layer, dtype);
  };
  static constexpr Kernel<DecodeStep> list[] = {
      {"composed", Impl::reference, reference::run<DecodeStep, reference::decode_step<double>>},
      MMB_KERNEL(DecodeStep, "composed", decode_step)  //
      MMB_DOT_KERNEL(DecodeStep, "integer", decode_step, integers)};
  return list;
}

namespace {

bool is_moe(const DecoderLayer::Shape& layer) {
  return layer.ffn == DecoderLayer::Ffn::moe;
}

int64_t count_moe(const DecodeStep::Shape& shape) {
  return std::count_if(shape.layers.begin(), shape.layers.end(), is_moe);
}

double embedding_bytes(int64_t rows, const DecodeStep::Shape& shape, DType dtype) {
  return weight_bytes(rows, shape.hidden_size, cache_type(dtype));
}

}  // namespace

DecodeStep::Shape DecodeStep::shape(const Model& model, int64_t layers, int64_t batch, int64_t new_tokens,
                                    int64_t context, const Routing& routing, DType cache) {
  const int64_t all = model.need(&Model::num_hidden_layers), moe = model.moe_layers();
  MMB_REQUIRE(layers > 0 && layers <= all, name << ": " << model.name << ": " << layers << " of " << all << " layers");
  std::vector<int64_t> chosen;
  for (const bool of_moe : {false, true})
    for (int64_t l = 0; l < all; ++l)
      if (model.is_moe_layer(l) == of_moe) {
        chosen.push_back(l);
        break;
      }
  if (layers < static_cast<int64_t>(chosen.size())) chosen.erase(chosen.begin());  // a model has more of the other kind
  for (int64_t l = 0; l < all; ++l)
    if (std::count(chosen.begin(), chosen.end(), l) == 0 && static_cast<int64_t>(chosen.size()) < layers)
      chosen.push_back(l);
  std::sort(chosen.begin(), chosen.end());
  Shape shape{.batch = batch,
              .new_tokens = new_tokens,
              .context = context,
              .hidden_size = model.need(&Model::hidden_size),
              .vocab_size = model.need(&Model::vocab_size),
              .last_only = false,
              .layers = {},
              .dense_layers = all - moe,
              .moe_layers = moe};
  for (int64_t l : chosen) {
    shape.layers.push_back(DecoderLayer::shape(model, l, batch, new_tokens, context, {}, cache));
    Routing& own = shape.layers.back().moe_layer.experts.routing;
    own = routing;
    own.layer = l;
  }
  return shape;
}

std::string DecodeStep::layers_key(const Shape& shape) {
  const std::string layers = "/layers:" + std::to_string(shape.layers.size());
  const auto moe = std::ranges::find_if(shape.layers, is_moe);
  return moe == shape.layers.end() ? layers : layers + '/' + mmb::key(moe->moe_layer.experts.routing);
}

std::string DecodeStep::key(const Shape& shape) {
  return context_key(shape.batch, shape.new_tokens, shape.context) + cache_key(shape.layers.front().mla_layer.cache) +
         layers_key(shape);
}

std::vector<Component> DecodeStep::parts(const Shape& shape, DType dtype, std::string_view algo) {
  std::vector<Component> parts;
  const auto add = [&](Component part) {
    const auto same =
        std::find_if(parts.begin(), parts.end(), [&](const Component& known) { return known.same_row(part); });
    if (same == parts.end())
      parts.push_back(std::move(part));
    else
      same->cost = same->cost + part.cost;
  };
  for (const DecoderLayer::Shape& layer : shape.layers)
    for (Component& part : DecoderLayer::parts(layer, dtype, algo)) add(std::move(part));
  const int64_t M = logit_rows(shape), H = shape.hidden_size;
  add(part_of<RmsNorm>({M, H}, dtype));
  add(part_of<Linear>({M, H, shape.vocab_size}, dtype));
  return parts;
}

Cost DecodeStep::cost(const Shape& shape, DType dtype, std::string_view algo) {
  Cost cost = sum(parts(shape, dtype, algo));
  cost.weight_bytes += embedding_bytes(tokens(shape), shape, dtype);
  return cost;
}

double DecodeStep::activation_memory(const Shape& shape) {
  return 4 * static_cast<double>((static_cast<int64_t>(shape.layers.size()) + 1) * tokens(shape) * shape.hidden_size +
                                 logit_rows(shape) * shape.vocab_size);
}

double DecodeStep::resident_bytes(const Shape& shape, DType dtype) {
  const Cost step = cost(shape, dtype, "");
  double bytes = step.weight_bytes + step.kv_bytes + embedding_bytes(shape.vocab_size - tokens(shape), shape, dtype);
  for (const DecoderLayer::Shape& layer : shape.layers) {
    if (!is_moe(layer)) continue;
    const MoeExperts::Shape& s = layer.moe_layer.experts;
    const auto untouched =
        static_cast<double>(s.n_routed_experts - MoeExperts::load(s, MoeExperts::route(s)).experts_touched);
    bytes += untouched * ffn_bytes(s.hidden_size, s.moe_intermediate_size, dtype);
  }
  return bytes;
}

struct DecodeStep::Problem::LayerWeights {
  std::unique_ptr<AttentionLayer::Problem> dense;
  std::unique_ptr<MlaLayer::Problem> mla;
  Expert ffn;                   // of a dense layer
  std::vector<Expert> experts;  // twice, so that any of the first n can be number 0
  std::vector<int32_t> replay;
  Expert shared;
  Matrix gate;
  Buffer<float> bias;
};

DecodeStep::Problem::Problem(const Shape& shape, DType dtype, std::string_view algo, Arena& arena, uint64_t seed)
    : shape_(shape) {
  const int64_t N = DecodeStep::tokens(shape), M = logit_rows(shape), H = shape.hidden_size, V = shape.vocab_size,
                L = static_cast<int64_t>(shape.layers.size());
  MMB_REQUIRE(shape.batch > 0 && shape.new_tokens > 0 && H > 0 && V > 0 && shape.context >= shape.new_tokens,
              name << ": " << key(shape) << ", hidden size " << H << ", vocabulary " << V);
  arena.rewind();
  const int64_t taken = arena.taken();
  const auto matrix = [&](int64_t rows, int64_t cols, DType type) {
    return Matrix{arena.take(matrix_bytes(rows, cols, type)), type, false, rows, cols};
  };
  const auto normal = [&](int64_t count, double deviation, uint64_t offset) {
    Buffer<float> buffer(count);
    fill_normal(buffer, seed + offset, deviation);
    return buffer;
  };
  for (int64_t n = 0; n < N; ++n)
    tokens_.push_back(static_cast<int32_t>(uniform(seed, static_cast<uint64_t>(n)) * static_cast<double>(V)));
  args_.embedding = arena.take(V * H * size_of(cache_type(dtype)));
  // What the norms make of any token: queries, keys and latents as large as the caches' values, gates of deviation 2.
  const double unit = 1 / (Arena::rms(dtype) * std::sqrt(static_cast<double>(H)));
  input_norm_ = normal(H, Arena::kRms * unit, 1);
  post_norm_ = normal(H, 2 * unit, 2);
  norm_ = normal(H, unit, 3);

  for (int64_t l = 0; l < L; ++l) {
    const DecoderLayer::Shape& s = shape.layers[static_cast<size_t>(l)];
    const uint64_t layer_seed = seed + 10 * static_cast<uint64_t>(l);
    LayerWeights& w = layers_.emplace_back();
    DecoderLayer::Args args{};
    args.input_norm = input_norm_.data();
    args.post_norm = post_norm_.data();
    args.eps = 1e-6f;
    if (s.attention == DecoderLayer::Attention::dense) {
      w.dense = std::make_unique<AttentionLayer::Problem>(s.attention_layer, dtype, "", arena, layer_seed, true);
      args.attention_layer = w.dense->args();
    } else {
      w.mla = std::make_unique<MlaLayer::Problem>(s.mla_layer, dtype, DecoderLayer::mla_algo(s, algo), arena,
                                                  layer_seed, true);
      args.mla_layer = w.mla->args();
    }
    if (is_moe(s)) {
      const MoeExperts::Shape& moe = s.moe_layer.experts;
      const int64_t E = moe.n_routed_experts;
      w.gate = matrix(E, H, DType::f32);
      w.bias = normal(E, 0.1, 4);
      for (int64_t e = 0; e < E; ++e) w.experts.push_back(take_expert(arena, H, moe.moe_intermediate_size, dtype));
      for (int64_t e = 0; e < E; ++e) w.experts.push_back(w.experts[static_cast<size_t>(e)]);
      if (moe.shared_intermediate_size > 0) w.shared = take_expert(arena, H, moe.shared_intermediate_size, dtype);
      w.replay = MoeExperts::route(moe);
      const bool biased = s.moe_layer.router.scoring == MoeRouter::Scoring::sigmoid;
      args.moe_layer = {nullptr, w.gate,         biased ? w.bias.data() : nullptr, w.experts.data(), w.shared,
                        nullptr, w.replay.data()};
    } else {
      w.ffn = take_expert(arena, H, s.dense_ffn.intermediate_size, dtype);
      args.dense_ffn = {nullptr, nullptr, 1, nullptr};
    }
    layer_args_.push_back(args);
  }
  for (size_t l = 0; l < layers_.size(); ++l) layer_args_[l].dense_ffn.slabs = &layers_[l].ffn;
  args_.head = matrix(V, H, dtype);
  MMB_REQUIRE(arena.taken() - taken <= arena.bytes(), name << ": " << key(shape)
                                                           << ": memory: " << arena.taken() - taken
                                                           << " bytes do not fit the arena of " << arena.bytes());

  h_ = Buffer<float>((L + 1) * N * H);
  logits_ = Buffer<float>(M * V);
  seconds_.resize(static_cast<size_t>(L + 2));
  args_.tokens = tokens_.data();
  args_.embedding_dtype = cache_type(dtype);
  args_.layer_shapes = shape_.layers.data();
  args_.layers = layer_args_.data();
  args_.layer_count = L;
  args_.norm = norm_.data();
  args_.eps = 1e-6f;
  args_.h = h_.data();
  args_.logits = logits_.data();
  args_.seconds = seconds_.data();
}

DecodeStep::Problem::~Problem() = default;

void DecodeStep::Problem::next() {
  ++step_;
  for (size_t l = 0; l < layers_.size(); ++l)
    if (const auto count = static_cast<int64_t>(layers_[l].experts.size()) / 2; count > 0)
      layer_args_[l].moe_layer.experts = layers_[l].experts.data() + step_ % count;
}

void DecodeStep::Problem::ran() {
  has_run_ = true;
  all_seconds_ += seconds_.back() - seconds_.front();
  for (size_t l = 0; l < layers_.size(); ++l)
    (is_moe(shape_.layers[l]) ? moe_seconds_ : dense_seconds_) += seconds_[l + 1] - seconds_[l];
}

double DecodeStep::Problem::model_seconds(double seconds) const {
  const auto moe = static_cast<double>(count_moe(shape_)), dense = static_cast<double>(shape_.layers.size()) - moe;
  // Layers beyond those that were run, in units of these.
  const double more_moe = moe > 0 ? static_cast<double>(shape_.moe_layers) / moe - 1 : 0,
               more_dense = dense > 0 ? static_cast<double>(shape_.dense_layers) / dense - 1 : 0;
  return seconds * (1 + (more_moe * moe_seconds_ + more_dense * dense_seconds_) / all_seconds_);
}

const DecodeStep::Args& DecodeStep::Problem::expected() const {
  if (expected_h_.size() == 0) {
    expected_h_ = Buffer<float>(h_.size());
    expected_logits_ = Buffer<float>(logits_.size());
  }
  expected_args_ = args_;
  expected_args_.h = expected_h_.data();
  expected_args_.logits = expected_logits_.data();
  expected_args_.seconds = nullptr;
  expected_args_.inputs = has_run_ ? h_.data() : nullptr;
  return expected_args_;
}

std::vector<Output> DecodeStep::Problem::outputs(const Args& args, int64_t unit) const {
  const int64_t N = DecodeStep::tokens(shape_), H = shape_.hidden_size, V = shape_.vocab_size, L = args.layer_count;
  // A rounding in the cache changes what attention adds, and what FFN and head make of that.
  const LayerWeights& last = layers_.back();
  const double attention = last.dense ? last.dense->tolerance() : last.mla->tolerance();
  const auto part = [&](const Args& a) {
    return unit < L * N ? std::span(a.h + N * H + unit * H, static_cast<size_t>(H))
                        : std::span(a.logits + (unit - L * N) * V, static_cast<size_t>(V));
  };
  // The residual stream grows from layer to layer: each unit counts by its own largest value.
  double largest = 0;
  for (float x : part(args_)) largest = std::max(largest, std::abs(static_cast<double>(x)));
  std::vector<double> values;
  for (float x : part(args)) values.push_back(largest > 0 ? x / largest : x);
  return {{"h and logits", std::move(values), 256 * 0x1p-24 + 4 * attention}};
}

}  // namespace mmb
