"""Training protocols: those that are shipped, what a file may say, where its data are, and the mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrihvae.errors import InputError
from mrihvae.model.settings import ModelSettings
from mrihvae.protocols.evaluation import list_training_protocols, protocol_folder, read_protocol
from mrihvae.protocols.training import TrainingProtocol, data_paths, find_training_protocol, read_training_protocol
from mrihvae.training.draw import SimulationSettings
from mrihvae.training.run import TrainSettings
from mrihvae.utils.config import from_dict
from tests.support import REPOSITORY
from tests.support.files import error_of, run, write_scan

ROOT = REPOSITORY
TEXT = """
description = "noise"
weights = "default"

[data]
train = 0.5
"further/train" = 2

[model]
layers = 2

[training]
steps = 3

[simulation]
coils = [2, 4]
"""


def write(path: Path, text: str = TEXT) -> Path:
    path.write_text(text)
    return path


def test_what_is_shipped() -> None:
    names = {f"train_{name}" for name in ("knee_singlecoil", "knee_multicoil", "brain_multicoil")}
    assert list_training_protocols().keys() == names
    for name, description in list_training_protocols().items():
        path = find_training_protocol(name)
        assert path == find_training_protocol(name.removeprefix("train_")) == protocol_folder() / f"{name}.toml"
        protocol = read_training_protocol(path)
        several = name.endswith("multicoil")
        assert protocol.description == description and description.startswith("fastMRI")
        assert protocol.weights == ("multicoil" if several else "default")
        assert protocol.data == {f"{name.split('_')[-1]}_train": 1.0}
        training = from_dict(TrainSettings, protocol.training, name)
        simulation = from_dict(SimulationSettings, protocol.simulation, name)
        model = from_dict(ModelSettings, protocol.model, name)
        assert simulation.several == several and training.masked_start == 0  # both go on from weights
        assert all(size % model.multiple == 0 for shape in training.shapes for size in shape)


def test_protocol_is_read_whole(tmp_path: Path) -> None:
    protocol = read_training_protocol(write(tmp_path / "p.toml"))
    assert protocol == TrainingProtocol(
        {"train": 0.5, "further/train": 2}, {"layers": 2}, {"steps": 3}, {"coils": [2, 4]}, "noise", "default"
    )
    assert protocol.settings == {"model": {"layers": 2}, "training": {"steps": 3}, "simulation": {"coils": [2, 4]}}
    assert read_training_protocol(write(tmp_path / "p.toml", "[data]\na = 1")) == TrainingProtocol({"a": 1})


def test_folders_of_the_data(tmp_path: Path) -> None:
    several = TrainingProtocol({"train": 0.5, "further/train": 2})
    with pytest.raises(InputError, match=r"has no folder 'train'; give --data with it"):
        data_paths(several, tmp_path)
    for folder in several.data:
        (tmp_path / folder).mkdir(parents=True)
    assert data_paths(several, tmp_path) == [f"{tmp_path}/train=0.5", f"{tmp_path}/further/train=2.0"]
    one = TrainingProtocol({"missing": 1})
    with pytest.raises(InputError, match="has no folder 'missing', and no .h5 files itself"):
        data_paths(one, tmp_path)
    write_scan(tmp_path / "train" / "a.h5")
    assert data_paths(one, tmp_path / "train") == [str(tmp_path / "train")]  # the folder itself


MISTAKES = [
    ("[model]", "[modell]", "unknown setting 'modell'; the nearest known one is 'model'"),
    ("description", "decription", "unknown setting 'decription'; the nearest known one is 'description'"),
    ('"noise"', "3", "description is 3; it must be of the same type"),
    ('"default"', "[]", "weights is []"),
    ("train = 0.5", "train = 0", "data: the share of 'train' is 0; it must be a number above 0"),
    ("train = 0.5", 'train = "all"', "data: the share of 'train' is 'all'"),
    ("train = 0.5", "train = true", "data: the share of 'train' is True"),
    ("train = 0.5", "train = inf", "data: the share of 'train' is inf"),
    ('train = 0.5\n"further/train" = 2', "", "data is {}; write a table [data]"),
    ('[data]\ntrain = 0.5\n"further/train" = 2', "", "data is missing; write a table [data]"),
    ('[data]\ntrain = 0.5\n"further/train" = 2', 'data = "train"', "data is 'train'; write a table [data]"),
    ("[training]\nsteps = 3", "[[training]]", "training is ({},); write a table [training]"),
    ("[data]", "[data", "not a readable protocol"),
]


@pytest.mark.parametrize(("old", "new", "message"), MISTAKES, ids=[message for _, _, message in MISTAKES])
def test_mistakes_are_named(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in TEXT
    path = write(tmp_path / "p.toml", TEXT.replace(old, new, 1))
    with pytest.raises(InputError, match="p.toml") as error:
        read_training_protocol(path)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["fastmri_knee_singlecoil_4x", "singlecoil_masks", "pnp_magnitudes", "restoration"])
def test_protocols_of_other_kinds(name: str) -> None:
    with pytest.raises(InputError, match="is not a training protocol; 'mrihvae protocols' lists those"):
        read_training_protocol(ROOT / "protocols" / f"{name}.toml")


def test_unknown_protocols(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither a training protocol of the package .near ones are knee_singlecoil"):
        find_training_protocol("knee_singelcoil")
    with pytest.raises(InputError, match="'mrihvae protocols' lists them"):
        find_training_protocol(str(tmp_path / "zzz.toml"))
    assert find_training_protocol(str(write(tmp_path / "p.toml"))) == tmp_path / "p.toml"


def test_run_tells_how_to_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--data", tmp_path, "--output", tmp_path / "out")
    text = error_of(capsys, "run", "train_knee_multicoil", *words)
    assert text.endswith("is a training protocol; run: mrihvae train --protocol knee_multicoil --data DIR --output RUN")
    mine = write(tmp_path / "mine.toml")
    text = error_of(capsys, "run", mine, *words)
    assert text.endswith(f"run: mrihvae train --protocol {mine} --data DIR --output RUN")
    with pytest.raises(InputError, match="is a training protocol"):
        read_protocol(write(tmp_path / "q.toml", "[training]\nsteps = 3"))
    assert run("protocols", "train_knee_multicoil") == 0
    assert "multicoil_train = 1.0" in capsys.readouterr().out
