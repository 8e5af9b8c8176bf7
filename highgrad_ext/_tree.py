"""Tensors in tuples, lists and dicts: flattened for the engine, and the results nested again as the arguments were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, ValuesView
from typing import Any, TypeAlias

from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

# A tensor, or a tuple, list or dict (any container that torch.utils._pytree knows) of such; an iterator, such as
# module.parameters(), or the values of a dict count as a tuple.
TensorTree: TypeAlias = Any

_LEAF = tree_flatten(None)[1]

# Structures of tuples and lists of tensors, which need no walk of the tree, by type and length; and their types.
_FLAT: dict[tuple[type, int], TreeSpec] = {}
_FLAT_TYPES: dict[int, type] = {}


def _flat_spec(kind: type, length: int) -> TreeSpec:
    spec = _FLAT.get((kind, length))
    if spec is None:
        spec = _FLAT.setdefault((kind, length), tree_flatten(kind([None] * length))[1])
        _FLAT_TYPES[id(spec)] = kind
    return spec


def _unflatten(values: list[Any], spec: TreeSpec) -> TensorTree:
    kind = _FLAT_TYPES.get(id(spec))
    return tree_unflatten(values, spec) if kind is None else kind(values)


def flatten(caller: str, name: str, tree: TensorTree) -> tuple[list[Tensor], TreeSpec]:
    """The tensors of `tree` in order, and its structure. Raises TypeError for anything else."""
    if isinstance(tree, Tensor):
        return [tree], _LEAF
    if isinstance(tree, (Iterator, ValuesView)):
        tree = tuple(tree)
    if type(tree) in (tuple, list) and all(isinstance(leaf, Tensor) for leaf in tree):
        return list(tree), _flat_spec(type(tree), len(tree))
    leaves, spec = tree_flatten(tree)
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            kind = type(leaf).__name__
            got = kind if leaf is tree else f"a {kind} inside a {type(tree).__name__}"
            raise TypeError(f"{caller}: expected {name} to be a tensor or a tuple, list or dict of tensors, got {got}")
    return leaves, spec


def nest(blocks: Sequence[Any], f_spec: TreeSpec, wrt_spec: TreeSpec, order: int = 1) -> TensorTree:
    """Blocks in row-major order of (output, input, ..., input), nested as f outside and `order` times wrt inside."""
    if f_spec is _LEAF and wrt_spec is _LEAF:
        return blocks[0]
    remaining = iter(blocks)
    return _unflatten([_nest_inside(remaining, wrt_spec, order) for _ in range(f_spec.num_leaves)], f_spec)


# Not a closure: one that calls itself keeps the blocks alive until the garbage collector comes.
def _nest_inside(remaining: Iterator[Any], wrt_spec: TreeSpec, depth: int) -> TensorTree:
    if depth == 0:
        return next(remaining)
    return _unflatten([_nest_inside(remaining, wrt_spec, depth - 1) for _ in range(wrt_spec.num_leaves)], wrt_spec)


def flatten_out(caller: str, out: TensorTree, f_spec: TreeSpec, wrt_spec: TreeSpec, order: int = 1) -> list[Tensor]:
    """The tensors of `out`. Raises ValueError if they are as many as the results, in another structure."""
    tensors, spec = flatten(caller, "out", out)
    count = f_spec.num_leaves * wrt_spec.num_leaves**order
    if len(tensors) != count:
        return tensors
    expected = tree_flatten(nest(tensors, f_spec, wrt_spec, order))[1]
    if spec != expected:
        raise ValueError(f"{caller}: expected out to have the structure of the result, {expected}, got {spec}")
    return tensors


def nest_outputs(values: list[Tensor], f_spec: TreeSpec) -> TensorTree:
    """One value for every output, nested as f."""
    return values[0] if f_spec is _LEAF else _unflatten(values, f_spec)
