"""A training run in memory and on disk: settings, weights, optimiser, counters, in one file without pickles."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from mrihvae.errors import InputError
from mrihvae.model import HVAE, ModelSettings
from mrihvae.settings import from_dict
from mrihvae.simulate import SimulationSettings
from mrihvae.weights import save_weights, write_tensors


@dataclass(frozen=True)
class TrainSettings:
    """How a model is trained.

    Attributes
    ----------
    steps : optimiser steps of the whole run; the learning rate falls along a half cosine over them
    learning_rate : its peak, after `warmup` steps
    shapes : image sizes, one drawn per step; multiples of the model's `multiple`
    pixels : pixels per step and process; the number of slices follows from the shape
    masked_start : step before which prior, decoder and q train alone; there r starts as q on the first guess
    prior_every : from then on prior, decoder and q train on every so manieth step only: r has more to learn
    matching_weight : of posterior matching against the error of what r's means decode to
    kl_warmup : steps over which the KL term's weight rises to 1
    ema : decay of the averaged weights, which are the ones exported
    clip, skip : over the running mean of a group's gradient norm, it is clipped to, or the step left out
    bf16 : compute convolutions in bfloat16
    """

    steps: int = 10_000
    learning_rate: float = 1e-3
    warmup: int = 200
    shapes: tuple[tuple[int, int], ...] = (
        (96, 96), (128, 128), (128, 128), (128, 160), (160, 128), (224, 128), (192, 192), (256, 256), (256, 256),
        (320, 256),
    )  # fmt: skip
    pixels: int = 65_536
    masked_start: int = 2000
    prior_every: int = 4
    matching_weight: float = 0.2
    kl_warmup: int = 500
    ema: float = 0.999
    clip: float = 2.0
    skip: float = 10.0
    bf16: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.pixels, *(size for shape in self.shapes for size in shape)) < 1 or not self.shapes:
            raise ValueError("steps, pixels and shapes must not be empty or below 1")
        if min(self.seed, self.warmup, self.kl_warmup, self.masked_start, self.matching_weight) < 0:
            raise ValueError("seed, warmup, kl_warmup, masked_start and matching_weight must be at least 0")
        if not (self.learning_rate > 0 and 0 < self.ema < 1 and self.prior_every >= 1):
            raise ValueError("learning_rate must be above 0, ema in (0, 1) and prior_every at least 1")
        object.__setattr__(self, "shapes", tuple((int(h), int(w)) for h, w in self.shapes))


@dataclass
class Counters:
    """What a run has done so far; part of the checkpoint."""

    step: int = 0
    slices: int = 0
    seconds: float = 0.0
    skipped_prior: int = 0
    skipped_masked: int = 0
    clipped_prior: int = 0
    clipped_masked: int = 0
    norm_prior: float = 0.0
    norm_masked: float = 0.0


@dataclass
class Run:
    """A run in memory: model, averaged model, optimiser, settings, counters."""

    model: HVAE
    average: HVAE
    optimiser: torch.optim.AdamW
    settings: TrainSettings
    simulation: SimulationSettings
    counters: Counters = field(default_factory=Counters)

    @classmethod
    def new(
        cls, model: ModelSettings, settings: TrainSettings, simulation: SimulationSettings, device: torch.device | str
    ) -> Run:
        """Start with freshly drawn weights."""
        for shape in settings.shapes:
            if any(size % model.multiple for size in shape):
                raise InputError(f"training shape {shape} is not a multiple of {model.multiple}; change 'shapes'")
        torch.manual_seed(settings.seed)
        net = HVAE(model).move(device)
        average = HVAE(model).move(device).requires_grad_(False)
        average.load_state_dict(net.state_dict())
        optimiser = torch.optim.AdamW(net.parameters(), lr=0.0, betas=(0.9, 0.99), weight_decay=0.0)
        return cls(net, average, optimiser, settings, simulation)


def save_checkpoint(directory: Path, run: Run, provenance: dict[str, Any]) -> None:
    """Write everything that continuing needs to one file, and the averaged weights beside it."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in run.model.named_parameters():
        tensors[f"model/{name}"] = parameter.detach()
        for key, value in run.optimiser.state.get(parameter, {}).items():
            tensors[f"optimiser/{key}/{name}"] = value
    for name, parameter in run.average.named_parameters():
        tensors[f"average/{name}"] = parameter
    state = {
        "model": dataclasses.asdict(run.model.settings),
        "training": dataclasses.asdict(run.settings),
        "simulation": dataclasses.asdict(run.simulation),
        "counters": dataclasses.asdict(run.counters),
    }
    held = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    write_tensors(directory / "checkpoint.safetensors", held, {"state": json.dumps(state)})
    card = {key: state[key] for key in ("training", "simulation", "counters")}
    save_weights(directory / "weights.safetensors", run.average, {**provenance, **card})


def load_checkpoint(directory: Path, device: torch.device | str, **changes: Any) -> Run:
    """Continue a run from its folder; `changes` replace training settings (more steps, say).

    Raises
    ------
    InputError
        No checkpoint there, or a damaged one.
    """
    path = directory / "checkpoint.safetensors"
    if not path.is_file():
        raise InputError(f"{path}: not there, so there is nothing to resume; leave out --resume to start anew")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            state = json.loads(file.metadata()["state"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        training = from_dict(TrainSettings, {**state["training"], **changes}, str(path))
        run = Run.new(
            from_dict(ModelSettings, state["model"], str(path)),
            training,
            from_dict(SimulationSettings, state["simulation"], str(path)),
            device,
        )
        run.counters = Counters(**state["counters"])
        run.model.load_state_dict(_part(tensors, "model/"))
        run.average.load_state_dict(_part(tensors, "average/"))
    except InputError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[-1].strip()
        raise InputError(f"{path}: not a checkpoint of this version ({reason}); start the run anew") from error
    for name, parameter in run.model.named_parameters():
        run.optimiser.state[parameter] = {
            key: tensors[f"optimiser/{key}/{name}"].cpu() if key == "step" else tensors[f"optimiser/{key}/{name}"]
            for key in ("step", "exp_avg", "exp_avg_sq")
            if f"optimiser/{key}/{name}" in tensors
        }
    return run


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
