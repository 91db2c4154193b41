// What the rows of whole models share: as many layers as the memory holds.
#pragma once

#include "bench.h"
#include "mmb/decode_step.h"

namespace mmb {

// The counterfactuals that share a model's FFNs, and those that share its attention.
std::vector<Model> rivals_in_attention(const Model& model);
std::vector<Model> rivals_in_ffn(const Model& model);

// Says that a model is not run, of which one layer, and what surrounds the layers, take so many bytes.
void skip_too_large(Suite& suite, const std::string& op, const Model& model, const std::string& key, DType dtype,
                    double bytes);

// `shape_of(layers)` with all of the model's layers, or as many as the arena holds in each type; or with as many as --row says.
template <class Op, auto Reference, class ShapeOf>
void add_whole_model(Suite& suite, const Model& model, const ShapeOf& shape_of) {
  for (DType dtype : suite.selection().dtypes) {
    const auto fits = [&](int64_t n) {
      // Slices are aligned, and what does not fit the end of the arena leaves a gap.
      return 1.001 * DecodeStep::resident_bytes(shape_of(n), dtype) <= static_cast<double>(suite.arena_bytes());
    };
    if (!fits(1)) {
      skip_too_large(suite, Op::name, model, Op::key(shape_of(1)), dtype,
                     DecodeStep::resident_bytes(shape_of(1), dtype));
      continue;
    }
    const int64_t named = suite.size("layers", 0);
    int64_t layers = named ? named : 1;
    for (int64_t most = named ? named : model.need(&Model::num_hidden_layers); layers < most;) {
      const int64_t middle = (layers + most + 1) / 2;
      if (fits(middle))
        layers = middle;
      else
        most = middle - 1;
    }
    suite.add<Op, Reference>(model, shape_of(layers), {.dtypes = {dtype}});
  }
}

}  // namespace mmb
