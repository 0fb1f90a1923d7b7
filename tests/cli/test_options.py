"""The options of every command: those of earlier versions with their defaults, in groups, and what they accept."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import types
import typing
from pathlib import Path
from typing import Any

import pytest
from cyclopts.argument import Argument

from mrihvae.cli.main import COMMANDS, main, make_app, parse
from mrihvae.cli.sections import TITLES, USUAL
from tests.support import REPOSITORY

# as argparse had them: names or metavar, attribute, default, choices, whether required, number of values
EARLIER = json.loads(Path(__file__).with_name("options.json").read_text())
WORKERS = {"log_json", "max_memory", "scheduler", "threads_per_worker", "worker_memory", "workers"}
# what came later, by command: the names of attributes; of a new command all of them
LATER: dict[str, set[str]] = {
    "adapt": {
        "scans",
        "output",
        "resume",
        "key",
        "uncentered",
        "checkpoint",
        "minutes",
        "steps",
        "slices",
        "seed",
        "checkpoint_seconds",
        "threads",
        "device",
        "quiet",
    },
    "calibrate": {
        "acceleration",
        "checkpoint",
        "device",
        "input",
        "mask_type",
        "output",
        "overwrite",
        "quiet",
        "samples",
        "work",
    },
    "completion": {"shell"},
    "convert": {"contrast", "key", "log_json", "max_memory", "overwrite", "repetition", "resume", "uncentered"},
    "doctor": {"json"},
    "info": {"files", "json", "key", "max_memory", "uncentered"},
    "reconstruct": {"key", "overwrite", "quiet", "seed", "tv_blend", "uncentered", "verbose", *WORKERS},
    "restore": {"overwrite", "quiet"},
    "evaluate": {"quiet"},
    "report": {"quiet"},
    "run": {"key", "overwrite", "quiet", "uncentered", "verbose", *WORKERS},
    "serve": {
        "allow_remote",
        "first_timeout",
        "idle_timeout",
        "log_json",
        "max_total_memory",
        "max_waiting",
        "scan_timeout",
    },
    "filter": {"input", "output", "noise"},
    "send": {
        "input",
        "server",
        "output",
        "group",
        "key",
        "uncentered",
        "overwrite",
        "quiet",
        "config",
        "parameter",
        "timeout",
    },
    "simulate": {"quiet"},
    "train": {"accumulate", "quiet"},
}
SHORT = {"--output": "-o"}  # of every command; names that came later
OUTPUT = ["--output", "out"]


def arguments_of(command: str) -> dict[str, Argument]:
    """Return what cyclopts made of a command's options, by the names of their attributes."""
    return {
        one.field_info.name: one for one in make_app()[command].assemble_argument_collection(default_parameter=USUAL)
    }


def members(hint: Any) -> set[Any]:
    """Return the types of a union, or a type by itself."""
    return set(typing.get_args(hint)) if isinstance(hint, types.UnionType) else {hint}


def values_of(argument: Argument) -> int | str:
    """Say how many values an option takes, as argparse does."""
    if bool in members(argument.hint):
        return "flag"
    if any(typing.get_origin(one) is tuple and typing.get_args(one)[-1] is ... for one in members(argument.hint)):
        return "+"
    count, _ = argument.token_count()
    return "?" if argument.index is not None and not argument.required and count == 1 else count


def test_commands_are_those_of_earlier_versions() -> None:
    assert [command for command in COMMANDS if command in EARLIER] == list(EARLIER)
    assert set(COMMANDS) == {*EARLIER, *LATER}


@pytest.mark.parametrize("command", EARLIER)
def test_options_are_those_of_earlier_versions(command: str) -> None:
    found = arguments_of(command)
    assert set(found) == {option["attribute"] for option in EARLIER[command]} | LATER.get(command, set())
    for option in EARLIER[command]:
        argument = found[option["attribute"]]
        default = None if argument.required else argument.field_info.default
        if default is None and option["default"] is not None:  # None tells that it is not given
            assert argument.parameter.show_default == str(option["default"]), option
            default = option["default"]
        plain = default if isinstance(default, (int, float, tuple, type(None))) else str(default)
        assert set(argument.names) == {*option["names"], *filter(None, map(SHORT.get, option["names"]))}, option
        assert (list(plain) or None if isinstance(plain, tuple) else plain) == option["default"], option
        assert argument.required == option["required"], option
        assert list(map(str, argument.get_choices() or ())) == list(map(str, option["choices"] or ())), option
        assert values_of(argument) == option["values"], option


