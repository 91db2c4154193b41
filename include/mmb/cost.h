// Cost: what a shape asks of any machine, whatever runs it. 1 FLOP = one multiply or one add; softmax, norms and activation
// functions are not counted (their exponentials are, in `exps`).
#pragma once

#include <any>
#include <string>

#include "mmb/tensor.h"

namespace mmb {

struct Cost {
  double flops = 0;
  double bf16_flops = 0;  // of these, with one operand that bf16 holds: some machines have faster instructions for them
  double rounded_flops = 0;     // of these, with both operands in bf16: one product of a matrix unit, not three
  double digit_flops = 0;       // of bf16_flops, with int8 weights, to which three products of bytes may be faster
  double int8_flops = 0;        // of `flops`, with both operands in 8 bits
  double weight_bytes = 0;      // unique bytes of weights read
  double kv_bytes = 0;          // unique bytes of cached keys, values or latents read or written
  double activation_bytes = 0;  // inputs and outputs
  double exps = 0;              // exponentials evaluated

  double bytes() const { return weight_bytes + kv_bytes + activation_bytes; }
  double intensity() const { return flops / bytes(); }
};

// What is multiplied with weights or cached values of type `stored`. Scales are for sums, so that bf16 holds what they scale.
inline double bf16_flops(double flops, DType stored) {
  return stored == DType::f32 ? 0 : flops;
}

// What is multiplied with weights of type `weights`.
inline double digit_flops(double flops, DType weights) {
  return weights == DType::int8 ? flops : 0;
}

inline Cost operator+(const Cost& a, const Cost& b) {
  return {a.flops + b.flops,
          a.bf16_flops + b.bf16_flops,
          a.rounded_flops + b.rounded_flops,
          a.digit_flops + b.digit_flops,
          a.int8_flops + b.int8_flops,
          a.weight_bytes + b.weight_bytes,
          a.kv_bytes + b.kv_bytes,
          a.activation_bytes + b.activation_bytes,
          a.exps + b.exps};
}

// One op of a composite, as its own row would be named, once or several times.
struct Component {
  std::string op, algo;
  DType dtype;
  std::string key;
  Cost cost;            // of all of them
  std::any shape = {};  // the op's Shape

  bool same_row(const Component& o) const { return op == o.op && algo == o.algo && dtype == o.dtype && key == o.key; }
};

Cost sum(std::span<const Component> parts);

}  // namespace mmb
