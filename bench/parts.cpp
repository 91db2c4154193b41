// The ops that a composite consists of as rows of their own, so that their sum stands beside the whole.
#include <any>

#include "bench.h"
#include "mmb/attention_decode.h"
#include "mmb/attention_prefill.h"
#include "mmb/linear.h"
#include "mmb/mla_prefill.h"
#include "mmb/mla_project.h"
#include "mmb/moe_layer.h"
#include "mmb/rms_norm.h"
#include "mmb/rope.h"

namespace mmb {
namespace {

template <class Op, auto Reference>
void add(Suite& suite, const Model& model, const Component& part) {
  auto shape = std::any_cast<typename Op::Shape>(part.shape);
  if constexpr (std::is_same_v<Op, MoeExperts>) shape.routing.layer = 0;  // of all layers, which the row is for
  suite.add<Op, Reference>(model, shape, {.dtypes = {part.dtype}, .algo = part.algo});
}

struct PartOp {
  std::string_view name;
  void (*add)(Suite&, const Model&, const Component&);
};
constexpr PartOp kPartOps[] = {
    {RmsNorm::name, add<RmsNorm, reference::rms_norm<double>>},
    {Rope::name, add<Rope, reference::rope<double>>},
    {Linear::name, add<Linear, reference::linear<double>>},
    {AttentionDecode::name, add<AttentionDecode, reference::attention_decode<double>>},
    {AttentionPrefill::name, add<AttentionPrefill, reference::attention_prefill<double>>},
    {MlaProject::name, add<MlaProject, reference::mla_project<double>>},
    {MlaDecode::name, add<MlaDecode, reference::mla_decode<double>>},
    {MlaPrefill::name, add<MlaPrefill, reference::mla_prefill<double>>},
    {MoeRouter::name, add<MoeRouter, reference::moe_router<double>>},
    {MoeExperts::name, add<MoeExperts, reference::moe_experts<double>>},
    {DenseFfn::name, add<DenseFfn, reference::dense_ffn<double>>},
};

}  // namespace

std::array<std::string, 2> part_names(const RowName& whole, const Component& part) {
  RowName name{part.op, part.algo, mmb::name(part.dtype), whole.impl, whole.model, part.key, whole.threads};
  const std::string own = name.text();
  name.model = name.model.substr(0, name.model.find('~'));
  return {own, name.text()};
}

void Suite::add_parts(const Model& model, const Row& whole) {
  if ((profile() != Profile::full && profile() != Profile::model) || !selection_.row.empty()) return;
  for (const Component& part : whole.parts) {
    const auto [own, of_base] = part_names(whole.name, part);
    // --op chooses among ops that are rows by themselves; those of a whole model are there for its sake alone.
    const bool asked =
        profile() == Profile::model || selection_.ops.empty() || std::ranges::count(selection_.ops, part.op);
    // The key of dense attention says nothing of heads, which a rival may have other numbers of.
    const bool shared = part.op != AttentionDecode::name && part.op != AttentionPrefill::name;
    if (!asked || !selected(own) || names_.count(own) || (shared && names_.count(of_base))) continue;
    std::ranges::find(kPartOps, part.op, &PartOp::name)->add(*this, model, part);
  }
}

}  // namespace mmb
