"""Muon and Adam in one optimizer: which parameter gets which, their steps, and their state."""

from __future__ import annotations

import math

import pytest
import torch

from mrihvae.training.muon import RMS, MuonAdam, is_matrix, orthogonalize


def parameters(*shapes: tuple[int, ...]) -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]


def give_gradients(*lists: list[torch.nn.Parameter], seed: int) -> None:
    """Give the parameters of all lists the same gradients."""
    for each in lists:
        torch.manual_seed(seed)
        for parameter in each:
            parameter.grad = torch.randn(parameter.shape)


@pytest.mark.parametrize(
    ("shape", "matrix"),
    [
        ((16, 32, 1, 1), True),
        ((16, 4, 3, 3), True),
        ((64, 64, 3, 3), True),
        ((15, 64, 3, 3), False),
        ((16, 3, 3, 3), False),
        ((16,), False),
        ((1, 64, 1, 1), False),
        ((64, 64), False),
    ],
)
def test_kernels_that_muon_takes(shape: tuple[int, ...], matrix: bool) -> None:
    (parameter,) = parameters(shape)
    assert is_matrix(parameter) is matrix
    optimizer = MuonAdam([parameter], lr=0.1)
    give_gradients([parameter], seed=1)
    optimizer.step()
    assert set(optimizer.state[parameter]) == ({"momentum"} if matrix else {"step", "exp_avg", "exp_avg_sq"})


def test_single_precision_where_bfloat16_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding of gradients stays rounding then, as between numbers of processes."""
    monkeypatch.setenv("MRIHVAE_PRECISION", "bfloat16")
    torch.manual_seed(0)
    matrix = torch.randn(32, 64)
    other = matrix * (1 + 2**-18 * torch.randn(32, 64).sign())
    apart = [float((orthogonalize(matrix, bf16) - orthogonalize(other, bf16)).abs().max()) for bf16 in (False, True)]
    assert apart[0] < 1e-5 and apart[1] > 1e-3
    assert MuonAdam([torch.nn.Parameter(matrix)], lr=1.0, bf16=False).bf16 is False


def test_the_rest_is_adam() -> None:
    ours, theirs = parameters((16,), (8, 4, 3, 3), ()), parameters((16,), (8, 4, 3, 3), ())
    optimizer, adam = MuonAdam(ours, lr=0.01), torch.optim.Adam(theirs, lr=0.01, betas=(0.9, 0.99))
    for step in range(5):
        give_gradients(ours, theirs, seed=step)
        optimizer.step()
        adam.step()
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(16, 128), (128, 16), (40, 40), (64, 576)])
@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e12])
def test_singular_values_come_near_1(shape: tuple[int, int], scale: float) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    found = orthogonalize(scale * matrix)
    assert found.shape == shape and found.dtype == torch.float32
    values = torch.linalg.svdvals(found)
    assert float(values.min()) > 0.3 and float(values.max()) < 1.3
    # the singular vectors stay: it is U V^T, but for the values
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert float((found * (u @ v)).sum()) / min(shape) == pytest.approx(0.9, abs=0.2)


@pytest.mark.parametrize("shape", [(32, 16, 3, 3), (128, 32, 1, 1)])
def test_step_of_muon(shape: tuple[int, ...]) -> None:
    """Its root mean square is about `RMS` times the learning rate, its direction that of Nesterov's momentum."""
    ours = parameters(shape)
    optimizer = MuonAdam(ours, lr=0.1, momentum=0.9)
    momentum = torch.zeros(shape)
    for step in range(3):
        before = ours[0].detach().clone()
        give_gradients(ours, seed=step)
        gradient = ours[0].grad
        assert gradient is not None
        momentum = 0.9 * momentum + 0.1 * gradient
        ahead = 0.1 * gradient + 0.9 * momentum
        optimizer.step()
        change = ours[0].detach() - before
        assert float(change.square().mean().sqrt()) == pytest.approx(0.1 * RMS, rel=0.2)
        rows, columns = shape[0], math.prod(shape[1:])
        matrix = orthogonalize(ahead.permute(0, 2, 3, 1).flatten(1)).view(shape[0], *shape[2:], shape[1])
        expected = -0.1 * RMS * math.sqrt(max(rows, columns)) * matrix.permute(0, 3, 1, 2)
        torch.testing.assert_close(change, expected, rtol=1e-2, atol=1e-4)
        torch.testing.assert_close(optimizer.state[ours[0]]["momentum"], momentum)


def test_memory_format_does_not_matter() -> None:
    ours, theirs = parameters((32, 16, 3, 3), (16, 32, 1, 1)), parameters((32, 16, 3, 3), (16, 32, 1, 1))
    for parameter in theirs:
        parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    first, second = MuonAdam(ours, lr=0.1), MuonAdam(theirs, lr=0.1)
    for step in range(3):
        give_gradients(ours, theirs, seed=step)
        first.step()
        second.step()
    for one, other in zip(ours, theirs, strict=True):
        assert other.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_parameters_without_a_gradient_rest() -> None:
    ours = parameters((16, 32, 1, 1), (16,))
    before = [parameter.detach().clone() for parameter in ours]
    optimizer = MuonAdam(ours, lr=0.1)
    optimizer.step()
    assert not optimizer.state
    assert all(torch.equal(one, other) for one, other in zip(ours, before, strict=True))
    for parameter in ours:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert all(torch.equal(one, other) for one, other in zip(ours, before, strict=True))


def test_it_finds_the_least_squares_solution() -> None:
    torch.manual_seed(0)
    inputs, kernel = torch.randn(64, 32, 8, 8), torch.randn(16, 32, 1, 1)
    outputs = torch.nn.functional.conv2d(inputs, kernel, torch.arange(16.0))
    layer = torch.nn.Conv2d(32, 16, 1)
    optimizer = MuonAdam(layer.parameters(), lr=0.2)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = (layer(inputs) - outputs).square().mean()
        loss.backward()
        return loss.detach()

    first = float(optimizer.step(closure))
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.2 * (1 - step / 200)
        last = float(optimizer.step(closure))
    assert first > 100 and last < 0.5
