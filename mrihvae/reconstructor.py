"""The reconstructor as a torch module with the same call as `fastmri.models.VarNet`, which it can replace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.physics.fourier import apply_mask, center_crop, center_pad, ifft2c
from mrihvae.protocols.evaluation import find_protocol, read_protocol
from mrihvae.recon.catalog import load_method
from mrihvae.recon.methods import HybridMethod, Method, SampleMeanMethod
from mrihvae.recon.oversampling import restore_rows
from mrihvae.recon.settings import SAMPLING_METHODS
from mrihvae.recon.sliced_scan import SlicedScan


class Reconstructor(nn.Module):
    """Reconstruct batches of undersampled slices, y = M F S x + n, like fastMRI's VarNet; a `torch.nn.Module`.

    Use `from_pretrained` to choose method and weights. The module gets slices, not scans: nothing is blended towards
    total variation (`InferenceSettings.tv_blend`).

    Parameters
    ----------
    method : a method from `mrihvae.load_method`: "hybrid", "amortized" or "samples"
    seed : of posterior samples
    matrix : (h, w) of the header's reconstruction matrix, which is not known from k-space: readout oversampling beyond
        h rows is removed before maps and inference, and the outer rows of the result are zero-filled; None keeps all
        rows

    Raises
    ------
    InputError
        Another method, or one that whitens coils or compresses them to a given number, which is only possible for
        volumes.

    Examples
    --------
    >>> import torch
    >>> import mrihvae
    >>> _ = torch.manual_seed(0)
    >>> mask = torch.arange(32) % 2 == 0
    >>> mask[12:20] = True
    >>> masked_kspace = torch.randn(1, 1, 32, 32, 2) * mask[:, None]
    >>> module = mrihvae.Reconstructor(mrihvae.load_method("amortized", views=1))
    >>> module(masked_kspace, mask.reshape(1, 1, 1, 32, 1)).shape
    torch.Size([1, 32, 32])

    References
    ----------
    * Hammernik et al. 2018 (VarNet), https://doi.org/10.1002/mrm.26977
    * Sriram et al. 2020 (end-to-end VarNet), https://doi.org/10.48550/arXiv.2004.06688
    """

    def __init__(self, method: Method, seed: int = 0, matrix: tuple[int, int] | None = None) -> None:
        super().__init__()
        if not isinstance(method, HybridMethod):
            raise InputError(
                f"method '{method.name}' is not supported here; choose one of {', '.join(SAMPLING_METHODS)}"
            )
        if method.coils.whiten or method.coils.compress:
            raise InputError("whiten and compress only apply to volumes: use `mrihvae run`, or leave them out")
        self.method, self.seed, self.matrix = method, seed, matrix
        self.model = method.model
        self._samples = isinstance(method, SampleMeanMethod)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | None = None,
        protocol: str | Path | None = None,
        device: torch.device | str = "cpu",
        matrix: tuple[int, int] | None = None,
    ) -> Reconstructor:
        """Return a module with trained weights, and the solver and coil settings of a protocol.

        Parameters
        ----------
        name_or_path : name of shipped weights, or a .safetensors file with its .json; None for the protocol's, or
            "default"
        protocol : name of an evaluation protocol (`mrihvae protocols`), or a TOML file; None for the usual settings
        device : torch device of the module
        matrix : as of the class

        Raises
        ------
        InputError
            Weights or a protocol that cannot be found or read.
        """
        if protocol is None:
            return cls(load_method("hybrid", name_or_path, str(device)), matrix=matrix)
        chosen = read_protocol(find_protocol(str(protocol)))
        chosen = chosen if name_or_path is None else replace(chosen, weights=name_or_path)
        return cls(chosen.load(str(device)), chosen.seed, matrix)

    def forward(self, masked_kspace: Tensor, mask: Tensor, num_low_frequencies: int | Tensor | None = None) -> Tensor:
        """Reconstruct a batch.

        Parameters
        ----------
        masked_kspace : float32 (batch, coils, H, W, 2), or (batch, H, W, 2) of one coil; fastMRI's centered k-space,
            zero where not acquired, in any physical scale
        mask : bool, broadcast to it along all but its line axis: (batch, 1, 1, W, 1); also patterns (batch, 1, H, W, 1)
        num_low_frequencies : number of central lines to estimate sensitivities from, one for all or (batch,); 0 or None
            finds them in the mask

        Returns
        -------
        float32 (batch, H, W) magnitude, not cropped, in the scale of the input; several coils are combined as set by
        `CoilSettings.output`

        Raises
        ------
        InputError
            Shapes that do not match, NaN, or too few lines to estimate sensitivities.
        """
        kspace, measured = _as_complex(masked_kspace, mask)
        low = torch.as_tensor(0 if num_low_frequencies is None else num_low_frequencies)
        lows = low.expand(len(kspace)).tolist()
        images = kspace.real.new_zeros(len(kspace), *kspace.shape[-2:])
        left = [k for k, slice_kspace in enumerate(kspace) if slice_kspace.any()]  # empty slices stay empty
        with torch.no_grad():
            while left:
                first = left[0]
                group = [k for k in left if lows[k] == lows[first] and bool((measured[k] == measured[first]).all())]
                if self._samples:
                    group = [first]  # samples are those of a slice by itself, whatever the batch
                images[group] = self._slices(kspace[group], measured[first], lows[first])
                left = [k for k in left if k not in group]
        return images

    def _slices(self, whole: Tensor, mask: Tensor, low: int) -> Tensor:
        """Reconstruct slices, complex (slices, coils, H, W), of one mask, bool (H, W): magnitude (slices, H, W)."""
        acquired = apply_mask(whole, mask).cpu()  # what else there is counts nothing
        scan = Scan("the batch", acquired.numpy(), mask.cpu().numpy(), matrix=self.matrix)
        slices = SlicedScan(scan, mask.cpu().numpy(), self.method.coils, calibration=_center_of(mask.cpu(), low))
        batch = slices.batch(0, len(slices))
        image = self.method.sample(batch, self.seed).mean(dim=0) if self._samples else self.method.reconstruct(batch)
        inside = slices.magnitude(image, batch).to(whole.device)
        if slices.rows == whole.shape[-2]:
            return inside
        outside = ifft2c(slices.original(0, len(slices))).abs().square().sum(dim=1).sqrt() * slices.normalization.unit
        return restore_rows(inside, outside.to(inside))


def _as_complex(masked_kspace: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Check a batch of fastMRI's: complex (batch, coils, H, W), and which samples were acquired, bool (batch, H, W)."""
    if masked_kspace.ndim == 4:
        masked_kspace, mask = masked_kspace[:, None], mask[:, None] if mask.ndim == 4 else mask
    if masked_kspace.ndim != 5 or masked_kspace.shape[-1] != 2 or not masked_kspace.is_floating_point():
        raise InputError(
            f"masked_kspace is {masked_kspace.dtype} of shape {tuple(masked_kspace.shape)}; give float32 "
            "(batch, coils, H, W, 2)"
        )
    batch, _, height, width, _ = masked_kspace.shape
    if mask.ndim != 5 or any(
        have not in (1, want) for have, want in zip(mask.shape, (batch, 1, height, width, 1), strict=True)
    ):
        raise InputError(
            f"mask of shape {tuple(mask.shape)} does not fit k-space of {tuple(masked_kspace.shape)}; give "
            "(batch, 1, 1, W, 1)"
        )
    if not torch.isfinite(masked_kspace).all():
        raise InputError("masked_kspace holds NaN or infinite values; export the scan again")
    kspace = torch.view_as_complex(masked_kspace.float().contiguous())
    measured = mask.to(kspace.device, torch.bool)[:, 0, ..., 0].expand(batch, height, width)
    # fastMRI's transform of stored masks empties those of one coil where lines were not encoded: the data decide then
    lines = (kspace != 0).any(dim=1).any(dim=1, keepdim=True).expand(batch, height, width)
    empty = ~measured.flatten(1).any(dim=1)
    return kspace, torch.where(empty[:, None, None], lines, measured)


def _center_of(mask: Tensor, low: int) -> Tensor:
    """Keep the `low` central lines of a mask (H, W); all of it if this is 0, or more than there are."""
    if not 0 < low < mask.shape[-1]:
        return mask
    height, width = mask.shape
    central = center_pad(center_crop(torch.ones_like(mask), (height, low)).float(), (height, width)) > 0
    return mask & central
