// compose_jet on the CPU: the operator for what jets run there without one.

#include <torch/library.h>

#include "ops/compose_jet.h"
#include "taylor/composition.h"

namespace highgrad::taylor {
namespace {

// The functions of taylor/composition.h take the same in these words.
struct Words {
  Frame frame;
  Jet x;
  LocalSeries local;

  Words(const at::Tensor& rows, const ops::Composition& from)
      : frame{from.order(), from.counts.front(), rows.scalar_type(), from.collapsed, from.weights},
        x{rows, from.terms},
        local{from.equation.kind, from.seeds} {
    if (!from.collapsed) {
      frame.counts = from.counts;
    }
    const ops::ElementEquation<double>& slope = from.equation.equation;
    local.slope = {slope.constant, slope.linear, slope.square, slope.companion};
    local.rate = from.equation.rate;
    local.threshold = from.equation.threshold;
  }
};

at::Tensor compose_jet_cpu(const at::Tensor& x, const ops::Composition& composition) {
  const Words words(x, composition);
  return compose_by_element(words.frame, words.x, words.local, x.sizes().slice(1));
}

std::tuple<at::Tensor, at::Tensor> compose_jet_backward_cpu(
    const at::Tensor& by_rows,
    const at::Tensor& x,
    const ops::Composition& composition) {
  const Words words(x.contiguous(), composition); // none of whose rows repeat
  const ComposedCotangents found = reverse_composition(words.frame, words.x, words.local, by_rows);
  return {found.x, found.x0};
}

} // namespace
} // namespace highgrad::taylor

TORCH_LIBRARY_IMPL(highgrad_ext, CPU, m) {
  m.impl("compose_jet", TORCH_FN(highgrad::ops::compose_jet_op<highgrad::taylor::compose_jet_cpu>));
  m.impl(
      "compose_jet_backward",
      TORCH_FN(highgrad::ops::compose_jet_backward_op<highgrad::taylor::compose_jet_backward_cpu>));
}
