"""A training run in memory and on disk: settings, weights, optimizer, counters, in one file without pickles."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrihvae.errors import InputError, reason
from mrihvae.model.hvae import HVAE
from mrihvae.model.settings import ModelSettings
from mrihvae.model.weights import finish_set, load_card, load_model, save_weights, verify_weights
from mrihvae.training.checkpoints import optimizer_tensors, read_checkpoint, replace_checkpoint, restore_optimizer
from mrihvae.training.draw import SimulationSettings
from mrihvae.training.muon import MuonAdam
from mrihvae.utils.config import from_dict
from mrihvae.utils.notices import warn

WEIGHTS = "weights.safetensors"  # the averaged ones of a run, beside its checkpoint
GUESS = "r.guess."  # what names of the U-Nets' weights begin with
STEM = "stem.weight"  # and that of the convolution which takes images and measured shares ends with


@dataclass(frozen=True)
class TrainSettings:
    """Settings of training.

    Attributes
    ----------
    steps : optimizer steps of the whole run
    learning_rate : its peak, after `warmup` steps
    warmup : steps over which the learning rate rises
    decay : fraction of the steps, the last ones, over which the learning rate falls to 0 along a half cosine. Below 1
        it stays at its peak before, so that a run may be made longer before it falls
    shapes : image sizes (H, W), one drawn per step; multiples of the model's `multiple`
    pixels : pixels of a micro-batch; the number of slices follows from the shape
    accumulate : micro-batches per step, whose gradients are averaged. Several processes share them evenly, and
        results do not depend on how many there are
    guess_only : steps in which r's first guess trains alone, at the start
    masked_start : step before which prior, decoder and q train alone; there r starts as q on the first guess. With 0
        all train from the start and r stays as it is, for a run that starts from trained weights
    prior_every : from then on prior, decoder and q train on every n-th step only: r has more to learn
    second_every : every n-th step gives r its own reconstruction as the guess (a second round); 0 for none
    matching_weight : of posterior matching against the log-error of the image that r's means decode to
    kl_warmup : steps over which the KL term's weight rises to 1
    ema : decay of the averaged weights, which are the exported ones
    clip, skip : multiples of a group's mean gradient norm, beyond which it is clipped, or the step skipped
    validate_every : the averaged weights are scored every n-th step, if there are scans to score them on; 0 for never
    bf16 : compute convolutions and Muon's matrices in bfloat16, where there are instructions for it
    seed : seed of all random choices
    """

    steps: int = 10_000
    learning_rate: float = 1e-3
    warmup: int = 200
    decay: float = 1.0
    shapes: tuple[tuple[int, int], ...] = (
        (96, 96), (128, 128), (128, 128), (128, 160), (160, 128), (224, 128), (192, 192), (256, 256), (256, 256),
        (320, 256),
    )  # fmt: skip
    pixels: int = 65_536
    accumulate: int = 1
    guess_only: int = 1000
    masked_start: int = 3000
    prior_every: int = 4
    second_every: int = 3
    matching_weight: float = 0.1
    kl_warmup: int = 500
    ema: float = 0.999
    clip: float = 2.0
    skip: float = 10.0
    validate_every: int = 0
    bf16: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.pixels, *(size for shape in self.shapes for size in shape)) < 1 or not self.shapes:
            raise InputError("steps, pixels and shapes must not be empty or below 1")
        if self.accumulate < 1:
            raise InputError(f"accumulate {self.accumulate} must be at least 1")
        least_0 = (
            "seed",
            "warmup",
            "kl_warmup",
            "guess_only",
            "masked_start",
            "second_every",
            "validate_every",
            "matching_weight",
        )
        if any(getattr(self, name) < 0 for name in least_0):
            raise InputError(f"{', '.join(least_0[:-1])} and {least_0[-1]} must be at least 0")
        if not 0 <= self.decay <= 1:
            raise InputError(f"decay {self.decay} must be in [0, 1]")
        if not (self.learning_rate > 0 and 0 < self.ema < 1 and self.prior_every >= 1):
            raise InputError("learning_rate must be above 0, ema in (0, 1) and prior_every at least 1")
        if 0 < self.masked_start < self.guess_only:
            raise InputError(f"masked_start {self.masked_start} must be 0, or at least guess_only {self.guess_only}")
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
    """A training run in memory: model, averaged model, optimizer, settings, counters."""

    model: HVAE
    average: HVAE
    optimizer: MuonAdam
    settings: TrainSettings
    simulation: SimulationSettings
    counters: Counters = field(default_factory=Counters)

    @classmethod
    def new(
        cls,
        model: ModelSettings,
        settings: TrainSettings,
        simulation: SimulationSettings,
        device: torch.device | str,
        weights: HVAE | None = None,
        guess: HVAE | None = None,
    ) -> Run:
        """Start with freshly drawn weights, or with those of `weights`; its first guess may be of another shape.

        The U-Nets of the first guess are those of `guess`, if it is given: they need not be of the same model.

        Raises
        ------
        InputError
            Training shapes that the model cannot take, weights of another shape beyond the first guess, or another
            first guess than that of `guess`.
        """
        for shape in settings.shapes:
            if any(size % model.multiple for size in shape):
                raise InputError(f"training shape {shape} is not a multiple of {model.multiple}; change 'shapes'")
        if (model.degraded or simulation.multicoil_only) and settings.masked_start > 0:
            raise InputError(
                "a posterior of degraded images, or of several coils alone, starts from weights: set masked_start 0"
            )
        torch.manual_seed(settings.seed)
        net = HVAE(model).to_device(device)
        if weights is not None:
            _take(net, weights)
        if guess is not None:
            _take_guess(net, guess)
        if model.degraded:  # r alone is trained: all else stays that of the weights to start from
            for parameter in net.prior_parameters():
                parameter.requires_grad_(False)
        average = HVAE(model).to_device(device).requires_grad_(False)
        average.load_state_dict(net.state_dict())
        optimizer = MuonAdam(net.parameters(), lr=0.0, bf16=settings.bf16)
        return cls(net, average, optimizer, settings, simulation)


def _take(net: HVAE, weights: HVAE) -> None:
    """Copy weights by name; those of the first guess stay freshly drawn where they do not fit."""
    there = dict(weights.named_parameters())
    own = dict(net.named_parameters())
    lost = [name for name in there if name not in own and not name.startswith(GUESS)]
    if lost:
        raise InputError(
            f"the weights to start from have '{lost[0]}' but the model does not; give their own model settings"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            if name in there and there[name].shape == parameter.shape:
                parameter.copy_(there[name])
            elif not name.startswith(GUESS):
                raise InputError(f"the weights to start from have another '{name}'; give their own model settings")


def _take_guess(net: HVAE, weights: HVAE) -> None:
    """Copy the U-Nets of the first guess.

    A model of more levels parts the coarsest band of the other one; the weights of that band's measured share go to the
    largest of the parts.
    """
    more = net.settings.levels - weights.settings.levels
    before = 4 * (weights.settings.guess_fold or weights.settings.fold) ** 2  # channels of two complex images
    own = {name: value for name, value in net.named_parameters() if name.startswith(GUESS)}
    there: dict[str, Tensor] = {name: value for name, value in weights.named_parameters() if name.startswith(GUESS)}
    for name, value in there.items():
        if name.endswith(STEM) and more > 0:
            images, rest = value[:, :before], value[:, before:]
            there[name] = torch.cat((images, value.new_zeros(len(value), more, *value.shape[2:]), rest), dim=1)
    same = own.keys() == there.keys() and all(own[name].shape == there[name].shape for name in own)
    if not own or not same:
        names = ("cascades", "guess_widths", "guess_memory", "guess_fold", "guess_shared")
        wanted = ", ".join(f"{name} {getattr(weights.settings, name)}" for name in names)
        raise InputError(f"the weights of the first guess do not fit the model's first guess; set {wanted}")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(there[name])


def save_checkpoint(directory: Path | str, run: Run, provenance: dict[str, Any]) -> None:
    """Write what a run needs to resume to one file, and the averaged weights beside it.

    The checkpoint before, if it is whole, is kept as `checkpoint.previous.safetensors`.
    """
    directory = Path(directory)
    tensors: dict[str, Tensor] = {}
    for name, parameter in run.model.named_parameters():
        tensors[f"model/{name}"] = parameter.detach()
    tensors |= optimizer_tensors(run.optimizer, run.model)
    for name, parameter in run.average.named_parameters():
        tensors[f"average/{name}"] = parameter
    state = {
        "model": dataclasses.asdict(run.model.settings),
        "training": dataclasses.asdict(run.settings),
        "simulation": dataclasses.asdict(run.simulation),
        "counters": dataclasses.asdict(run.counters),
    }
    held = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"state": json.dumps({**state, "provenance": provenance}), "step": str(run.counters.step)}
    replace_checkpoint(directory, held, metadata)
    card = {key: state[key] for key in ("training", "simulation", "counters")}
    save_weights(directory / WEIGHTS, run.average, {**provenance, **card})


def load_checkpoint(directory: Path | str, device: torch.device | str, **changes: Any) -> Run:
    """Return an interrupted run, from its folder; `changes` replace training settings, such as `steps`.

    It is that of the newest checkpoint which is whole; a damaged one is warned of. Weights beside it that are damaged
    are written again.

    Raises
    ------
    InputError
        No checkpoint there, or damaged ones alone.
    """
    directory = Path(directory)
    path, metadata, tensors = read_checkpoint(directory, str(device))
    try:
        state = json.loads(metadata["state"])
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
        why = reason(error, -1)
        raise InputError(f"{path}: not a checkpoint of this version ({why}); start the run anew") from error
    restore_optimizer(run.optimizer, run.model, tensors)
    if "provenance" in state:
        _mend_weights(directory / WEIGHTS, run, state)
    return run


def _mend_weights(path: Path, run: Run, state: dict[str, Any]) -> None:
    """Write the averaged weights of a checkpoint again where those beside it are damaged, or older.

    Files of earlier weights are removed. A process that was killed could do neither.
    """
    if not path.is_file():
        return
    card = {key: state[key] for key in ("training", "simulation", "counters")}
    try:
        verify_weights(path)
        finish_set(path)
        if load_card(path).get("counters", {}).get("step", 0) >= run.counters.step:
            return
    except InputError as error:
        warn(f"{str(error).rpartition('; ')[0]}; they are written again from the checkpoint")
    save_weights(path, run.average, {**state["provenance"], **card})


def continue_weights(path: Path, device: torch.device | str, **changes: Any) -> Run:
    """Continue the run that weights are of, by the settings and counters of their card, with a fresh optimizer.

    It is for runs whose checkpoint is lost; `changes` replace training settings.

    Raises
    ------
    InputError
        Weights that cannot be loaded, or whose card does not say how they were trained.
    """
    weights, card = load_model(str(path), device), load_card(path)
    lacking = [name for name in ("training", "simulation", "counters") if not isinstance(card.get(name), dict)]
    if lacking:
        raise InputError(f"{path}: its card has no '{lacking[0]}', so its run is unknown; use --weights")
    training = from_dict(TrainSettings, {**card["training"], **changes}, f"{path}, training")
    simulation = from_dict(SimulationSettings, card["simulation"], f"{path}, simulation")
    run = Run.new(weights.settings, training, simulation, device, weights)
    run.counters = Counters(**card["counters"])
    return run


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
