"""Checks what the peers return, and times them in turns."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.peers import Result

TURNS = 20
MIN_CALLS = 3
TOLERANCE = 1e-4  # of single precision results, relative to the largest entry of the right one

# Runs a peer for about the given number of seconds, at least once, and returns the seconds of each call.
Turn = Callable[[float], list[float]]


class WrongResult(Exception):
    """A peer returned something else than the right derivative."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one peer on one problem."""

    min_ms: float
    q1_ms: float
    median_ms: float
    q3_ms: float
    calls: int

    @classmethod
    def of(cls, seconds: list[float]) -> "Timing":
        ms = [1e3 * s for s in seconds]
        q1, median, q3 = statistics.quantiles(ms, n=4, method="inclusive") if len(ms) > 1 else ms * 3
        return cls(min(ms), q1, median, q3, len(ms))


def check(result: Result, oracle: Result) -> float:
    """The largest error, relative to the oracle's largest entry; raises WrongResult where it is above TOLERANCE."""
    if isinstance(oracle, dict):
        if not isinstance(result, dict) or result.keys() != oracle.keys():
            raise WrongResult(f"expected a dict of {sorted(oracle)}")
        return max(check(result[name], oracle[name]) for name in oracle)
    if not isinstance(result, Tensor) or result.shape != oracle.shape:
        raise WrongResult(f"expected shape {tuple(oracle.shape)}, got {getattr(result, 'shape', type(result))}")
    scale = oracle.abs().max().item() or 1.0
    error = (result.detach().to(oracle) - oracle).abs().max().item() / scale
    if not error <= TOLERANCE:  # a NaN is wrong too
        raise WrongResult(f"largest error is {error:.1e} of the largest entry")
    return error


def local_turn(call: Callable[[], object]) -> Turn:
    """The turn of a peer that runs in this process; where a GPU is in use, every call is timed until it is done."""
    synchronize = torch.cuda.synchronize if torch.cuda.is_initialized() else lambda: None

    def turn(seconds: float) -> list[float]:
        times: list[float] = []
        while not times or sum(times) < seconds:
            synchronize()
            start = time.perf_counter()
            call()
            synchronize()
            times.append(time.perf_counter() - start)
        return times

    return turn


def time_in_turns(turns: dict[str, Turn], seconds: float) -> dict[str, list[float]]:
    """Times all peers round-robin, so that a machine that slows down for a while slows all of them.

    Each peer has an equal share of the seconds. One that has used more than its share so far, because a single call of
    it takes long, sits out until the others have caught up; at the end every peer has at least MIN_CALLS calls.
    """
    times: dict[str, list[float]] = {name: [] for name in turns}
    share = seconds / TURNS / max(len(turns), 1)
    for number in range(1, TURNS + 1):
        for name, turn in turns.items():
            left = number * share - sum(times[name])
            if left > 0:
                times[name] += turn(left)
    while short := [name for name in turns if len(times[name]) < MIN_CALLS]:
        for name in short:
            times[name] += turns[name](0.0)
    return times
