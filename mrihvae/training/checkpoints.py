"""The checkpoint files of a run: the newest one and the one before, each with its SHA-256."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from safetensors import safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from mrihvae.errors import InputError, reason
from mrihvae.model.digests import KEY, check_digest, read_metadata
from mrihvae.model.weights import save_tensors
from mrihvae.utils.files import atomic_write
from mrihvae.utils.notices import warn

NEWEST = "checkpoint.safetensors"
PREVIOUS = "checkpoint.previous.safetensors"
ANEW = "start the run anew"
STATE = ("step", "exp_avg", "exp_avg_sq", "momentum")  # what an optimizer keeps of a parameter


def replace_checkpoint(directory: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write the newest checkpoint; the one that it replaces, if it is whole, becomes the previous one.

    At any moment there is a whole checkpoint under one of the two names, once the first one is written.

    Parameters
    ----------
    metadata : of the file, with "step"
    """
    newest, previous = directory / NEWEST, directory / PREVIOUS
    kept = newest.is_file()
    with atomic_write(newest) as temporary:
        save_tensors(temporary, tensors, metadata)
        if kept and _is_whole(newest):
            _keep(newest, previous)
    if not kept:  # a previous one is of a run that somebody removed
        previous.unlink(missing_ok=True)


def _keep(path: Path, other: Path) -> None:
    """Give a file a second name, in place of the file that has it."""
    with atomic_write(other) as temporary:
        try:
            os.link(path, temporary)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, temporary)


def optimizer_tensors(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return what an optimizer keeps of a network's parameters, by names for a checkpoint."""
    named = model.named_parameters()
    states = [(name, optimizer.state[parameter]) for name, parameter in named if parameter in optimizer.state]
    return {f"optimizer/{key}/{name}": value for name, state in states for key, value in state.items()}


def restore_optimizer(optimizer: Optimizer, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Give an optimizer what a checkpoint has of `optimizer_tensors`."""
    for name, parameter in model.named_parameters():
        found = {key: tensors[f"optimizer/{key}/{name}"] for key in STATE if f"optimizer/{key}/{name}" in tensors}
        if found:
            optimizer.state[parameter] = {k: v.cpu() if k == "step" else v for k, v in found.items()}


def read_checkpoint(directory: Path, device: str) -> tuple[Path, dict[str, str], dict[str, Tensor]]:
    """Read the newest checkpoint that is whole, and warn of a damaged one.

    Returns
    -------
    its file, metadata and tensors

    Raises
    ------
    InputError
        No checkpoint there, or damaged ones alone.
    """
    newest = directory / NEWEST
    there = [path for path in (newest, directory / PREVIOUS) if path.is_file()]
    if not there:
        raise InputError(f"{newest}: file not found, so there is nothing to resume; leave out --resume to start anew")
    errors: list[InputError] = []
    for path in there:
        try:
            metadata, tensors = _read(path, device)
        except InputError as error:
            errors.append(error)
            continue
        problem = str(errors[0]).rpartition("; ")[0] if errors else f"{newest}: file not found"
        if path != newest:
            step = metadata.get("step", "unknown")
            warn(f"{problem}; {path.name} of step {step} is resumed instead, and later steps are done again")
        return path, metadata, tensors
    raise errors[0]


def _read(path: Path, device: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read a checkpoint; InputError if it is damaged."""
    try:
        with safe_open(path, framework="pt", device=device) as file:
            metadata = dict(file.metadata())
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except Exception as error:
        why = reason(error, -1)
        raise InputError(f"{path}: not a checkpoint of this version ({why}); {ANEW}") from error
    _check(path)
    return metadata, tensors


def _check(path: Path) -> None:
    """Check a checkpoint against the SHA-256 that it states; InputError if it is damaged."""
    remedy = f"continue from its weights with --go-on, or {ANEW}"
    check_digest(path, None, remedy)
    metadata = read_metadata(path)
    if "step" in metadata and KEY not in metadata:  # checkpoints of earlier versions have neither
        raise InputError(f"{path}: damaged, its SHA-256 is missing; {remedy}")


def _is_whole(path: Path) -> bool:
    """Return whether a checkpoint has the SHA-256 that it states, if it states one."""
    try:
        _check(path)
    except InputError:
        return False
    return True
