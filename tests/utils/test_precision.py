"""Bfloat16: for the network alone, and only where processors have instructions for it."""

from __future__ import annotations

import pytest
import torch

from mrihvae.errors import InputError
from mrihvae.inference.reconstruct import reconstruct, sample
from mrihvae.inference.settings import RULES, InferenceSettings, RefinementSettings
from mrihvae.physics.degradations import denoising
from mrihvae.pnp.restore import restore_images
from mrihvae.pnp.settings import PnPSettings
from mrihvae.utils import precision
from tests.support.small import every_third, small_kspace, small_model


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("rule", RULES)
def test_bfloat16_is_for_the_network_alone(rule: str) -> None:
    """Results differ by what rounding the network's numbers to 8 bits does, not more, and not with the batch."""
    model, kspace, mask = small_model(), small_kspace(2, 32, 24, noise=0.2), every_third(24)
    images = {
        name: reconstruct(
            model, kspace, mask, None, InferenceSettings(precision=name, refinement=RefinementSettings(rule=rule))
        )
        for name in precision.PRECISIONS
    }
    assert all(found.dtype == torch.complex64 for found in images.values())
    assert 1e-6 < relative(images["bfloat16"], images["float32"]) < 0.02
    auto = "bfloat16" if precision.has_bfloat16(kspace.device) else "float32"
    assert torch.equal(images["auto"], images[auto])
    drawn = sample(
        model, kspace, mask, 2, None, InferenceSettings(precision="bfloat16", refinement=RefinementSettings(sweeps=0))
    )
    theirs = sample(
        model, kspace, mask, 2, None, InferenceSettings(precision="float32", refinement=RefinementSettings(sweeps=0))
    )
    assert relative(drawn, theirs) < 0.02


def test_bfloat16_in_the_loop() -> None:
    model, data = small_model(), small_kspace(2, 24, 16).abs()
    found = {
        name: restore_images(model, denoising(), data, 0.1, PnPSettings(encoder="complete", precision=name))
        for name in precision.PRECISIONS
    }
    assert all(one.image.dtype == one.decoded.dtype == torch.float32 for one in found.values())
    assert 1e-6 < relative(found["bfloat16"].image, found["float32"].image) < 0.02
    auto = "bfloat16" if precision.has_bfloat16(data.device) else "float32"
    assert torch.equal(found["auto"].image, found[auto].image)


def test_without_instructions_for_bfloat16_it_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.delenv(precision.PRECISION_VARIABLE)
    for capabilities, has in (({"avx2": True}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False)
        assert precision.has_bfloat16(cpu) == has
        assert precision.is_lower(cpu, "auto") == has
        assert precision.is_lower(cpu, "bfloat16") and not precision.is_lower(cpu, "float32")
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not precision.has_bfloat16(cpu)


def test_arithmetic_is_left_at_the_end() -> None:
    a, cpu = torch.ones(4, 4), torch.device("cpu")
    with precision.arithmetic(cpu, "bfloat16"):
        assert (a @ a).dtype == torch.bfloat16
    with precision.arithmetic(cpu, "float32"):
        assert (a @ a).dtype == torch.float32
    assert (a @ a).dtype == torch.float32


def test_the_environment_says_what_auto_is(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for value, lower in (("float32", False), ("bfloat16", True)):
        monkeypatch.setenv(precision.PRECISION_VARIABLE, value)
        assert precision.is_lower(cpu, "auto") == lower
        assert precision.is_lower(cpu, "bfloat16") and not precision.is_lower(cpu, "float32")
    monkeypatch.setenv(precision.PRECISION_VARIABLE, "half")
    with pytest.raises(InputError, match="MRIHVAE_PRECISION is 'half'; set it to one of auto, float32, bfloat16"):
        precision.is_lower(cpu, "auto")
