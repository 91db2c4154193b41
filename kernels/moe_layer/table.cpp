#include <Eigen/Cholesky>

#include "../reference.h"
#include "mmb/compare.h"
#include "mmb/moe_layer.h"
#include "mmb/random.h"

namespace mmb {

std::span<const Kernel<MoeLayer>> MoeLayer::kernels() {
  static constexpr Kernel<MoeLayer> list[] = {
      {"grouped", Impl::reference, reference::run<MoeLayer, reference::moe_layer<double>>},
      MMB_KERNEL(MoeLayer, "grouped", moe_layer)};
  return list;
}

MoeLayer::Shape MoeLayer::shape(const Model& model, int64_t tokens, const Routing& routing) {
  return {MoeRouter::shape(model, tokens), MoeExperts::shape(model, tokens, routing)};
}

std::string MoeLayer::key(const Shape& shape) {
  return MoeExperts::key(shape.experts);
}

std::vector<Component> MoeLayer::parts(const Shape& shape, DType dtype, std::string_view) {
  return {part_of<MoeRouter>(shape.router, dtype), part_of<MoeExperts>(shape.experts, dtype)};
}

Cost MoeLayer::cost(const Shape& shape, DType dtype, std::string_view algo) {
  return sum(parts(shape, dtype, algo));
}

namespace {

// Logits for which the router chooses MoeExperts::route(shape), by a margin that rounding cannot cross. The choice
// scores are those of a sigmoid router: chosen experts have [0.5, 0.7], falling, others [0.3, 0.38], so that the two
// best of a group with a chosen expert (0.8) beat those of one without (0.76).
Eigen::MatrixXd wanted_logits(const MoeLayer::Shape& shape, const float* bias, uint64_t seed) {
  const int64_t N = shape.router.tokens, E = shape.router.n_routed_experts, K = shape.router.num_experts_per_tok;
  const std::vector<int32_t> indices = MoeExperts::route(shape.experts);
  Eigen::MatrixXd choice(E, N);
  for (int64_t i = 0; i < E * N; ++i) choice.data()[i] = 0.3 + 0.08 * uniform(seed, static_cast<uint64_t>(i));
  for (int64_t i = 0; i < N * K; ++i)
    choice(indices[static_cast<size_t>(i)], i / K) = 0.7 - 0.2 * static_cast<double>(i % K) / static_cast<double>(K);
  if (!bias) return 10 * choice;
  const Eigen::ArrayXXd scores =
      choice.colwise() - Eigen::Map<const Eigen::VectorXf>(bias, E).cast<double>();  // in [0.05, 0.95]
  return (scores / (1 - scores)).log();
}

}  // namespace

MoeLayer::Problem::Problem(const Shape& shape, DType dtype, std::string_view algo, Arena& arena, uint64_t seed)
    : experts_(shape.experts, dtype, algo, arena, seed),
      x_(shape.router.tokens * shape.router.hidden_size),
      bias_(shape.router.n_routed_experts),
      y_(x_.size()),
      expected_(x_.size()) {
  const int64_t N = shape.router.tokens, H = shape.router.hidden_size, E = shape.router.n_routed_experts;
  MMB_REQUIRE(N == shape.experts.tokens && H == shape.experts.hidden_size && E == shape.experts.n_routed_experts &&
                  shape.router.num_experts_per_tok == shape.experts.num_experts_per_tok &&
                  shape.router.n_group == shape.experts.n_group && shape.router.topk_group == shape.experts.topk_group,
              name << ": router and experts differ");
  MMB_REQUIRE(E <= H, name << ": " << E << " experts, hidden size " << H);
  // Up to a quarter, either way: left out, it would change the choice.
  for (int64_t e = 0; e < E; ++e)
    bias_[e] = static_cast<float>(0.5 * uniform(seed + 2, static_cast<uint64_t>(e)) - 0.25);
  args_ = {x_.data(),
           {nullptr, DType::f32, false, E, H},
           shape.router.scoring == MoeRouter::Scoring::sigmoid ? bias_.data() : nullptr,
           nullptr,
           {},
           y_.data()};
  // Tokens are made for it, so that it stays: not in the arena, where a layer's cache would come to lie over it in time.
  gate_ = Buffer<float>(args_.gate.bytes() / 4);
  std::memcpy(gate_.data(), arena.take(args_.gate.bytes()), static_cast<size_t>(args_.gate.bytes()));
  args_.gate.data = gate_.data();

  // Random tokens, moved by the least that gives them the wanted logits: x += G^T (G G^T)^-1 (logits - G x).
  fill_normal(x_, seed, 2 / (Arena::kRms * std::sqrt(H)));
  Eigen::Map<Eigen::MatrixXf> tokens(x_.data(), H, N);
  Eigen::MatrixXd gate(E, H);
  for (int64_t e = 0; e < E; ++e) gate.row(e) = reference::row<double>(args_.gate, e);
  const Eigen::MatrixXd x = tokens.cast<double>(), missing = wanted_logits(shape, args_.bias, seed + 3) - gate * x;
  tokens = (x + gate.transpose() * (gate * gate.transpose()).ldlt().solve(missing)).cast<float>();
  next();
}

void MoeLayer::Problem::next() {
  experts_.next();
  args_.experts = experts_.args().experts;
  args_.shared = experts_.args().shared;
  expected_args_ = args_;
  expected_args_.y = expected_.data();
}

std::vector<Output> MoeLayer::Problem::outputs(const Args& args, int64_t unit) const {
  const int64_t H = args_.gate.cols;
  const float* y = args.y + unit * H;
  // As moe_experts, and the weights': their logits are a sum of deviation 2.
  return {{"y", {y, y + H}, 2 * sum_tolerance(H + args.experts->down.cols) + 2 * sum_tolerance(H)}};
}

}  // namespace mmb
