"""Jacobians of a real network: handwritten digits, from training to pictures, in under a minute.

    python examples/digits.py

trains a small network on the digits that ship with scikit-learn, then takes three derivatives on images that it has not
seen, each with highgrad_ext, with ``torch.func``, and with a plain loop of ``torch.autograd.grad``, compares time and
values, and draws what each of ten digits is recognised by.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

try:
    from matplotlib.figure import Figure
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from tqdm import tqdm
except ImportError as error:
    raise SystemExit(f'{error.name} is missing: pip install "highgrad_ext[demo]"') from error

from highgrad_ext import full_jacobian, nth_derivative

Derivative = Tensor | dict[str, Tensor]


class DigitsNetwork(nn.Module):
    """Images (B, 8, 8) to logits (B, 10), through a latent of two numbers an image."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
        self.decoder = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 10))

    def forward(self, images: Tensor) -> Tensor:
        return self.decoder(self.encoder(images))


@dataclass(frozen=True)
class Digits:
    """Images (B, 8, 8) with pixels from 0 to 1, and their labels (B,)."""

    images: Tensor
    labels: Tensor


def load() -> tuple[Digits, Digits]:
    """The digits to train on, and those held out."""
    digits = load_digits()
    parts = train_test_split(digits.images / 16, digits.target, test_size=0.25, random_state=0, stratify=digits.target)
    train_images, test_images, train_labels, test_labels = (torch.as_tensor(part) for part in parts)
    return Digits(train_images.float(), train_labels), Digits(test_images.float(), test_labels)


def train(network: nn.Module, digits: Digits, seconds: float) -> None:
    """Minimises the cross entropy for that many seconds, under a progress bar.

    The noise and the weight decay keep the network from using pixels that are empty in almost every image.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3, weight_decay=0.1)
    with tqdm(total=seconds, bar_format="{desc} |{bar}| {n:.1f} of {total:.1f} s") as bar:
        start = time.perf_counter()
        while bar.n < seconds:
            batch = torch.randint(len(digits.labels), (128,))
            images = digits.images[batch] + 0.25 * torch.randn(128, 8, 8)
            loss = nn.functional.cross_entropy(network(images), digits.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            bar.set_description_str(f"training, loss {loss.item():.3f}", refresh=False)
            bar.update(min(time.perf_counter() - start, seconds) - bar.n)


@torch.no_grad()
def accuracy(network: nn.Module, digits: Digits) -> float:
    """The share of images whose largest logit is that of the label."""
    return (network(digits.images).argmax(1) == digits.labels).float().mean().item()


def loop_jacobian(f: Tensor, *wrt: Tensor, create_graph: bool = False) -> list[Tensor]:
    """The Jacobian of f by each wrt, by one call of ``torch.autograd.grad`` for every element of f."""
    flat = f.reshape(-1)
    rows = [torch.autograd.grad(flat[i], wrt, retain_graph=True, create_graph=create_graph) for i in range(f.numel())]
    columns = zip(*rows, strict=True)
    return [torch.stack(column).view(f.shape + w.shape) for column, w in zip(columns, wrt, strict=True)]


@dataclass(frozen=True)
class Comparison:
    """One derivative, computed in three ways that must agree; each runs the forward pass too."""

    title: str
    highgrad: Callable[[], Derivative]
    torch_func: Callable[[], Derivative]
    loop: Callable[[], Derivative]


def logits_by_pixels(network: DigitsNetwork, images: Tensor) -> Comparison:
    """The Jacobian of all logits (B, 10) by all pixels (B, 8, 8)."""
    images = images.clone().requires_grad_()
    return Comparison(
        "logits by pixels",
        highgrad=lambda: full_jacobian(network(images), images, create_graph=False),
        torch_func=lambda: jacrev(network)(images),
        loop=lambda: loop_jacobian(network(images), images)[0],
    )


def logits_by_parameters(network: DigitsNetwork, images: Tensor) -> Comparison:
    """The Jacobian of all logits (B, 10) by all parameters, a dict of tensors."""
    parameters = dict(network.named_parameters())

    def logits(parameters: dict[str, Tensor]) -> Tensor:
        return functional_call(network, parameters, (images,))

    def loop() -> dict[str, Tensor]:
        jacobians = loop_jacobian(network(images), *parameters.values())
        return dict(zip(parameters, jacobians, strict=True))

    return Comparison(
        "logits by all parameters",
        highgrad=lambda: full_jacobian(network(images), parameters, create_graph=False),
        torch_func=lambda: jacrev(logits)(parameters),
        loop=loop,
    )


def logit_by_latent(network: DigitsNetwork, image: Tensor, label: int) -> Comparison:
    """The third derivative of one logit of one image by the latent (2,), a tensor in the middle of the graph."""

    def record() -> tuple[Tensor, Tensor]:
        latent = network.encoder(image[None])[0]
        return latent, network.decoder(latent)[label]

    def highgrad() -> Tensor:
        latent, logit = record()
        return nth_derivative(logit, latent, 3, create_graph=False)

    def torch_func() -> Tensor:
        latent = network.encoder(image[None])[0]
        return jacrev(jacrev(jacrev(lambda z: network.decoder(z)[label])))(latent)

    def loop() -> Tensor:
        latent, derivative = record()
        for order in (1, 2, 3):
            (derivative,) = loop_jacobian(derivative, latent, create_graph=order < 3)
        return derivative

    return Comparison("logit by latent, third", highgrad, torch_func, loop)


def best_milliseconds(call: Callable[[], object], seconds: float = 1.0, calls: int = 100) -> float:
    """The shortest of some calls after a first one: at most that many, at least three, for about that many seconds."""
    call()
    times: list[float] = []
    while len(times) < 3 or (len(times) < calls and sum(times) < seconds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def tensors(derivative: Derivative) -> list[Tensor]:
    return list(derivative.values()) if isinstance(derivative, dict) else [derivative]


def largest_difference(a: Derivative, b: Derivative) -> float:
    """The largest absolute difference between the entries of two derivatives."""
    differences = [(x - y).abs().max() for x, y in zip(tensors(a), tensors(b), strict=True)]
    return torch.stack(differences).max().item()


def table_rows(comparisons: list[Comparison]) -> Iterator[tuple[str, ...]]:
    """A header, then a row of text for each comparison."""
    yield ("", "", "highgrad_ext", "torch.func", "loop", "speed-up over", "over", "difference to", "to")
    yield ("derivative", "entries", "ms", "ms", "ms", "torch.func", "loop", "torch.func", "loop")
    for comparison in comparisons:
        ours = comparison.highgrad()
        # Under no_grad torch.func still differentiates, but records no second graph around its own.
        with torch.no_grad():
            theirs = comparison.torch_func()
            func_ms = best_milliseconds(comparison.torch_func)
        highgrad_ms, loop_ms = best_milliseconds(comparison.highgrad), best_milliseconds(comparison.loop)
        yield (
            comparison.title,
            f"{sum(tensor.numel() for tensor in tensors(ours)):,}",
            *(f"{ms:,.2f}" for ms in (highgrad_ms, func_ms, loop_ms)),
            *(f"{ms / highgrad_ms:.1f}x" for ms in (func_ms, loop_ms)),
            *(f"{largest_difference(ours, other):.1e}" for other in (theirs, comparison.loop())),
        )


def print_table(rows: list[tuple[str, ...]]) -> None:
    """Prints rows of text in columns: the first to the left, the rest to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for first, *rest in rows:
        print("  ".join([first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(rest, widths[1:], strict=True))]))


