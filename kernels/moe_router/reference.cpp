#include "mmb/moe_router.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "../reference.h"

namespace mmb::reference {
namespace {

constexpr double kMasked = -std::numeric_limits<double>::infinity();

// The indices of the `count` largest values, falling, ties by lowest index.
std::vector<Eigen::Index> largest(Vector<double> values, int64_t count) {
  std::vector<Eigen::Index> indices;
  for (int64_t i = 0; i < count; ++i) {
    Eigen::Index best = 0;
    while (std::find(indices.begin(), indices.end(), best) != indices.end()) ++best;
    for (Eigen::Index j = best + 1; j < values.size(); ++j)
      if (values[j] > values[best] && std::find(indices.begin(), indices.end(), j) == indices.end()) best = j;
    indices.push_back(best);
  }
  return indices;
}

Vector<double> scores_of(const Vector<double>& logits, MoeRouter::Scoring scoring) {
  // Of equal logits equal ones: Eigen's own exp may give the last of an odd number other bits.
  const auto exp = [](double x) { return std::exp(x); };
  if (scoring == MoeRouter::Scoring::sigmoid) return (1 + (-logits).unaryExpr(exp).array()).inverse();
  const Vector<double> e = (logits.array() - logits.maxCoeff()).unaryExpr(exp);
  return e / e.sum();
}

double score_of_group(const Vector<double>& choice, MoeRouter::GroupScore kind) {
  if (kind == MoeRouter::GroupScore::maximum) return choice.maxCoeff();
  const auto best = largest(choice, 2);
  return choice[best[0]] + choice[best[1]];
}

}  // namespace

template <class S>
void moe_router(const MoeRouter::Shape& shape, const MoeRouter::Args& args, Range tokens) {
  const int64_t H = shape.hidden_size, E = shape.n_routed_experts, K = shape.num_experts_per_tok, G = shape.n_group;
  for (int64_t n = tokens.begin; n < tokens.end; ++n) {
    const Vector<S> logits = times(args.gate, vector<S>(args.x + n * H, H));
    const Vector<double> scores = scores_of(logits.unaryExpr([](S l) { return value(l); }), shape.scoring);
    Vector<double> choice = scores;
    if (args.bias) choice += vector<double>(args.bias, E);

    if (G > 1) {
      Vector<double> group_scores(G);
      for (int64_t g = 0; g < G; ++g)
        group_scores[g] = score_of_group(choice.segment(g * (E / G), E / G), shape.group_score);
      Vector<double> masked = Vector<double>::Constant(E, kMasked);
      for (const auto g : largest(group_scores, shape.topk_group))
        masked.segment(g * (E / G), E / G) = choice.segment(g * (E / G), E / G);
      choice = masked;
    }

    auto chosen = largest(choice, K);
    if (args.replay) chosen.assign(args.replay + n * K, args.replay + (n + 1) * K);
    double divisor = 1;
    if (shape.norm_topk_prob) {
      divisor = MoeRouter::kTinySum;
      for (const auto e : chosen) divisor += scores[e];
    }
    for (int64_t k = 0; k < K; ++k) {
      const auto e = chosen[static_cast<size_t>(k)];
      args.topk_indices[n * K + k] = static_cast<int32_t>(e);
      args.topk_weights[n * K + k] = static_cast<float>(scores[e] / divisor * shape.routed_scaling_factor);
    }
    store<double>(scores, args.scores + n * E);
  }
}

template void moe_router<double>(const MoeRouter::Shape&, const MoeRouter::Args&, Range);
template void moe_router<Counted>(const MoeRouter::Shape&, const MoeRouter::Args&, Range);

}  // namespace mmb::reference
