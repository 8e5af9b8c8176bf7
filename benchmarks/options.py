"""The options that the benchmarks share, and what is done with their figures."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def option_parser(description: str | None, seconds: float, of: str) -> argparse.ArgumentParser:
    """A parser of the shared options. seconds: how long the calls of one `of` take, by default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seconds", type=float, default=seconds, help=f"time for the calls of one {of} (default {seconds:g})"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--problems", default="", metavar="TEXT", help=f"only a {of} with this text in its name")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the report, too")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options of the command line, with torch's threads set to them."""
    options = parser.parse_args()
    if options.device == "cuda":
        if not torch.cuda.is_available():
            parser.exit(message="no CUDA device: nothing to time\n")
        torch.cuda.init()
    torch.set_num_threads(options.threads)
    return options


def on_device(function: Callable[..., T], device: str) -> Callable[..., T]:
    """Makes tensors there, where none is named. torch's mode for that slows all that Python calls inside, and is left
    with the function: what differentiates its result is timed without."""
    if device == "cpu":
        return function

    def there(*arguments: Any) -> T:
        with torch.device(device):
            return function(*arguments)

    return there


def publish(options: argparse.Namespace, figures: object, report: str) -> None:
    """Prints the report of a run, and writes what the options ask for."""
    if options.json:
        options.json.write_text(json.dumps(figures) + "\n")
    if options.markdown:
        options.markdown.write_text(report)
    print(report)
