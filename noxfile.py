"""Sessions of checks, each in its own environment: `nox -s lint`; `nox --no-venv -s lint` takes the active one."""

from __future__ import annotations

import re
import shutil
import tarfile
import tomllib
from pathlib import Path

import nox

nox.needs_version = ">=2024.10"
nox.options.default_venv_backend = "venv"
nox.options.sessions = ["lint", "types", "docs"]

PYTHONS = ("3.11", "3.12", "3.13")
# The first releases that have wheels for a newer Python, where these are later than the bounds of pyproject.toml.
FIRST_WHEELS: dict[str, dict[str, str]] = {
    "3.11": {},
    "3.12": {"scipy": "1.11.2", "pillow": "10.1"},
    "3.13": {
        "numpy": "2.1",
        "scipy": "1.14.1",
        "h5py": "3.12.1",
        "pillow": "11.0",
        "matplotlib": "3.9.2",
        "pydantic": "2.8",
        "safetensors": "0.4.4",
    },
}
QUICK = ("tests/physics", "tests/model", "tests/io", "tests/cli")  # of `tests`, without other arguments: minutes
IN_SDIST = (  # what reads files beside the package
    "tests/system/test_package.py",
    "tests/system/test_docker.py",
    "tests/benchmarks/test_all.py",
    "tests/cli/test_main.py",
)
COVERED = ("physics", "model", "io", "coils", "data")  # rooms whose own tests are measured


def _install(session: nox.Session, *packages: str) -> None:
    """Install packages, unless the session runs in the active environment, which has them."""
    if session.virtualenv.venv_backend != "none":
        session.install(*packages)


def _lowest(python: str) -> list[str]:
    """List the lowest versions that pyproject.toml permits: NAME==VERSION."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    found = {}
    for requirement in [*project["dependencies"], *(one for extra in ("all", "test") for one in _flat(extras, extra))]:
        if bound := re.match(r"([\w-]+)(?:>=|==)([\w.]+)", requirement):
            found[bound[1]] = bound[2]
    return [f"{name}=={version}" for name, version in (found | FIRST_WHEELS[python]).items()]


def _flat(extras: dict[str, list[str]], extra: str) -> list[str]:
    """List the requirements of an extra, and of the extras of the package that it names."""
    listed = []
    for requirement in extras[extra]:
        own = re.fullmatch(r"mrihvae\[([\w,]+)\]", requirement)
        listed += [one for name in own[1].split(",") for one in _flat(extras, name)] if own else [requirement]
    return listed


@nox.session
def lint(session: nox.Session) -> None:
    """Style, spelling, and who imports whom."""
    _install(session, "-e", ".[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("typos", "--sort")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Types."""
    _install(session, "-e", ".[dev]")
    session.run("mypy")


@nox.session(python=PYTHONS)
@nox.parametrize("dependencies", ["lowest", "newest"])
def tests(session: nox.Session, dependencies: str) -> None:
    """Run tests with the lowest, or the newest, versions that pyproject.toml permits; arguments are pytest's."""
    if dependencies == "lowest":
        constraints = Path(session.create_tmp()) / "lowest.txt"
        constraints.write_text("\n".join(_lowest(str(session.python))))
        _install(session, ".[test]", "--only-binary", ",".join(_compiled()), "-c", str(constraints))
    else:
        _install(session, ".[test]", "--upgrade", "--upgrade-strategy", "eager")
    session.run("pytest", *(session.posargs or QUICK))


def _compiled() -> list[str]:
    """List the packages that must not be compiled, since that takes libraries."""
    return ["torch", "numpy", "scipy", "h5py", "pillow", "matplotlib", "safetensors", "pydantic-core", "cryptography"]


@nox.session
def deepinv(session: nox.Session) -> None:
    """Run the tests beside deepinv, which the extra `test` does not bring."""
    _install(session, ".[test,deepinv]")
    session.run("pytest", "-n", "0", "tests/test_deepinv.py", *session.posargs)


@nox.session
def newest_torch(session: nox.Session) -> None:
    """Run tests with the newest torch, within the bounds or beyond them; arguments are pytest's."""
    _install(session, ".[test]")
    session.install("--upgrade", "torch", "torchvision")
    session.run("python", "-c", "import torch; print('torch', torch.__version__)")
    session.run("pytest", *(session.posargs or QUICK))


@nox.session
def coverage(session: nox.Session) -> None:
    """Measure which lines and branches of some rooms their own tests reach; pyproject.toml has the floor."""
    _install(session, "-e", ".[dev]")
    measured = [f"--cov=mrihvae.{room}" for room in COVERED]
    session.run("pytest", *(f"tests/{room}" for room in COVERED), *measured, "--cov-report=term", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site, without running the gallery, which the tests do; the argument is its folder."""
    _install(session, "-e", ".[docs]")
    folder = session.posargs[0] if session.posargs else "docs/_build/html"
    session.run("python", "-m", "sphinx", "-q", "-W", "-b", "html", "-D", "plot_gallery=0", "docs", folder)


@nox.session
def build(session: nox.Session) -> None:
    """Build wheel and sdist, check them, run the demo from the wheel alone and some tests from the sdist alone."""
    session.install("build", "twine")
    folder = Path(session.create_tmp()).resolve()
    for old in folder.glob("mrihvae-*"):
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    session.run("python", "-m", "build", "--outdir", str(folder))
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    session.run("twine", "check", "--strict", str(wheel), str(sdist))
    session.install(str(wheel))
    session.chdir(folder)
    session.run("mrihvae", "doctor")
    session.run("mrihvae", "demo", "--output", str(folder / "demo"))
    session.install(f"{wheel}[test]")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    session.chdir(folder / sdist.name.removesuffix(".tar.gz"))
    session.run("pytest", "-n", "0", "--collect-only", "-qq")  # every test finds its helpers
    session.run("pytest", *(session.posargs or IN_SDIST))


@nox.session
def asv(session: nox.Session) -> None:
    """Time import and reconstruction of this commit, in this environment; arguments are those of `asv run`."""
    _install(session, "-e", ".", "asv")
    session.chdir("benchmarks/asv")
    session.run("asv", "machine", "--yes")
    session.run("asv", "run", "--python=same", "--show-stderr", *session.posargs)
