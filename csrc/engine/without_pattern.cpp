#include "engine/without_pattern.h"

#include <ATen/ops/arange.h>

namespace highgrad::engine {
namespace {

// The golden angle, no multiple of which is near a full turn.
constexpr double kStep = 2.399963229728653;

} // namespace

at::Tensor numbers_without_pattern(int64_t count, const at::TensorOptions& options) {
  return at::arange(count, options.dtype(at::kFloat))
      .mul_(kStep)
      .cos_()
      .add_(2)
      .to(c10::typeMetaToScalarType(options.dtype()));
}

} // namespace highgrad::engine
