"""Weights on disk: round trip, and files that are missing, damaged or do not fit."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mrihvae.errors import InputError
from mrihvae.inference.reconstruct import reconstruct
from mrihvae.inference.settings import InferenceSettings, RefinementSettings
from mrihvae.model import shipped, weights
from mrihvae.model.digests import read_metadata
from mrihvae.model.hvae import HVAE
from mrihvae.model.shipped import find_weights
from mrihvae.model.weights import (
    fingerprint,
    load_card,
    load_model,
    save_weights,
    state_hashes,
    verify_weights,
    weight_files,
)
from mrihvae.utils.files import atomic_write
from mrihvae.utils.notices import collect_notices
from tests.support import REPOSITORY
from tests.support.small import SMALL, every_third, small_kspace, small_model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Weights of a small network."""
    path = tmp_path / "folder" / "small.v1.safetensors"
    save_weights(path, small_model(), {"steps": 7, "data": ["a", "b"]})
    return path


def test_round_trip(path: Path) -> None:
    model, loaded = small_model(), load_model(str(path))
    assert loaded.settings == model.settings == SMALL
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name].half().float(), theirs[name]) for name in ours)  # stored in half precision
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())
    kspace, mask = small_kspace(1, 16, 24), every_third(24)
    settings = InferenceSettings(precision="float32", refinement=RefinementSettings(sweeps=1))
    images = reconstruct(model.requires_grad_(False), kspace, mask, None, settings)
    torch.testing.assert_close(reconstruct(loaded, kspace, mask, None, settings), images, rtol=0, atol=5e-3)


