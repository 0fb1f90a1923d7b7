"""The reconstructor and the denoiser as deepinv's modules, for its physics, algorithms and metrics.

It takes the package deepinv: `pip install 'mrihvae[deepinv]'`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrihvae.errors import InputError
from mrihvae.model.shipped import weights_for
from mrihvae.model.weights import load_model
from mrihvae.physics.degradations import denoising
from mrihvae.pnp.recommended import recommended
from mrihvae.pnp.restore import restore_images
from mrihvae.pnp.settings import PnPSettings
from mrihvae.recon.arrays import DEFAULT, reconstruct
from mrihvae.recon.catalog import load_method
from mrihvae.recon.methods import Method
from mrihvae.recon.settings import METHODS
from mrihvae.utils.notices import warn

try:
    import deepinv
except ImportError as error:
    raise ImportError("mrihvae.deepinv needs the package deepinv; pip install 'mrihvae[deepinv]'") from error

USUAL_NOISE = 0.05  # in model units, by which settings are recommended


class Reconstructor(deepinv.models.Reconstructor):  # type: ignore[misc]  # deepinv has no types
    """Reconstruct batches of undersampled slices, y = M F S x + n; a `deepinv.models.Reconstructor`.

    It has no parameters to train, and gradients do not flow through it.

    Parameters
    ----------
    method : one of `mrihvae.recon.settings.METHODS` but "zero-filled", which is `physics.A_adjoint`; or a method of
        `mrihvae.load_method`
    weights : name of shipped weights, or a .safetensors file; "default" chooses by the number of coils

    Raises
    ------
    InputError
        A method that is not known, or "zero-filled".

    Examples
    --------
    >>> import torch
    >>> from deepinv.physics import MRI
    >>> from mrihvae.deepinv import Reconstructor
    >>> image = torch.zeros(1, 2, 64, 64)
    >>> image[:, 0, 16:48, 20:44] = 1
    >>> lines = (torch.arange(64) % 2 == 0) | ((torch.arange(64) - 32).abs() < 5)
    >>> physics = MRI(mask=lines.float().expand(64, 64))
    >>> found = Reconstructor("amortized")(physics(image), physics)
    >>> bool((found - image).norm() < 0.3 * (physics.A_adjoint(physics(image)) - image).norm())
    True
    """

    def __init__(self, method: str | Method = "hybrid", weights: str = DEFAULT) -> None:
        super().__init__()
        name = method.name if isinstance(method, Method) else method
        if name not in METHODS or name == "zero-filled":
            others = ", ".join(one for one in METHODS if one != "zero-filled")
            raise InputError(f"method '{name}' is not supported here; choose one of {others}")
        self.method, self.weights = method, weights
        self._loaded: dict[tuple[str, str], Method] = {}

    def forward(self, y: Tensor, physics: deepinv.physics.LinearPhysics, **_: object) -> Tensor:
        """Reconstruct a batch.

        Parameters
        ----------
        y : real and imaginary part of k-space, in any physical scale: float32 (batch, 2, H, W) of
            `deepinv.physics.MRI`, (batch, 2, coils, H, W) of `deepinv.physics.MultiCoilMRI`
        physics : one of these two, in 2D, whose mask and sensitivity maps are taken

        Returns
        -------
        float32 (batch, 2, H, W), x of y = M F S x + n, on the device of y. Each slice is reconstructed by itself. A
        slice without data is 0

        Raises
        ------
        InputError
            Another physics, shapes that do not fit, or what `mrihvae.reconstruct` refuses.
        """
        kspace, mask, maps = _measurement(y, physics)
        images = [
            self._slice(*parts) if parts[0].any() else torch.zeros_like(parts[0][0])
            for parts in zip(kspace, mask, maps, strict=True)
        ]
        return torch.view_as_real(torch.stack(images)).movedim(-1, 1).contiguous()

    def _slice(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
        """Reconstruct a slice, complex (coils, H, W), with its mask (H, W) and maps (coils, H, W): complex (H, W)."""
        power = maps.abs().square().sum(dim=0).sqrt()
        method = self._method(len(kspace), str(kspace.device))
        several = len(kspace) > 1
        found = reconstruct(kspace, mask, axes="coil H W", maps=maps if several else None, method=method)
        for text in found.warnings:
            warn(text)
        # that image goes with maps of root-sum-of-squares 1, of one coil with a map of 1
        image: Tensor = found.image if several else found.image * torch.sgn(maps[0]).conj()
        return torch.where(power > 0, image / power.clamp_min(torch.finfo(power.dtype).tiny), 0)

    def _method(self, coils: int, device: str) -> Method:
        """Return the method for a number of coils on a device, loaded once."""
        if isinstance(self.method, Method):
            return self.method
        key = weights_for(coils) if self.weights == DEFAULT else self.weights, device
        if key not in self._loaded:
            self._loaded[key] = load_method(self.method, *key)
        return self._loaded[key]


class Denoiser(deepinv.models.Denoiser):  # type: ignore[misc]  # deepinv has no types
    """Denoise images, y = x + n, by PnP-HVAE; a `deepinv.models.Denoiser`.

    Gradients do not flow through it.

    Parameters
    ----------
    weights : name of shipped weights, or a .safetensors file
    settings : of the loop; None for those that are recommended for denoising

    Examples
    --------
    >>> import torch
    >>> from mrihvae.deepinv import Denoiser
    >>> _ = torch.manual_seed(0)
    >>> image = torch.zeros(1, 1, 64, 64)
    >>> image[..., 16:48, 20:44] = 1
    >>> noisy = image + 0.1 * torch.randn_like(image)
    >>> bool((Denoiser()(noisy, 0.1) - image).norm() < 0.5 * (noisy - image).norm())
    True
    """

    def __init__(self, weights: str = "restoration", settings: PnPSettings | None = None) -> None:
        super().__init__()
        self.model = load_model(weights)
        self.settings = settings or recommended("denoise", USUAL_NOISE)

    def forward(self, x: Tensor, sigma: float | Tensor, **_: object) -> Tensor:
        """Denoise a batch.

        Parameters
        ----------
        x : float32 (batch, 1, H, W), real images, or (batch, 2, H, W), real and imaginary part, in any unit
        sigma : standard deviation of the noise in each channel, one for all or (batch,)

        Returns
        -------
        float32 like `x`, on its device. An image without any value but 0 is returned as it is

        Raises
        ------
        InputError
            Another number of channels, NaN, or noise below 0.
        """
        if x.ndim != 4 or x.shape[1] not in (1, 2) or not x.is_floating_point():
            raise InputError(f"x is {x.dtype} of shape {tuple(x.shape)}; give real (batch, 1 or 2, H, W)")
        noise = torch.as_tensor(sigma, dtype=torch.float32, device=x.device).reshape(-1)
        if len(noise) not in (1, len(x)):
            raise InputError(f"sigma has {len(noise)} values for {len(x)} images; give one, or one per image")
        noise, there = noise.expand(len(x)), x.flatten(1).any(dim=1)
        if not there.any():
            return x.clone()
        complex_valued = x.shape[1] == 2
        images = torch.view_as_complex(x.movedim(1, -1).float().contiguous()) if complex_valued else x[:, 0].float()
        noise = noise * 2**0.5 if complex_valued else noise
        found = restore_images(self.model, denoising(), images[there], noise[there], self.settings)
        image = (found.decoded if self.settings.result == "decoded" else found.image).to(x.device)
        restored = torch.zeros_like(x)
        restored[there] = (torch.view_as_real(image).movedim(-1, 1) if complex_valued else image[:, None]).to(x.dtype)
        return restored


def _measurement(y: Tensor, physics: deepinv.physics.LinearPhysics) -> tuple[Tensor, Tensor, Tensor]:
    """Return k-space and maps, complex (batch, coils, H, W), and the mask, bool (batch, H, W), of a measurement."""
    several = isinstance(physics, deepinv.physics.MultiCoilMRI)
    if not (several or isinstance(physics, deepinv.physics.MRI)) or physics.three_d:
        raise InputError(
            f"physics is {type(physics).__name__}; give deepinv.physics.MRI or deepinv.physics.MultiCoilMRI, in 2D"
        )
    axes = "(batch, 2, coils, H, W)" if several else "(batch, 2, H, W)"
    if y.ndim != (5 if several else 4) or y.shape[1] != 2 or not y.is_floating_point():
        raise InputError(f"y is {y.dtype} of shape {tuple(y.shape)}; give real {axes}")
    kspace = torch.view_as_complex((y if several else y[:, :, None]).movedim(1, -1).float().contiguous())
    maps = physics.coil_maps.to(y.device, torch.complex64) if several else torch.ones_like(kspace[:1])
    mask = physics.mask.to(y.device)
    try:
        return kspace, (mask[:, 0] != 0).expand(len(y), *y.shape[-2:]), maps.expand_as(kspace)
    except RuntimeError:
        raise InputError(
            f"y of shape {tuple(y.shape)} does not fit physics with a mask of {tuple(mask.shape)} and maps of "
            f"{tuple(maps.shape)}"
        ) from None
