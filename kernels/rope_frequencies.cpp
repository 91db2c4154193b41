// rope_theta and rope_scaling read as the models' own code reads them (transformers' modeling_rope_utils.py;
// DeepSeek-V3's model.py, which however leaves YaRN off up to the original length: here a rope_scaling always counts).
#include <algorithm>
#include <cmath>
#include <numbers>

#include "mmb/rope.h"

namespace mmb {
namespace {

// YaRN's temperature: how much attention is sharpened for a context `factor` times as long.
double yarn_factor(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

// Dims that turn often within the original context are kept; those that turn less than once are slowed down by
// `factor`; a linear ramp over the dims lies between.
void apply_yarn(const Model& model, std::vector<double>& inv_freq) {
  const RopeScaling& scaling = model.rope_scaling;
  const double last = static_cast<double>(2 * inv_freq.size()) - 1;
  const auto dim_of = [&](double turns) {
    return (last + 1) * std::log(scaling.original_max_position_embeddings / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(model.rope_theta));
  };
  double low = dim_of(scaling.beta_fast), high = dim_of(scaling.beta_slow);
  if (scaling.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, last);
  if (low == high) high += 0.001;  // a step; the source's own way out
  for (size_t i = 0; i < inv_freq.size(); ++i) {
    const double slowed = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    inv_freq[i] *= slowed / scaling.factor + (1 - slowed);
  }
}

// As YaRN, with the ramp over the number of turns.
void apply_llama3(const RopeScaling& scaling, std::vector<double>& inv_freq) {
  for (double& f : inv_freq) {
    const double turns = scaling.original_max_position_embeddings * f / (2 * std::numbers::pi);
    const double kept =
        std::clamp((turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor), 0.0, 1.0);
    f *= (1 - kept) / scaling.factor + kept;
  }
}

}  // namespace

RopeFrequencies rope_frequencies(const Model& model) {
  const RopeScaling& scaling = model.rope_scaling;
  const auto dims = static_cast<double>(model.rotary_dim());
  RopeFrequencies result;
  for (int64_t i = 0; i < model.rotary_dim() / 2; ++i)
    result.inv_freq.push_back(std::pow(model.rope_theta, -2 * static_cast<double>(i) / dims));
  if (scaling.type == "yarn") {
    apply_yarn(model, result.inv_freq);
    result.attention_factor = scaling.attention_factor > 0 ? scaling.attention_factor
                                                           : yarn_factor(scaling.factor, scaling.mscale) /
                                                                 yarn_factor(scaling.factor, scaling.mscale_all_dim);
    result.softmax_factor = std::pow(yarn_factor(scaling.factor, scaling.mscale_all_dim), 2);
  } else if (scaling.type == "llama3") {
    apply_llama3(scaling, result.inv_freq);
  }
  return result;
}

double softmax_scale(const Model& model) {
  return rope_frequencies(model).softmax_factor / std::sqrt(static_cast<double>(model.need(&Model::head_dim)));
}

}  // namespace mmb