def test_weights_that_are_replaced_meanwhile(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a reader sees them that took the card before another process replaced the files."""
    read, times = weights._read, []

    def late(file: Path, card: Any) -> Any:
        times.append(1)
        if len(times) == 1:
            save_weights(path, small_model(1), {})
        return read(file, card)

    monkeypatch.setattr(weights, "_read", late)
    assert torch.equal(load_model(str(path)).start, small_model(1).start.half().float()) and len(times) == 2


def test_files_and_card(path: Path) -> None:
    assert sorted(file.name for file in path.parent.iterdir()) == ["small.v1.json", "small.v1.safetensors"]
    card = load_card(path)
    assert card["steps"] == 7 and card["data"] == ["a", "b"]
    assert card["model"]["widths"] == [16, 16, 16] and card["model"]["noise_floor"] == 0.03
    tensors = load_file(path)
    assert tensors.keys() == small_model().state_dict().keys()
    assert all(tensor.dtype == torch.float16 for tensor in tensors.values())


def test_saving_again_replaces(path: Path) -> None:
    save_weights(path, small_model(1), {})
    assert torch.equal(load_model(str(path)).start, small_model(1).start.half().float())
    assert load_card(path).keys() == {"model", "sha256"}
    assert len(list(path.parent.iterdir())) == 2


@pytest.mark.parametrize("largest", [10_000, 40_000, 10**6])
def test_large_weights_go_on_in_further_files(largest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "LARGEST_FILE", largest)
    path, model = tmp_path / "small.safetensors", small_model()
    save_weights(path, model, {"steps": 7})
    names = load_card(path).get("parts", [])
    stems = [re.sub(r"\.[0-9a-f]{8}\.safetensors", "", name) for name in names]
    assert stems == [f"small.part{number}" for number in range(2, len(names) + 2)]
    files = [path, *(tmp_path / name for name in names)]
    assert sorted(tmp_path.iterdir()) == sorted([*files, tmp_path / "small.json"])
    tensors = [load_file(file) for file in files]
    assert sorted(name for part in tensors for name in part) == sorted(model.state_dict())
    sizes = [sum(2 * tensor.numel() for tensor in part.values()) for part in tensors]
    assert all(size <= largest or len(part) == 1 for size, part in zip(sizes, tensors, strict=True))
    assert (len(files) == 1) == (sum(sizes) <= largest)
    loaded = load_model(str(path)).state_dict()
    assert all(torch.equal(loaded[name], tensor.half().float()) for name, tensor in model.state_dict().items())


def test_parts_that_are_missing_or_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "LARGEST_FILE", 40_000)
    path = tmp_path / "small.safetensors"
    save_weights(path, small_model(), {})
    one = fingerprint(path)
    other = small_model()
    with torch.no_grad():
        list(other.parameters())[-1].add_(1)
    save_weights(path, other, {})
    assert fingerprint(path) != one and len(one) == 12  # all parts count
    card = json.loads(path.with_suffix(".json").read_text())
    part = tmp_path / card["parts"][0]
    for names in (["a/b.safetensors"], [3], 3, None, "small.part2.safetensors"):
        path.with_suffix(".json").write_text(json.dumps({**card, "parts": names}))
        with pytest.raises(InputError, match="'parts' is not a list of file names"):
            load_model(str(path))
    path.with_suffix(".json").write_text(json.dumps(card))
    content = part.read_bytes()
    part.write_bytes(content[:100])
    with pytest.raises(InputError) as caught:
        load_model(str(path))
    assert str(caught.value).startswith(f"{part}: not a readable safetensors file (")
    part.unlink()
    with pytest.raises(InputError) as caught:
        load_model(str(path))
    assert str(caught.value) == f"{part}: missing; it is a part of small.safetensors and must lie beside it"
    monkeypatch.setattr(shipped, "SHIPPED", tmp_path)
    with pytest.raises(InputError, match=r"neither shipped weights \(small\) nor a"):  # parts have no name of their own
        find_weights("large")


def filled(value: float) -> HVAE:
    """A network all of whose weights have one value."""
    model = HVAE(SMALL)
    for parameter in model.parameters():
        parameter.data.fill_(value)
    return model


@pytest.mark.parametrize("largest", [20_000, 10**7])
@pytest.mark.parametrize("last", range(1, 14))
def test_sets_are_replaced_as_a_whole(last: int, largest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends before any of its writes, or between, leaves the earlier set or the new one."""
    monkeypatch.setattr(weights, "LARGEST_FILE", largest)
    path, written = tmp_path / "small.safetensors", []
    save_weights(path, filled(1), {"step": 1})

    def dies(target: Path) -> Any:
        written.append(target)
        if len(written) == last:
            raise KeyboardInterrupt
        return atomic_write(target)

    monkeypatch.setattr(weights, "atomic_write", dies)
    monkeypatch.setattr(weights, "remove_other_parts", lambda path: None)  # of which a killed process does not think
    with contextlib.suppress(KeyboardInterrupt):
        save_weights(path, filled(2), {"step": 2})
    finished = len(written) < last
    monkeypatch.undo()
    step = load_card(path)["step"]
    model = load_model(str(path))
    assert {float(value) for one in model.parameters() for value in one.flatten()} == {float(step)}
    assert step == 2 or not finished
    assert all(read_metadata(file)["step"] == str(step) for file in weight_files(path))
    weights.finish_set(path)  # as a run that is resumed does
    assert load_card(path)["step"] == step and weights.PREVIOUS not in path.with_suffix(".json").read_text()
    kept = [file for file in tmp_path.iterdir() if file.suffix in (".json", ".safetensors")]
    assert sorted(kept) == sorted([*weight_files(path), path.with_suffix(".json")])
    monkeypatch.setattr(weights, "LARGEST_FILE", largest)
    save_weights(path, filled(3), {"step": 3})
    assert {float(one.flatten()[0]) for one in load_model(str(path)).parameters()} == {3.0}
    assert sorted(tmp_path.iterdir()) == sorted([*weight_files(path), path.with_suffix(".json")])


def test_parts_of_other_sets_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "LARGEST_FILE", 40_000)
    for step in (1, 2):
        save_weights(tmp_path / str(step) / "small.safetensors", filled(step), {"counters": {"step": step}})
    path = tmp_path / "1" / "small.safetensors"
    files, others = weight_files(path), weight_files(tmp_path / "2" / "small.safetensors")
    assert {read_metadata(file)["step"] for file in files} == {"1"} and len(files) > 1
    files[1].write_bytes(others[1].read_bytes())
    text = f"{files[1]}: damaged, or from another set than its card: its SHA-256 begins with "
    with pytest.raises(InputError) as caught:
        load_model(str(path))
    assert str(caught.value).startswith(text) and str(caught.value).endswith(f"; {weights.COPY}")
    card(lambda content: content.pop("sha256"))(path)
    with pytest.raises(InputError, match=r"its files are of different steps \((1, 2|2, 1)\)"):
        load_model(str(path))


