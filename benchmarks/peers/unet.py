"""fastMRI's U-Net as a peer: trained on the same slices and simulation as our weights, for one mask alone.

    python -m benchmarks.peers.unet DIR/ulf_singlecoil/train=0.25 DIR/images/t1ce/train=0.75 \
        --mask-type random --acceleration 4 --minutes 60 --output runs/unet_random_4x

It is `fastmri.models.Unet` (Ronneberger et al. 2015) as a residual on the complex zero-filled image in model units, and
measured bins are put back after it (--no-data-consistency leaves that out). Every scan has the mask that the test has:
its best case. Time is CPU time of the process, so that it is fair beside other work; on a GPU, it is time on the clock.
A run that is interrupted goes on by --resume: batches depend on the step alone, the learning rate on the time spent.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from mrihvae import __version__
from mrihvae.datasets.mixture import WeightedDatasets, load_mixture
from mrihvae.errors import InputError, reason
from mrihvae.inference.preparation import padded_shape
from mrihvae.inference.problem import SingleCoilProblem
from mrihvae.model.weights import write_tensors
from mrihvae.physics.fourier import center_pad, fft2c, ifft2c, resize_kspace
from mrihvae.physics.sampling import PATTERNS, sampling_pattern
from mrihvae.physics.scaling import kspace_scale
from mrihvae.training.draw import SimulationSettings, draw_batch
from mrihvae.training.loop import SliceSource
from mrihvae.training.run import TrainSettings
from mrihvae.utils.config import from_dict
from mrihvae.utils.files import atomic_write

LOSSES = ("l1", "l2", "log")
CHANGE = 0.1  # about the size of what the network has to change, in model units


@dataclass(frozen=True)
class UNetSettings:
    """What is trained, and how.

    Attributes
    ----------
    mask_type, acceleration, center_fraction : the mask of every scan; lines differ along W
    chans, pools : channels of the finest scale, and number of scales below it
    consistency : whether measured bins are put back after the network
    loss : "l2" or "l1" of the complex image, or "log", the logarithm of each slice's mean squared error: within 0.1 dB
        of each other on training scans after equal short runs, "l2" ahead; so is Adam to the optimizer of our weights,
        whose steps take this network twice the time
    pixels : pixels per step; the number of slices follows from the shape
    minutes : the whole run; the learning rate falls along a half cosine over them
    """

    mask_type: str = "random"
    acceleration: float = 4.0
    center_fraction: float = 0.08
    chans: int = 32
    pools: int = 4
    consistency: bool = True
    loss: str = "l2"
    learning_rate: float = 1e-3
    warmup: int = 50
    clip: float = 1.0
    pixels: int = 32_768
    ema: float = 0.999
    minutes: float = 60.0
    bf16: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"loss '{self.loss}' is unknown; choose one of {', '.join(LOSSES)}")
        if self.mask_type not in PATTERNS:
            raise ValueError(f"mask type '{self.mask_type}' is unknown; choose one of {', '.join(PATTERNS)}")
        if min(self.chans, self.pools, self.pixels) < 1 or not min(self.learning_rate, self.minutes, self.clip) > 0:
            raise ValueError("chans, pools and pixels must be at least 1; learning_rate, minutes and clip above 0")

    @property
    def mask(self) -> str:
        """Name the mask, such as "random 4x"."""
        return f"{self.mask_type} {self.acceleration:g}x"


@dataclass(frozen=True)
class Network:
    """Trained weights."""

    net: nn.Module
    settings: UNetSettings
    fingerprint: str


@dataclass
class UNetRun:
    """A run in memory."""

    net: nn.Module
    average: nn.Module
    optimizer: torch.optim.AdamW
    settings: UNetSettings
    step: int = 0
    seconds: float = 0.0
    log: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def new(cls, settings: UNetSettings, device: str) -> UNetRun:
        """Start with freshly drawn weights."""
        torch.manual_seed(settings.seed)
        net, average = build(settings, device), build(settings, device).requires_grad_(False)
        average.load_state_dict(net.state_dict())
        return cls(net, average, torch.optim.AdamW(net.parameters(), lr=0.0, weight_decay=1e-4), settings)


def build(settings: UNetSettings, device: str = "cpu") -> nn.Module:
    """Make fastMRI's network, real and imaginary part in and out."""
    from fastmri.models import Unet

    net: nn.Module = Unet(2, 2, chans=settings.chans, num_pool_layers=settings.pools)
    for parameter in net.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return net.to(device)


