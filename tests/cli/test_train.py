"""`mrihvae train`: options that contradict each other, data that do not fit the model, what a card says of data."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mrihvae.cli.main import main, parse
from mrihvae.cli.options import Train
from mrihvae.cli.output_folder import claim_results
from mrihvae.cli.train import _name, reading_of, validation_cases
from mrihvae.cli.train_checks import check_fit, check_same_data, check_same_settings, describe
from mrihvae.cli.train_output import LossLines, closing_lines
from mrihvae.datasets.mixture import Reading, load_mixture
from mrihvae.errors import InputError
from mrihvae.model.settings import ModelSettings
from mrihvae.training.draw import SimulationSettings
from mrihvae.training.run import Run, TrainSettings, load_checkpoint, save_checkpoint
from tests.support.files import error_of, write_scan
from tests.support.small import SMALL

PROTOCOL = (
    "[data]\nfirst = 1\nsecond = 2\n[model]\nwidths = [16]\nguess_widths = [16]\n[training]\nshapes = [[16, 16]]\n"
)
PICTURES = ModelSettings(widths=(16, 16), layers=1, real=True, masked=False, guess_widths=(16,))
SMALL_RUN = TrainSettings(shapes=((16, 16),))


@pytest.fixture
def protocol(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(PROTOCOL)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a scan, whose slices have an object."""
    return write_scan(tmp_path / "data" / "a.h5").parent


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("DATA", "--data", "DIR"),
            "--data: is the folder with the data of --protocol; without a protocol, give PATHs",
        ),
        (("--protocol", "TOML"), "--data: is missing; give the directory with first, second, or PATHs"),
        (("DATA", "--protocol", "TOML", "--data", "DIR"), "--data: PATHs replace the protocol's folders"),
        (("--protocol", "TOML", "--data", "DIR"), "has no folder 'first'; give --data with it"),
        (("DATA", "--protocol", "TOML", "--settings", "JSON"), "--settings: the protocol has its own settings"),
        (("DATA", "--settings", "nowhere.json"), "nowhere.json: file not found; check the path"),
        (("DATA", "--settings", "JSON", "--cache-megabytes", "-1"), "--cache-megabytes -1.0: must be at least 0"),
        (("DATA", "--settings", "JSON", "--cache-megabytes", "nan"), "--cache-megabytes nan: must be at least 0"),
        (("DATA", "--go-on", "w", "--weights", "v"), "--go-on: keeps settings and weights; leave out --protocol"),
        (("DATA", "--go-on", "w", "--protocol", "TOML"), "--go-on: keeps settings and weights; leave out --protocol"),
        (("DATA", "--resume", "--settings", "JSON"), "--settings: a resumed run keeps its settings"),
        (("DATA", "--resume", "--weights", "w"), "--weights: a resumed run has weights already"),
        (("DATA", "--resume", "--guess-weights", "w"), "--guess-weights: a resumed run has weights already"),
        (("DATA", "--resume", "--go-on", "w"), "--go-on: a resumed run has weights already"),
        (("DATA", "--resume"), "checkpoint.safetensors: file not found, so there is nothing to resume"),
    ],
)
def test_options_that_contradict_each_other(
    options: tuple[str, ...],
    message: str,
    protocol: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "s.json").write_text(json.dumps({"model": dataclasses.asdict(SMALL)}))
    paths = {"DATA": data, "DIR": tmp_path, "TOML": protocol, "JSON": tmp_path / "s.json"}
    words = [paths.get(option, option) for option in options]
    assert message in error_of(capsys, "train", "--output", tmp_path / "run", *words)
    assert not (tmp_path / "run").exists()


