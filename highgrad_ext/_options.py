"""Options that both public functions take: their types, checked before any work."""

from __future__ import annotations


def check_sweep_options(caller: str, chunk_size: object, mode: object) -> None:
    """Raises TypeError for a chunk_size or mode of a wrong type; their values are checked in C++."""
    if chunk_size is not None and not isinstance(chunk_size, int):
        raise TypeError(f"{caller}: expected chunk_size to be None or an int, got {type(chunk_size).__name__}")
    if not isinstance(mode, str):
        raise TypeError(f"{caller}: expected mode to be a str, got {type(mode).__name__}")
