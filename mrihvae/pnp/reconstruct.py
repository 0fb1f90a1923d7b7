"""PnP-HVAE for undersampled scans: the loop of `mrihvae.pnp.loop` with masks and coils as data."""

from __future__ import annotations

import torch
from torch import Tensor

from mrihvae.inference.encoders import Encoder, measurement_encoder
from mrihvae.inference.latents import likelihood_std
from mrihvae.inference.preparation import prepare
from mrihvae.inference.problem import Problem
from mrihvae.model.hvae import HVAE
from mrihvae.physics.data_fidelity import LeastSquares
from mrihvae.physics.noise import MIN_NOISE
from mrihvae.pnp.loop import CompletePosterior, PosteriorView, Restored, restore
from mrihvae.pnp.settings import FOR_SCANS, PnPSettings
from mrihvae.utils.precision import arithmetic


class ScanPosterior:
    """The measurement-conditioned posterior r of undersampled k-space, in one view, with x for the guess.

    Views are those of `mrihvae.inference.views.view`.

    Parameters
    ----------
    model : with r for undersampled scans
    problem : as `mrihvae.inference.problem.prepare` makes it
    number : of the view
    """

    def __init__(self, model: HVAE, problem: Problem, number: int = 0) -> None:
        self.model, self.viewed = model, problem.view(number)

    def kspace(self, image: Tensor) -> Tensor:
        """Return the network's k-space of an image."""
        return self.viewed.kspace(image)

    def image(self, kspace: Tensor) -> Tensor:
        """Return the image of the network's k-space."""
        return self.viewed.image(kspace)

    def encoder(self, kspace: Tensor) -> Encoder:
        """Return r of a guess, k-space (slices, H, W)."""
        return measurement_encoder(self.model, kspace, self.viewed.measured_bins(kspace), self.viewed.mask)

    def known_bins(self, kspace: Tensor, gamma: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return the acquired k-space, known to within its noise and the model's own floor."""
        return self.viewed.measured_bins(kspace), self.viewed.mask, likelihood_std(self.model, self.viewed.noise)


def reconstruct_scans(
    model: HVAE,
    kspace: Tensor,
    mask: Tensor,
    maps: Tensor | None = None,
    settings: PnPSettings | None = None,
    noise: Tensor | None = None,
) -> tuple[Tensor, Restored]:
    """Reconstruct undersampled k-space y = M F S x + n by PnP-HVAE.

    Parameters
    ----------
    model, kspace, mask, maps, noise : as for `mrihvae.inference.reconstruct.reconstruct`
    settings : of the loop; None for `FOR_SCANS`

    Returns
    -------
    complex64 images (slices, H, W) in the physical scale of `kspace`, as chosen by `settings.result`, and the loop's
    result, in model units

    Examples
    --------
    >>> import torch
    >>> import mrihvae
    >>> from mrihvae.pnp import reconstruct_scans
    >>> _ = torch.manual_seed(0)
    >>> kspace = torch.randn(1, 32, 32, dtype=torch.complex64)
    >>> images, restored = reconstruct_scans(mrihvae.load_model("default"), kspace, torch.arange(32) % 2 == 0)
    >>> images.shape
    torch.Size([1, 32, 32])

    References
    ----------
    * Prost et al. 2023 (PnP-HVAE), https://doi.org/10.48550/arXiv.2303.11217
    """
    settings = settings or FOR_SCANS
    problem = prepare(model, kspace, mask, maps, noise)
    term = LeastSquares(problem.operator(), problem.data(kspace), problem.noise.clamp_min(MIN_NOISE))
    with torch.no_grad():
        views = [ScanPosterior(model, problem, number) for number in range(settings.views)]
        with arithmetic(model.start.device, settings.precision):
            guesses = [posterior.image(posterior.viewed.guess(model)) for posterior in views]
        posteriors: list[PosteriorView] = list(views)
        if settings.encoder == "complete":
            posteriors = [CompletePosterior(model, posterior, real=False) for posterior in views]
        found = restore(model, term, posteriors, torch.stack(guesses).mean(dim=0), settings)
    image = found.decoded if settings.result == "decoded" else found.image
    return problem.images(problem.kspace(image)), found