def test_folder_in_which_another_process_trains(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with claim_results(tmp_path / "run", ["checkpoint.safetensors"]):
        told = error_of(capsys, "train", data, "--output", tmp_path / "run")
    assert "is writing checkpoint.safetensors there; wait until it ends" in told


def test_output_that_holds_a_run(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(b"a run")
    message = error_of(capsys, "train", data, "--output", tmp_path / "run")
    assert message == f"{tmp_path / 'run'}: already holds a run; add --resume, or choose another --output"
    assert (tmp_path / "run" / "checkpoint.safetensors").read_bytes() == b"a run"


def test_a_run_is_resumed_with_its_data(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "run"
    job = Run.new(SMALL, dataclasses.replace(SMALL_RUN, steps=1), SimulationSettings(), "cpu")
    job.counters.step = 1  # finished
    save_checkpoint(output, job, {"data": describe(load_mixture([str(data)], iter))})
    other = write_scan(tmp_path / "other" / "b.h5", (6, 24, 20), seed=1).parent
    before = f"{tmp_path.name}/data (2 slices, share 1.0)"
    for paths, now in (
        ((other,), f"{tmp_path.name}/other (6 slices, share 1.0)"),
        ((data, other), f"{tmp_path.name}/data (2 slices, share 0.25), {tmp_path.name}/other (6 slices, share 0.75)"),
    ):
        text = error_of(capsys, "train", *paths, "--output", output, "--resume")
        assert text == (
            f"{output}: its run was started with {before}, not {now}; give the same data with the same "
            "weights, or start another run with --weights"
        )
    check_same_data(output, describe(load_mixture([str(data)], iter)))


def fit(paths: list[Path], model: ModelSettings, training: TrainSettings = SMALL_RUN) -> None:
    check_fit(load_mixture([str(path) for path in paths], iter), model, training)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two pictures of 28 x 28, as MNIST stores them."""
    values = np.random.default_rng(0).integers(0, 256, (2, 28, 28)).astype(np.uint8)
    path = tmp_path / "digits-idx3-ubyte"
    path.write_bytes(bytes((0, 0, 8, 3)) + np.array(values.shape, ">i4").tobytes() + values.tobytes())
    return path


def test_data_that_do_not_fit(data: Path, pictures: Path) -> None:
    fit([data], SMALL)
    large = TrainSettings(shapes=((32, 32),))
    fit([pictures], PICTURES, large)
    mistakes: list[tuple[Path, ModelSettings, TrainSettings, str]] = [
        (data, dataclasses.replace(SMALL, degraded=True), SMALL_RUN, "raw k-space is already noisy"),
        (data, PICTURES, SMALL_RUN, "does not fit the model, which is for collections of pictures"),
        (pictures, SMALL, SMALL_RUN, "does not fit the model, which is for scans or magnitude images"),
        (pictures, dataclasses.replace(PICTURES, channels=3), large, "pictures of 1 channels; set the model's"),
        (pictures, PICTURES, SMALL_RUN, "pictures of 28 x 28 are larger than training 'shapes'"),
    ]
    for path, model, training, message in mistakes:
        with pytest.raises(InputError, match=message) as caught:
            fit([path], model, training)
        assert path.name in str(caught.value)


def test_what_a_card_says_of_data(data: Path) -> None:
    write_scan(data.parent / "more" / "b.h5", (6, 24, 20), seed=1)
    mixture = load_mixture([f"{data}=1", f"{data.parent / 'more'}=3"], iter)
    first, second = describe(mixture)
    assert first == {"path": f"{data.parent.name}/data", "slices": 2, "kind": "raw k-space", "share": 0.25}
    assert (second["slices"], second["share"]) == (6, 0.75)


@pytest.mark.parametrize(
    ("path", "name"),
    [("brain/val", "brain"), ("brain/test/", "brain"), ("a/validation/knee", "knee"), ("knee", "knee"), ("val", "val")],
)
def test_sets_of_scans_are_named_by_their_folder(path: str, name: str) -> None:
    assert _name(path) == name


@pytest.mark.parametrize(("stream", "above"), [(True, 0.0), (False, float("inf")), (None, 1e9)])
def test_when_slices_are_streamed(stream: bool | None, above: float) -> None:
    reading = reading_of(SimpleNamespace(stream=stream, cache_megabytes=1.5), several=True)
    assert reading == Reading(above, 1_500_000, together=True)


@pytest.mark.parametrize("changes", [{"degraded": True}, {"masked": False, "cascades": 0}])
def test_validation_is_of_undersampled_scans(changes: dict[str, Any], data: Path) -> None:
    model = dataclasses.replace(SMALL, **changes)
    job = Run.new(model, dataclasses.replace(SMALL_RUN, masked_start=0), SimulationSettings(), "cpu")
    with pytest.raises(InputError, match="--validation: scores undersampled scans"):
        validation_cases([str(data)], job)


def test_closing_lines_say_where_a_run_stands(tmp_path: Path) -> None:
    job = Run.new(SMALL, TrainSettings(steps=3), SimulationSettings(), "cpu")
    arguments = Train(data=("a b", "c=2"), output=tmp_path, validation=("v",), device="cuda")
    job.counters.step = 2
    head, where, following = closing_lines(job, arguments).splitlines()
    assert head.startswith("stopped at step 2 of 3; ") and where == f"weights: {tmp_path / 'weights.safetensors'}"
    again = parse(shlex.split(following.removeprefix("next: mrihvae ")))
    assert again == dataclasses.replace(arguments, resume=True)
    job.counters.step = 3
    head, _, following = closing_lines(job, arguments).splitlines()
    assert head.startswith("finished 3 steps; ")
    assert following == f"next: mrihvae reconstruct SCANS --checkpoint {tmp_path / 'weights.safetensors'} --output out"


def test_losses_are_means_since_the_line_before(capsys: pytest.CaptureFixture[str]) -> None:
    losses = LossLines(10, every=1e9)
    for step, error in ((1, 0.5), (2, 1.5)):
        prior = {"elbo": 2.0} if step == 1 else {}
        losses({"step": step, "seconds": 30.0 * step, "rollout": error, "zero_filled": 10.0, **prior})
    assert capsys.readouterr().err == ""
    losses.show()
    losses.show()  # nothing since then
    assert capsys.readouterr().err == (
        "step 2 of 10, 1.0 min: negative ELBO 2.0000 nats per dimension, k-space error 10.00 dB below zero-filling\n"
    )
    losses.every = 0.0
    losses({"step": 3, "seconds": 60.0, "skipped_prior": 1})
    assert capsys.readouterr().err == "step 3 of 10, 1.0 min: 1 gradient skipped\n"


def settings_file(path: Path, **changes: Any) -> Path:
    training = {**dataclasses.asdict(SMALL_RUN), "bf16": False, "pixels": 256, **changes}
    path.write_text(json.dumps({"model": dataclasses.asdict(SMALL), "training": training}))
    return path


def test_command_under_torchrun_starts_a_run_and_resumes_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is started again as it was, options of the start among them."""
    settings, output = settings_file(tmp_path / "s.json"), tmp_path / "run"
    words = ["train", str(data), "--output", str(output), "--settings", str(settings), "--resume", "--accumulate", "2"]
    assert "file not found, so there is nothing to resume" in error_of(capsys, *words[:4], "--resume")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert main([*words, "--steps", "1"]) == 0
    assert main([*words, "--steps", "2"]) == 0
    run = load_checkpoint(output, "cpu")
    assert (run.counters.step, run.settings.accumulate, run.counters.slices) == (2, 2, 4)
    assert "already holds a run; add --resume" in error_of(capsys, *(word for word in words if word != "--resume"))
    settings_file(settings, learning_rate=0.5)
    assert error_of(capsys, *words) == (
        f"{settings}, training: 'learning_rate' is 0.5, but 0.001 in the resumed run, which keeps its "
        "settings; set it back, or choose another --output"
    )


def test_settings_of_a_resumed_run(tmp_path: Path) -> None:
    job = Run.new(SMALL, SMALL_RUN, SimulationSettings(), "cpu")
    check_same_settings(job, {"training": {"steps": 3, "accumulate": 2, "shapes": [[16, 16]]}}, tmp_path)
    check_same_settings(job, {}, tmp_path)
    with pytest.raises(InputError, match="model: 'layers' is 7, but "):
        check_same_settings(job, {"model": {"layers": 7}}, tmp_path)


def test_micro_batches_that_processes_cannot_share(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mrihvae.training.processes.world", lambda: 2)
    words = ["train", data, "--output", tmp_path / "run", "--settings", settings_file(tmp_path / "s.json")]
    assert error_of(capsys, *words).startswith(
        "accumulate 1: 2 processes cannot share 1 micro-batches per step evenly;"
    )
    assert "accumulate 0 must be at least 1" in error_of(capsys, *words, "--accumulate", "0")
    assert not (tmp_path / "run").exists()
