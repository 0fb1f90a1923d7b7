"""fastMRI's end-to-end variational network as a peer: trained on the same slices as our weights, for one mask alone.

    python -m benchmarks.peers.varnet DIR/images/t1ce/train DIR/images/t2/train --mask-type random --minutes 100 \
        --output runs/varnet

It is `fastmri.models.VarNet` (Sriram et al. 2020), small enough for a CPU. Its loss is fastMRI's own, SSIM of
root-sum-of-squares, or the L1 norm, or the sum of both, which keeps the contrast in short runs. Coils are simulated
around magnitude images, and every scan has the type of mask that the test has, its best case; one network serves all of
`accelerations`. Time, and how a run goes on, are those of benchmarks/peers/unet.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.peers.unet import _describe, usable_device
from mrihvae import __version__
from mrihvae.coils.espirit import calibration_box
from mrihvae.datasets.mixture import load_mixture
from mrihvae.errors import InputError, reason
from mrihvae.model.weights import write_tensors
from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.physics.sampling import LINE_TYPES, sampling_pattern
from mrihvae.physics.scaling import image_scale
from mrihvae.simulation.coil_fields import random_fields
from mrihvae.training.draw import SimulationSettings, simulate_scan, white_noise
from mrihvae.training.loop import SliceSource
from mrihvae.training.run import TrainSettings
from mrihvae.utils.config import from_dict
from mrihvae.utils.files import atomic_write

NOISELESS = SimulationSettings(noise=(1e-6, 1e-6))  # of the image; noise is added to each coil
NOISE = SimulationSettings().noise
LOSSES = ("ssim", "l1", "ssim+l1")


@dataclass(frozen=True)
class VarNetSettings:
    """What is trained, and how.

    Attributes
    ----------
    mask_type : the mask of every scan; lines differ along W
    accelerations : one of them is drawn for each scan
    calibration : the center fraction, times the acceleration: fastMRI's .08 at 4x and .04 at 8x
    cascades, chans, sens_chans, pools : the network's size; fastMRI's own is 12, 18, 8, 4
    coils : least and greatest number of them
    loss : of root-sum-of-squares images: 1 - SSIM, the mean absolute error over the mean of the target, or their sum
    minutes : the whole run; the learning rate falls along a half cosine over them
    """

    mask_type: str = "random"
    accelerations: tuple[int, ...] = (4, 8)
    calibration: float = 0.32
    cascades: int = 5
    chans: int = 12
    sens_chans: int = 4
    pools: int = 4
    coils: tuple[int, int] = (4, 12)
    loss: str = "ssim"
    learning_rate: float = 1e-3
    warmup: int = 50
    clip: float = 1.0
    minutes: float = 100.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("accelerations", "coils"):
            object.__setattr__(self, name, tuple(int(value) for value in getattr(self, name)))
        if self.mask_type not in LINE_TYPES:
            raise ValueError(f"mask type '{self.mask_type}' is not of lines; choose one of {', '.join(LINE_TYPES)}")
        if self.loss not in LOSSES:
            raise ValueError(f"loss '{self.loss}' is unknown; choose one of {', '.join(LOSSES)}")
        if not self.accelerations or min(self.accelerations) < 1 or not 0 < self.calibration <= 1:
            raise ValueError("accelerations must be whole numbers of at least 1, and calibration in (0, 1]")
        if len(self.coils) != 2 or not 1 <= self.coils[0] <= self.coils[1]:
            raise ValueError(f"coils {self.coils} must be two numbers of at least 1, the smaller one first")
        if min(self.cascades, self.chans, self.sens_chans, self.pools) < 1:
            raise ValueError("cascades, chans, sens_chans and pools must be at least 1")
        if not min(self.learning_rate, self.minutes, self.clip) > 0:
            raise ValueError("learning_rate, minutes and clip must be above 0")


@dataclass(frozen=True)
class TrainedVarNet:
    """Trained weights."""

    net: nn.Module
    settings: VarNetSettings
    fingerprint: str


@dataclass
class VarNetRun:
    """A run in memory."""

    settings: VarNetSettings
    net: nn.Module
    optimizer: torch.optim.Adam
    step: int = 0
    seconds: float = 0.0
    log: list[dict[str, float]] = field(default_factory=list)

    def rate(self) -> float:
        """Compute the learning rate of the next step."""
        falling = 0.5 + 0.5 * math.cos(math.pi * min(1.0, self.seconds / (60 * self.settings.minutes)))
        return self.settings.learning_rate * falling * min(1.0, (self.step + 1) / max(self.settings.warmup, 1))

    @classmethod
    def new(cls, settings: VarNetSettings, device: str) -> VarNetRun:
        """Start with freshly drawn weights."""
        torch.manual_seed(settings.seed)
        net = build(settings).to(device)
        return cls(settings, net, torch.optim.Adam(net.parameters(), lr=0.0))


def build(settings: VarNetSettings) -> nn.Module:
    """Make fastMRI's network."""
    from fastmri.models import VarNet

    net: nn.Module = VarNet(
        num_cascades=settings.cascades,
        sens_chans=settings.sens_chans,
        sens_pools=settings.pools,
        chans=settings.chans,
        pools=settings.pools,
    )
    return net