def saliency_of_ten(network: DigitsNetwork, digits: Digits) -> tuple[Digits, Tensor]:
    """The first image of each class, and the gradients (10, 8, 8) of their true logits by their own pixels."""
    first = torch.stack([(digits.labels == label).nonzero()[0, 0] for label in range(10)])
    ten = Digits(digits.images[first], digits.labels[first])
    images = ten.images.clone().requires_grad_()
    jacobian = full_jacobian(network(images), images, create_graph=False)  # (10, 10, 10, 8, 8)
    image = torch.arange(10)
    return ten, jacobian[image, ten.labels, image]  # the logits of an image by the pixels of another are zero


def draw_saliency(network: DigitsNetwork, digits: Digits, path: Path) -> None:
    """Writes a picture of ten digits and, below each, the gradient of its true logit by its pixels."""
    ten, saliency = saliency_of_ten(network, digits)
    predicted = network(ten.images).argmax(1)
    figure = Figure(figsize=(12, 2.7), layout="constrained")
    axes = figure.subplots(2, 10)
    for column in range(10):
        limit = saliency[column].abs().max().item()
        axes[0, column].imshow(ten.images[column].numpy(), cmap="gray_r")
        axes[0, column].set_title(f"{ten.labels[column]} (seen as {predicted[column]})", fontsize=9)
        shown = axes[1, column].imshow(saliency[column].numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    axes[0, 0].set_ylabel("image")
    axes[1, 0].set_ylabel("saliency")
    bar = figure.colorbar(shown, ax=axes[1, :].tolist(), ticks=[-limit, 0, limit], aspect=12, pad=0.01)
    bar.ax.set_yticklabels(["ink speaks against it", "no effect", "ink speaks for it"], fontsize=8)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="time to train (default 5)")
    parser.add_argument("--output", type=Path, default=Path("digits_saliency.png"), help="the picture to write")
    options = parser.parse_args()

    torch.manual_seed(0)
    train_digits, test_digits = load()
    network = DigitsNetwork()
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a network trains no faster on more
    train(network, train_digits, options.seconds)
    torch.set_num_threads(num_threads)
    print(
        f"accuracy: {accuracy(network, train_digits):.1%} trained on, {accuracy(network, test_digits):.1%} held out\n"
    )

    images, label = test_digits.images[:64], int(test_digits.labels[0])
    comparisons = [
        logits_by_pixels(network, images),
        logits_by_parameters(network, images),
        logit_by_latent(network, images[0], label),
    ]
    print("64 held-out images; times are the best of many and include the forward pass; largest differences")
    print_table(list(table_rows(comparisons)))

    draw_saliency(network, test_digits, options.output)
    print(f"\nsaliency of ten digits: {options.output.resolve()}")


if __name__ == "__main__":
    main()
