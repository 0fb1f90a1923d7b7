"""`mrihvae send`: send a scan to a server, and store the images that come back."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from mrihvae.cli import options
from mrihvae.cli.common import check_output, next_command, reading_of
from mrihvae.cli.console import progress, show_error
from mrihvae.errors import InputError
from mrihvae.io.mrd.extra import require_ismrmrd
from mrihvae.utils.memory import GIB, LIMIT_VARIABLE, limit
from mrihvae.utils.text import printable

if TYPE_CHECKING:
    from mrihvae.io.mrd.messages import Message, ReceivedImage
    from mrihvae.io.mrd.write_messages import MessageStream

IMAGES = "images.mrd"
FAILURES = ("ERROR", "CRITICAL")  # levels with which texts of servers begin
MOST_TEXTS = 10_000  # of an answer


def run(arguments: options.Send) -> int:
    """Send the scan; the status is 1 if the server reported an error, went away, or sent no image."""
    require_ismrmrd("mrihvae send")
    from mrihvae.io.mrd.write_image_files import write_received_images
    from mrihvae.io.mrd.write_messages import client_messages
    from mrihvae.server.client import ServerLostError, exchange_messages, parse_address

    address, parameters = parse_address(arguments.server), parameter_text(arguments.parameter)
    if not 0 < arguments.timeout < float("inf"):
        raise InputError(f"--timeout {arguments.timeout}: must be a number of seconds above 0")
    path = arguments.output / IMAGES
    if path.exists() and not arguments.overwrite:
        raise InputError(f"{path}: is already there; choose another --output, or add --overwrite to replace it")
    check_output(arguments.output)
    stream = open_stream(arguments.input, arguments.group, reading_of(arguments))
    messages = _with_first(client_messages(stream, arguments.config, parameters))
    answers = _Answers(str(address))
    with progress(title="sending", unit="message", total=stream.count) as bar:
        try:
            for answer in exchange_messages(address, messages, arguments.timeout, bar.update):
                answers.take(answer)
        except ServerLostError as error:
            answers.errors.append(str(error))
    images, errors = answers.images, answers.errors
    if images:
        for name, count in write_received_images(path, images, stream.xml).items():
            print(f"{path}: {name}, {count} {'image' if count == 1 else 'images'}")
        print(next_command("convert", str(path), str(arguments.output / "dicom"), "--format", "dcm"), file=sys.stderr)
    elif not errors:
        errors.append(f"{address}: sent no image; see the server's log")
    for text in errors:
        show_error(text)
    return 1 if errors else 0


def open_stream(path: Path, group: str | None, reading: Mapping[str, Any]) -> MessageStream:
    """Read a file with k-space, or MRD images, as messages: ISMRMRD as it is stored, other formats line by line.

    Parameters
    ----------
    group : of an ISMRMRD file, or the name of one of the scans of others; may be left out where there is but one
    reading : how k-space is to be read, for `mrihvae.open_kspace`; lines are made of it then, of ISMRMRD, too

    Raises
    ------
    InputError
        As `mrihvae.io.kspace.open_kspace`, no such group, or several where none is given.
    """
    from mrihvae.io.kspace import open_kspace
    from mrihvae.io.mrd.scan_lines import lines_of_scan
    from mrihvae.io.mrd.stored_messages import list_groups, read_messages_of

    if not reading and (groups := list_groups(path)):
        return read_messages_of(path, _choose(path, groups, group))
    scans = {scan.name: scan for scan in open_kspace(path, lazy=True, **reading)}
    return lines_of_scan(scans[_choose(path, list(scans), group)])


def parameter_text(pairs: tuple[str, ...] | None) -> str:
    """Write NAME=VALUE pairs as JSON, as OpenRecon's parameters come; values are numbers or true and false where they
    can be. Empty for none.

    Raises
    ------
    InputError
        A pair without a name or a value.
    """
    values: dict[str, Any] = {}
    for pair in pairs or ():
        name, separator, value = pair.partition("=")
        if not name or not separator:
            raise InputError(f"--parameter '{pair}': is not NAME=VALUE, such as uncertainty=true")
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
    return json.dumps({"parameters": values}) if values else ""


def _choose(path: Path, names: list[str], wanted: str | None) -> str:
    """Choose one of the scans of a file."""
    if wanted is None and len(names) > 1:
        raise InputError(f"{path}: holds several scans, {', '.join(names)}; choose one of them with --group")
    if wanted is not None and wanted not in names:
        raise InputError(f"{path}: has no '{wanted}'; give --group one of {', '.join(names)}")
    return wanted or names[0]


def _with_first(messages: Iterator[bytes]) -> Iterator[bytes]:
    """Make the first message now, so that a wrong configuration is an error before the server is called."""
    first = next(messages)

    def rest() -> Iterator[bytes]:
        yield first
        yield from messages

    return rest()


class _Answers:
    """What a server sent back: images, and errors without their level; other texts are printed.

    A server that does not come to an end is left: images are kept up to the limit of memory, and texts have a number.
    """

    def __init__(self, server: str) -> None:
        self.images: list[ReceivedImage] = []
        self.errors: list[str] = []
        self._server, self._bytes, self._texts = server, 0, 0

    def take(self, answer: Message) -> None:
        """Keep an image or an error, or print a text.

        Raises
        ------
        ServerLostError
            More images or texts than are kept.
        """
        from mrihvae.io.mrd.messages import Note, ReceivedImage
        from mrihvae.server.client import ServerLostError

        if isinstance(answer, ReceivedImage):
            self._bytes += answer.data.nbytes + len(answer.attributes)
            if self._bytes > limit():
                raise ServerLostError(
                    f"{self._server}: sent images of more than {limit() / GIB:.3g} GiB; see the server's log, or raise "
                    f"{LIMIT_VARIABLE}"
                )
            self.images.append(answer)
        elif isinstance(answer, Note):
            self._texts += 1
            if self._texts > MOST_TEXTS:
                raise ServerLostError(f"{self._server}: sent more than {MOST_TEXTS} texts; see the server's log")
            if answer.text.startswith(FAILURES):
                self.errors.append(f"{self._server}: {printable(' '.join(answer.text.split()[1:]))}")
            else:
                tqdm.write(printable(answer.text, keep="\n"), file=sys.stderr)
