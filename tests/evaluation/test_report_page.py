"""The page of a report from plain data: what its templates make of numbers, settings and strings from outside."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html import unescape
from typing import Any

import pytest

from mrihvae.evaluation.report.data import Panel, Pictures, Report, ReportVolume, ScoreRow
from mrihvae.evaluation.report.page import render

HOSTILE = "</script><b onclick='x'>{{ 7 * 7 }}\"&amp;"
PICTURES = Pictures((2, 3), (0, 4), (Panel("target", "target", "", {0: "data:,a", 4: "data:,b"}),), 2.5, 0.5)
SCORES = {"MSE": 0.0, "NMSE": 0.0123456, "PSNR": 31.25, "SSIM": 1.0}
VOLUME = ReportVolume("a.h5", "T2", 5, 3.0, None, SCORES, None, {"PSNR": [None, 1.5]}, PICTURES, ("no scan",))
MEAN = ScoreRow("mean of 1", "", 5, 3.0, None, SCORES)
REPORT = Report("title", ("about",), (VOLUME,), (MEAN,), {}, "run.json", "{}")


def cells(page: str) -> list[tuple[str, str]]:
    """Return exact value and text of the numbers in the first row of the table of scores."""
    row = page.partition("<tbody>")[2].partition("</tr>")[0]
    return re.findall(r'<td class="number" data-value="(.*?)">(.*?)</td>', row)


def settings(values: dict[str, Any]) -> str:
    """Return the markup of settings, without white space between tags."""
    page = render(replace(REPORT, settings=values))
    return re.sub(r">\s+<", "><", page.partition('<div class="groups">')[2].partition("<details>")[0])


def test_numbers_are_rounded_where_they_are_shown() -> None:
    numbers = [("5", "5"), ("3.0", "3.00"), ("0.0123456", "0.01235"), ("31.25", "31.25"), ("1.0", "1.000"), ("", "")]
    assert cells(render(REPORT)) == numbers


def test_unknown_and_infinite_numbers() -> None:
    perfect = replace(VOLUME, acceleration=None, scores={**SCORES, "PSNR": math.inf})
    assert cells(render(replace(REPORT, volumes=(perfect,))))[1:4:2] == [("", ""), ("Infinity", "∞")]
    assert cells(render(replace(REPORT, volumes=(replace(VOLUME, scores=None), VOLUME))))[2:] == [("", "")] * 4


def test_without_targets_there_is_no_place_for_scores() -> None:
    volumes = (replace(VOLUME, scores=None, by_slice={}),)
    page = render(replace(REPORT, volumes=volumes, means=(replace(MEAN, scores=None),)))
    assert "quality-heading" not in page and ">Scans</h2>" in page and "there are no scores" in page
    assert cells(page) == [("5", "5"), ("3.0", "3.00"), ("", "")]
    head = page.partition("<thead>")[2].partition("</thead>")[0]
    assert head.count("<th ") == 5 and not re.search("NMSE|PSNR|SSIM", head)
    assert "quality-heading" in render(REPORT) and ">Scores</h2>" in render(REPORT)


def test_facts_of_the_script() -> None:
    page = render(replace(REPORT, volumes=(VOLUME, replace(VOLUME, name=HOSTILE))))
    text = page.partition('id="facts">')[2].partition("</script>")[0]
    first, second = json.loads(text)["volumes"]
    assert first == {
        "file": "a.h5", "slices": 5, "notes": ["no scan"], "warnings": [], "promises": {}, "voxel": None,
        "scores": {"PSNR": [None, 1.5]}, "size": [2, 3], "shown": [0, 4], "white": 2.5, "window": 0.5,
        "panels": [{"kind": "target", "title": "target", "range": ""}],
    }  # fmt: skip
    assert second == {**first, "file": HOSTILE}
    assert re.findall(r'id="picture-(.*?)">(.*?)<', page) == [
        (f"{number}-{k}-target", f"data:,{data}") for number in (0, 1) for k, data in ((0, "a"), (4, "b"))
    ]


@pytest.mark.parametrize(
    ("value", "markup"),
    [
        (True, "true"),
        (0, "0"),
        ("", ""),
        (1e-5, "1e-05"),
        (None, '<span class="none">none</span>'),
        ([], '<span class="none">none</span>'),
        ([1, None, True], "1, None, True"),
        ([[1, 2], "x"], "<div>1, 2</div><div>x</div>"),
        ([{"items": 2}], '<div><table><tr><th scope="row">items</th><td>2</td></tr></table></div>'),
        ("<i>", "&lt;i&gt;"),
        (["<i>"], "&lt;i&gt;"),
    ],
)
def test_values_of_settings(value: Any, markup: str) -> None:
    assert f'<h3>general</h3><table><tr><th scope="row">key</th><td>{markup}</td></tr></table>' in settings(
        {"key": value}
    )


def test_groups_of_settings() -> None:
    markup = settings({"b": {"c": {}}, "volumes": [1], "overall": {"x": 1}, "acquisitions": {"x": 1}, "a": 1})
    assert re.findall("<h3>(.*?)</h3>", markup) == ["general", "b"]
    assert re.findall('<th scope="row">(.*?)</th>', markup) == ["a", "c"]


def test_strings_from_outside_are_text_wherever_they_stand() -> None:
    volume = replace(
        VOLUME, name=HOSTILE, acquisition=HOSTILE, notes=(HOSTILE,), warnings=(HOSTILE,), promises={HOSTILE: HOSTILE},
        stages={HOSTILE: 1.0},
    )  # fmt: skip
    row = replace(MEAN, name=HOSTILE, acquisition=HOSTILE)
    values = {HOSTILE: HOSTILE, "list": [HOSTILE], "group": {HOSTILE: [{HOSTILE: HOSTILE}]}}
    failed = ((HOSTILE, HOSTILE),)
    page = render(Report(HOSTILE, (HOSTILE,), (volume,), (row,), values, HOSTILE, HOSTILE, HOSTILE, failed))
    assert "<b" not in page.replace("<body", "").replace("<button", "")
    head, rows, settings_, record = 1 + 1 + 1, 4 + 3, 2 + 1 + 3, 3 + 1  # title twice and about; cells with their values
    warned, timed = 2 + 2, 2  # failed file and why, a warning and its volume; file and stage
    assert unescape(page).count(HOSTILE) == head + rows + settings_ + record + warned + timed


def test_words_have_their_meaning_as_tooltip_and_in_the_glossary() -> None:
    page = render(replace(REPORT, method="hybrid"))
    head = page.partition("<thead>")[2].partition("</thead>")[0]
    assert re.findall(r'<abbr title="[^"]{20,}">(.*?)</abbr>', head) == ["R", "NMSE", "PSNR / dB", "SSIM", "s / slice"]
    listed = re.findall("<dt>(.*?)</dt><dd>.{20,}</dd>", page)
    assert {"R", "hybrid", "NMSE", "SSIM", "PSNR", "held-out p-value", "bounds"} <= set(listed)
    assert "tv" not in listed  # another method
    assert json.loads(page.partition('id="facts">')[2].partition("</script>")[0])["terms"]["bounds"]


def test_warnings_failures_and_stages_are_shown_where_there_are_any() -> None:
    assert 'id="warnings-heading"' not in render(REPORT) and 'id="stages-heading"' not in render(REPORT)
    volumes = (
        replace(VOLUME, warnings=("beware", "again"), stages={"read": 0.25, "inference": 1.5}, peak_memory=700),
        replace(VOLUME, name="b.h5", warnings=("again",), stages={"maps": 1.0}),
        replace(VOLUME, name="c.h5"),
    )
    page = render(replace(REPORT, volumes=volumes, failed=(("d.h5", "is bad"),)))
    listed = page.partition('id="warnings-heading"')[2].partition("</section>")[0]
    assert [re.sub(r"<.*?>|\s+", " ", one).split() for one in re.findall("<li>(.*?)</li>", listed, re.DOTALL)] == [
        ["d.h5", "failed:", "is", "bad"],
        ["beware", "(", "a.h5", ")"],
        ["again", "(", "a.h5", ",", "b.h5", ")"],
    ]
    table = page.partition('<table id="stages">')[2].partition("</table>")[0]
    rows = [re.sub("<.*?>", " ", row).split() for row in table.split("<tr>")[1:]]
    assert rows == [
        ["file", "read", "inference", "maps", "sum", "peak", "memory", "/", "MB"],
        ["a.h5", "0.250", "1.500", "1.750", "700"],
        ["b.h5", "1.000", "1.000"],
    ]
