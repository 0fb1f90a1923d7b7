"""Whether sensitivity maps fit the data: what they leave unexplained of the calibration region."""

from __future__ import annotations

from torch import Tensor

from mrihvae.coils.espirit import calibration_box
from mrihvae.coils.maps import estimate_maps
from mrihvae.coils.settings import CoilSettings
from mrihvae.errors import InputError
from mrihvae.physics.fourier import center_crop, center_pad, ifft2c

TIMES, MORE = 3.0, 0.015  # how much more than maps of the scan itself others may leave: a factor, and a share


def unexplained_share(kspace: Tensor, maps: Tensor, mask: Tensor) -> float:
    """Compute min_x |S x - c|^2 / |c|^2 of the images c of the calibration region alone.

    These images are blurred, and maps are not: right maps leave some of them, wrong ones much more.

    Parameters
    ----------
    kspace : complex (coils, H, W)
    maps : S, complex (coils, H, W)
    mask : bool, broadcast to (H, W), the samples in which the calibration region is searched

    Returns
    -------
    0 to 1; 1 where the calibration region is empty

    Examples
    --------
    >>> import torch
    >>> from mrihvae.coils.fit import unexplained_share
    >>> maps = torch.full((4, 16, 16), 0.5, dtype=torch.complex64)
    >>> kspace = torch.randn(1, 16, 16, dtype=torch.complex64).expand(4, 16, 16)
    >>> unexplained_share(kspace, maps, torch.ones(16, 16, dtype=torch.bool)) < 1e-6
    True
    """
    shape = (kspace.shape[-2], kspace.shape[-1])
    box = calibration_box(mask.expand(shape))
    images = ifft2c(center_pad(center_crop(kspace, box), shape))
    power = maps.abs().square().sum(dim=0)
    combined = (maps.conj() * images).sum(dim=0) / power.clamp_min(1e-12)
    whole = float(images.abs().square().sum())
    return float((images - maps * combined).abs().square().sum()) / whole if whole > 0 else 1.0


def describe_misfit(kspace: Tensor, maps: Tensor, mask: Tensor) -> str:
    """Describe maps that fit much worse than those that the calibration region gives; empty if they fit.

    Nothing can be said of a scan whose calibration region is too small for maps of its own. Parameters are those of
    `unexplained_share`.
    """
    try:
        own = estimate_maps(kspace[None], mask, CoilSettings(refine_maps=0))[0]
    except InputError:
        return ""
    shares = [unexplained_share(kspace, each, mask) for each in (maps, own)]
    if shares[0] <= TIMES * shares[1] + MORE:
        return ""
    percent = " and ".join(f"{100 * share:.1f} %" for share in shares)
    return (
        f"the given sensitivity maps and maps estimated from the scan leave {percent} of its calibration "
        "region unexplained: the given maps seem to have another size, orientation or phase sign, or to "
        "belong to another scan"
    )
