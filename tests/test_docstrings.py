"""The examples of public docstrings show what happens."""

from __future__ import annotations

import doctest
import inspect

import pytest
import torch

import highgrad_ext

FUNCTIONS = [name for name in highgrad_ext.__all__ if inspect.isfunction(getattr(highgrad_ext, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_examples(name: str) -> None:
    names = {"torch": torch, **vars(highgrad_ext)}
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder(recurse=False).find(getattr(highgrad_ext, name), name, globs=names):
        assert runner.run(test).failed == 0
