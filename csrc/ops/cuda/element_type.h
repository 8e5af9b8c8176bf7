#pragma once

// Names of the element types across the border between torch's host code and the torch-free kernels.

namespace highgrad::ops::cuda {

enum class ElementType { kHalf, kBFloat16, kFloat, kDouble, kComplexFloat, kComplexDouble };

} // namespace highgrad::ops::cuda
