"""Tests mirror the package: a module has a test file of its name in the room of its name, or a reason why not."""

from __future__ import annotations

from tests.support import REPOSITORY

WITHOUT = {
    "__main__": "one call of the command, with which tests/cli/test_main.py starts it",
    "cli/convert_content": "tests/cli/test_convert.py, test_dicom.py and test_round_trips.py",
    **dict.fromkeys(
        [
            f"cli/options/{name}"
            for name in (
                "common",
                "completion",
                "doctor",
                "files",
                "images",
                "info",
                "reconstruct",
                "scanner",
                "training",
            )
        ],
        "tests/cli/test_options.py",
    ),
    "cli/doctor_checks": "tests/cli/test_doctor.py",
    "cli/info_content": "tests/cli/test_info.py",
    "cli/reconstruction_images": "tests/cli/test_dicom.py",
    "cli/protocol_volumes": "tests/cli/test_run.py",
    "cli/run_record": "tests/cli/test_run.py",
    "cli/tasks": "containers without a method",
    "cli/volume_tasks": "tests/cli/test_dask_engine.py",
    "cli/report": "tests/evaluation/test_report.py reads the pages that the command writes",
    "cli/train_checks": "tests/cli/test_train.py",
    "evaluation/report/data": "tests/evaluation/test_report_page.py",
    "evaluation/report/page": "tests/evaluation/test_report_page.py",
    "evaluation/report/pictures": "tests/evaluation/test_report_page.py",
    "evaluation/report/record": "tests/evaluation/test_report.py",
    "evaluation/report/volumes": "tests/evaluation/test_report.py",
    "coils/checks": "its refusals are those of tests/coils/test_prewhitening.py and test_compression.py",
    "data/calibration": "a container without a method",
    "cli/adapt_scans": "tests/cli/test_adapt.py",
    "cli/completion": "tests/cli/test_options.py",
    "cli/train_output": "tests/cli/test_train.py",
    "evaluation/report/terms": "tests/evaluation/test_report.py",
    **dict.fromkeys(
        [f"evaluation/{name}" for name in ("bounds", "calibration_scans", "judgment")], "test_calibration.py"
    ),
    "inference/evidence": "tests/inference/test_error_map.py",
    "io/mrd/v2_input": "tests/io/mrd/test_v2.py",
    "recon/reconstruction": "a container without a method",
    "recon/uncertainty": "tests/system/test_uncertainty.py",
    "training/adapt_settings": "tests/training/test_adaptation.py",
    "io/dicom_header": "tests/io/test_dicom.py",
    "io/like": "tests/cli/test_dicom.py",
    **dict.fromkeys(["io/mrd/image_meta", "io/mrd/image_place"], "tests/io/mrd/test_stored_images.py"),
    "io/volumes": "tests/cli/test_round_trips.py",
    **dict.fromkeys(
        [f"io/twix/{name}" for name in ("encoding", "extra", "files", "measurements", "protocol", "refusals")],
        "tests/io/test_twix.py, by whole files",
    ),
    "io/write_dicom": "tests/io/test_dicom.py",
    "inference/preparation": "tests/inference/test_reconstruct.py",
    "inference/problem": "tests/inference/test_reconstruct.py",
    "io/checks": "its refusals are those of every reader, in tests/io/test_kspace.py",
    **dict.fromkeys([f"server/{name}" for name in ("lobby", "receiver", "sender")], "tests/server/test_tcp.py"),
    "recon/catalog": "tests/recon/test_volumes.py",
    "recon/methods": "tests/recon/test_volumes.py",
    "recon/normalization": "tests/data/test_inspection.py",
    "recon/settings": "tests/protocols/test_evaluation.py refuses what it refuses",
    "training/batches": "tests/training/test_loop.py",
}
MODULES = {
    str(path.relative_to(REPOSITORY / "mrihvae").with_suffix(""))
    for path in (REPOSITORY / "mrihvae").rglob("*.py")
    if path.name != "__init__.py"
}


def has_test(module: str) -> bool:
    room, _, name = module.rpartition("/")
    return (REPOSITORY / "tests" / room / f"test_{name}.py").is_file()


def test_every_module_has_a_test_or_a_reason() -> None:
    untested = {module for module in MODULES if not has_test(module)}
    assert untested - WITHOUT.keys() == set(), "add tests/ROOM/test_NAME.py, or say in WITHOUT why there is none"


def test_reasons_are_of_modules_that_need_one() -> None:
    assert WITHOUT.keys() - MODULES == set(), "there is no such module any more"
    assert {module for module in WITHOUT if has_test(module)} == set(), "they have a test now"


def test_nothing_puts_folders_on_the_path_of_imports() -> None:
    name = "sys." + "path"
    files = [path for folder in ("tests", "benchmarks", "mrihvae") for path in (REPOSITORY / folder).rglob("*.py")]
    assert len(files) > 200 and [str(path) for path in files if name in path.read_text()] == []
