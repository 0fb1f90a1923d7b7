"""PnP-HVAE for undersampled scans: the loop of `mrihvae.pnp.loop` with masks and coils as data."""

from __future__ import annotations

import torch
from torch import Tensor

from mrihvae.inference.coil_problem import pose_coils
from mrihvae.inference.encoders import Encoder, from_measured
from mrihvae.inference.latents import likelihood_std
from mrihvae.inference.problem import Undersampled, pose
from mrihvae.model.hvae import HVAE
from mrihvae.physics.data_fidelity import LeastSquares
from mrihvae.physics.mri import MaskedFourier
from mrihvae.physics.noise import MIN_NOISE
from mrihvae.physics.operators import Operator
from mrihvae.pnp.loop import Complete, Look, Restored, restore
from mrihvae.pnp.settings import FOR_SCANS, PnPSettings
from mrihvae.utils.precision import arithmetic


class ScanPosterior:
    """r looks at undersampled k-space in one view (`mrihvae.inference.views.view`), with x for the guess.

    Parameters
    ----------
    model : with r for undersampled scans
    problem : as `mrihvae.inference.problem.pose` or `mrihvae.inference.coil_problem.pose_coils` make it
    number : of the view
    """

    def __init__(self, model: HVAE, problem: Undersampled, number: int = 0) -> None:
        self.model, self.seen = model, problem.seen(number)

    def kspace(self, image: Tensor) -> Tensor:
        """Give the network's k-space of an image."""
        return self.seen.kspace(image)

    def image(self, kspace: Tensor) -> Tensor:
        """Give the image of the network's k-space."""
        return self.seen.image(kspace)

    def encoder(self, kspace: Tensor) -> Encoder:
        """Make r look at a guess, k-space."""
        return from_measured(self.model, kspace, self.seen.measured_bins(kspace), self.seen.mask)

    def settled(self, kspace: Tensor, gamma: float) -> tuple[Tensor, Tensor, Tensor]:
        """Bins that were measured are known, to within their noise and what the model cannot say."""
        return self.seen.measured_bins(kspace), self.seen.mask, likelihood_std(self.model, self.seen.noise)


def reconstruct_scans(
    model: HVAE,
    kspace: Tensor,
    mask: Tensor,
    settings: PnPSettings | None = None,
    maps: Tensor | None = None,
    noise: Tensor | None = None,
) -> tuple[Tensor, Restored]:
    """Reconstruct undersampled k-space by PnP-HVAE; parameters as for `mrihvae.inference.reconstruct.reconstruct`.

    Parameters
    ----------
    maps : of several coils, complex (slices or 1, coils, H, W); then parameters are those of
        `mrihvae.inference.reconstruct.reconstruct_coils`

    Returns
    -------
    complex64 images (slices, H, W) in the physical scale of `kspace`, those that `settings.result` says, and what the
    loop found, in model units
    """
    settings = settings or FOR_SCANS
    problem, operator, data = _posed(model, kspace, mask, maps, noise)
    term = LeastSquares(operator, data, problem.noise.clamp_min(MIN_NOISE))
    with torch.no_grad():
        views = [ScanPosterior(model, problem, number) for number in range(settings.views)]
        with arithmetic(model.start.device, settings.precision):
            guesses = [look.image(look.seen.guess(model)) for look in views]
        looks: list[Look] = list(views)
        if settings.encoder == "complete":
            looks = [Complete(model, look, real=False) for look in views]
        found = restore(model, term, looks, torch.stack(guesses).mean(dim=0), settings)
    image = found.decoded if settings.result == "decoded" else found.image
    return problem.images(problem.kspace(image)), found


def _posed(
    model: HVAE, kspace: Tensor, mask: Tensor, maps: Tensor | None, noise: Tensor | None
) -> tuple[Undersampled, Operator, Tensor]:
    """Bring a scan to the network's units; gives its operator and its data in them, too."""
    if maps is None:
        problem = pose(model, kspace, mask, noise)
        return problem, MaskedFourier(problem.mask), problem.measured
    several = pose_coils(model, kspace, mask, maps, noise)
    own = several.sense.masked((kspace.mT if several.turned else kspace).to(several.combined))
    return several, several.sense, own / several.scale[:, None, None, None]
