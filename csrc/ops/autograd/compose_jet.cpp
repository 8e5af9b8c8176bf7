// compose_jet has no derivatives: jets record themselves, and run it below autograd.

#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/library.h>

TORCH_LIBRARY_IMPL(highgrad_ext, Autograd, m) {
  m.impl("compose_jet", torch::autograd::autogradNotImplementedFallback());
  m.impl("compose_jet_backward", torch::autograd::autogradNotImplementedFallback());
}
