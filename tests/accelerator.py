"""An accelerator that is not there: what its two kinds, fake_accelerator.py and host_accelerator.py, share.

torch's backend in Python (PrivateUse1) gives libtorch's engine a device with streams. Each kind is a script that runs
in a process of its own, and prints what it found as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "elsewhere"
HERE = Path(__file__).resolve().parent


class Generator(torch.Generator):
    """Of the CPU: the backend in Python has none, and numbers without values need none."""

    def __new__(cls, device: object = None) -> Generator:
        return super().__new__(cls)


def register() -> None:
    warnings.simplefilter("ignore")
    _setup_privateuseone_for_python_backend(NAME)
    torch.Generator = Generator


def finish(found: dict[str, Any]) -> None:
    print(json.dumps(found), flush=True)
    os._exit(0)  # the engine's threads of the device would outlive the interpreter that its guard is written in


def run_script(name: str, *arguments: str) -> dict[str, Any]:
    """What a script of this folder found."""
    command = [sys.executable, str(HERE / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(HERE.parent)})
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found
