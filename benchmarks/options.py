"""The options that the benchmarks share, and what is done with their figures."""

import argparse
import json
from pathlib import Path

import torch


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


def make_tensors_on(device: str) -> None:
    """Of problems that do not name one. On a GPU each of torch's functions then costs Python about a microsecond more,
    for all peers."""
    if device != "cpu":
        torch.set_default_device(device)


def publish(options: argparse.Namespace, figures: object, report: str) -> None:
    """Prints the report of a run, and writes what the options ask for."""
    if options.json:
        options.json.write_text(json.dumps(figures) + "\n")
    if options.markdown:
        options.markdown.write_text(report)
    print(report)
