from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

cuda_built: bool
SMALL_RESULT: int

class WithoutModes:
    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...

class Structure:
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def row_ptr(self) -> NDArray[np.int64]: ...
    @property
    def col_ind(self) -> NDArray[np.int64]: ...
    @property
    def by_columns(self) -> bool: ...
    @property
    def colors(self) -> NDArray[np.int64]: ...
    @property
    def full_columns(self) -> NDArray[np.int64]: ...
    @property
    def num_colors(self) -> int: ...
    @property
    def num_passes(self) -> int: ...
    @property
    def is_global(self) -> bool: ...
    @property
    def holds_for_indices(self) -> bool: ...
    def as_global(self) -> Structure: ...
    @property
    def signature(self) -> int: ...
    @property
    def reason(self) -> str: ...

class OutputPlan:
    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def segments(self) -> list[tuple[str, int, int]]: ...
    @property
    def passes(self) -> int: ...
    @property
    def chunk_size(self) -> int: ...
    @property
    def bytes_per_row(self) -> int: ...
    @property
    def reason(self) -> str: ...
    @property
    def structure(self) -> Structure | None: ...
    def with_structure(self, structure: Structure | None) -> OutputPlan: ...

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
    structure: str,
    layout: torch.layout,
    batch_dims: int,
    plans: Sequence[OutputPlan],
    out: Sequence[Tensor] | None,
    progress: Callable[[int, int], object] | None,
) -> list[Tensor]: ...
def plan_jacobian(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    caller: str,
    chunk_size: int | None,
    mode: str,
    structure: str,
    layout: torch.layout,
    batch_dims: int,
) -> list[OutputPlan]: ...
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
) -> None: ...
def taylor_inspect(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor]
) -> list[tuple[int, list[bool], str, bool, int, int, bool, int]]: ...
def custom_functions(output: Tensor, inputs: Sequence[Tensor]) -> list[object]: ...
def taylor_coefficients(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    directions: Sequence[Tensor | None],
    order: int,
    collapsed: bool,
    weights: Tensor | None,
    in_double: bool,
    create_graph: bool,
    counts: Sequence[int] = (),
    monomials: Sequence[Sequence[Sequence[int]]] = (),
) -> list[Tensor | None] | str: ...
def taylor_partials(
    output: Tensor, inputs: Sequence[Tensor], batch_dims: int, order: int, contracted: bool, create_graph: bool
) -> Tensor | str | None: ...
def first_partials(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], variables: Sequence[int], batch_dims: int, create_graph: bool
) -> list[Tensor] | None: ...
def first_along(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    directions: Sequence[Tensor | None],
    batch_dims: int,
    create_graph: bool,
) -> list[Tensor] | None: ...
def sample_jacobians(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], batch_dims: int, create_graph: bool
) -> list[Tensor] | None: ...
def keeps_samples_apart(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], count: int, everywhere: bool = False
) -> bool: ...
def check_samples_apart(caller: str, outputs: Sequence[Tensor], inputs: Sequence[Tensor], batch_dims: int) -> None: ...
def automatic_chunk_size(rows: int, bytes_per_row: int, like: Tensor) -> int: ...
def distrusted_nodes() -> list[str]: ...
def color_rows(
    shape: tuple[int, int],
    row_ptr: NDArray[np.int64],
    col_ind: NDArray[np.int64],
    method: str,
    max_work: int | None = None,
) -> tuple[NDArray[np.int64], int] | None: ...
def color_both(
    shape: tuple[int, int], row_ptr: NDArray[np.int64], col_ind: NDArray[np.int64], columns_cost: float = 1.5
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]: ...

class ProbeBudget:
    first_blocks: int
    samples: int
    sampled: list[list[int]]
    wide_blocks: int
    split: int
    max_probes: int
    max_colors: int
    sweep_cost: float
    entry_cost: float
    max_full_columns: int

def probe_pattern(
    shape: tuple[int, int],
    row_ptr: NDArray[np.int64],
    col_ind: NDArray[np.int64],
    row_at: NDArray[np.int64],
    budget: ProbeBudget,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], tuple[NDArray[np.int64], int] | None] | None: ...
def transpose_pattern(
    shape: tuple[int, int], row_ptr: NDArray[np.int64], col_ind: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...

Digit = tuple[int, int, int, list[tuple[int, int]]]

def analyze_axes(
    output: Tensor, inputs: Sequence[Tensor]
) -> tuple[list[tuple[list[Digit], list[Digit] | None]], bool, bool, int, bool] | None: ...
def find_dependencies(
    output: Tensor, inputs: list[Tensor], max_work: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None: ...
def forecast_columns(output: Tensor, inputs: list[Tensor]) -> tuple[float, bool]: ...
def known_nodes() -> list[str]: ...
def program_vjp(
    output: Tensor, cotangents: Tensor, inputs: list[Tensor], create_graph: bool
) -> list[Tensor | None] | None: ...
def vjp_rules() -> list[str]: ...