@pytest.mark.parametrize("hashes", [True, False])
def test_flipped_bits_are_noticed(hashes: bool, path: Path) -> None:
    """By the card, and without it by the file's own SHA-256."""
    if not hashes:
        card(lambda content: content.pop("sha256"))(path)
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    for place in (start, (start + len(content)) // 2, len(content) - 1):
        flipped = bytearray(content)
        flipped[place] ^= 4
        path.write_bytes(flipped)
        with pytest.raises(InputError, match=r"small.v1.safetensors: damaged, .* SHA-256 begins with \w{12}, .*\w{12}"):
            load_model(str(path))
    path.write_bytes(content)
    assert verify_weights(path) == hashes


def test_changed_card_is_warned_of(path: Path) -> None:
    with collect_notices() as notices:
        load_card(path)
    assert notices == []
    card(lambda content: content.update(steps=8))(path)
    with collect_notices() as notices:
        assert load_card(path)["steps"] == 8
    assert len(notices) == 1 and f"{path.with_suffix('.json')}: was changed since it was written" in notices[0]
    state_hashes(path)
    with collect_notices() as notices:
        assert verify_weights(path) and load_card(path)["steps"] == 8
    assert notices == []


@pytest.mark.parametrize("hashes", [3, {}, {"files": "a"}, {"files": []}, {"files": ["a", "b"]}, {"files": [5]}])
def test_card_with_other_hashes(hashes: Any, path: Path) -> None:
    card(lambda content: content.update(sha256=hashes))(path)
    with pytest.raises(InputError, match="'sha256' does not have one digest for each file; copy all files"):
        load_model(str(path))


def test_weights_of_earlier_versions_are_read_and_replaced(tmp_path: Path) -> None:
    """They have neither metadata nor SHA-256; their fingerprint is that of their bytes."""
    path, model = tmp_path / "small.safetensors", small_model()
    save_file({name: tensor.half() for name, tensor in model.state_dict().items()}, path)
    path.with_suffix(".json").write_text(json.dumps({"model": dataclasses.asdict(SMALL)}))
    assert load_model(str(path)).settings == SMALL and not verify_weights(path)
    assert fingerprint(path) == hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    before = fingerprint(path)
    save_weights(path, model, {"step": 3})
    assert fingerprint(path) == before and verify_weights(path)  # of tensors alone


def test_shipped_weights_have_hashes() -> None:
    paths = [*shipped.shipped_cards(), *(REPOSITORY / "benchmarks" / "weights").glob("*.json")]
    assert len(paths) >= 3 and all(verify_weights(path.with_suffix(".safetensors")) for path in paths)


def rewrite(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)
        card(lambda content: content.pop("sha256"))(path)  # as of weights of earlier versions

    return spoil


def card(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        beside = path.with_suffix(".json")
        content = json.loads(beside.read_text())
        change(content)
        beside.write_text(json.dumps(content))

    return spoil


def text(content: str) -> Callable[[Path], object]:
    return lambda path: path.with_suffix(".json").write_text(content)


BAD: list[tuple[Callable[[Path], object], str, str]] = [
    (lambda path: path.unlink(), ".safetensors", "neither shipped weights"),
    (lambda path: path.with_suffix(".json").unlink(), ".json", "missing; it must lie beside small.v1.safetensors"),
    (lambda path: path.write_bytes(path.read_bytes()[:5000]), ".safetensors", "not a readable safetensors file"),
    (lambda path: path.write_bytes(path.read_bytes()[:-100]), ".safetensors", "not a readable safetensors file"),
    (lambda path: path.write_bytes(b""), ".safetensors", "not a readable safetensors file"),
    (lambda path: path.write_text("weights"), ".safetensors", "not a readable safetensors file"),
    (rewrite(lambda tensors: tensors.pop("start")), ".safetensors", "does not fit the settings beside it"),
    (
        rewrite(lambda tensors: tensors.update(more=torch.ones(3))),
        ".safetensors",
        "does not fit the settings beside it",
    ),
    (
        rewrite(lambda tensors: tensors.update(start=torch.ones(1, 17, 1, 1))),
        ".safetensors",
        "does not fit the settings beside it",
    ),
    (card(lambda c: c["model"].update(widths=[16, 16])), ".safetensors", "does not fit the settings beside it"),
    (
        card(lambda c: c["model"].update(width=16)),
        ".json",
        "unknown setting 'width'; the nearest known one is 'widths'",
    ),
    (card(lambda c: c["model"].update(widths=[15])), ".json", "must be multiples of 16"),
    (card(lambda c: c["model"].update(layers="two")), ".json", "layers"),
    (card(lambda c: c["model"].update(widths=[4096] * 3)), ".safetensors", "fewer numbers than the settings beside it"),
    (card(lambda c: c["model"].update(guess_memory=10**12)), ".safetensors", "fewer numbers than the settings"),
    (card(lambda c: c["model"].update(guess_widths=[1616])), ".safetensors", "fewer numbers than the settings"),
    (card(lambda c: c["model"].update(cascades=4096)), ".safetensors", "fewer numbers than the settings"),
    (card(lambda c: c["model"].update(fold=4096)), ".safetensors", "fewer numbers than the settings"),
    (card(lambda c: c.update(parts=["a.safetensors"] * 9)), ".json", "'parts' is not a list of file names"),
    (card(lambda c: c.update(parts=["a" * 5000])), ".json", "'parts' is not a list of file names"),
    (card(lambda c: c.update(parts=[""])), ".json", "'parts' is not a list of file names"),
    (card(lambda c: c.update(parts=["../a.safetensors"])), ".json", "'parts' is not a list of file names"),
    (card(lambda c: c.pop("model")), ".json", "has no 'model' settings; copy it again"),
    (card(lambda c: c.update(model=[1])), ".json", "has no 'model' settings"),
    (text("[]"), ".json", "has no 'model' settings"),
    (text("{"), ".json", "not readable as JSON"),
    (text(""), ".json", "not readable as JSON"),
    (lambda path: path.with_suffix(".json").write_bytes(b"\xff\xfe{}"), ".json", "not readable as JSON"),
]


@pytest.mark.parametrize(("spoil", "suffix", "message"), BAD)
def test_bad_file_is_named_in_one_line(path: Path, spoil: Callable[[Path], object], suffix: str, message: str) -> None:
    spoil(path)
    with pytest.raises(InputError) as caught:
        load_model(str(path))
    words = str(caught.value)
    assert words.startswith(str(path.with_suffix(suffix))) and message in words and "\n" not in words


@pytest.mark.parametrize("name", ["", "default2", "folder", "folder/small.v1.json"])
def test_what_is_no_weights(path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parents[1])
    with pytest.raises(InputError, match=r"neither shipped weights .* nor a \.safetensors file; give one of them"):
        load_model(name)


def test_full_disk_keeps_the_old_weights(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes = Path.write_bytes

    def full(file: Path, content: bytes) -> int:
        write_bytes(file, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    before = path.read_bytes()
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError) as caught:
        save_weights(path, small_model(1), {})
    assert str(caught.value).startswith(f"{path}: cannot be written (") and "No space left" in str(caught.value)
    assert path.read_bytes() == before
    assert sorted(file.name for file in path.parent.iterdir()) == ["small.v1.json", "small.v1.safetensors"]


def test_really_full_disk_is_told_in_one_line(path: Path) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = path.read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # a write beyond this fails as on a full disk
    try:
        with pytest.raises(InputError) as caught:
            save_weights(path, HVAE(SMALL), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(caught.value).startswith(f"{path}: cannot be written (") and "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert len(list(path.parent.iterdir())) == 2


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_others_may_read_weights_as_the_umask_allows(mask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        save_weights(tmp_path / "small.safetensors", small_model(), {})
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {mode}
