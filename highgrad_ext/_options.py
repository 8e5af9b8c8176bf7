"""Options that both public functions take: their types, checked before any work."""

from __future__ import annotations


def check_sweep_options(caller: str, chunk_size: object, mode: object, structure: object) -> None:
    """Raises TypeError for an option of a wrong type; their values are checked in C++."""
    if chunk_size is not None and not isinstance(chunk_size, int):
        raise TypeError(f"{caller}: expected chunk_size to be None or an int, got {type(chunk_size).__name__}")
    for name, option in (("mode", mode), ("structure", structure)):
        if not isinstance(option, str):
            raise TypeError(f"{caller}: expected {name} to be a str, got {type(option).__name__}")
