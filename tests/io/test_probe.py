"""The worker's program reads all that its readers may read, and no more than the limit."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from scipy.io import savemat

from mrihvae.errors import InputError
from mrihvae.io import probe
from mrihvae.io.contained import check_in_worker
from mrihvae.utils.memory import MAX_EXPANSION, SMALL
from tests.support.attacks import write_claim, write_external, write_fastmri, write_small_mrd
from tests.support.files import write_scan


def test_it_answers_every_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    paths = [write_scan(tmp_path / "a.h5"), tmp_path / "not_there.h5", write_small_mrd(tmp_path / "b.h5")]
    lines = "".join(json.dumps([str(path), 2**30, 60.0, 60.0]) + "\n" for path in paths)
    monkeypatch.setattr(probe.sys, "stdin", io.StringIO(lines))
    monkeypatch.setattr(probe, "limit_memory", lambda size: None)
    monkeypatch.setattr(probe, "limit_time", lambda seconds, computing: None)
    probe.main()
    assert capsys.readouterr().out.split() == ["ready", *3 * ['["read"]']]


def test_all_of_a_file_is_read_but_for_what_others_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, int] = {}
    whole = probe.read_dataset

    def read(dataset: h5py.Dataset, most: int, memory: int) -> int:
        found[dataset.name] = whole(dataset, most, memory)
        return found[dataset.name]

    monkeypatch.setattr(probe, "read_dataset", read)
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(4096))
    path = write_external(tmp_path / "a.h5", secret)
    with h5py.File(path, "a") as file:
        file["group/rows"] = np.zeros((5, 7), np.float32)
        file["scalar"], file["empty"] = 1.0, h5py.Empty("f4")
        file.attrs["name"] = "text"
    limit = resource.getrlimit(resource.RLIMIT_AS)
    probe.read_file(str(path), 2**30, [])
    assert resource.getrlimit(resource.RLIMIT_AS) == limit
    assert found == {"/mask": 64, "/group/rows": 140, "/scalar": 8, "/empty": found["/empty"]}


def test_large_datasets_are_read_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "BLOCK_BYTES", 4096)
    path = write_fastmri(tmp_path / "a.h5", rows=np.zeros((64, 1024), np.float32))
    with h5py.File(path) as file:
        assert probe.read_dataset(file["rows"], 2**30, 2**30) == 64 * 4096
        assert probe.read_dataset(file["rows"], 8192, 2**30) == 3 * 4096  # and the last
        monkeypatch.setattr(probe, "READ_BYTES", 1024)
        assert probe.read_dataset(file["rows"], 2**30, 2**30) == 1024  # a number of a row
    claims = write_claim(tmp_path / "b.h5", (100, 4000, 4000), (1, 1000, 1000), compression="gzip")
    with h5py.File(claims) as file:
        assert probe.read_dataset(file["kspace"], 2**30, 2**40) == 0
        assert probe.read_dataset(file["kspace"], 2**30, 1000) == 0


def damage_header(path: Path, name: str) -> None:
    """Give an object of an HDF5 file a header of no known version."""
    with h5py.File(path) as file:
        place = h5py.h5o.get_info(file[name].id).addr
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)


def test_objects_behind_a_damaged_one_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for name in ("a", "b/c", "b/d", "e"):
            file[name] = 1.0
        file["again"], file["b/up"], file["soft"] = file["a"], file["/"], h5py.SoftLink("/b/c")
    with h5py.File(path) as file:
        assert [item.name for item in probe.objects_of(file)] == ["/", "/a", "/b", "/b/c", "/b/d", "/e"]
    damage_header(path, "b/c")
    with h5py.File(path) as file:
        with pytest.raises(RuntimeError):
            file.visit(lambda name: None)
        assert [item.name for item in probe.objects_of(file)] == ["/", "/a", "/b", "/b/d", "/e"]


def test_groups_that_cannot_be_listed_are_asked_for_the_usual_names() -> None:
    class Damaged:
        def __iter__(self) -> None:
            raise RuntimeError("wrong B-tree signature")

    assert "kspace" in probe.members_of(Damaged()) and probe.keys_of(Damaged()) == []  # type: ignore[arg-type]


def test_matlab_files_of_version_5_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, loaded = tmp_path / "a.mat", list[str]()
    savemat(path, {"kspace": np.ones((2, 3))})
    monkeypatch.setattr(scipy.io, "loadmat", loaded.append)
    probe.read_file(str(path), 2**30, [])
    assert loaded == [str(path)]


def test_constants_are_those_of_readers() -> None:
    assert (probe.MAX_EXPANSION, probe.SMALL) == (MAX_EXPANSION, SMALL)


def test_attributes_that_claim_more_than_the_file_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["kspace"] = np.ones((2, 3))
        file.attrs["good"] = "letters"
        file["kspace"].attrs["bad"] = "ABCDEFG"
    data = path.read_bytes()
    place = data.index(b"bad\0")
    start = data.index((7).to_bytes(4, "little"), place + 4)
    path.write_bytes(data[:start] + (2**31).to_bytes(4, "little") + data[start + 4 :])
    with pytest.raises(InputError, match=f"^{path}: its attribute 'bad' cannot be read: it is damaged"):
        check_in_worker(path)


def test_a_worker_whose_owner_is_gone_ends_by_itself(tmp_path: Path) -> None:
    """A read that hangs ends the process, also where nobody is left to kill it."""
    pipe = tmp_path / "scan.h5"
    os.mkfifo(pipe)  # opening it waits for ever
    worker = subprocess.Popen(
        [sys.executable, "-P", probe.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert worker.stdin is not None
    worker.stdin.write(json.dumps([str(pipe), 2**30, 0.5 - probe.GRACE, 60.0]) + "\n")
    worker.stdin.flush()
    assert worker.wait(timeout=60) == -signal.SIGALRM
    worker.communicate()


def test_a_worker_that_computes_for_too_long_ends(tmp_path: Path) -> None:
    """As the HDF5 library does on some damaged files, in which it never comes to an end."""
    program = "import runpy, sys; runpy.run_path(sys.argv[1])['limit_time'](600, 0.2)\nwhile True: pass"
    ended = subprocess.run([sys.executable, "-c", program, probe.__file__], timeout=60)
    assert ended.returncode == -signal.SIGPROF
