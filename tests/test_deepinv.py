"""The reconstructor and the denoiser as deepinv's: its physics, its metrics, its layout, and what is refused."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mrihvae.errors import InputError
from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.physics.mri import Sense
from mrihvae.recon.arrays import reconstruct
from mrihvae.recon.catalog import load_method
from tests.support import REPOSITORY
from tests.support.files import write_scan
from tests.support.small import every_third, phantom, small_kspace
from tests.support.small_coils import calibrated

try:
    deepinv: Any = importlib.import_module("deepinv")
except (ImportError, RuntimeError):  # it is an extra, or torchvision is of another build than torch
    pytest.skip("deepinv cannot be imported", allow_module_level=True)
module = pytest.importorskip("mrihvae.deepinv")


def pairs(image: Tensor) -> Tensor:
    """Write complex images (batch, ...) as deepinv's pairs, (batch, 2, ...)."""
    return torch.view_as_real(image).movedim(-1, 1).contiguous()


def complex_of(image: Tensor) -> Tensor:
    return torch.view_as_complex(image.movedim(1, -1).contiguous())


@pytest.fixture(scope="module")
def images() -> Tensor:
    return ifft2c(small_kspace(2, 64, 64))


@pytest.fixture(scope="module")
def maps() -> Tensor:
    """Four smooth maps whose root-sum-of-squares is not 1: (1, coils, H, W)."""
    fields = deepinv.physics.MultiCoilMRI(coil_maps=4, img_size=(64, 64)).coil_maps
    return 2.5 * fields / fields.abs().square().sum(dim=1, keepdim=True).sqrt()


@pytest.fixture(scope="module")
def mask() -> Tensor:
    return calibrated(64).float().expand(64, 64)


def test_one_coil_has_the_same_operator(images: Tensor, mask: Tensor) -> None:
    y = deepinv.physics.MRI(mask=mask)(pairs(images))
    assert torch.allclose(complex_of(y), fft2c(images) * mask, atol=1e-5)


def test_several_coils_have_the_same_operator(images: Tensor, maps: Tensor, mask: Tensor) -> None:
    physics, sense = deepinv.physics.MultiCoilMRI(mask=mask, coil_maps=maps), Sense(maps, mask > 0)
    y = physics(pairs(images))
    assert torch.allclose(complex_of(y), sense.forward(images), atol=1e-5)
    assert torch.allclose(complex_of(physics.A_adjoint(y)), sense.adjoint(sense.forward(images)), atol=1e-5)


def test_one_coil(images: Tensor, mask: Tensor) -> None:
    physics = deepinv.physics.MRI(mask=mask)
    y = physics(pairs(images))
    found = module.Reconstructor("amortized")(y, physics)
    assert found.shape == (2, 2, 64, 64) and found.dtype == torch.float32
    metric = deepinv.loss.metric.PSNR(complex_abs=True, max_pixel=None)
    assert (metric(found, pairs(images)) > metric(physics.A_adjoint(y), pairs(images)) + 3).all()
    alone = reconstruct(complex_of(y)[1], mask, method=load_method("amortized"))
    assert torch.equal(complex_of(found)[1], alone.image)


def test_several_coils_are_in_the_unit_of_the_physics(images: Tensor, maps: Tensor, mask: Tensor) -> None:
    physics = deepinv.physics.MultiCoilMRI(mask=mask, coil_maps=maps)
    y = physics(pairs(images))
    found = module.Reconstructor("amortized")(y, physics)
    assert found.shape == (2, 2, 64, 64)
    assert (complex_of(found) - images).norm() < 0.1 * images.norm()
    assert (physics(found) - y).norm() < 0.05 * y.norm()


def test_a_single_map_has_a_phase(images: Tensor, mask: Tensor) -> None:
    field = torch.polar(torch.full((64, 64), 0.5), torch.linspace(0, 3, 64).expand(64, 64))
    physics = deepinv.physics.MultiCoilMRI(mask=mask, coil_maps=field)
    found = module.Reconstructor("amortized")(physics(pairs(images[:1])), physics)
    assert (complex_of(found) - images[:1]).norm() < 0.2 * images[:1].norm()


