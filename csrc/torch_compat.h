#pragma once

// The only file that looks at torch's version.

#include <torch/csrc/autograd/function.h>
#include <torch/version.h>

#include <memory>

namespace highgrad {

#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 13)
using NodePtr = c10::intrusive_ptr<torch::autograd::Node>;
#else
using NodePtr = std::shared_ptr<torch::autograd::Node>;
#endif

} // namespace highgrad
