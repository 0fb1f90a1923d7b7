"""Whether scans look like those that a protocol is for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from mrihvae.cli.protocol_data import KNOWN, ScanEntry, field_strength, unlike_protocol
from mrihvae.protocols.evaluation import list_protocols
from tests.support.files import write_h5

KNEE = ScanEntry(Path("a.h5"), "a.h5", "CORPD_FBK", (35, 15, 640, 368), False, True, 2.89)
ABOUT = "fastmri_knee_multicoil_4x fastMRI knee, multi-coil, validation split"
LEADING = "does not look like the protocol's data, fastMRI knee: "
ENDING = ". Check --data and the protocol"


def test_shape_and_coils() -> None:
    assert KNEE.shape == (640, 368) and KNEE.coils == 15
    assert dataclasses.replace(KNEE, kspace=(35, 640, 368)).coils is None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"field": None}, ""),
        ({"kspace": (35, 640, 400)}, ""),
        ({"acquisition": "AXT2"}, "its acquisition is AXT2, not CORPD_FBK or CORPDFS_FBK"),
        ({"kspace": (4, 15, 128, 126)}, "its k-space is 128 high, not 640"),
        ({"kspace": (4, 8, 640, 368)}, "it has 8 coils, not 15"),
        ({"field": 0.055}, "its field is 0.055 T, not 1.4 to 3.1"),
        (
            {"acquisition": "ULF_FSE", "kspace": (4, 128, 126), "field": 0.055},
            "its acquisition is ULF_FSE, not CORPD_FBK or CORPDFS_FBK; its k-space is 128 high, not 640; its field is "
            "0.055 T, not 1.4 to 3.1",
        ),
    ],
)
def test_what_differs_is_said(changes: dict[str, Any], why: str) -> None:
    volume = dataclasses.replace(KNEE, **changes)
    assert unlike_protocol(ABOUT, volume) == (f"{LEADING}{why}{ENDING}" if why else "")
    assert unlike_protocol("mine, of something else", volume) == ""


def test_shipped_protocols_of_public_data_are_known() -> None:
    unknown = [
        name
        for name, description in list_protocols()[0].items()
        if not any(data.lower() in f"{name} {description}".lower() for data in KNOWN)
    ]
    assert unknown == ["usc_multicoil_4x", "usc_multicoil_8x"]  # which name their acquisition


def test_raw_scans_look_like_their_protocols(data_dir: Path) -> None:
    file = data_dir / "ulf_singlecoil/val/patient_6A_GRE.h5"
    volume = ScanEntry(file, file.name, "ULF_GRE", (4, 196, 128), False, True, field_strength(file))
    assert volume.field == 0.055
    assert unlike_protocol(list_protocols()[0]["ulf_singlecoil_4x"], volume) == ""
    assert LEADING in unlike_protocol(ABOUT, volume)


def test_field_of_a_header(tmp_path: Path) -> None:
    system = "<a:systemFieldStrength_T> 1.494 </a:systemFieldStrength_T>"
    assert field_strength(write_h5(tmp_path / "a.h5", ismrmrd_header=f"<ismrmrdHeader>{system}")) == 1.494
    assert field_strength(write_h5(tmp_path / "b.h5", ismrmrd_header="<ismrmrdHeader/>")) is None
    assert field_strength(write_h5(tmp_path / "c.h5")) is None
    assert field_strength(tmp_path / "nowhere.h5") is None
