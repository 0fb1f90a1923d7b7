"""What `mrihvae train` prints: losses while it trains; at the end where the weights are and what to do next."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from mrihvae.cli.common import next_command
from mrihvae.cli.console import progress
from mrihvae.cli.options import Train
from mrihvae.training.loop import Batch
from mrihvae.training.run import WEIGHTS, Run
from mrihvae.utils.text import counted

EVERY = 30.0  # seconds between lines


class LossLines:
    """Prints losses on standard error now and then: means over the steps since the line before.

    Parameters
    ----------
    steps : of the whole run
    every : seconds between lines
    """

    def __init__(self, steps: int, every: float = EVERY) -> None:
        self.steps, self.every = steps, every
        self.lines: list[Mapping[str, Any]] = []
        self.shown = time.monotonic()

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Take the line of a step in the log."""
        self.lines.append(line)
        if time.monotonic() - self.shown >= self.every:
            self.show()

    def show(self) -> None:
        """Print the losses of the steps since the line before, if there are any."""
        if self.lines:
            tqdm.write(describe_losses(self.lines, self.steps), file=sys.stderr)
        self.lines, self.shown = [], time.monotonic()


def describe_losses(lines: Sequence[Mapping[str, Any]], steps: int) -> str:
    """Describe the losses of some steps of `log.jsonl` in a line: the negative ELBO, and the gain over zero-filling."""
    last = lines[-1]
    parts = []
    if prior := [line["elbo"] for line in lines if "elbo" in line]:  # not every step trains the prior
        parts.append(f"negative ELBO {sum(prior) / len(prior):.4f} nats per dimension")
    if masked := [line for line in lines if "rollout" in line]:
        error, zero_filled = (sum(line[name] for line in masked) for name in ("rollout", "zero_filled"))
        if error > 0 and zero_filled > 0:
            parts.append(f"k-space error {10 * math.log10(zero_filled / error):.2f} dB below zero-filling")
    if skipped := last.get("skipped_prior", 0) + last.get("skipped_masked", 0):
        parts.append(f"{counted(skipped, 'gradient')} skipped")
    minutes = last.get("seconds", 0.0) / 60
    return f"step {last['step']} of {steps}, {minutes:.1f} min: {', '.join(parts) or 'no losses yet'}"


def show_steps(batches: Iterator[Sequence[Batch]], job: Run, show: bool) -> Iterator[Sequence[Batch]]:
    """Show the steps of a run as a progress bar, if the process is the one that shows it."""
    disable = None if show else True
    with progress(
        batches, "training", "step", initial=job.counters.step, total=job.settings.steps, disable=disable, leave=True
    ) as bar:
        yield from bar


def closing_lines(job: Run, arguments: Train) -> str:
    """Describe where a run stands, where its weights are, and what to do next."""
    step, steps = job.counters.step, job.settings.steps
    output = arguments.output
    weights = output / WEIGHTS
    if step < steps:
        head, following = f"stopped at step {step} of {steps}", next_command("train", *_resumed(arguments))
    else:
        head = f"finished {counted(steps, 'step')}"
        following = next_command("reconstruct", "SCANS", "--checkpoint", str(weights), "--output", "out")
    return f"{head}; losses: {output / 'training.png'}, {output / 'log.jsonl'}\nweights: {weights}\n{following}"


def _resumed(arguments: Train) -> list[str]:
    """Return the words that resume a run: its data, and where it lies."""
    words = list(arguments.data)
    if arguments.protocol:
        words += ["--protocol", arguments.protocol]
    if arguments.root is not None:
        words += ["--data", str(arguments.root)]
    if arguments.validation:
        words += ["--validation", *arguments.validation]
    if arguments.device != "cpu":
        words += ["--device", arguments.device]
    return [*words, "--output", str(arguments.output), "--resume"]
