"""Training, and the publication of its weights, which are killed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks.robustness.kill_work import MODEL, phantom_scan, problems_of, small_network, succeed
from benchmarks.training import publish
from mrihvae.errors import InputError
from mrihvae.model import weights
from mrihvae.model.digests import read_metadata
from mrihvae.model.weights import fingerprint, load_card, save_weights, verify_weights
from mrihvae.recon.convert import save
from mrihvae.training.checkpoints import NEWEST, PREVIOUS, read_checkpoint
from mrihvae.utils.notices import collect_notices

TRAINING = {
    "steps": 10, "warmup": 3, "shapes": [[16, 24], [16, 16]], "pixels": 400, "kl_warmup": 4, "guess_only": 1,
    "masked_start": 3, "prior_every": 2, "second_every": 3, "bf16": False,
}  # fmt: skip
LARGEST_FILE = 50_000  # bytes of tensors in a file of weights, so that there are many


class Training:
    """`mrihvae train` with a checkpoint after every step, and weights of many parts."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run, self.whole, self.step = folder, folder / "run", folder / "whole", 0
        (folder / "data").mkdir()
        save(folder / "data" / "scan.h5", phantom_scan(0))
        (folder / "settings.json").write_text(json.dumps({"model": MODEL, "training": TRAINING}))

    def work(self) -> None:
        """Train, or resume; the first time, without a kill."""
        weights.LARGEST_FILE = LARGEST_FILE
        output = self.run if self.whole.exists() else self.whole
        words = ["train", str(self.folder / "data"), "--output", str(output), "--checkpoint-seconds", "-1"]
        there = (output / NEWEST).exists()
        succeed([*words, *(["--resume"] if there else ["--settings", str(self.folder / "settings.json")])])

    def after_kill(self) -> list[str]:
        """Check that both checkpoints and the weights are whole, of one step each, and that no step was lost."""
        found, steps = [], {}
        for name in (NEWEST, PREVIOUS):
            if (path := self.run / name).exists():
                with collect_notices() as notices:
                    found += problems_of(lambda path=path: _read_alone(path))  # type: ignore[misc]
                steps[name] = int(read_metadata(path)["step"])
                found += notices
        newest = steps.get(NEWEST, 0)
        if newest < max(self.step, steps.get(PREVIOUS, 0)):
            found.append(f"the newest checkpoint is of step {newest}, and there was one of step {self.step}: {steps}")
        self.step = newest
        path = self.run / "weights.safetensors"
        if path.exists():
            found += problems_of(lambda: check_set(path))
        return found

    def after_end(self) -> list[str]:
        """Compare with the run that was not interrupted, bit for bit, and remove it."""
        if not self.run.exists():
            return []
        found = self.after_kill()
        for name in (NEWEST, "weights.safetensors", *load_card(self.run / "weights.safetensors")["parts"]):
            ours, theirs = load_file(self.run / name), load_file(self.whole / name)
            if ours.keys() != theirs.keys() or not all(torch.equal(ours[key], theirs[key]) for key in ours):
                found.append(f"{name} is not that of the uninterrupted run")
        steps = [json.loads(line)["step"] for line in (self.run / "log.jsonl").read_text().splitlines()]
        if steps != list(range(1, TRAINING["steps"] + 1)):  # type: ignore[operator]
            found.append("log.jsonl has not every step once")
        others = {path.name for path in self.run.iterdir()} ^ {path.name for path in self.whole.iterdir()} - {PREVIOUS}
        found += [f"{name} is left over or missing" for name in others - {PREVIOUS}]
        shutil.rmtree(self.run)
        self.step = 0
        return found


def _read_alone(path: Path) -> None:
    """Read one of the two checkpoints."""
    alone = path.parent / "alone"
    alone.mkdir(exist_ok=True)
    (alone / NEWEST).hardlink_to(path)
    try:
        read_checkpoint(alone, "cpu")
    finally:
        shutil.rmtree(alone)


class Publication:
    """`benchmarks.training.publish` of two runs, by turns, as weights of many parts."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.turns = folder, 0
        self.path = folder / "weights" / "mine.safetensors"
        weights.LARGEST_FILE, usual = LARGEST_FILE, weights.LARGEST_FILE
        for number in (0, 1):
            run = folder / f"run{number}"
            run.mkdir()
            torch.manual_seed(number)
            save_weights(run / "weights.safetensors", small_network(), {"data": [], "counters": {"step": number + 1}})
            zeros = {"skipped_prior": 0, "skipped_masked": 0, "distortion": 1.0, "matching": [0.0], "active": [1.0]}
            lines = [json.dumps({"step": step, "elbo": 1.0, "kl": [0.1], **zeros}) for step in (1, 2)]
            (run / "log.jsonl").write_text("\n".join(lines) + "\n")
        weights.LARGEST_FILE = usual
        (folder / "results").mkdir()

    def work(self) -> None:
        """Publish one of the runs."""
        weights.LARGEST_FILE = LARGEST_FILE
        publish.HERE, publish.RESULTS = self.folder, self.folder / "results"
        publish.publish(self.folder / f"run{self.turns % 2}", "mine", None)

    def after_kill(self) -> list[str]:
        """Check that the weights are those of one of the runs."""
        return self._problems((0, 1)) if self.path.exists() else []

    def after_end(self) -> list[str]:
        """Check that the weights are those of the run published last, and turn to the other one."""
        found = self._problems((self.turns % 2,))
        listed = {"mine.json", "mine.safetensors", *load_card(self.path).get("parts", [])}
        found += [f"{path.name} is left over" for path in self.path.parent.iterdir() if path.name not in listed]
        self.turns += 1
        return found

    def _problems(self, numbers: tuple[int, ...]) -> list[str]:
        found = problems_of(lambda: check_set(self.path))
        if not found:
            runs = {fingerprint(self.folder / f"run{number}" / "weights.safetensors"): number for number in numbers}
            number = runs.get(fingerprint(self.path))
            if number is None or load_card(self.path)["counters"]["step"] != number + 1:
                found.append("the weights are those of none of the runs, or mixed")
        return found


def check_set(path: Path) -> None:
    """Check that weights are whole, and that their card is of the step of all files."""
    if not verify_weights(path):
        raise InputError(f"{path}: its card has no SHA-256")
    step = str(load_card(path)["counters"]["step"])
    if read_metadata(path)["step"] != step:
        raise InputError(f"{path}: is of step {read_metadata(path)['step']}, and its card of {step}")
