"""Progress of long work: a tqdm bar, or the user's own callable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

# Called with the passes done and all passes.
Report: TypeAlias = Callable[[int, int], object]


@contextmanager
def reporter(caller: str, progress: bool | Report) -> Iterator[Report | None]:
    """What the engine calls after every sweep: `progress` itself if it is callable, a tqdm bar for True if tqdm is
    installed, else None. Raises TypeError for anything else."""
    if callable(progress):
        yield progress
        return
    if not isinstance(progress, bool):
        raise TypeError(f"{caller}: expected progress to be a bool or callable, got {type(progress).__name__}")
    if not progress:
        yield None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError:
        yield None
        return
    with tqdm(desc=caller, unit="pass") as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update
