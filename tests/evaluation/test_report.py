"""`mrihvae report`: its numbers and pictures, what is missing, what stands in its way, and the page in a browser."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from mrihvae.evaluation.scores import evaluate
from mrihvae.io.fastmri import read_scan
from mrihvae.io.hdf5 import read_dataset
from mrihvae.physics.sampling import Undersampling
from mrihvae.recon.catalog import make_method
from mrihvae.recon.undersampling import mask_of
from mrihvae.recon.volumes import reconstruct_volume
from tests.support.browser import CHROMIUM, SHIFT, Browser
from tests.support.files import PROTOCOL, error_of, run, truncate, write_h5, write_scan
from tests.support.small import small_kspace

DOUBLE = Undersampling("random", 2, 0.2)
MASK = ("--mask-type", "random", "--acceleration", "2", "--center-fraction", "0.2")
HEADINGS = ["file", "acquisition", "slices", "R", "NMSE", "PSNR / dB", "SSIM", "s / slice"]
HOSTILE = '</script><script>hacked = 1</script><img src=x onerror="hacked = 1">${style}\'&amp;'
HOSTILE_FILE = "b\"><img src=x onerror='hacked = 1'>.h5"


class Page(HTMLParser):
    """What a browser makes of a report: texts of table cells, JSON and pictures, and every tag with its attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = path.read_text()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.rows: list[list[tuple[str, str]]] = []  # of (text, exact value)
        self.table, self.script, self.words = "", "", ""
        self.feed(self.text)
        self.volumes: list[dict[str, Any]] = json.loads(self.scripts["facts"])["volumes"]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag == "script":
            self.script = dict(attributes).get("id") or "code"
        if tag == "table":
            self.table = dict(attributes).get("id") or ""
        if tag == "tr" and self.table == "scores":
            self.rows.append([])
        if tag in ("th", "td") and self.table == "scores":
            self.rows[-1].append(("", dict(attributes).get("data-value") or ""))

    def handle_data(self, data: str) -> None:
        self.words += data
        if self.script:
            self.scripts[self.script] = data
        elif self.table == "scores" and self.rows and data.strip():
            text, value = self.rows[-1][-1]
            self.rows[-1][-1] = (text + data, value)

    def handle_endtag(self, tag: str) -> None:
        self.script = ""
        if tag == "table":
            self.table = ""

    def kinds(self, number: int = 0) -> list[str]:
        return [panel["kind"] for panel in self.volumes[number]["panels"]]

    def picture(self, number: int, k: int, kind: str) -> np.ndarray:
        """Decode a picture, uint8 (h, w)."""
        start, data = self.scripts[f"picture-{number}-{k}-{kind}"].split(",")
        assert start == "data:image/webp;base64"
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("L"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `scans` and `results` are copies of."""
    folder = tmp_path_factory.mktemp("prepared")
    scans = write_scans(folder / "data/val", ("a.h5", "b.h5", "c.h5"), ("T2", "T2", "FLAIR"))
    reconstructed(scans, folder / "out")
    return folder


@pytest.fixture
def scans(prepared: Path, tmp_path: Path) -> Path:
    """A folder with three complete scans of four slices, of two acquisitions."""
    return Path(shutil.copytree(prepared / "data", tmp_path / "data")) / "val"


@pytest.fixture
def results(prepared: Path, tmp_path: Path) -> Path:
    """Their reconstructions, by `mrihvae reconstruct`, without a hint where the scans are."""
    return Path(shutil.copytree(prepared / "out", tmp_path / "out"))


def write_scans(folder: Path, names: tuple[str, ...], kinds: tuple[str, ...], **changes: Any) -> Path:
    for seed, (name, kind) in enumerate(zip(names, kinds)):
        kspace = small_kspace(4, 24, 20, seed=seed).numpy()
        images = np.abs(np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, (1, 2)), norm="ortho"), (1, 2)))
        datasets = {"kspace": kspace, "reconstruction_esc": images.astype(np.float32), **changes}
        write_scan(folder / name, kspace.shape, attributes={"acquisition": kind}, **datasets)
    return folder


def reconstructed(scans: Path, output: Path, *options: str) -> Path:
    assert run("reconstruct", scans, "--method", "zero-filled", *(options or MASK), "--output", output) == 0
    change(output / "reconstruct.json", lambda values: values.pop("input", None))
    return output


def change(path: Path, alter: Callable[[dict[str, Any]], Any]) -> None:
    """Alter a JSON file."""
    values = json.loads(path.read_text())
    alter(values)
    path.write_text(json.dumps(values))


def reported(folder: Path, *options: str | Path) -> Page:
    assert run("report", folder, *options) == 0
    return Page(folder / "report.html")


def number(text: str) -> float:
    return float(text.replace("Infinity", "inf"))


def test_numbers_are_fastmris_to_the_digit(scans: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = reported(results, "--data", scans)
    evaluation = evaluate(scans, results / "reconstructions", "singlecoil")
    expected = {row.file: row for row in evaluation.rows}
    head, *rows = page.rows
    assert [text for text, _ in head] == HEADINGS
    assert [row[0][0] for row in rows] == ["a.h5", "b.h5", "c.h5", "mean of 1", "mean of 2", "mean of 3"]
    for row in rows[:3]:
        scored = expected[row[0][0]]
        assert (row[1][0], row[2][0]) == (scored.acquisition, "4")
        for cell, metric in zip(row[4:7], ("NMSE", "PSNR", "SSIM")):
            assert number(cell[1]) == scored.scores()[metric]
            assert cell[0] == f"{scored.scores()[metric]:#.4g}"
    for row, part in zip(rows[3:], (evaluation.of("FLAIR"), evaluation.of("T2"), evaluation)):
        means = [part.means()[metric] for metric in ("NMSE", "PSNR", "SSIM")]
        assert [number(value) for _, value in row[4:7]] == pytest.approx(means, rel=1e-6)
    assert "3 volumes, 48 pictures" in capsys.readouterr().out


def test_slices_have_the_volumes_data_range(scans: Path, results: Path) -> None:
    page = reported(results, "--data", scans)
    for volume in page.volumes:
        target = read_dataset(scans / volume["file"], "reconstruction_esc")
        images = read_dataset(results / "reconstructions" / volume["file"], "reconstruction")
        scores = evaluate(scans / volume["file"], results / "reconstructions" / volume["file"], "singlecoil")
        assert np.mean(volume["scores"]["SSIM"]) == pytest.approx(scores.means()["SSIM"], rel=1e-6)
        middle = slice(2, 22)  # the center (20, 20), as fastMRI scores it
        expected = [
            peak_signal_noise_ratio(t[middle], i[middle], data_range=target[:, middle].max())
            for t, i in zip(target, images)
        ]
        assert volume["scores"]["PSNR"] == pytest.approx(expected, rel=1e-6)


def test_pictures_are_the_arrays(scans: Path, results: Path) -> None:
    for name in ("a.h5", "b.h5", "c.h5"):
        path = results / "reconstructions" / name
        with h5py.File(path, "a") as file:
            images = np.asarray(file["reconstruction"])
            file["reconstruction"][...] = 0.9 * images  # so that it is not the zero-filled image again
            file["uncertainty"] = (0.1 * images).astype(np.float32)
    page = reported(results, "--data", scans)
    for at, volume in enumerate(page.volumes):
        assert page.kinds(at) == ["zero-filled", "reconstruction", "target", "error", "uncertainty"]
        path, scan = results / "reconstructions" / volume["file"], read_scan(scans / volume["file"])
        assert scan.target is not None
        images = read_dataset(path, "reconstruction")
        arrays = {
            "zero-filled": reconstruct_volume(scan, mask_of(scan, DOUBLE), make_method("zero-filled")),
            "reconstruction": images,
            "target": scan.target,
            "error": np.abs(images - scan.target),
            "uncertainty": read_dataset(path, "uncertainty"),
        }
        white = max(arrays[kind].max() for kind in ("zero-filled", "reconstruction", "target"))
        for panel in volume["panels"]:
            factor = int(panel["title"].split(" x ")[1]) if " x " in panel["title"] else 1
            assert (factor > 1) == (panel["kind"] in ("error", "uncertainty"))
            assert factor == 1 or f"0 to {white / factor:.3g}, " in panel["range"]
            for k in range(4):
                expected = np.clip(255 * factor * arrays[panel["kind"]][k] / white, 0, 255)
                assert np.abs(page.picture(at, k, panel["kind"]) - expected).max() < 0.501


def test_warnings_times_and_promises_of_volumes(results: Path) -> None:
    found = {
        "psnr_at_least": 25.5,
        "ssim_at_least": 0.7,
        "level": 0.9,
        "calibration_persons": 99,
        "shift_p_value": 0.03,
    }
    with h5py.File(results / "reconstructions/a.h5", "a") as file:
        file["uncertainty"] = 0.1 * np.asarray(file["reconstruction"])
    row = {**found, "warnings": ["beware"], "stages": {"read": 0.5, "inference": 2.0}, "peak_memory_mb": 700}
    change(results / "reconstruct.json", lambda values: values["volumes"][0].update(row))
    change(results / "reconstruct.json", lambda values: values.update(failed=[{"file": "d.h5", "error": "is bad"}]))
    page = reported(results)
    volume = page.volumes[0]
    assert volume["warnings"] == ["beware"] and "beware" not in volume["notes"]
    assert volume["promises"]["bounds"].startswith("PSNR at least 25.5 dB and SSIM at least 0.700, each with 90 % conf")
    assert volume["promises"]["held-out p-value"].startswith("0.03: ") and page.volumes[1]["promises"] == {}
    assert "do not resemble those of the calibration" in volume["promises"]["held-out p-value"]
    for words in ("d.h5 failed:", "is bad", "2.500", "700"):
        assert words in page.words


def test_pictures_have_the_shape_of_voxels(scans: Path, results: Path) -> None:
    with h5py.File(results / "reconstructions/a.h5", "a") as file:
        file.attrs["voxel_mm"] = (1.0, 2.0, 5.0)
    assert [volume["voxel"] for volume in reported(results).volumes] == [[1.0, 2.0], None, None]


def test_run_of_a_protocol(scans: Path, tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(PROTOCOL)
    assert run("run", tmp_path / "small.toml", "--data", scans.parent, "--output", tmp_path / "out") == 0
    page = reported(tmp_path / "out")
    values = json.loads((tmp_path / "out/run.json").read_text())
    for row, volume in zip(page.rows[1:], values["volumes"]):
        scores = [volume["scores"][metric] for metric in ("NMSE", "PSNR", "SSIM")]
        assert [number(value) for _, value in row[4:7]] == scores
        assert row[3][0] == f"{volume['effective_acceleration']:.2f}"
    means = [values["overall"]["means"][metric] for metric in ("NMSE", "PSNR", "SSIM")]
    assert [number(value) for _, value in page.rows[-1][4:7]] == means
    assert page.kinds() == ["zero-filled", "reconstruction", "target", "error"]
    for told in (
        "small scans",
        "reconstruction, zero-filled",
        values["protocol_sha256"],
        "center fraction 0.2",
        "mrihvae report",
    ):
        assert told in page.text
    raw = page.words[page.words.index('{\n  "protocol"') :]
    assert json.JSONDecoder().raw_decode(raw)[0] == values

    scans.rename(tmp_path / "gone")  # scores are left
    page = reported(tmp_path / "out")
    assert page.kinds() == ["reconstruction"] and page.volumes[0]["scores"] == {}
    assert [number(value) for _, value in page.rows[-1][4:7]] == means
    assert "the scan was not found" in page.volumes[0]["notes"][0]


def test_scans_where_the_json_says(scans: Path, results: Path) -> None:
    change(results / "reconstruct.json", lambda values: values.update(input=str(scans)))
    assert reported(results).kinds() == ["zero-filled", "reconstruction", "target", "error"]
    change(results / "reconstruct.json", lambda values: values.update(input=str(scans / "b.h5")))
    page = reported(results)
    assert [len(page.kinds(number)) for number in range(3)] == [1, 4, 1]


def test_without_scans(results: Path) -> None:
    page = reported(results)
    assert all(page.kinds(number) == ["reconstruction"] for number in range(3))
    assert all("the scan was not found" in volume["notes"][0] for volume in page.volumes)
    assert [len(row) for row in page.rows] == [4] * 5  # no columns of scores, nor of acquisitions
    assert page.rows[-1][0][0] == "mean of 3"


def test_scans_with_their_own_masks_and_without_targets(tmp_path: Path) -> None:
    mask = np.arange(20) % 2 == 0
    scans = write_scans(tmp_path / "scans", ("a.h5",), ("T2",), mask=mask, reconstruction_esc=None)
    page = reported(reconstructed(scans, tmp_path / "out", "--device", "cpu"), "--data", scans)
    assert page.kinds() == ["zero-filled", "reconstruction"]
    assert page.volumes[0]["notes"][0] == "no target, so no error: the scan has no reconstruction_esc"
    assert np.array_equal(page.picture(0, 1, "zero-filled"), page.picture(0, 1, "reconstruction"))


def test_several_coils(tmp_path: Path) -> None:
    write_scan(tmp_path / "scans/a.h5", (2, 3, 24, 20))
    page = reported(reconstructed(tmp_path / "scans", tmp_path / "out"), "--data", tmp_path / "scans")
    expected = evaluate(tmp_path / "scans", tmp_path / "out/reconstructions", "multicoil").means()
    assert [number(value) for _, value in page.rows[1][4:7]] == [expected[name] for name in ("NMSE", "PSNR", "SSIM")]


@pytest.mark.parametrize("told", [True, False])
def test_scans_of_other_formats(told: bool, tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    kspace = small_kspace(4, 24, 20).numpy()
    np.save(tmp_path / "scans/a.npy", kspace)
    (tmp_path / "scans/a.json").write_text(json.dumps({"axes": ["slice", "H", "W"]}))
    results = reconstructed(tmp_path / "scans", tmp_path / "out")
    if not told:  # as `mrihvae run` has it
        change(results / "reconstruct.json", lambda values: values["volumes"][0].pop("source"))
    page = reported(results, "--data", tmp_path / "scans")
    assert page.volumes[0]["file"] == "a.h5" and page.kinds() == ["zero-filled", "reconstruction"]


def test_perfect_reconstruction(scans: Path, results: Path) -> None:
    target = read_dataset(scans / "a.h5", "reconstruction_esc")
    write_h5(results / "reconstructions/a.h5", reconstruction=target)
    page = reported(results, "--data", scans)
    assert page.rows[1][5] == ("∞", "Infinity")
    assert page.volumes[0]["scores"]["PSNR"] == [None] * 4
    assert page.picture(0, 0, "error").max() == 0


def test_targets_that_fastmri_does_not_score(tmp_path: Path) -> None:
    write_scan(tmp_path / "scans/a.h5", (2, 20, 24))  # wider than high
    page = reported(reconstructed(tmp_path / "scans", tmp_path / "out"), "--data", tmp_path / "scans")
    assert page.kinds() == ["zero-filled", "reconstruction", "target", "error"]
    assert page.volumes[0]["notes"][0].startswith("no scores: ") and page.volumes[0]["scores"] == {}


def test_fewer_slices(results: Path) -> None:
    page = reported(results, "--slices", "3")
    assert page.volumes[0]["shown"] == [0, 2, 3] and page.volumes[0]["slices"] == 4
    assert {name.split("-")[2] for name in page.scripts if name.startswith("picture-0-")} == {"0", "2", "3"}


def test_strings_from_outside_are_text(tmp_path: Path) -> None:
    scans = write_scans(tmp_path / "scans", ("a.h5", HOSTILE_FILE), (HOSTILE, HOSTILE))
    results = reconstructed(scans, tmp_path / "out")
    change(
        results / "reconstruct.json", lambda values: values.update({HOSTILE: [HOSTILE, {HOSTILE: [[1], [HOSTILE]]}]})
    )
    page = reported(results, "--data", scans, "--title", HOSTILE)
    assert {tag for tag, attributes in page.tags if "onerror" in attributes or tag == "img"} == set()
    code = [tag for tag in page.tags if tag[0] == "script" and not tag[1]]
    assert len(code) == 1
    assert [row[1][0] for row in page.rows[1:3]] == [HOSTILE] * 2
    assert page.rows[2][0] == (HOSTILE_FILE, HOSTILE_FILE)
    assert page.volumes[1]["file"] == HOSTILE_FILE


def test_file_loads_nothing(scans: Path, results: Path) -> None:
    page = reported(results, "--data", scans)
    assert "http:" not in page.text and "https:" not in page.text and "@import" not in page.text
    addresses = {value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")}
    assert addresses == {"data:,", "#volume-0", "#volume-1", "#volume-2"}
    (policy,) = (attributes["content"] for tag, attributes in page.tags if "http-equiv" in attributes)
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy and not any("style" in attributes for _, attributes in page.tags)


def test_output_is_whole_or_not_there(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").mkdir()
    assert "cannot be written" in error_of(capsys, "report", results, "--output", tmp_path / "taken")
    truncate(results / "reconstructions/c.h5")
    assert "c.h5: truncated" in error_of(capsys, "report", results)
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(("report.html", ".part"))]


def _drop(key: str) -> Callable[[Path], None]:
    return lambda folder: change(folder / "reconstruct.json", lambda values: values.pop(key))


def _row(**values: Any) -> Callable[[Path], None]:
    return lambda folder: change(folder / "reconstruct.json", lambda all_of_it: all_of_it["volumes"][0].update(values))


def _results(name: str, shape: tuple[int, ...]) -> Callable[[Path], None]:
    images = {"reconstruction": np.ones((4, 24, 20), np.float32), name: np.ones(shape, np.float32)}
    return lambda folder: (write_h5(folder / "reconstructions/a.h5", **images), None)[1]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "reconstruct.json").unlink(), "out: has neither run.json nor reconstruct.json"),
        (lambda folder: (folder / "run.json").write_text("{}"), "out: has both run.json and reconstruct.json"),
        (lambda folder: truncate(folder / "reconstruct.json"), "reconstruct.json: damaged ("),
        (lambda folder: (folder / "reconstruct.json").write_text("[]"), "reconstruct.json: damaged ("),
        (lambda folder: (folder / "reconstruct.json").write_bytes(b"\xff\xfe"), "reconstruct.json: damaged ("),
        (_drop("volumes"), "reconstruct.json: damaged (no 'volumes' in it)"),
        (_drop("undersampling"), "reconstruct.json: damaged (no 'undersampling' in it)"),
        (_row(file="../a.h5"), "reconstruct.json: damaged (it lists no volumes"),
        (_row(seconds_per_slice="<b>"), "reconstruct.json: damaged (text where a number should be)"),
        (_row(scores={"PSNR": 1}), "reconstruct.json: damaged (no 'MSE' in it)"),
        (_row(effective_acceleration=3.0), "(its mask gives R = "),
        (lambda folder: (folder / "reconstructions/b.h5").unlink(), "reconstructions/b.h5: file not found, but"),
        (lambda folder: truncate(folder / "reconstructions/b.h5"), "reconstructions/b.h5: truncated"),
        (_results("reconstruction", (4, 24, 18)), "'reconstruction' has shape (4, 24, 18), but"),
        (_results("reconstruction", (4, 24)), "a.h5: 'reconstruction' is float32 of shape (4, 24)"),
        (_results("uncertainty", (3, 24, 20)), "a.h5: 'uncertainty' has shape (3, 24, 20)"),
    ],
)
def test_mistakes(
    spoil: Callable[[Path], Any], words: str, scans: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(results)
    assert words in error_of(capsys, "report", results, "--data", scans)
    assert not (results / "report.html").exists()


def test_mistaken_options(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere: no such folder" in error_of(capsys, "report", tmp_path / "nowhere")
    text = error_of(capsys, "report", results, "--data", tmp_path)
    assert "has none of the files" in text and "but " in text  # lists what is wanted, and what is there
    assert "--slices 0: must be" in error_of(capsys, "report", results, "--slices", "0")


def test_scan_that_is_complete_though_nothing_was_left_out(
    scans: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(results / "reconstruct.json", lambda values: values.update(undersampling=None))
    assert "a.h5: does not match " in error_of(capsys, "report", results, "--data", scans)


# ---- in a browser


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
NAMES = ("a.h5", HOSTILE_FILE, "c.h5")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of three volumes, one without a target; hostile strings all over; uncertainty in the first."""
    folder = tmp_path_factory.mktemp("browser")
    scans = write_scans(folder / "scans", NAMES, (HOSTILE, "T2", "FLAIR"))
    results = reconstructed(scans, folder / "out")
    with h5py.File(results / "reconstructions/a.h5", "a") as file:
        file["uncertainty"] = 0.1 * np.asarray(file["reconstruction"])
    with h5py.File(scans / "c.h5", "a") as file:
        del file["reconstruction_esc"]
    reported(results, "--data", scans, "--title", HOSTILE)
    return results / "report.html"


@pytest.fixture
def page(opened: Path) -> Any:
    with Browser() as browser:
        browser.look(1280, 1000)
        browser.open(opened)
        yield browser
        assert browser.complaints == []
        assert {address.split(",")[0] for address in browser.requests} <= {
            opened.as_uri(),
            "data:image/webp;base64",
        }
        assert browser.evaluate("typeof hacked") == "undefined"


def in_viewer(browser: Browser, expression: str, number: int = 0) -> Any:
    """Evaluate JavaScript with a viewer's element as `at`."""
    return browser.evaluate(f"(at => {expression})(document.querySelector('#volume-{number}'))")


def transform(browser: Browser, number: int = 0) -> list[float]:
    """Give zoom, and pan in pixels, that all panels of a volume have."""
    images = "[...at.querySelectorAll('img')]"
    script = f"{images}.map(i => new DOMMatrix(getComputedStyle(i).transform)).map(m => [m.a, m.e, m.f])"
    found = np.array(in_viewer(browser, script, number))
    np.testing.assert_allclose(found, np.broadcast_to(found[0], found.shape), atol=0.1)
    return list(found[0])


@needs_browser
def test_page_shows_all(page: Browser) -> None:
    assert page.evaluate("[...document.querySelectorAll('.viewer h3')].map(h => h.textContent)") == list(NAMES)
    assert page.evaluate("[...document.querySelectorAll('#scores tbody a')].map(a => a.textContent)") == list(NAMES)
    assert page.evaluate("document.title") == HOSTILE
    for number, panels in enumerate((5, 4, 2)):
        in_viewer(page, "at.scrollIntoView()", number)
        page.wait_for(
            f"(images => images.length == {panels} && images.every(i => i.complete && i.naturalWidth == 20))"
            f"([...document.querySelectorAll('#volume-{number} img')])"
        )
    assert page.evaluate("document.querySelectorAll('#chart polyline').length") == 4  # two volumes, two metrics
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.look(700, 1000, dark=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"


@needs_browser
def test_focus_reaches_every_control(page: Browser) -> None:
    active = "(e => e.id || e.className || e.tagName)(document.activeElement)"
    reached: list[str] = []
    while reached.count("SUMMARY") < 2:  # of the glossary, and of the raw JSON: the last one
        page.press("Tab")
        reached.append(page.evaluate(active))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", reached
        assert len(reached) < 100
    assert reached.count("BUTTON") == 8  # headings of the table
    assert reached.count("chart") == 1
    for name in ("slice", "level", "window", "out", "reset", "in", "panels"):
        assert reached.count(name) == 3, name
    unnamed = "[...document.querySelectorAll('input')].filter(i => !i.labels.length && !i.ariaLabel).length"
    assert page.evaluate(unnamed) == 0


@needs_browser
def test_table_is_sorted_from_the_keyboard(page: Browser) -> None:
    shown = "[...document.querySelectorAll('#scores tbody tr')].map(r => r.cells[5].dataset.value)"
    first = [float(value) for value in page.evaluate(shown) if value]
    page.evaluate("document.querySelectorAll('#scores thead button')[5].focus()")
    for direction in ("ascending", "descending"):
        page.press("Enter")
        assert page.evaluate("document.querySelectorAll('#scores th')[5].ariaSort") == direction
        assert page.evaluate(shown) == [*map(str, sorted(first, reverse=direction == "descending")), ""]  # blanks last
    page.evaluate("document.querySelectorAll('#scores thead button')[0].click()")
    assert page.evaluate("document.querySelectorAll('#scores th[aria-sort]').length") == 1
    assert page.evaluate("document.querySelector('#scores tbody a').textContent") == "a.h5"


@needs_browser
def test_voxels_have_their_shape(results: Path) -> None:
    with h5py.File(results / "reconstructions/a.h5", "a") as file:
        file.attrs["voxel_mm"] = (1.0, 2.0, 5.0)
    reported(results)
    with Browser() as browser:
        browser.look(1280, 1000)
        browser.open(results / "report.html")
        size = "(f => f.clientWidth / f.clientHeight)(at.querySelector('.frame'))"
        assert in_viewer(browser, size) == pytest.approx(20 * 2 / 24, rel=0.02)  # of 24 x 20 voxels
        assert in_viewer(browser, size, 1) == pytest.approx(20 / 24, rel=0.02)
        assert browser.complaints == []


@needs_browser
def test_paper_has_all_pictures_and_no_controls(page: Browser) -> None:
    page.send("Emulation.setEmulatedMedia", media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for("[...document.querySelectorAll('.viewer img')].every(i => i.complete && i.naturalWidth == 20)")
    assert page.evaluate("document.querySelector('details.terms').open")
    seen = "[...document.querySelectorAll('input, .buttons, .hint')].filter(e => e.checkVisibility()).length"
    assert page.evaluate(seen) == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    printed = base64.b64decode(page.send("Page.printToPDF", preferCSSPageSize=True)["data"])
    assert printed.startswith(b"%PDF")


@needs_browser
def test_arrow_keys_change_the_slice_of_all_panels(page: Browser) -> None:
    in_viewer(page, "at.querySelector('.panels').focus()")
    page.wait_for("document.querySelectorAll('#volume-0 img[src]').length == 5")
    for key, k in (("ArrowRight", 3), ("ArrowRight", 3), ("ArrowLeft", 2), ("Home", 0), ("ArrowUp", 1), ("End", 3)):
        page.press(key)
        assert in_viewer(page, "at.querySelector('.which').textContent").startswith(f"slice {k} (0 to 3), PSNR ")
        assert set(in_viewer(page, "[...at.querySelectorAll('img')].map(i => i.dataset.slice)")) == {str(k)}
        assert in_viewer(
            page,
            f"[...at.querySelectorAll('figure')].every(f => f.querySelector('img').src =="
            f" document.getElementById(`picture-0-{k}-${{f.classList[0]}}`).textContent)",
        )
    in_viewer(page, "at.querySelector('.slice').focus()")  # the slider, too
    page.press("ArrowLeft")
    assert in_viewer(page, "at.querySelector('.which').textContent").startswith("slice 2")


@needs_browser
def test_zoom_and_pan_are_linked(page: Browser) -> None:
    in_viewer(page, "at.scrollIntoView()")
    assert transform(page) == [1, 0, 0]
    in_viewer(page, "at.querySelector('.panels').focus()")
    page.press("+")
    zoomed = transform(page)
    size = in_viewer(page, "(f => [f.clientWidth, f.clientHeight])(at.querySelector('.frame'))")
    assert zoomed == pytest.approx([1.25, -size[0] / 8, -size[1] / 8], abs=0.5)
    assert transform(page, 1) == [1, 0, 0]  # another volume
    page.press("ArrowRight", SHIFT)
    assert transform(page) == pytest.approx([1.25, zoomed[1] - size[0] / 10, zoomed[2]], abs=0.5)
    page.press("0")
    assert transform(page) == [1, 0, 0]
    page.press("-")  # no further out than all
    assert transform(page) == [1, 0, 0]
    in_viewer(page, "at.querySelector('.in').click()")
    assert transform(page) == zoomed

    in_viewer(page, "document.activeElement.blur()")
    box = in_viewer(page, "(b => [b.x, b.y, b.width, b.height])(at.querySelector('.frame').getBoundingClientRect())")
    x, y = box[0] + box[2] / 2, box[1] + box[3] / 2
    page.mouse("mouseWheel", x, y, deltaX=0, deltaY=-0.1)  # scrolls the page
    assert transform(page) == zoomed
    page.mouse("mousePressed", x, y, button="left", buttons=1, clickCount=1)
    page.mouse("mouseMoved", x + 10, y + 5, button="left", buttons=1)
    page.mouse("mouseReleased", x + 10, y + 5, button="left", clickCount=1)
    assert transform(page) == pytest.approx([1.25, zoomed[1] + 10, zoomed[2] + 5], abs=0.5)
    page.mouse("mouseWheel", x, y, deltaX=0, deltaY=-100)  # after a click it zooms
    page.wait_for("document.querySelector('#volume-0 .zoom').textContent == '161 %'")
    assert transform(page)[0] == pytest.approx(1.25 * np.exp(0.25), abs=1e-4)


@needs_browser
def test_window_is_that_of_all_gray_panels(page: Browser) -> None:
    filters = "[...at.querySelectorAll('figure')].map(f => [f.classList[0], getComputedStyle(f.children[1]).filter])"
    gray = 'url("#window-0")'
    assert dict(in_viewer(page, filters)) == {
        "zero-filled": gray, "reconstruction": gray, "target": gray,
        "error": 'url("#colors-error")', "uncertainty": 'url("#colors-uncertainty")',
    }  # fmt: skip
    slope = (
        "[...document.querySelectorAll('#window-0 feComponentTransfer > *')].map(f => Number(f.getAttribute('slope')))"
    )
    in_viewer(page, "at.querySelector('.window').focus()")
    before = page.evaluate(slope)
    page.press("ArrowLeft")
    window = in_viewer(page, "at.querySelector('.window').valueAsNumber")
    assert page.evaluate(slope) == pytest.approx([100 / window] * 3) and before[0] < 100 / window
    in_viewer(page, "at.querySelector('.level').focus()")
    page.press("Home")
    shown = set(in_viewer(page, "[...at.querySelectorAll('.gray .range')].map(r => r.textContent)"))
    assert len(shown) == 1 and shown.pop().startswith("-")  # black is below 0 where the level is 0
    in_viewer(page, "at.querySelector('.reset').click()")
    assert page.evaluate(slope) == before


@needs_browser
def test_chart_opens_slices(page: Browser) -> None:
    page.evaluate("document.getElementById('chart').focus()")
    for key in ("ArrowDown", "ArrowRight"):
        page.press(key)
    told = page.evaluate("document.querySelector('#chart output').textContent")
    assert told.startswith(f"{HOSTILE_FILE}, slice 1: PSNR ")
    page.press("Enter")
    assert page.evaluate("document.activeElement == document.querySelector('#volume-1 .panels')")
    assert in_viewer(page, "at.querySelector('.which').textContent", 1).startswith("slice 1 ")
    page.evaluate("document.getElementById('chart').scrollIntoView()")
    place = page.evaluate(  # the last point of the first volume
        "(b => [b.x + b.width / 2, b.y + b.height / 2])"
        "(document.querySelector('#chart g').lastChild.getBoundingClientRect())"
    )
    page.mouse("mousePressed", *place, button="left", clickCount=1)
    page.mouse("mouseReleased", *place, button="left", clickCount=1)
    assert in_viewer(page, "at.querySelector('.which').textContent", 0).startswith("slice 3 ")


@needs_browser
def test_raw_json_is_copied_or_selected(page: Browser) -> None:
    page.evaluate("document.querySelector('.settings details').open = true")
    page.evaluate("document.getElementById('copy').click()")
    page.wait_for("document.getElementById('copied').textContent")
    assert json.loads(page.evaluate("document.getElementById('raw').textContent"))["method"] == "zero-filled"
    page.evaluate("document.getElementById('download').click()")
