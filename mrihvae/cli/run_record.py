"""What `mrihvae run` writes of its volumes: run.json, and the table scores.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mrihvae.cli.common import Failures
from mrihvae.cli.evaluate import as_dict
from mrihvae.cli.output_folder import SharedRecord
from mrihvae.cli.protocol_data import ScanEntry
from mrihvae.evaluation.scores import METRICS, Evaluation, VolumeScores
from mrihvae.protocols.evaluation import Protocol
from mrihvae.utils.files import atomic_write
from mrihvae.utils.text import printable


class RunRecord:
    """The record of a run, its rows and scores so far.

    Parameters
    ----------
    record : run.json, to which other processes may write, too
    summary : all that made the results
    protocol, volumes : what is run, and on what
    rows : of the volumes that are done, by name
    failures : files that failed; their volumes have no rows
    """

    def __init__(
        self,
        record: SharedRecord,
        summary: Mapping[str, Any],
        protocol: Protocol,
        volumes: Sequence[ScanEntry],
        rows: dict[str, dict[str, Any]],
        failures: Failures,
    ) -> None:
        self.record, self.summary, self.protocol, self.volumes = record, summary, protocol, volumes
        self.rows, self.failures = rows, failures
        self.scores: list[VolumeScores] = []

    def rows_in_order(self) -> list[dict[str, Any]]:
        """List the rows in the order of the volumes."""
        return [self.rows[volume.name] for volume in self.volumes if volume.name in self.rows]

    def evaluation(self, others: Sequence[VolumeScores] = ()) -> Evaluation:
        """Return scores in the order of the folder, as fastMRI adds them up, so that means round alike."""
        by_name = {row.file: row for row in self.scores}
        folder = self.volumes[0].file.parent
        own = [by_name[path.name] for path in folder.iterdir() if path.name in by_name]
        return Evaluation((*own, *others))

    def write(self, last: bool = False) -> None:
        """Write run.json and scores.md, if any volume is done; `last`: as `SharedRecord.write`."""
        for name in self.failures.reasons:
            self.rows.pop(name, None)
        if self.rows:
            self.record.write(self.rows, self.failures.records(), self._complete, last)

    def _complete(self, rows: Mapping[str, Mapping[str, Any]], failed: list[dict[str, str]]) -> dict[str, Any]:
        """Return the values of run.json for the rows of all processes; write scores.md beside it."""
        foreign = [dict(row) for name, row in rows.items() if name not in self.rows]
        evaluation = self.evaluation([scores for row in foreign if (scores := _scores_of(row)) is not None])
        numbers = as_dict(evaluation) if evaluation.rows else {"overall": None, "acquisitions": {}, "volumes": []}
        found = {row["file"]: {metric: row[metric] for metric in METRICS} for row in numbers.pop("volumes")}
        volumes = [*foreign, *self.rows_in_order()]
        self._write_table(volumes, evaluation)
        entries = [{**row, "scores": found.get(row["file"])} for row in volumes]
        return {**self.summary, **numbers, "volumes": entries, "failed": failed}

    def _write_table(self, rows: Sequence[Mapping[str, Any]], evaluation: Evaluation) -> None:
        """Write scores.md."""
        summary, protocol = self.summary, self.protocol
        made = [f"{package} {version}" for package, version in summary["versions"].items()]
        if summary["weights"]:
            made.append(f"weights {protocol.weights} ({summary['weights']})")
        if summary["git"]:
            made.append(f"revision {summary['git']['revision'][:12]}{', changed' if summary['git']['dirty'] else ''}")
        parts = [f"# {summary['protocol']}", protocol.description, table(protocol, rows, evaluation)]
        with atomic_write(self.record.path.with_name("scores.md")) as temporary:
            temporary.write_text("\n\n".join([*filter(None, parts), f"{', '.join(made)}, {summary['device']}"]) + "\n")


def table(protocol: Protocol, rows: Sequence[Mapping[str, Any]], evaluation: Evaluation) -> str:
    """Lay out the volumes as a Markdown table, with means per acquisition, if there are several, and of all."""
    scores = {row.file: row.scores() for row in evaluation.rows}
    lines = [["file", "acquisition", "slices", "R", *protocol.metrics, "s / slice"]]
    for row in rows:
        lines.append(_line(protocol, [row], row["file"], row["acquisition"], scores.get(row["file"])))
    names = sorted({row["acquisition"] for row in rows})
    for name in [*names, None] if len(names) > 1 else [None]:
        part = evaluation if name is None else evaluation.of(name)
        those = [row for row in rows if name in (None, row["acquisition"])]
        count = f"{len(those)}" if len(part.rows) in (0, len(those)) else f"{len(those)}, {len(part.rows)} scored"
        lines.append(_line(protocol, those, f"mean of {count}", name or "", part.means() if part.rows else None))
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    lines.insert(1, ["-" * width if k < 2 else "-" * (width - 1) + ":" for k, width in enumerate(widths)])
    texts = [
        [cell.ljust(width) if k < 2 else cell.rjust(width) for k, (cell, width) in enumerate(zip(line, widths))]
        for line in lines
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in texts)


def _line(
    protocol: Protocol, rows: Sequence[Mapping[str, Any]], name: str, kind: str, scores: Mapping[str, float] | None
) -> list[str]:
    """Fill in a line of the table: numbers of one volume, or of several with means."""
    effective, seconds = (
        float(np.mean([row[key] for row in rows])) for key in ("effective_acceleration", "seconds_per_slice")
    )
    shown = ["" if scores is None else f"{scores[metric]:#.4g}" for metric in protocol.metrics]
    return [
        printable(name),
        printable(kind),
        str(sum(row["slices"] for row in rows)),
        f"{effective:.2f}",
        *shown,
        f"{seconds:.2f}",
    ]


def _scores_of(row: Mapping[str, Any]) -> VolumeScores | None:
    """Return the scores in the row of another process."""
    if not row.get("scores"):
        return None
    values = {metric: float("inf") if value is None else value for metric, value in row["scores"].items()}
    return VolumeScores(row["file"], row["acquisition"], row["slices"], values)