def complete(net: nn.Module, measured: Tensor, mask: Tensor, settings: UNetSettings, bf16: bool = False) -> Tensor:
    """Complete k-space (slices, H, W) in model units; Fourier transforms are in single precision."""
    image = ifft2c(measured)
    channels = torch.stack((image.real, image.imag), dim=1).contiguous(memory_format=torch.channels_last)
    with torch.autocast(measured.device.type, torch.bfloat16, enabled=bf16):
        change = net(channels)
    change = change.float() * CHANGE
    kspace = fft2c(image + torch.complex(change[:, 0], change[:, 1]))
    return torch.where(mask, measured, kspace) if settings.consistency else kspace


def reconstruct(network: Network, kspace: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Reconstruct one slice.

    Parameters
    ----------
    kspace : complex (H, W), any size and physical scale, 0 where not measured
    mask : bool (H, W), what is known; lines along H are turned to lie along W

    Returns
    -------
    complex64 image (H, W) in the scale of `kspace`
    """
    turned = bool((mask == mask[:, :1]).all() and not (mask == mask[:1]).all())
    y, known = (torch.from_numpy(np.array(array.T if turned else array)) for array in (kspace, mask))
    shape = (y.shape[-2], y.shape[-1])
    padded = padded_shape(shape, 2**network.settings.pools)
    measured = resize_kspace(y.to(torch.complex64), padded)[None]
    scale = kspace_scale(measured)
    problem = SingleCoilProblem(
        measured=measured / scale[:, None, None],
        mask=center_pad(known, padded, value=True)[None],
        noise=torch.zeros(1),
        scale=scale,
        padded=padded,
        shape=shape,
        transposed=turned,
    )
    with torch.no_grad():
        kspace_hat = complete(network.net, problem.measured, problem.mask, network.settings)
    return problem.images(kspace_hat)[0].numpy()


def batch_of_step(source: SliceSource, settings: UNetSettings, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw complete k-space, measured k-space and mask of one step, each (slices, H, W), in model units.

    Scans are those that our weights train on; outermost k-space that a scan leaves empty counts as known, as where an
    odd size is padded.
    """
    multiple = 2**settings.pools
    shapes = [shape for shape in TrainSettings().shapes if all(size % multiple == 0 for size in shape)]
    rng = np.random.default_rng((settings.seed, step))
    shape = shapes[rng.integers(len(shapes))]
    count = max(1, round(settings.pixels / (shape[0] * shape[1])))
    kspace = draw_batch(source.draw(count, rng), shape, SimulationSettings(), rng).kspace
    mask = torch.stack([_own_mask(scan, settings, int(rng.integers(2**31))) for scan in kspace])
    measured = torch.where(mask, kspace, torch.zeros((), dtype=kspace.dtype))
    scale = kspace_scale(measured)[:, None, None]
    return kspace / scale, measured / scale, mask


def loss_of(estimate: Tensor, kspace: Tensor, loss: str) -> Tensor:
    """Compute the loss of completed k-space, both complex (slices, H, W)."""
    error = ifft2c(estimate - kspace) if loss == "l1" else estimate - kspace
    if loss == "l1":
        return error.abs().mean()
    squared = (error.real**2 + error.imag**2).mean(dim=(-2, -1))
    return squared.mean() if loss == "l2" else 0.5 * torch.log(squared + 1e-8).mean()


def train(
    run: UNetRun, source: SliceSource, output: Path, provenance: dict[str, Any], stop: Callable[[], bool]
) -> None:
    """Train until the minutes are over, with a checkpoint every 2 minutes and at the end."""
    settings, device = run.settings, next(run.net.parameters()).device
    clock: Callable[[], float] = time.process_time if device.type == "cpu" else time.monotonic
    began, before, saved = clock(), run.seconds, time.monotonic()
    with tqdm(total=round(60 * settings.minutes), initial=round(before), unit="s", desc="training") as bar:
        while run.seconds < 60 * settings.minutes and not stop():
            loss = train_step(run, [part.to(device) for part in batch_of_step(source, settings, run.step)])
            run.seconds = before + clock() - began
            if run.step % 10 == 0:
                run.log.append({"step": run.step, "seconds": round(run.seconds, 1), "loss": round(loss, 6)})
            bar.update(round(run.seconds) - bar.n)
            if time.monotonic() - saved > 120:
                save_run(run, output, provenance)
                saved = time.monotonic()
    save_run(run, output, provenance)


def train_step(run: UNetRun, batch: list[Tensor]) -> float:
    """Do one optimizer step and count it; a loss that is not finite leaves the weights as they are."""
    settings = run.settings
    kspace, measured, mask = batch
    run.optimizer.zero_grad(set_to_none=True)
    loss = loss_of(complete(run.net, measured, mask, settings, settings.bf16), kspace, settings.loss)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(run.net.parameters(), settings.clip)
    progress = min(run.seconds / (60 * settings.minutes), 1.0)
    rate = settings.learning_rate * min(1.0, (run.step + 1) / max(settings.warmup, 1))
    for parameters in run.optimizer.param_groups:
        parameters["lr"] = rate * 0.5 * (1 + math.cos(math.pi * progress))
    if math.isfinite(float(norm)):
        run.optimizer.step()
    run.step += 1
    decay = min(settings.ema, (1 + run.step) / (10 + run.step))
    with torch.no_grad():
        torch._foreach_lerp_(list(run.average.parameters()), list(run.net.parameters()), 1 - decay)
    return float(loss.detach())


def save_run(run: UNetRun, output: Path, provenance: dict[str, Any]) -> None:
    """Write checkpoint.safetensors, weights.safetensors (the average, in half precision), weights.json, log.jsonl."""
    tensors = {f"average/{name}": tensor for name, tensor in run.average.state_dict().items()}
    tensors |= {f"net/{name}": tensor for name, tensor in run.net.state_dict().items()}
    for name, parameter in run.net.named_parameters():
        for key, value in run.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{key}/{name}"] = value
    counters = {"step": run.step, "seconds": run.seconds}
    state = {"settings": dataclasses.asdict(run.settings), **counters, "log": run.log}
    held = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    write_tensors(output / "checkpoint.safetensors", held, {"state": json.dumps(state)})
    weights = {name: parameter.half().cpu().contiguous() for name, parameter in run.average.named_parameters()}
    write_tensors(output / "weights.safetensors", weights)
    card = {"unet": dataclasses.asdict(run.settings), **counters, **provenance}
    with atomic_write(output / "weights.json") as temporary:
        temporary.write_text(json.dumps(card, indent=2) + "\n")
    with atomic_write(output / "log.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in run.log))


def load_run(output: Path, device: str) -> UNetRun:
    """Continue a run from its folder.

    Raises
    ------
    InputError
        No checkpoint there, or a damaged one.
    """
    path = output / "checkpoint.safetensors"
    if not path.is_file():
        raise InputError(f"{path}: file not found, so there is nothing to resume; leave out --resume to start anew")
    try:
        with safe_open(path, framework="pt", device=device) as file:
            state = json.loads(file.metadata()["state"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        run = UNetRun.new(from_dict(UNetSettings, state["settings"], str(path)), device)
        for part, module in (("net/", run.net), ("average/", run.average)):
            module.load_state_dict({k.removeprefix(part): v for k, v in tensors.items() if k.startswith(part)})
        run.step, run.seconds, run.log = state["step"], state["seconds"], state["log"]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        why = reason(error, -1)
        raise InputError(f"{path}: not a checkpoint of this version ({why}); start the run anew") from error
    for name, parameter in run.net.named_parameters():
        there = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"optimizer/{key}/{name}" in tensors]
        run.optimizer.state[parameter] = {
            key: tensors[f"optimizer/{key}/{name}"].to("cpu" if key == "step" else device) for key in there
        }
    return run


def load_network(path: Path) -> Network:
    """Load weights for inference.

    Raises
    ------
    InputError
        Files missing, damaged, or not fitting each other.
    """
    card = path.with_suffix(".json")
    try:
        settings = from_dict(UNetSettings, json.loads(card.read_text())["unet"], f"{card}, unet")
        net = build(settings)
        net.load_state_dict(load_file(path))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        why = reason(error, -1)
        raise InputError(
            f"{path}: no weights of benchmarks/peers/unet.py with their .json ({why}); train them"
        ) from error
    return Network(net.float().eval().requires_grad_(False), settings, digest)


def _own_mask(kspace: Tensor, settings: UNetSettings, seed: int) -> Tensor:
    """Draw the mask of a scan, bool (H, W): on the extent of its k-space, with all bins beyond it known to be 0."""
    filled = kspace != 0
    extent = int(filled.any(dim=1).sum()), int(filled.any(dim=0).sum())
    pattern = sampling_pattern(settings.mask_type, extent, settings.acceleration, settings.center_fraction, seed)
    return center_pad(torch.from_numpy(pattern), (kspace.shape[0], kspace.shape[1]), value=True)


def usable_device(name: str) -> str:
    """Check that a device is there.

    Raises
    ------
    InputError
        It is not.
    """
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: cannot be used ({reason(error)}); try cpu") from error
    return name


def _describe(mixture: WeightedDatasets) -> list[dict[str, Any]]:
    return [
        {"path": "/".join(d.path.parts[-2:]), "slices": len(d.arrays), "share": round(float(share), 4)}
        for d, share in zip(mixture.datasets, mixture.shares)
    ]


def _settings(options: argparse.Namespace) -> UNetSettings:
    names = {f.name for f in dataclasses.fields(UNetSettings)}
    values = {name: value for name, value in vars(options).items() if name in names and value is not None}
    values.setdefault("center_fraction", min(0.32 / max(options.acceleration, 1), 1.0))
    settings = from_dict(UNetSettings, values, "options")
    sampling_pattern(settings.mask_type, (96, 96), settings.acceleration, settings.center_fraction, 0)  # may refuse
    return settings


def _parser() -> argparse.ArgumentParser:
    defaults = UNetSettings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", metavar="PATH[=WEIGHT]", help="as for `mrihvae train`")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--mask-type", choices=PATTERNS, default=defaults.mask_type)
    parser.add_argument("--acceleration", type=float, default=defaults.acceleration)
    parser.add_argument("--center-fraction", type=float, help="0.32 / acceleration if left out")
    parser.add_argument("--minutes", type=float, default=defaults.minutes, help="of CPU time, over all threads")
    parser.add_argument("--loss", choices=LOSSES, default=defaults.loss)
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate)
    parser.add_argument("--pixels", type=int, default=defaults.pixels)
    parser.add_argument("--no-data-consistency", dest="consistency", action="store_false")
    parser.add_argument("--resume", action="store_true", help="go on where the run in --output stopped")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(max(1, options.threads))
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda got, _: asked.append(got))
    try:
        there = (options.output / "checkpoint.safetensors").exists()
        if there and not options.resume:
            raise InputError(f"{options.output}: already holds a run; add --resume, or choose another --output")
        device = usable_device(options.device)
        run = load_run(options.output, device) if options.resume else UNetRun.new(_settings(options), device)
        mixture = load_mixture(options.data, lambda files: iter(tqdm(files, "reading")))
        provenance = {
            "network": "fastmri.models.Unet",
            "data": _describe(mixture),
            "mrihvae": __version__,
            "torch": str(torch.__version__),
            "threads": torch.get_num_threads(),
            "device": options.device,
        }
        train(run, mixture, options.output, provenance, lambda: bool(asked))
    except InputError as error:
        print(f"unet: error: {error}", file=sys.stderr)
        return 2
    print(f"{options.output / 'weights.safetensors'}: {run.step} steps in {run.seconds / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
