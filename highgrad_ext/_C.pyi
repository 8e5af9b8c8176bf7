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
def check_arguments(
    caller: str,
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    create_graph: bool,
    chunk_size: int | None,
    out: Sequence[Tensor] | None,
) -> None: ...
def taylor_inspect(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor]
) -> list[tuple[int, list[bool], str, bool, int]]: ...
def taylor_coefficients(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    directions: Sequence[Tensor | None],
    order: int,
    collapsed: bool,
    weights: Tensor | None,
    in_double: bool,
    create_graph: bool,
) -> list[Tensor | None] | str: ...
def keeps_samples_apart(outputs: Sequence[Tensor], inputs: Sequence[Tensor], count: int) -> bool: ...
def automatic_chunk_size(rows: int, bytes_per_row: int, like: Tensor) -> int: ...
def distrusted_nodes() -> list[str]: ...
