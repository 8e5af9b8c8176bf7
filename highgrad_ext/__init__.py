"""Fast Jacobians and higher derivatives of PyTorch tensors that already have a recorded graph."""

import torch  # noqa: F401  (loads the libraries that _C links to)

from ._C import cuda_built as cuda_built
from ._jacobian import full_jacobian as full_jacobian
from ._nth_derivative import nth_derivative as nth_derivative
from ._operators import biharmonic as biharmonic
from ._operators import curl as curl
from ._operators import directional as directional
from ._operators import divergence as divergence
from ._operators import hessian as hessian
from ._operators import laplacian as laplacian
from ._partials import partials as partials
from ._pattern import spy as spy
from ._plan import Plan as Plan
from ._plan import plan as plan
from ._version import __version__ as __version__

__all__ = [
    "Plan",
    "__version__",
    "biharmonic",
    "cuda_built",
    "curl",
    "directional",
    "divergence",
    "full_jacobian",
    "hessian",
    "laplacian",
    "nth_derivative",
    "partials",
    "plan",
    "spy",
]
