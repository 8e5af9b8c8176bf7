"""Under a limit of memory, in a process of its own: Jacobians that the peers have no room for."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIMITED = """
import resource
import sys
from pathlib import Path

import torch
from torch.func import jacrev
from highgrad_ext import full_jacobian

torch.set_num_threads(1)
first, last = torch.randn(20000, 100) / 10, torch.randn(3000, 20000) / 140
x = torch.randn(100, requires_grad=True)

def function(x):
    return torch.tanh(last @ torch.tanh(first @ x)).cumsum(0)

mode = sys.argv[1]
options = dict(create_graph=False, mode="reverse", structure="dense")
jacrev(lambda x: torch.tanh(first[:9] @ x))(x.detach())
full_jacobian(torch.tanh(first[:9] @ x), x, **options)
f = function(x)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 150 * 2**20, -1))
if mode == "peer":
    jacrev(function)(x.detach())
else:
    jacobian = full_jacobian(f, x, **options)
    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
    (row,) = torch.autograd.grad(f[1234], x)
    assert torch.allclose(jacobian[1234], row, atol=1e-4), (jacobian[1234] - row).abs().max()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and RLIMIT_AS")
@pytest.mark.parametrize(("mode", "succeeds"), [("plain", True), ("peer", False)])
def test_under_a_limit(mode: str, succeeds: bool) -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED, mode], capture_output=True, text=True)
    assert (done.returncode == 0) == succeeds, done.stderr
    assert succeeds or "allocate memory" in done.stderr, done.stderr