def apply(net: nn.Module, measured: Tensor, mask: Tensor) -> Tensor:
    """Apply the network to one scan of about unit scale: complex (coils, H, W), bool (H, W), to real (H, W)."""
    lines = max(1, calibration_box(mask.cpu())[1])  # of 0, VarNet would look for them itself, wrongly in a full mask
    image: Tensor = net(torch.view_as_real(measured.contiguous())[None], mask[None, None, :, :, None], lines)
    return image[0]


def combined(kspace: Tensor) -> Tensor:
    """Compute the root-sum-of-squares image (H, W) of k-space (coils, H, W)."""
    return ifft2c(kspace).abs().square().sum(dim=0).sqrt()


def reconstruct(network: TrainedVarNet, kspace: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Reconstruct one slice.

    Parameters
    ----------
    kspace : complex (coils, H, W), any size and physical scale, 0 where not measured
    mask : bool (H, W), what was measured; lines along H are turned to lie along W

    Returns
    -------
    float32 root-sum-of-squares image (H, W) in the scale of `kspace`
    """
    turned = bool((mask == mask[:, :1]).all() and not (mask == mask[:1]).all())
    y, known = (torch.from_numpy(np.array(a.swapaxes(-1, -2) if turned else a)) for a in (kspace, mask))
    y = y.to(torch.complex64)
    scale = image_scale(combined(y))
    with torch.no_grad():
        image = scale * apply(network.net, y / scale, known)
    return (image.T if turned else image).contiguous().numpy()


def scan_of_step(source: SliceSource, settings: VarNetSettings, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw the scan of one step.

    Returns
    -------
    measured k-space (coils, H, W), mask (H, W), and the root-sum-of-squares image (H, W) of complete k-space, noise
    and all, as fastMRI's targets are; scaled by the 99th percentile of the zero-filled image

    Raises
    ------
    InputError
        The source holds raw k-space, which has receive fields and noise of its own.
    """
    rng = np.random.default_rng((settings.seed, step))
    shapes = TrainSettings().shapes
    shape = shapes[rng.integers(len(shapes))]
    [(array, raw)] = source.draw(1, rng)
    if raw:
        raise InputError("coils are simulated around magnitude images; leave raw k-space out of the data")
    single = simulate_scan(array, shape, NOISELESS, rng)[0]
    image = ifft2c(single)
    coils = int(rng.integers(settings.coils[0], settings.coils[1] + 1))
    deviation = float(image_scale(image)) * math.exp(rng.uniform(*np.log(NOISE)))
    noise = torch.stack([white_noise(shape, rng) for _ in range(coils)])
    scanned = (single != 0).float()  # outermost k-space may be empty, and stays so
    kspace = scanned * (fft2c(random_fields(shape, coils, rng) * image) + deviation * noise)
    acceleration = settings.accelerations[rng.integers(len(settings.accelerations))]
    seed = int(rng.integers(2**31))
    fraction = settings.calibration / acceleration
    mask = torch.from_numpy(sampling_pattern(settings.mask_type, shape, acceleration, fraction, seed))
    measured = torch.where(mask, kspace, torch.zeros((), dtype=kspace.dtype))
    scale = image_scale(combined(measured))
    return measured / scale, mask, combined(kspace) / scale


def train_step(run: VarNetRun, measured: Tensor, mask: Tensor, target: Tensor) -> float:
    """Do one optimizer step and count it; a loss that is not finite leaves the weights as they are."""
    for group in run.optimizer.param_groups:
        group["lr"] = run.rate()
    run.optimizer.zero_grad(set_to_none=True)
    loss = loss_of(run.settings.loss, apply(run.net, measured, mask), target)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(run.net.parameters(), run.settings.clip)
    if torch.isfinite(norm):
        run.optimizer.step()
    run.step += 1
    return float(loss.detach())


def loss_of(name: str, image: Tensor, target: Tensor) -> Tensor:
    """Compute the loss of an image (H, W) by its name in `LOSSES`."""
    from fastmri import SSIMLoss

    total = torch.zeros((), device=image.device)
    if "ssim" in name:
        total = total + SSIMLoss().to(image.device)(image[None, None], target[None, None], target.max()[None])
    if "l1" in name:
        total = total + (image - target).abs().mean() / target.mean()
    return total


def train(
    run: VarNetRun, source: SliceSource, output: Path, provenance: dict[str, Any], stop: Callable[[], bool]
) -> None:
    """Train until the minutes are over, with a checkpoint every 2 minutes and at the end; the log has means of 20."""
    device = next(run.net.parameters()).device
    clock = time.process_time if device.type == "cpu" else time.monotonic
    start, saved, losses = clock() - run.seconds, time.monotonic(), []
    total = round(60 * run.settings.minutes)
    progress = tqdm(total=total, initial=round(run.seconds), unit="s", desc="training")
    while run.seconds < total and not stop():
        measured, mask, target = scan_of_step(source, run.settings, run.step)
        losses.append(train_step(run, measured.to(device), mask.to(device), target.to(device)))
        run.seconds = clock() - start
        progress.update(round(run.seconds) - progress.n)
        if run.step % 20 == 0:
            run.log.append(
                {"step": run.step, "seconds": round(run.seconds, 1), "loss": round(float(np.mean(losses)), 5)}
            )
            losses.clear()
        if time.monotonic() > saved + 120:
            save_run(run, output, provenance)
            saved = time.monotonic()
    progress.close()
    save_run(run, output, provenance)


def save_run(run: VarNetRun, output: Path, provenance: dict[str, Any]) -> None:
    """Write checkpoint.safetensors, weights.safetensors (in half precision), weights.json and log.jsonl."""
    parts = {name: {"net": parameter, **run.optimizer.state[parameter]} for name, parameter in _named(run)}
    held = {f"{key}/{name}": value.detach().cpu() for name, part in parts.items() for key, value in part.items()}
    card = {"varnet": dataclasses.asdict(run.settings), "step": run.step, "seconds": run.seconds}
    write_tensors(output / "checkpoint.safetensors", held, {"card": json.dumps(card), "log": json.dumps(run.log)})
    halves = {name: parameter.detach().cpu().half() for name, parameter in _named(run)}
    write_tensors(output / "weights.safetensors", halves)
    lines = "".join(f"{json.dumps(line)}\n" for line in run.log)
    texts = {"weights.json": json.dumps(card | provenance, indent=2) + "\n", "log.jsonl": lines}
    for name, text in texts.items():
        with atomic_write(output / name) as temporary:
            temporary.write_text(text)


def load_run(output: Path, device: str) -> VarNetRun:
    """Continue the run of a folder; a checkpoint that is not there or damaged raises InputError."""
    path = output / "checkpoint.safetensors"
    with _reading(path, "start anew, without --resume"):
        tensors = load_file(path, device)
        with safe_open(path, framework="pt") as file:
            card, log = (json.loads(file.metadata()[key]) for key in ("card", "log"))
        run = VarNetRun.new(from_dict(VarNetSettings, card["varnet"], str(path)), device)
        run.net.load_state_dict({key[4:]: value for key, value in tensors.items() if key.startswith("net/")})
        run.step, run.seconds, run.log = card["step"], card["seconds"], log
    for name, parameter in _named(run):
        state = {key: tensors.get(f"{key}/{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
        if state["step"] is not None:
            run.optimizer.state[parameter] = state | {"step": state["step"].cpu()}
    return run


def load_varnet(path: Path) -> TrainedVarNet:
    """Load weights for inference, with the .json beside them; InputError if they do not fit each other."""
    with _reading(path, "train them with benchmarks/peers/varnet.py"):
        card = json.loads(path.with_suffix(".json").read_text())
        settings = from_dict(VarNetSettings, card["varnet"], f"{path.with_suffix('.json')}, varnet")
        net = build(settings)
        net.load_state_dict(load_file(path))
        return TrainedVarNet(
            net.eval().requires_grad_(False), settings, hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        )


def untrained_varnet() -> TrainedVarNet:
    """Make a network of the usual size with random weights: seconds do not depend on them."""
    settings = VarNetSettings()
    return TrainedVarNet(build(settings).eval().requires_grad_(False), settings, "untrained")


@contextmanager
def _reading(path: Path, otherwise: str) -> Iterator[None]:
    """Turn whatever goes wrong in reading into one line that names the file and what else to do."""
    try:
        yield
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        why = reason(error, -1)
        raise InputError(f"{path}: missing, damaged, or of another version ({why}); {otherwise}") from error


def _named(run: VarNetRun) -> list[tuple[str, nn.Parameter]]:
    return list(run.net.named_parameters())


def _settings(options: argparse.Namespace) -> VarNetSettings:
    chosen = {f.name: getattr(options, f.name) for f in dataclasses.fields(VarNetSettings) if f.name in options}
    settings = from_dict(VarNetSettings, chosen, "options")
    for acceleration in settings.accelerations:  # may refuse
        sampling_pattern(settings.mask_type, (96, 96), acceleration, settings.calibration / acceleration, 0)
    return settings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", metavar="PATH[=WEIGHT]", help="magnitude images, as for `mrihvae train`")
    parser.add_argument("--output", type=Path, required=True)
    defaults = VarNetSettings()
    parser.add_argument("--mask-type", choices=LINE_TYPES, default=defaults.mask_type)
    parser.add_argument("--accelerations", type=int, nargs="+", default=defaults.accelerations)
    parser.add_argument("--loss", choices=LOSSES, default=defaults.loss)
    for name in ("cascades", "chans", "sens_chans"):
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=getattr(defaults, name))
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate)
    parser.add_argument("--minutes", type=float, default=defaults.minutes, help="of CPU time, over all threads")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output")
    return parser


def begin(options: argparse.Namespace) -> VarNetRun:
    """Take the run of --output, or a new one.

    Raises
    ------
    InputError
        Neither fits what is there, or the device is not.
    """
    device = usable_device(options.device)
    if options.resume:
        return load_run(options.output, device)
    if (options.output / "checkpoint.safetensors").exists():
        raise InputError(f"{options.output}: already holds a run; add --resume, or choose another --output")
    return VarNetRun.new(_settings(options), device)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(max(1, options.threads))
    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked.set())
    try:
        run = begin(options)
        mixture = load_mixture(options.data, lambda files: iter(tqdm(files, "reading")))
        about = {"network": "fastmri.models.VarNet", "data": _describe(mixture), "mrihvae": __version__}
        about |= {"torch": str(torch.__version__), "threads": torch.get_num_threads(), "device": options.device}
        train(run, mixture, options.output, about, asked.is_set)
        print(f"{run.step} steps in {run.seconds / 60:.1f} minutes: {options.output / 'weights.safetensors'}")
    except InputError as error:
        print(f"varnet: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
