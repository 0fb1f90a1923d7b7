"""The reconstructor as a torch module: called as `fastmri.models.VarNet` is, it stands in for it unchanged."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from mrihvae.coils.combine import root_sum_of_squares
from mrihvae.coils.maps import estimate_maps
from mrihvae.coils.settings import CoilSettings
from mrihvae.coils.virtual_coils import alike, compress, compressed_maps, expanded
from mrihvae.errors import InputError
from mrihvae.inference.coil_problem import pose_coils
from mrihvae.inference.problem import Undersampled, pose
from mrihvae.inference.reconstruct import draw, solve
from mrihvae.inference.settings import InferenceSettings
from mrihvae.model.hvae import HVAE
from mrihvae.model.shipped import find_weights
from mrihvae.model.weights import load_card, load_on
from mrihvae.physics.fourier import centre_crop, centre_pad, ifft2c, masked
from mrihvae.physics.noise import noise_std
from mrihvae.physics.sampling import lines_differ_along_h
from mrihvae.protocols.evaluation import CALIBRATED, Solver, find_protocol, read_protocol
from mrihvae.recon.methods import SAMPLING_METHODS, Method, settings_of
from mrihvae.recon.oversampling import kept_rows, remove_oversampling, restore_rows
from mrihvae.utils.config import from_dict

DEFAULT = "default"  # weights that are taken where neither a name nor a protocol says which


class Reconstructor(nn.Module):
    """Reconstructs batches of undersampled slices, of one coil or several.

    A protocol and weights are best given by `from_pretrained`.

    Parameters
    ----------
    model : trained weights with r for undersampled scans
    solver : how to reconstruct, see `mrihvae.protocols.evaluation.Solver`; methods are "hybrid", "amortised" and
        "samples"
    coils : what is done with several coils; whitening, and compression to a given number of virtual coils, are of
        volumes, and not done here
    seed : of posterior samples
    matrix : (h, w) of the header's reconstruction matrix, which the call is not told: readout oversampling beyond h
        rows is removed before maps and inference, and the outer rows of the result are zero-filled; None: it stays
    """

    def __init__(
        self,
        model: HVAE,
        solver: Solver | None = None,
        coils: CoilSettings | None = None,
        seed: int = 0,
        matrix: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.matrix = matrix
        self.model, self.solver, self.coils = model, solver or Solver(), coils or CoilSettings()
        self.seed = seed
        if self.solver.method not in SAMPLING_METHODS:
            raise InputError(
                f"method '{self.solver.method}' is none of this module's; choose one of {', '.join(SAMPLING_METHODS)}"
            )
        if self.coils.whiten or self.coils.compress:
            raise InputError("whiten and compress are of volumes: use `mrihvae run`, or leave them out")
        self.settings: InferenceSettings = settings_of(Method(self.solver.method, model, self.solver))

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | None = None,
        protocol: str | Path | None = None,
        device: torch.device | str = "cpu",
        matrix: tuple[int, int] | None = None,
    ) -> Reconstructor:
        """Load weights, and take solver and coil settings from a protocol.

        Parameters
        ----------
        name_or_path : name of shipped weights, or a .safetensors file with its .json; left out, the protocol's, or
            "default"
        protocol : name of an evaluation protocol (`mrihvae protocols`), or a TOML file; left out, the usual settings
        device : where the module goes
        matrix : as of the class

        Raises
        ------
        InputError
            Weights or protocol that are not there, or cannot be read.
        """
        chosen = None if protocol is None else read_protocol(find_protocol(str(protocol)))
        weights = name_or_path or (DEFAULT if chosen is None else chosen.weights)
        card = load_card(find_weights(weights))
        model = load_on(weights, str(device))
        if chosen is None:
            return cls(
                model,
                from_dict(Solver, {name: card[name] for name in CALIBRATED if name in card}, weights),
                matrix=matrix,
            )
        return cls(model, chosen.solver_with(card), chosen.coil_settings(), chosen.seed, matrix)

    def forward(self, masked_kspace: Tensor, mask: Tensor, num_low_frequencies: int | Tensor | None = None) -> Tensor:
        """Reconstruct a batch.

        Parameters
        ----------
        masked_kspace : float32 (batch, coils, H, W, 2), or (batch, H, W, 2) of one coil; fastMRI's centred k-space,
            zero where not measured, in any physical scale
        mask : bool, broadcast to it along all but its line axis: (batch, 1, 1, W, 1); patterns (batch, 1, H, W, 1) too
        num_low_frequencies : number of central lines to estimate sensitivities from, one for all or (batch,); 0 or None
            finds them in the mask

        Returns
        -------
        float32 (batch, H, W) magnitude, not cropped, in the scale of the input: of one coil the image's, of several as
        `CoilSettings.output` says

        Raises
        ------
        InputError
            Shapes that do not fit, NaN, or too few lines to estimate sensitivities from.
        """
        kspace, measured = _as_complex(masked_kspace, mask)
        given = torch.as_tensor(0 if num_low_frequencies is None else num_low_frequencies)
        lows = given.expand(len(kspace)).tolist()
        images = kspace.real.new_zeros(len(kspace), *kspace.shape[-2:])
        left = [k for k, one in enumerate(kspace) if one.any()]  # empty slices stay empty
        with torch.no_grad():
            while left:
                first = left[0]
                alike = [k for k in left if lows[k] == lows[first] and bool((measured[k] == measured[first]).all())]
                if self.solver.method == "samples":
                    alike = [first]  # draws are those of a slice by itself, whatever the batch
                images[alike] = self._slices(kspace[alike], measured[first], lows[first])
                left = [k for k in left if k not in alike]
        return images

    def _slices(self, whole: Tensor, mask: Tensor, low: int) -> Tensor:
        """Reconstruct slices, complex (slices, coils, H, W), of one mask, bool (H, W): magnitude (slices, H, W)."""
        whole = masked(whole, mask)
        rows = kept_rows(whole.shape[-2], 0, self.matrix, mask.cpu().numpy())
        if not bool((whole != 0).any(dim=-1).flatten(0, 1).any(dim=0).all()):
            rows = whole.shape[-2]  # the readout is not sampled fully
        kspace, known = remove_oversampling(whole, rows), mask[:rows]
        turned = lines_differ_along_h(mask)
        if kspace.shape[1] == 1:
            coil = whole[:, 0]
            inside = self._images(kspace[:, 0], known, None, noise_std(coil.mT if turned else coil)).abs()
        else:
            maps = estimate_maps(kspace, _centre_of(known, low), self.coils, known)
            few = self.coils.compress is None
            found = [compress(*one, turned, few) for one in zip(whole, kspace, strict=True)]
            matrices, virtual = [one.matrix for one in found], alike([one.kspace for one in found])
            kept = compressed_maps(maps, matrices)
            image = self._images(virtual, known, kept, torch.cat([one.noise for one in found]))
            inside = image.abs()
            if self.coils.output == "rss":
                inside = root_sum_of_squares(image, expanded(kept, matrices), kspace, known)
        if rows == whole.shape[-2]:
            return inside
        return restore_rows(inside, ifft2c(whole).abs().square().sum(dim=1).sqrt())

    def _images(self, kspace: Tensor, mask: Tensor, maps: Tensor | None, noise: Tensor) -> Tensor:
        """Infer the complex images of slices, (slices, H, W)."""
        if maps is None:
            problem: Undersampled = pose(self.model, kspace, mask, noise)
        else:
            problem = pose_coils(self.model, kspace, mask, maps, noise)
        if self.solver.method == "samples":
            return draw(self.model, problem, self.solver.samples, self.settings, self.seed).mean(dim=0)
        return solve(self.model, problem, self.settings)


def _as_complex(masked_kspace: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Check a batch of fastMRI's: complex (batch, coils, H, W), and which bins were measured, bool (batch, H, W)."""
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
    # fastMRI's transform of stored masks empties those of one coil where lines were not encoded: data tell then
    lines = (kspace != 0).any(dim=1).any(dim=1, keepdim=True).expand(batch, height, width)
    empty = ~measured.flatten(1).any(dim=1)
    return kspace, torch.where(empty[:, None, None], lines, measured)


def _centre_of(mask: Tensor, low: int) -> Tensor:
    """Keep the `low` central lines of a mask (H, W); all of it if this is 0, or more than there are."""
    if not 0 < low < mask.shape[-1]:
        return mask
    height, width = mask.shape
    central = centre_pad(centre_crop(torch.ones_like(mask), (height, low)).float(), (height, width)) > 0
    return mask & central
