"""The multi-coil acquisition A = M F S: sensitivities, Fourier transform, sampling (SENSE, Pruessmann et al. 2001)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mrihvae.physics.conjugate_gradients import conjugate_gradients, image_or_warning
from mrihvae.physics.fourier import apply_mask, fft2c, ifft2c

CACHE_BYTES = 2**18  # bytes of one coil's image from which coils are processed one after another


@dataclass(frozen=True)
class Sense:
    """The multi-coil acquisition y_c = M F S_c x + n_c: images to the acquired k-space of all coils.

    Images are complex (slices, H, W), k-space is complex (slices, coils, H, W), centered.

    Attributes
    ----------
    maps : S, complex (slices or 1, coils, H, W), of root-sum-of-squares 1 or 0, so that |A| <= 1
    mask : M, bool, broadcast to (slices, H, W), True where acquired
    tolerance, cap : relative residual of `solve`, and its largest number of iterations

    Examples
    --------
    >>> import torch
    >>> from mrihvae.physics import Sense
    >>> _ = torch.manual_seed(0)
    >>> maps = torch.randn(1, 4, 16, 16, dtype=torch.complex64)
    >>> maps = maps / maps.abs().square().sum(dim=1, keepdim=True).sqrt()
    >>> sense = Sense(maps, torch.arange(16) % 2 == 0)
    >>> image = torch.randn(1, 16, 16, dtype=torch.complex64)
    >>> kspace = sense.forward(image)
    >>> torch.allclose((sense.adjoint(kspace).conj() * image).sum().real, kspace.abs().square().sum(), rtol=1e-4)
    True
    >>> found = sense.solve(sense.adjoint(kspace), 1e-3)  # CG-SENSE
    >>> bool((found - image).norm() < 0.1 * image.norm())
    True

    References
    ----------
    * Pruessmann et al. 1999 (SENSE), https://doi.org/10.1002/(SICI)1522-2594(199911)42:5<952::AID-MRM16>3.0.CO;2-S
    * Pruessmann et al. 2001 (CG-SENSE), https://doi.org/10.1002/mrm.1241
    """

    maps: Tensor
    mask: Tensor
    tolerance: float = 1e-6
    cap: int = 300

    def forward(self, image: Tensor) -> Tensor:
        """Compute y = M F S x, +0 where nothing was acquired."""
        return self.masked(fft2c(self.maps * image[..., None, :, :]))

    def adjoint(self, kspace: Tensor) -> Tensor:
        """Compute A^H y = sum_c conj(S_c) F^H M y_c."""
        return (self.maps.conj() * ifft2c(self.masked(kspace))).sum(dim=-3)

    def normal(self, image: Tensor) -> Tensor:
        """Compute A^H A x.

        M between F and F^H is a circular convolution, which neither centering nor, where lines along H are measured
        whole, the transform along H changes; so both are left out.
        """
        weights, axes = self._convolution
        combined: Tensor | None = None
        for maps, conjugate in self._groups:
            folded = torch.fft.fftn(maps * image[..., None, :, :], dim=axes)
            folded = torch.fft.ifftn(folded.mul_(weights), dim=axes).mul_(conjugate)
            part = folded[..., 0, :, :] if len(self._groups) > 1 else folded.sum(dim=-3)
            combined = part if combined is None else combined.add_(part)
        assert combined is not None
        return combined

    def density(self) -> Tensor:
        """Compute how much of each frequency, uncentered, the data hold: the diagonal of F A^H A F^H, (slices, H, W).

        It is the mask, circularly correlated with the power of the maps' spectra.
        """
        power = torch.fft.fft2(self.maps, norm="forward").abs().square().sum(dim=-3)
        mask = self.mask.expand(torch.broadcast_shapes(self.mask.shape, power.shape)).to(power.dtype)
        spectrum = torch.fft.fft2(torch.fft.ifftshift(mask, dim=(-2, -1)))
        density: Tensor = torch.fft.ifft2(torch.fft.fft2(power).conj() * spectrum).real.clamp_min(0)
        return density

    def solve(self, right: Tensor, r: Tensor | float) -> Tensor:
        """Solve (A^H A + r I) x = `right` by conjugate gradients, r > 0, a number or (slices, 1, 1)."""
        return image_or_warning(conjugate_gradients(self.normal, right, r, tolerance=self.tolerance, cap=self.cap))

    def first_image(self, data: Tensor) -> Tensor:
        """Combine the coils of zero-filled data."""
        return self.adjoint(data)

    def gains(self, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return where coils receive, and which k-space samples were acquired."""
        received = self.maps.abs().square().sum(dim=-3)
        return received, self.mask.float().expand(1, *shape) if self.mask.ndim < 3 else self.mask.float()

    def masked(self, kspace: Tensor) -> Tensor:
        """Set k-space (slices, coils, H, W) to +0 where nothing was acquired."""
        return apply_mask(kspace, self._mask)

    @cached_property
    def _mask(self) -> Tensor:
        return self.mask if self.mask.ndim < 3 else self.mask[:, None]

    @cached_property
    def _groups(self) -> list[tuple[Tensor, Tensor]]:
        """Maps with their conjugates: coil by coil where a coil fills a processor's cache, else all coils together."""
        single_coil = self.maps[..., :1, :, :]
        if self.maps.device.type == "cpu" and single_coil.numel() * single_coil.element_size() >= CACHE_BYTES:
            groups = self.maps.split(1, dim=-3)
        else:
            groups = (self.maps,)
        return [(maps, maps.conj().resolve_conj()) for maps in groups]

    @cached_property
    def _convolution(self) -> tuple[Tensor, tuple[int, ...]]:
        """The mask as weights of uncentered frequencies, and the axes to transform."""
        mask = self._mask if self._mask.ndim > 1 else self._mask[None]
        weights = torch.fft.ifftshift(mask.to(self.maps.real.dtype), dim=(-2, -1))
        lines = bool((weights == weights[..., :1, :]).all())
        return (weights[..., :1, :], (-1,)) if lines else (weights, (-2, -1))


