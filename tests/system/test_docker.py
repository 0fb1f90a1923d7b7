"""What a site installs, as far as it can be checked without Docker: label, scripts, what is copied and started."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import stat
import subprocess
import tarfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mrihvae import __version__
from mrihvae.cli.main import parse
from mrihvae.cli.options import Serve
from mrihvae.recon.settings import METHODS
from mrihvae.server.request import MOST_SAMPLES, Request
from tests.support import REPOSITORY
from tests.support.openrecon_schema import SCHEMA

LABEL: dict[str, Any] = json.loads((REPOSITORY / "protocols/openrecon.json").read_text())
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()
PARAMETERS = {parameter["id"]: parameter for parameter in LABEL["parameters"]}
NOT_FOR_SCANNERS = {"pixels", "denoise"}  # they store 16 bits; and the label is of k-space, not of images


def commands() -> list[list[str]]:
    """Read what the images start."""
    return [json.loads(line) for line in re.findall(r"^CMD (.+)$", DOCKERFILE, re.MULTILINE)]


def test_label_follows_the_schema() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(LABEL, SCHEMA)


@pytest.mark.parametrize(
    "change",
    [
        lambda label: label["parameters"][0].update(id="mrihvae_method"),
        lambda label: label["parameters"][0].pop("default"),
        lambda label: label["general"].update(version="1"),
        lambda label: label["general"]["regulatory_information"].pop("udi"),
        lambda label: label["reconstruction"].update(emitter="images"),
        lambda label: label.update(parameters=[{**label["parameters"][1], "id": f"p{k}"} for k in range(15)]),
        lambda label: label.update(further={}),
    ],
)
def test_schema_refuses(change: Any) -> None:
    label = json.loads(json.dumps(LABEL))
    change(label)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(label, SCHEMA)


def test_parameters_are_those_of_the_server() -> None:
    assert set(PARAMETERS) == {field.name for field in fields(Request)} - NOT_FOR_SCANNERS
    for name, parameter in PARAMETERS.items():
        assert Request().updated({name: parameter["default"]}) is not None
    assert {value["id"] for value in PARAMETERS["method"]["values"]} == set(METHODS)
    samples = PARAMETERS["samples"]
    assert 2 <= samples["minimum"] <= samples["default"] <= samples["maximum"] <= MOST_SAMPLES
    assert samples["default"] == Request().samples


def test_label_is_of_this_version_and_port() -> None:
    about = LABEL["general"]
    assert about["version"] == __version__ == about["regulatory_information"]["production_identifier"]
    assert LABEL["reconstruction"]["port"] == Serve.port and f"EXPOSE {Serve.port}" in DOCKERFILE
    # reconstruction takes about three times the k-space that --max-memory admits
    (openrecon,) = (words for words in commands() if "--max-memory" in words)
    assert (
        3 * 1024 * float(openrecon[openrecon.index("--max-memory") + 1])
        < LABEL["reconstruction"]["min_required_memory"]
    )


def test_images_start_commands_that_exist() -> None:
    started = [words for words in commands() if words[0] == "mrihvae"]
    assert len(started) == 2
    for words in started:
        options = parse(words[1:])
        assert isinstance(options, Serve) and (options.host, options.port) == ("0.0.0.0", 9002)
        assert options.allow_remote


def test_what_is_copied_is_there_and_not_ignored() -> None:
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE):
        for source in line.split():
            assert (REPOSITORY / source).exists() and f"!{source.partition('/')[0]}" in ignored


def test_users() -> None:
    stages = re.split(r"^FROM \S+ AS ", DOCKERFILE, flags=re.MULTILINE)[1:]
    users = {stage.split()[0]: re.findall(r"^USER (\S+)$", stage, re.MULTILINE) for stage in stages}
    assert users == {"base": [], "openrecon": ["root"], "fire": [], "server": ["mrihvae"]}


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program `docker` that only writes down how it was called, a line each word."""
    program, calls = tmp_path / "bin" / "docker", tmp_path / "calls"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> "{calls}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return calls


def test_build_for_openrecon(docker: Path, tmp_path: Path) -> None:
    script = REPOSITORY / "docker/build_openrecon.sh"
    subprocess.run([script, tmp_path, "--build-arg", "TORCH_INDEX=there"], check=True, capture_output=True)
    words = docker.read_text().splitlines()
    tag = words[words.index("--tag") + 1]
    assert re.fullmatch(r"openrecon_[a-z0-9]+_[a-z0-9]+:v\d+\.\d+\.\d+", tag)
    assert tag == f"openrecon_{LABEL['general']['vendor']}_{LABEL['general']['id']}:v{__version__}"
    (label,) = (word.removeprefix("LABEL=") for word in words if word.startswith("LABEL="))
    assert json.loads(base64.b64decode(label, validate=True)) == LABEL
    assert "TORCH_INDEX=there" in words and words[-4:-1] == [
        "save", "--output", str(tmp_path / f"OpenRecon_mrihvae_mrihvae_V{__version__}.tar")
    ]  # fmt: skip


@pytest.mark.skipif(shutil.which("mke2fs") is None or shutil.which("debugfs") is None, reason="no e2fsprogs")
def test_chroot_image_holds_the_export(tmp_path: Path) -> None:
    start = REPOSITORY / "docker/start_fire.sh"
    with tarfile.open(tmp_path / "export.tar", "w") as tar:
        tar.add(start, "opt/mrihvae/start_fire.sh")
    image = tmp_path / "mrihvae.img"
    words = [REPOSITORY / "docker/build_fire.sh", image, tmp_path / "export.tar"]
    subprocess.run(words, check=True, capture_output=True, env={**os.environ, "FREE": "8"})
    shown = ["debugfs", "-R", "cat /opt/mrihvae/start_fire.sh", image]
    assert subprocess.run(shown, check=True, capture_output=True, text=True).stdout == start.read_text()


@pytest.mark.parametrize("name", ["build_openrecon", "build_fire", "start_fire"])
def test_scripts_can_be_started(name: str) -> None:
    script = REPOSITORY / "docker" / f"{name}.sh"
    assert script.stat().st_mode & stat.S_IXUSR
    subprocess.run(["sh", "-n", script], check=True)


def test_chroot_starts_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "mrihvae"
    program.write_text('#!/bin/sh\necho "$@" in "$TMPDIR"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    script = (REPOSITORY / "docker/start_fire.sh").read_text().replace("/usr/local/bin:/usr/bin:/bin:", "")
    subprocess.run(["sh", "-c", f"{script}\nwait", "start", tmp_path / "log"], check=True)
    words = (tmp_path / "log").read_text().split()
    assert words[-2:] == ["in", "/tmp/share"] and isinstance(parse(words[:-2]), Serve)
