"""What an operator refuses, it refuses in the same words without data (Meta, FakeTensor), under vmap and in a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

import highgrad_ext

ops = torch.ops.highgrad_ext
NAMES = [
    "seed_basis",
    "assemble_rows",
    "assemble_rows_",
    "decompress",
    "compress",
    "expand_symmetric",
    "fold_symmetric",
    "compose_jet",
    "compose_jet_backward",
]

X = torch.ones(2, 3)
FLAT = torch.ones(3)
WHOLE = torch.ones(4, dtype=torch.int64)
STORAGE = torch.ones(10)
PLACES = torch.tensor([0, 1])


def jet(name: str = "compose_jet", **changed: Any) -> tuple[str, tuple[Any, ...]]:
    """The jet of tanh along two directions, of which the first has two orders."""
    rows, value = torch.ones(3, 4), torch.ones(4)
    arguments: dict[str, Any] = {"by_rows": rows.clone()} if name == "compose_jet_backward" else {}
    arguments |= {"x": rows, "seeds": [value], "kind": 1, "constants": [1.0, 0.0, -1.0, 0.0, 1.0, 0.0]}
    arguments |= {"terms": 2, "counts": [2, 1], "collapsed": False, "weights": None}
    return name, tuple((arguments | changed).values())


# An operator and arguments that it refuses, whatever the device.
REFUSED: dict[str, tuple[str, tuple[Any, ...]]] = {
    "basis of whole numbers": ("seed_basis", (WHOLE, 1, 0)),
    "basis of -1 rows": ("seed_basis", (FLAT, -1, 0)),
    "basis from row -1": ("seed_basis", (FLAT, 1, -1)),
    "fewer counts than blocks": ("assemble_rows", ([X, None], [2], [2], FLAT)),
    "more counts than blocks": ("assemble_rows", ([X], [2, 1], [3], FLAT)),
    "a negative count": ("assemble_rows", ([X, None], [2, -1], [1], FLAT)),
    "a block of fewer rows": ("assemble_rows", ([X], [3], [3], FLAT)),
    "a block of other rows": ("assemble_rows", ([torch.ones(2, 4)], [2], [2], FLAT)),
    "a block without rows": ("assemble_rows", ([FLAT], [1], [1], FLAT)),
    "fewer rows than the result": ("assemble_rows", ([X], [2], [3], FLAT)),
    "a negative output shape": ("assemble_rows", ([X], [2], [-1, -2], FLAT)),
    "a complex block": ("assemble_rows", ([X.cfloat()], [2], [2], FLAT)),
    "a block of whole numbers": ("assemble_rows", ([X.long()], [2], [2], FLAT)),
    "a result of whole numbers": ("assemble_rows", ([None], [1], [1], WHOLE)),
    "transposed rows": ("assemble_rows_", (torch.ones(3, 2).t(), X)),
    "rows of another shape": ("assemble_rows_", (torch.ones(3, 2), X)),
    "rows of whole numbers": ("assemble_rows_", (WHOLE, None)),
    "a complex block in place": ("assemble_rows_", (X, X.cfloat())),
    "rows that overlap the block": ("assemble_rows_", (STORAGE[:5], STORAGE[3:8])),
    "rows that are the block transposed": ("assemble_rows_", (STORAGE[:9].view(3, 3), STORAGE[:9].view(3, 3).t())),
    "entries of whole numbers": ("decompress", (WHOLE, PLACES, None, [2])),
    "sources of 32 bits": ("decompress", (X, PLACES.int(), None, [2])),
    "sources of two dims": ("decompress", (X, PLACES[None], None, [2])),
    "targets of two dims": ("decompress", (X, PLACES, PLACES[None], [2])),
    "fewer sources than entries": ("decompress", (X, PLACES, None, [3])),
    "fewer targets than sources": ("decompress", (X, PLACES, PLACES[:1], [3])),
    "entries of a negative shape": ("decompress", (X, PLACES, None, [-2])),
    "values of whole numbers": ("compress", (WHOLE, PLACES, PLACES, [2])),
    "fewer sources than values": ("compress", (FLAT, PLACES, None, [2])),
    "targets of 32 bits": ("compress", (FLAT, PLACES, PLACES.int(), [2])),
    "a negative size": ("expand_symmetric", (X, -1, 2)),
    "an order past the most": ("fold_symmetric", (X, 1, 65)),
    "packed rows of another length": ("expand_symmetric", (X, 3, 2)),
    "full rows of another length": ("fold_symmetric", (X, 3, 2)),
    "packed without rows": ("expand_symmetric", (FLAT, 2, 2)),
    "packed whole numbers": ("expand_symmetric", (X.long(), 2, 2)),
    "more entries than an int64": ("expand_symmetric", (X, 3, 41)),
    "a jet of half types": jet(x=torch.ones(3, 4).half()),
    "a kind that is none": jet(kind=7),
    "five constants": jet(constants=[1.0] * 5),
    "a jet without orders": jet(counts=[]),
    "more directions of a higher order": jet(counts=[1, 2]),
    "fewer directions of a collapsed order": jet(collapsed=True),
    "more orders than the jet's": jet(terms=3),
    "fewer rows than directions": jet(x=torch.ones(2, 4)),
    "no seeds": jet(seeds=[]),
    "seeds of another shape": jet(seeds=[FLAT]),
    "seeds of another dtype": jet(seeds=[torch.ones(4).double()]),
    "a given series of fewer orders": jet(kind=0, seeds=[torch.ones(1, 4)]),
    "a given series without a slope's order": jet("compose_jet_backward", kind=0, seeds=[torch.ones(2, 4)]),
    "weights of other directions": jet(weights=FLAT),
    "a cotangent of fewer rows": jet("compose_jet_backward", by_rows=torch.ones(2, 4)),
}


def refusal(call: Callable[[], object]) -> tuple[type[BaseException], str]:
    with pytest.raises((RuntimeError, NotImplementedError)) as caught:
        call()
    return caught.type, str(caught.value).partition("\n")[0]


def moved(arguments: tuple[Any, ...], move: Callable[[Tensor], Tensor]) -> tuple[Any, ...]:
    """With each storage moved once, so that what shares memory still does."""
    storages: dict[int, Tensor] = {}

    def one(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        key = value.untyped_storage().data_ptr()
        if key not in storages:
            storages[key] = move(value.as_strided((value.untyped_storage().nbytes() // value.element_size(),), (1,), 0))
        return storages[key].as_strided(value.shape, value.stride(), value.storage_offset())

    return tree_map(one, arguments)


@pytest.mark.parametrize("case", REFUSED)
def test_the_same_words_without_data(case: str) -> None:
    name, arguments = REFUSED[case]
    op = getattr(ops, name)
    expected = refusal(lambda: op(*arguments))
    assert refusal(lambda: op(*moved(arguments, lambda tensor: tensor.to("meta")))) == expected
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = moved(arguments, mode.from_tensor)
        assert refusal(lambda: op(*fake)) == expected


@pytest.mark.parametrize("case", REFUSED)
def test_the_same_words_in_a_graph(case: str) -> None:
    """Inputs that require grad, where they can."""
    name, arguments = REFUSED[case]
    if name == "assemble_rows_":
        pytest.skip("not differentiable")
    recorded = moved(arguments, lambda t: t.clone().requires_grad_(t.is_floating_point() or t.is_complex()))
    assert refusal(lambda: getattr(ops, name)(*recorded)) == refusal(lambda: getattr(ops, name)(*arguments))


# Where a tensor lies in memory is the batch's own matter: any of its strides is right. The words for a size below zero
# are torch's own, and depend on the op that meets it.
NOT_UNDER_VMAP = {
    *("transposed rows", "rows that overlap the block", "rows that are the block transposed"),
    *("a negative output shape", "entries of a negative shape"),
    # Jets have no batching rule.
    *(case for case, (name, _) in REFUSED.items() if name.startswith("compose_jet")),
}


@pytest.mark.parametrize("case", [case for case in REFUSED if case not in NOT_UNDER_VMAP])
def test_the_same_words_under_vmap(case: str) -> None:
    name, arguments = REFUSED[case]
    leaves, spec = tree_flatten(arguments)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    def function(*batched: Tensor) -> Any:
        rest = iter(batched)
        filled = [next(rest) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return getattr(ops, name)(*tree_unflatten(filled, spec))

    batches = [torch.stack([tensor, tensor]) for tensor in tensors]
    if not batches:
        pytest.skip("nothing to batch")
    assert refusal(lambda: torch.vmap(function)(*batches)) == refusal(lambda: getattr(ops, name)(*arguments))


@pytest.mark.parametrize("fake", [False, True])
def test_tensors_of_two_devices(fake: bool) -> None:
    """A device that every machine has stands for another; among fake tensors, CUDA does."""
    with FakeTensorMode(allow_non_fake_inputs=True) if fake else torch.no_grad():
        x, flat = X.to("cpu"), torch.ones(3, device="cuda" if fake else "meta")
        places, there = PLACES.to("cpu"), torch.zeros(2, dtype=torch.int64, device=flat.device)
        calls = [
            lambda: ops.assemble_rows([x], [2], [2], flat),
            lambda: ops.decompress(x, places, there, [2]),
            lambda: ops.decompress(x, there, None, [2]),
            lambda: ops.compress(flat, places, there, [2]),
            lambda: ops.compose_jet(*jet(seeds=[torch.ones(4, device=flat.device)])[1]),
        ]
        if not fake:  # of an operator without a result, FakeTensor compares no devices
            calls.append(lambda: ops.assemble_rows_(flat.new_ones(2, 3), x))
        for call in calls:
            with pytest.raises((RuntimeError, NotImplementedError), match=r"device|on meta|on cpu"):
                call()


@pytest.mark.parametrize("name", NAMES)
def test_every_operator_has_every_kernel(name: str) -> None:
    qualified = f"highgrad_ext::{name}"
    for key in ("Meta", "Autograd", "FuncTorchBatched"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(qualified, key), key
    for key in ("CPU", "CUDA"):
        assert torch._C._dispatch_has_computed_kernel_for_dispatch_key(qualified, key) or not highgrad_ext.cuda_built


def test_jets_have_no_batching_rule() -> None:
    name, (x, *rest) = jet()
    with pytest.raises(NotImplementedError, match=f"{name}: has no batching rule"):
        torch.vmap(lambda rows: getattr(ops, name)(rows, *rest))(torch.stack([x, x]))


def test_jets_have_no_derivative_of_torchs() -> None:
    name, (x, *rest) = jet()
    with pytest.raises(RuntimeError, match="is not implemented"):
        getattr(ops, name)(x.requires_grad_(), *rest).sum().backward()