@dataclass(frozen=True)
class MaskedFourier:
    """The single-coil acquisition y = M F x + n: images to the acquired samples of centered k-space.

    Attributes
    ----------
    mask : M, bool, broadcast to (..., H, W), True where acquired

    Examples
    --------
    >>> import torch
    >>> from mrihvae.physics import MaskedFourier
    >>> operator = MaskedFourier(torch.arange(8) % 2 == 0)
    >>> kspace = operator.forward(torch.ones(1, 8, 8, dtype=torch.complex64))
    >>> int(operator.mask.sum()), round(float(kspace.abs().sum()), 3)
    (4, 8.0)
    """

    mask: Tensor

    def forward(self, image: Tensor) -> Tensor:
        """Compute y = M F x, complex (..., H, W) to (..., H, W), +0 where nothing was acquired."""
        kspace = fft2c(image)
        return apply_mask(kspace, self.mask)

    def adjoint(self, kspace: Tensor) -> Tensor:
        """Compute A^H y = F^H M y, the zero-filled image, complex (..., H, W) to (..., H, W)."""
        return ifft2c(apply_mask(kspace, self.mask))

    def normal(self, image: Tensor) -> Tensor:
        """Compute A^H A x = F^H M F x."""
        return self.adjoint(fft2c(image))

    def solve(self, right: Tensor, r: Tensor | float) -> Tensor:
        """Divide every bin by M + r."""
        return ifft2c(fft2c(right) / (self.mask + r))

    def first_image(self, data: Tensor) -> Tensor:
        """Return the zero-filled image."""
        return self.adjoint(data)

    def gains(self, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return which k-space samples were acquired."""
        return torch.ones(1, 1, 1), self.mask.float().expand(1, *shape) if self.mask.ndim < 3 else self.mask.float()
