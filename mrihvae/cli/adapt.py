"""`mrihvae adapt`: from a site's undersampled scans, and weights to start from, to weights of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from mrihvae.cli.adapt_scans import SiteScan, open_scans, read_slices
from mrihvae.cli.common import check_output, next_command, reading_of
from mrihvae.cli.console import progress
from mrihvae.cli.options import Adapt
from mrihvae.cli.output_folder import claim_results
from mrihvae.cli.train import Stop
from mrihvae.errors import InputError
from mrihvae.model.hvae import HVAE
from mrihvae.model.shipped import find_weights, weights_for
from mrihvae.model.weights import fingerprint, load_card, load_on
from mrihvae.recon.catalog import CALIBRATED
from mrihvae.training.adapt_settings import AdaptSettings
from mrihvae.training.adaptation import Adaptation, adapt, load_adaptation
from mrihvae.training.checkpoints import NEWEST
from mrihvae.training.run import WEIGHTS
from mrihvae.training.self_supervised import UndersampledSlice
from mrihvae.utils.notices import collect_notices
from mrihvae.utils.text import counted

LICENSE = "the user's data; the user decides who may have these weights"


def run(arguments: Adapt) -> None:
    """Adapt; prints progress on standard error."""
    if not arguments.minutes > 0 or arguments.slices < 1 or (arguments.steps is not None and arguments.steps < 1):
        raise InputError("--minutes, --steps and --slices: must be above 0")
    if arguments.threads is not None:
        torch.set_num_threads(max(1, arguments.threads))
    check_output(arguments.output)
    if not arguments.resume and (arguments.output / NEWEST).exists():
        raise InputError(f"{arguments.output}: already holds a run; add --resume, or choose another --output")
    if not arguments.scans:
        raise InputError("SCANS: nothing to adapt to; give files with undersampled k-space, or folders of them")
    with claim_results(arguments.output, [WEIGHTS]):
        with collect_notices():  # `mrihvae reconstruct` says them of each scan
            scans = open_scans(arguments.scans, reading_of(arguments))
            name = arguments.checkpoint or _weights_of(scans)
            start = load_on(name, arguments.device)
            slices = read_slices(scans, arguments.slices)
        job, provenance = _job(arguments, start, _provenance(name, scans, slices))
        adapt(
            job,
            slices,
            arguments.output,
            arguments.checkpoint_seconds,
            lambda steps: _progress(steps, job),
            Stop(arguments.minutes),
            provenance,
        )
    scan = Path(arguments.scans[0]) if len(arguments.scans) == 1 else scans[0].file
    print(closing_lines(job, arguments.output, scan))


def _weights_of(scans: Sequence[SiteScan]) -> str:
    """Choose the shipped weights by the number of coils."""
    names = list(dict.fromkeys(weights_for(scan.scan.coils) for scan in scans))
    if len(names) > 1:
        raise InputError(
            "SCANS: single-coil and multi-coil scans need different weights; adapt to each kind separately, or "
            "name weights for both with --checkpoint"
        )
    return names[0]


def _provenance(name: str, scans: Sequence[SiteScan], slices: Sequence[UndersampledSlice]) -> dict[str, Any]:
    """Say for the card where weights came from, and which scans they are adapted to."""
    path = find_weights(name)
    card = load_card(path)
    kept = {key: card[key] for key in CALIBRATED if key in card}
    return {
        **kept,
        "begun": {"all": f"{path.stem}, SHA-256 {fingerprint(path)}"},
        "data": card.get("data", []),
        "adapted to": {"scans": [scan.description for scan in scans], "slices": len(slices), "license": LICENSE},
        "torch": str(torch.__version__),
    }


def _job(arguments: Adapt, start: HVAE, provenance: dict[str, Any]) -> tuple[Adaptation, dict[str, Any]]:
    """Return a new run, or continue the one in the output folder, and what the card says of it."""
    changes = {} if arguments.steps is None else {"steps": arguments.steps}
    if not arguments.resume:
        settings = AdaptSettings(seed=arguments.seed or 0, **changes)
        return Adaptation.new(start, settings), provenance
    job, earlier = load_adaptation(arguments.output, start, **changes)
    if arguments.seed not in (None, job.settings.seed):
        raise InputError(f"--seed {arguments.seed}: the resumed run has {job.settings.seed}; leave it out")
    for key, what in (("begun", "weights"), ("adapted to", "scans")):
        if earlier.get(key) != provenance[key]:
            raise InputError(
                f"{arguments.output}: its run was started with other {what}; give the same {what}, or choose another "
                "--output"
            )
    return job, earlier


def closing_lines(job: Adaptation, output: Path, scan: Path) -> str:
    """Describe what was gained by the check, where the weights are, and what to do next."""
    done, weights = job.progress, output / WEIGHTS
    lines = [] if job.finished else [f"stopped at step {done.step} of {job.settings.steps}; continue with --resume"]
    if done.best_step:
        lines.append(
            f"check on held-out lines: error {done.start:.2f} dB before, {done.best:.2f} dB after, at step "
            f"{done.best_step} of {counted(done.step, 'step')}"
        )
        lines.append(f"weights: {weights}")
    else:
        lines.append(
            f"check on held-out lines: no better than the starting weights ({done.start:.2f} dB) in "
            f"{counted(done.step, 'step')}"
        )
        lines.append(f"weights: {weights}, the starting weights")
    command = next_command("reconstruct", str(scan), "--checkpoint", str(weights), "--output", "out")
    return "\n".join([*lines, command])


def _progress(steps: Iterable[int], job: Adaptation) -> Iterator[int]:
    """Show steps, loss and check."""
    with progress(steps, "adapting", "step", initial=job.progress.step, total=job.settings.steps, leave=True) as bar:
        for step in bar:
            done = job.progress
            bar.set_postfix_str(
                f"loss {done.loss:.3f}, check {done.last:.2f} dB (start {done.start:.2f})", refresh=False
            )
            yield step