@pytest.mark.parametrize("command", COMMANDS)
def test_options_that_are_settings_have_their_types(command: str) -> None:
    options = COMMANDS[command]
    hints = typing.get_type_hints(options)
    for field in dataclasses.fields(options):
        if (setting := field.metadata.get("setting")) is not None:
            cls = setting[0] if isinstance(setting[0], type) else type(setting[0])
            known = members(typing.get_type_hints(cls)[setting[1]])
            assert members(hints[field.name]) <= known | {type(None)}, field.name


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_grouped_and_plain(command: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "FORCE_COLOR")}
    words = [sys.executable, "-m", "mrihvae", command, "--help"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=REPOSITORY, check=True, env=environment)
    shown = done.stdout
    assert shown.isascii() and "\x1b" not in shown and "None" not in shown and "False" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    titles = [line.strip() for line in shown.splitlines() if line.strip() in TITLES]
    groups = {argument.parameter.group[0].name for argument in arguments_of(command).values()}
    assert titles == [title for title in TITLES if title in groups] and "Parameters" not in shown
    assert f"mrihvae {command}" in shown[shown.index("Example") :]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_default_says_something(command: str) -> None:
    for argument in arguments_of(command).values():
        default = None if argument.required else argument.field_info.default
        if argument.index is None and not argument.required and default is None and bool not in members(argument.hint):
            assert isinstance(argument.parameter.show_default, str), argument.names


def test_help_loads_no_torch() -> None:
    """And nothing else that takes its time."""
    code = (
        "import sys; from mrihvae.cli.main import COMMANDS, main; "
        "[main([name, '--help']) for name in COMMANDS]; "
        "print(*{'torch', 'scipy', 'h5py', 'matplotlib', 'fastmri'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stderr == "\n"


def test_examples_are_commands() -> None:
    for name, command in COMMANDS.items():
        text = (command.__doc__ or "").replace("\\\n", " ")
        calls = [line.split() for line in text.partition("Example")[2].splitlines() if line.strip().startswith("mrih")]
        assert len(calls) >= 2
        for call in calls:
            words = call[2 : call.index(">")] if ">" in call else call[2:]
            words = words[: words.index("<")] if "<" in words else words
            assert call[1] == name and isinstance(parse([name, *words]), command)


@pytest.mark.parametrize(
    ("words", "attribute", "value"),
    [
        (["--maps", "espirit"], "maps", "espirit"),
        (["--maps=espirit"], "maps", "espirit"),
        (["--whiten"], "whiten", True),
        (["--no-whiten"], "whiten", False),
        ([], "whiten", None),
        (["--sweeps", "-1"], "sweeps", -1),
        (["--strength=-1e-3"], "strength", -1e-3),
        (["--strength", "1", "--strength", "2"], "strength", 2.0),
        (["--state_dict_file", "w"], "checkpoint", "w"),
        (["--state-dict-file=w"], "checkpoint", "w"),
        (["--data_path", "b"], "data_path", Path("b")),
        (["--output_path", "b"], "output", Path("b")),
        (["--resume"], "resume", True),
        ([], "input", Path("a.h5")),
    ],
)
def test_values_of_reconstruct(words: list[str], attribute: str, value: Any) -> None:
    assert getattr(parse(["reconstruct", "a.h5", *OUTPUT, *words]), attribute) == value
    assert getattr(parse(["reconstruct", *OUTPUT, *words, "a.h5"]), attribute) == value


def test_several_values() -> None:
    words = ["restore", "a.png", "--task", "deblur", *OUTPUT]
    assert getattr(parse([*words, "--kernel-width", "1", "2", "--tau=0.5"]), "kernel_width", None) == (1.0, 2.0)
    assert getattr(parse([*words, "--tau", "1", "1", "--tau=0.5", "0.4"]), "tau", None) == (0.5, 0.4)
    assert getattr(parse(["sample", *OUTPUT, "--size", "64", "32"]), "size", None) == (64, 32)
    train: Any = parse(["train", *OUTPUT, "--validation", "v", "w", "--data", "d", "a", "b=2"])
    assert (train.data, train.root, train.validation) == (("a", "b=2"), Path("d"), ("v", "w"))
    train = parse(["train", "a=3", "--validation", "v", *OUTPUT])
    assert train.data == ("a=3",) and train.output == Path("out") and train.stream is None


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["recon"], {"reconstruct"}),
        (["reconstruct", "--acc"], {"--acceleration"}),
        (["reconstruct", "--method", "amo"], {"amortized"}),
    ],
)
def test_bash_completes(words: list[str], found: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    line = " ".join(f"'{word}'" for word in ["mrihvae", *words])
    script = f"{capsys.readouterr().out}\nCOMP_WORDS=({line}); COMP_CWORD={len(words)}\n"
    script += "_mrihvae mrihvae\nprintf '%s\\n' \"${COMPREPLY[@]}\""
    done = subprocess.run(["bash", "--norc"], input=script, capture_output=True, text=True, check=True)
    assert {word.strip() for word in done.stdout.split()} == found