def test_masks_of_a_batch_and_empty_slices(images: Tensor, mask: Tensor) -> None:
    other = every_third(64).float().expand(64, 64)
    physics = deepinv.physics.MRI(mask=torch.stack([mask, other])[:, None].expand(-1, 2, -1, -1))
    y = physics(pairs(images))
    model = module.Reconstructor("amortized")
    both = model(y, physics)
    assert torch.equal(both[1:], model(y[1:], deepinv.physics.MRI(mask=other)))
    y[0] = 0
    assert torch.equal(model(y, physics), torch.cat([torch.zeros_like(both[:1]), both[1:]]))


@pytest.mark.parametrize("complex_valued", [False, True])
def test_denoiser(complex_valued: bool, images: Tensor) -> None:
    torch.manual_seed(0)
    clean = pairs(images) if complex_valued else images.abs()[:, None]
    noisy = clean + torch.tensor([0.05, 0.1])[:, None, None, None] * torch.randn_like(clean)
    denoiser = module.Denoiser()
    found = denoiser(noisy, torch.tensor([0.05, 0.1]))
    assert found.shape == noisy.shape
    assert ((found - clean).flatten(1).norm(dim=1) < 0.6 * (noisy - clean).flatten(1).norm(dim=1)).all()
    noisy[0] = 0
    again = denoiser(noisy, torch.tensor([0.05, 0.1]))
    assert not again[0].any() and torch.allclose(again[1], found[1], atol=1e-5)


def test_denoiser_in_plug_and_play() -> None:
    """As a prior of deepinv's, it takes noise off an image whose operator is the identity."""
    torch.manual_seed(0)
    clean = torch.from_numpy(phantom(32, 32))[None, None]
    physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
    y = physics(clean)
    prior = deepinv.optim.prior.PnP(denoiser=module.Denoiser())
    found = prior.prox(y, sigma_denoiser=0.1)
    assert (found - clean).norm() < 0.7 * (y - clean).norm()


def test_what_is_refused(images: Tensor, mask: Tensor) -> None:
    physics, y = deepinv.physics.MRI(mask=mask), pairs(images)
    with pytest.raises(InputError, match=r"'zero-filled' is not supported here; choose one of hybrid, "):
        module.Reconstructor("zero-filled")
    model = module.Reconstructor("amortized")
    with pytest.raises(InputError, match=r"physics is Denoising; give deepinv\.physics\.MRI or"):
        model(y, deepinv.physics.Denoising())
    with pytest.raises(InputError, match=r"y is torch\.float32 of shape .*; give real \(batch, 2, H, W\)"):
        model(y[0], physics)
    with pytest.raises(InputError, match=r"does not fit physics with a mask of \(1, 2, 64, 64\)"):
        model(y[..., :32], physics)
    with pytest.raises(InputError, match=r"give real \(batch, 1 or 2, H, W\)"):
        module.Denoiser()(torch.zeros(1, 3, 32, 32), 0.1)
    with pytest.raises(InputError, match=r"sigma has 3 values for 2 images"):
        module.Denoiser()(y, [0.1, 0.1, 0.1])


def test_examples_of_docstrings() -> None:
    found = doctest.testmod(module)
    assert found.failed == 0 and found.attempted > 5


def test_blocks_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kspace = small_kspace(1, 64, 64).numpy()
    write_scan(Path("full/scan.h5"), kspace.shape, kspace=kspace, reconstruction_esc=None, reconstruction_rss=None)
    page = (REPOSITORY / "docs" / "toolboxes.md").read_text()
    names: dict[str, Any] = {}
    for block in re.findall(r"^```py\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE):
        if "mrpro" not in block:
            exec(compile(block, "docs/toolboxes.md", "exec"), names)
    assert isinstance(names["restored"], Tensor) and float(names["psnr"]) > 20
