from collections.abc import Callable, Sequence

from torch import Tensor

cuda_built: bool

def full_jacobian(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    caller: str,
    create_graph: bool,
    retain_graph: bool,
    allow_unused: bool,
    strict: bool,
    chunk_size: int | None,
    mode: str,
    out: Sequence[Tensor] | None,
    progress: Callable[[int, int], object] | None,
) -> list[Tensor]: ...
def batched_vjp(
    outputs: Sequence[Tensor],
    cotangents: Sequence[Tensor],
    inputs: Sequence[Tensor],
    create_graph: bool,
) -> list[Tensor | None]: ...
def check_out(
    caller: str,
    shapes: Sequence[Sequence[int]],
    likes: Sequence[Tensor],
    out: Sequence[Tensor],
    others: Sequence[Tensor],
) -> None: ...
def release_graph(outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> None: ...
def distrusted_nodes() -> list[str]: ...
