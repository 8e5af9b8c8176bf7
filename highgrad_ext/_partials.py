"""Chosen partial derivatives of all orders, mixed ones too, in one sweep of jets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement, product
from math import factorial, gcd, prod

import torch
from torch import Tensor

from . import _C
from ._nested import check_derivable_again, jacobian
from ._operators import check_operator, release
from ._options import in_any_mode
from ._progress import Report, reporter
from ._samples import check_batch
from ._symmetric import constant
from ._taylor import UNBOUNDED, Obstacle, Sweeps, basis
from ._tree import TensorTree, flatten, nest_outputs

_NAME = "partials"

# Rows of recorded jets that cost what one recorded gradient does, and bytes of such rows that cost what its Nodes do
# whatever their sizes: measured on networks of 2 to 8 inputs, of 100 to 4000 samples.
_ROWS_OF_GRADIENT = 1.75
_BYTES_OF_GRADIENT = 300 << 10

# Of one partial derivative: how often each variable is derived by, of those that are.
Exponents = tuple[tuple[int, int], ...]


@in_any_mode
def partials(
    f: TensorTree,
    wrt: TensorTree,
    indices: Sequence[Sequence[int]],
    *,
    batch_dims: int = 0,
    create_graph: bool = True,
    retain_graph: bool = True,
    progress: bool | Report = False,
) -> tuple[TensorTree, ...]:
    r"""Some partial derivatives of `f`, of any orders, mixed ones too: what the residual of a PDE is made of.

    Most are found in one sweep of jets, of as few rows as give the derivatives: one for each of them and for all that
    it is a derivative of; or along directions, sums and differences of unit vectors for mixed derivatives, as in
    :math:`u_{tx} = \frac14 (D_{t+x}^2 - D_{t-x}^2) u`. What the residual does not need is not computed. First
    derivatives of an `f` of few elements a sample are columns of gradients; so are, to be differentiated again, many
    mixed second ones of one element, of large tensors. Where the graph holds a Node that jets do not know, by nested
    gradients that share the orders below.

    Args:
        f, wrt: as in :func:`laplacian`.
        indices: of each derivative, the elements of `wrt` to derive by, in any order: with `wrt` of two elements a
            sample, t and x, `(1,)` is :math:`u_x`, `(0, 1, 1)` is :math:`u_{txx}`, and `()` is `f` itself. Elements
            count through all tensors of `wrt` together, those of one sample in row-major order.
        batch_dims, create_graph, retain_graph, progress: as in :func:`laplacian`.

    Returns:
        For each of `indices`, a tensor of `f`'s shape, or `f`'s structure of them, in `wrt`'s dtype.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`laplacian`; a ValueError also for an index that `wrt` does not
            have.

    Example:
        >>> t, x = torch.tensor([1.0]).requires_grad_(), torch.tensor([2.0]).requires_grad_()
        >>> u_t, u_xx, u_txx = partials(t**2 * x**3, (t, x), [(0,), (1, 1), (0, 1, 1)], create_graph=False)
        >>> u_t, u_xx, u_txx
        (tensor([16.]), tensor([12.]), tensor([24.]))
    """
    outputs, f_spec = flatten(_NAME, "f", f)
    inputs, _ = flatten(_NAME, "wrt", wrt)
    check_operator(_NAME, outputs, inputs, create_graph, retain_graph, None)
    check_batch(_NAME, outputs, inputs, batch_dims)
    width = sum(prod(x.shape[batch_dims:]) for x in inputs)
    wanted, needed = _read(indices, width)
    found: list[dict[Exponents, Tensor]] = [{(): output} for output in outputs]
    columns = None
    if outputs and needed and all(_order(exponents) == 1 for exponents in needed):
        variables = [exponents[0][0] for exponents in needed]
        columns = _C.first_partials(outputs, inputs, variables, batch_dims, create_graph)
    if columns is not None:
        for i, of_output in enumerate(found):
            of_output.update(zip(needed, columns[i * len(needed) :], strict=False))
    elif needed:
        with reporter(_NAME, progress) as report:
            sweeps = Sweeps(outputs, inputs, None, batch_dims, create_graph, None, report, replaced=False)
            try:
                derivatives = _by_jets(sweeps, needed)
            except Obstacle:
                derivatives = [_by_gradients(sweeps, output, needed) for output in outputs]
        for of_output, more in zip(found, derivatives, strict=True):
            of_output.update(more)
    release(outputs, inputs, retain_graph)
    return tuple(nest_outputs([of_output[exponents] for of_output in found], f_spec) for exponents in wanted)


def _read(indices: Sequence[Sequence[int]], width: int) -> tuple[list[Exponents], tuple[Exponents, ...]]:
    """The exponents of each, and all there are but those of f itself, in order."""
    # True is 1, as a key too.
    if all(type(index) in (tuple, list) and all(type(i) is int for i in index) for index in indices):
        return _read_ints(tuple(map(tuple, indices)), width)
    return _distinct([_exponents(index, width) for index in indices])


@lru_cache(maxsize=256)
def _read_ints(indices: tuple[tuple[int, ...], ...], width: int) -> tuple[list[Exponents], tuple[Exponents, ...]]:
    return _distinct([_exponents(index, width) for index in indices])


def _distinct(wanted: list[Exponents]) -> tuple[list[Exponents], tuple[Exponents, ...]]:
    return wanted, tuple(sorted({exponents for exponents in wanted if exponents}))


def _exponents(index: object, width: int) -> Exponents:
    if isinstance(index, (str, bytes)) or not isinstance(index, Sequence):
        raise TypeError(f"{_NAME}: expected every one of indices to be a sequence of ints, got {index!r}")
    for i in index:
        if not isinstance(i, int) or isinstance(i, bool):
            raise TypeError(f"{_NAME}: expected every one of indices to be a sequence of ints, got {index!r}")
        if not 0 <= i < width:
            raise ValueError(f"{_NAME}: expected indices of the {width} elements of wrt in a sample, got {index!r}")
    return tuple((i, index.count(i)) for i in sorted(set(index)))


def _order(exponents: Exponents) -> int:
    return sum(count for _, count in exponents)


# A combination of the derivatives of one order along some directions, by their numbers.
Combination = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Recipe:
    """Directions of a sample, the highest order first, and what derivatives are made of. vectors: by variable, without
    zeros. rows: of the jets along them."""

    vectors: tuple[dict[int, int], ...]
    orders: tuple[int, ...]
    combinations: dict[Exponents, Combination]

    @property
    def is_sum(self) -> bool:
        """Whether all there is is one sum over directions: then one row of the highest order is enough."""
        return len(self.combinations) == 1 and all(len(c) > 1 for c in self.combinations.values())

    @property
    def rows(self) -> int:
        return sum(self.orders) - (len(self.orders) - 1 if self.is_sum else 0)


@constant(maxsize=256)
def recipe(needed: tuple[Exponents, ...]) -> Recipe:
    """Directions for these derivatives, few and short."""
    reached: dict[tuple[tuple[int, int], ...], int] = {}
    # What is of high order first: it often gives what is of low order as well.
    for exponents in sorted(needed, key=lambda e: (-_order(e), len(e))):
        for vector in _directions(exponents):
            if _combine(exponents, reached) is not None:
                break
            reached[vector] = max(reached.get(vector, 0), _order(exponents))
    ranked = sorted(reached, key=lambda vector: -reached[vector])
    combinations: dict[Exponents, Combination] = {}
    for exponents in needed:
        weights = _combine(exponents, reached)
        assert weights is not None
        combinations[exponents] = tuple((ranked.index(vector), weight) for vector, weight in weights.items())
    return Recipe(tuple(map(dict, ranked)), tuple(reached[vector] for vector in ranked), combinations)


def _directions(exponents: Exponents) -> list[tuple[tuple[int, int], ...]]:
    """Directions that give a derivative: the coordinate by each variable takes one value more than the variable's
    exponent, in pairs of opposite signs, and zero for an even one (after Kan, "From moments of sum to moments of
    product", Journal of Multivariate Analysis 99, 2008)."""
    steps = [[step if count % 2 else step // 2 for step in range(count, -count - 1, -2)] for _, count in exponents]
    found = []
    for vector in product(*steps):
        leading = next((step for step in vector if step), 0)
        if leading > 0:
            divisor = gcd(*vector)
            moved = zip(exponents, vector, strict=True)
            found.append(tuple((variable, step // divisor) for (variable, _), step in moved if step))
    return list(dict.fromkeys(found))


def _combine(
    exponents: Exponents, reached: dict[tuple[tuple[int, int], ...], int]
) -> dict[tuple[tuple[int, int], ...], float] | None:
    """Weights of the derivatives of the same order along directions, or None where these do not give it."""
    order = _order(exponents)
    pure = ((exponents[0][0], 1),)
    if len(exponents) == 1 and reached.get(pure, 0) >= order:
        return {pure: 1.0}
    support = {variable for variable, _ in exponents}
    vectors = [vector for vector, n in reached.items() if n >= order and support.intersection(v for v, _ in vector)]
    variables = sorted(support.union(*({v for v, _ in vector} for vector in vectors)))
    monomials = [tuple(m.count(v) for v in variables) for m in combinations_with_replacement(variables, order)]
    target = tuple(dict(exponents).get(variable, 0) for variable in variables)
    matrix = torch.zeros(len(monomials), len(vectors), dtype=torch.float64, device="cpu")
    for column, vector in enumerate(vectors):
        steps = [dict(vector).get(variable, 0) for variable in variables]
        for row, m in enumerate(monomials):
            # The coefficient of the m-th partial derivative in the derivative along the direction.
            weight = factorial(order) // prod(map(factorial, m))
            matrix[row, column] = weight * prod(step**e for step, e in zip(steps, m, strict=True))
    wanted = torch.tensor([float(m == target) for m in monomials], dtype=torch.float64, device="cpu")
    weights = torch.linalg.pinv(matrix) @ wanted
    if not torch.allclose(matrix @ weights, wanted, rtol=0, atol=1e-9):
        return None
    return {vector: weight for vector, weight in zip(vectors, weights.tolist(), strict=True) if abs(weight) > 1e-12}


@dataclass(frozen=True)
class Divisors:
    """The multi-indices of derivatives and of all that these are derivatives of, by degree from 1. variables: those of
    degree 1, whose numbers the multi-indices hold. places: of the derivatives among all, with their factorials."""

    variables: tuple[int, ...]
    by_degree: tuple[tuple[tuple[int, ...], ...], ...]
    places: dict[Exponents, tuple[int, int]]

    @property
    def rows(self) -> int:
        return sum(map(len, self.by_degree))


@lru_cache(maxsize=256)
def divisors(needed: tuple[Exponents, ...]) -> Divisors:
    """Of these derivatives."""
    variables = tuple(sorted({variable for exponents in needed for variable, _ in exponents}))
    found = {
        tuple(count for count in steps)
        for exponents in needed
        for steps in product(*(range(dict(exponents).get(variable, 0) + 1) for variable in variables))
    }
    ranked = sorted(found - {(0,) * len(variables)}, key=lambda steps: (sum(steps), [-count for count in steps]))
    indices = [tuple(i for i, count in enumerate(steps) for _ in range(count)) for steps in ranked]
    by_degree = tuple(tuple(i for i in indices if len(i) == k) for k in range(1, max(map(len, indices)) + 1))
    places = {}
    for exponents in needed:
        steps = tuple(dict(exponents).get(variable, 0) for variable in variables)
        places[exponents] = (ranked.index(steps), prod(map(factorial, steps)))
    return Divisors(variables, by_degree, places)


def _by_jets(sweeps: Sweeps, needed: tuple[Exponents, ...]) -> list[dict[Exponents, Tensor]]:
    """By output."""
    plan, chain = recipe(needed), divisors(needed)
    rows = min(plan.rows, chain.rows)
    # Elsewhere jets along directions have kernels, polynomials have none, and gradients are some tens of kernels each.
    on_cpu = sweeps.outputs[0].is_cpu
    if on_cpu and plan.orders[0] == 2:
        nested = _by_second_gradients(sweeps, needed, rows)
        if nested is not None:
            return [nested]
    if on_cpu and rows < plan.rows:
        found = _by_polynomials(sweeps, chain)
        if found is not None:
            return found
    device = sweeps.inputs[0].device
    moved = basis(sweeps.inputs, sweeps.batch_dims, _coordinates(needed, sweeps.width, device=device))
    if plan.is_sum:
        [exponents] = plan.combinations
        totals = sweeps.collapsed(moved, _order(exponents), _weights(needed, device=device))
        return [{exponents: total} for total in totals]
    found = []
    with torch.set_grad_enabled(sweeps.create_graph):
        for series in sweeps.coefficients_by_order(moved, plan.orders):
            derivatives = {}
            asked = {_order(exponents) for exponents in plan.combinations}
            # Together: going back, their gradients are then joined once, not each padded with zeros and added.
            along = {order: series[order - 1].unbind() for order in asked}
            for exponents, combination in plan.combinations.items():
                order = _order(exponents)
                terms = [along[order][d] * (weight * factorial(order)) for d, weight in combination]
                derivatives[exponents] = sum(terms[1:], terms[0])
            found.append(derivatives)
    return found


@constant(maxsize=256)
def _coordinates(needed: tuple[Exponents, ...], width: int) -> Tensor:
    """Of the directions that give these derivatives, [D, width]."""
    steps = [[vector.get(variable, 0) for variable in range(width)] for vector in recipe(needed).vectors]
    return torch.tensor(steps, dtype=torch.float64)


@constant(maxsize=256)
def _weights(needed: tuple[Exponents, ...]) -> Tensor:
    """Of the directions, whose coefficients sum to the one derivative that these are."""
    plan = recipe(needed)
    [(exponents, combination)] = plan.combinations.items()
    weights = torch.zeros(len(plan.vectors), dtype=torch.float64)
    for d, weight in combination:
        weights[d] = weight * factorial(_order(exponents))
    return weights


@constant(maxsize=256)
def _unit_vectors(variables: tuple[int, ...], width: int) -> Tensor:
    return torch.eye(width, dtype=torch.float64)[list(variables)]


def _by_polynomials(sweeps: Sweeps, chain: Divisors) -> list[dict[Exponents, Tensor]] | None:
    """By output, of jets with one row for each derivative and each that it is a derivative of; or None where memory
    does not hold all of them at once."""
    moved = basis(
        sweeps.inputs, sweeps.batch_dims, _unit_vectors(chain.variables, sweeps.width, device=sweeps.inputs[0].device)
    )
    found = sweeps.polynomials(moved, chain.by_degree)
    if found is None:
        return None
    with torch.set_grad_enabled(sweeps.create_graph):
        results = []
        for rows in found:
            coefficients = rows.unbind()
            results.append({e: coefficients[place] * float(factor) for e, (place, factor) in chain.places.items()})
        return results


def _by_second_gradients(sweeps: Sweeps, needed: tuple[Exponents, ...], rows: int) -> dict[Exponents, Tensor] | None:
    """Up to second order, by the gradients of some first derivatives of an f of one element a sample; or None where so
    many rows of jets are cheaper. These grow with the pairs of variables, gradients with the variables."""
    if not sweeps.create_graph or len(sweeps.outputs) > 1:
        return None
    [output] = sweeps.outputs
    chosen = _cover(needed)
    gradients = 1 + len(chosen)
    more = rows - _ROWS_OF_GRADIENT * gradients
    if more <= 0 or output.numel() != prod(output.shape[: sweeps.batch_dims]):
        return None
    [outlook] = sweeps.outlooks
    # What trains derives once more.
    if (
        more * outlook.all_bytes < _BYTES_OF_GRADIENT * gradients
        or not outlook.regular
        or outlook.nested_orders < UNBOUNDED
    ):
        return None

    def columns_of(tensor: Tensor, variables: list[int]) -> list[Tensor] | None:
        return _C.first_partials([tensor], sweeps.inputs, variables, sweeps.batch_dims, True)

    lower = list(dict.fromkeys([*(e for e in needed if _order(e) == 1), *(((v, 1),) for v in chosen)]))
    columns = columns_of(output, [exponents[0][0] for exponents in lower])
    if columns is None:
        return None
    found = dict(zip(lower, columns, strict=True))
    for variable, seconds in chosen.items():
        first = found[((variable, 1),)]
        partners = [next((v for v, _ in exponents if v != variable), variable) for exponents in seconds]
        # Without a graph, it is constant.
        values = columns_of(first, partners) or [torch.zeros_like(first) for _ in partners]
        found.update(zip(seconds, values, strict=True))
    return {exponents: found[exponents] for exponents in needed}


@lru_cache(maxsize=256)
def _cover(needed: tuple[Exponents, ...]) -> dict[int, list[Exponents]]:
    """Variables, few, such that all second derivatives are derivatives of first ones by these; with those of each."""
    left = [exponents for exponents in needed if _order(exponents) == 2]
    chosen: dict[int, list[Exponents]] = {}
    while left:
        unmixed = [exponents[0][0] for exponents in left if len(exponents) == 1]
        counts = Counter(variable for exponents in left for variable, _ in exponents)
        variable = unmixed[0] if unmixed else counts.most_common(1)[0][0]
        chosen[variable] = [exponents for exponents in left if variable in dict(exponents)]
        left = [exponents for exponents in left if variable not in dict(exponents)]
    return chosen


def _by_gradients(sweeps: Sweeps, output: Tensor, needed: tuple[Exponents, ...]) -> dict[Exponents, Tensor]:
    """By gradients of gradients of all elements of a sample's output; each serves for all variables."""
    paths = {exponents: tuple(i for i, count in exponents for _ in range(count)) for exponents in needed}
    derived = {path[:k] for path in paths.values() for k in range(1, len(path))}
    if derived:
        check_derivable_again(output, sweeps.inputs)
    samples = prod(output.shape[: sweeps.batch_dims])
    with torch.enable_grad():
        values: dict[tuple[int, ...], Tensor] = {(): output.reshape(samples, -1)}
    gradients: dict[tuple[int, ...], Tensor] = {}
    for path in sorted({*derived, *paths.values()}, key=len):
        before = path[:-1]
        recorded = sweeps.create_graph or any(p[: len(before)] == before and len(p) > len(before) for p in derived)
        if before not in gradients:
            # Samples are independent, so that the sum over them loses nothing.
            with torch.enable_grad():
                rows = values[before].sum(0)
            blocks = jacobian(rows, sweeps.inputs, recorded)
            with torch.set_grad_enabled(recorded):
                gradients[before] = torch.cat([block.reshape(len(rows), samples, -1) for block in blocks], 2)
        with torch.set_grad_enabled(recorded):
            values[path] = gradients[before][:, :, path[-1]].t()
    found = {exponents: values[path].reshape(output.shape) for exponents, path in paths.items()}
    # Orders below the last are recorded in any case.
    return found if sweeps.create_graph else {exponents: value.detach() for exponents, value in found.items()}
