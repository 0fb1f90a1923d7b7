"""Text broken in its structure: values of other types in JSON and TOML, elements of XML, words of headers."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

Generator = np.random.Generator

NESTED = 100_000
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**400, -(10**30), 0.5, 1e308, float("nan"), float("inf"),
    -float("inf"), "", "x", "nan", "../../etc/passwd", "a\0b", "\x1b[2J", "$x^{$", "\ud800", "ä" * 300, [], [0], [[]],
    [1, "x", None], [2**40, 2**40], {}, {"x": 1}, "x" * 100_000,
)  # fmt: skip
WORDS = (
    "", " ", "0", "-1", "1", "2", "3.5", "65535", "65536", "2147483647", "4294967296", "99999999999999999999", "nan",
    "inf", "-inf", "1e308", "1e400", "true", "x", "cartesian", "radial", "\u00e4\u00f6", "\u202e", "&amp;", "&#10;",
    "0x10", "1_000", "\u0663", "x" * 70_000, "9" * 5000,
)  # fmt: skip
ENTITIES = (
    '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;"><!ENTITY c SYSTEM "file:///etc/hostname">]>'
)


def mutate_json(data: bytes, rng: Generator) -> bytes:
    """Change a value, a key or the nesting of JSON."""
    if rng.random() < 0.03:
        return (b"[" * NESTED, b'{"a":' * NESTED, b"9" * NESTED)[int(rng.integers(3))]
    whole = json.loads(data)
    places = list(_places(whole))
    if not places or rng.random() < 0.03:
        return _dump(_value(rng))
    for _ in range(int(rng.integers(1, 4))):
        holder, key = places[int(rng.integers(len(places)))]
        _change(holder, key, rng)
    return _dump(whole)


def _places(value: Any) -> Any:
    """List where values lie: their holder, and the key or index."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _change(holder: Any, key: Any, rng: Generator) -> None:
    kind = rng.random()
    if isinstance(holder, dict):
        if key not in holder:
            return
        if kind < 0.15:
            del holder[key]
        elif kind < 0.25:
            holder[f"{key}x"] = holder.pop(key)
        else:
            holder[key] = _near(holder[key], rng)
    elif key < len(holder):
        if kind < 0.2:
            holder[:] = holder[:key] if kind < 0.1 else holder * 3
        else:
            holder[key] = _near(holder[key], rng)


def _near(value: Any, rng: Generator) -> Any:
    """Return a value of another type, or at the end of its range."""
    kind = rng.random()
    if kind < 0.15:
        return [value]
    if kind < 0.3 and isinstance(value, int | float):
        return (-value, value + 1, value * 1e9, str(value), value - 1)[int(rng.integers(5))]
    return _value(rng)


def _value(rng: Generator) -> Any:
    return VALUES[int(rng.integers(len(VALUES)))]


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def mutate_toml(data: bytes, rng: Generator) -> bytes:
    """Change a value, a line or a table of TOML."""
    if rng.random() < 0.03:
        return (b"a = " + b"[" * NESTED, b"a = " + b"9" * NESTED, b"[" + b"a." * 20_000 + b"a]")[int(rng.integers(3))]
    lines = data.decode().splitlines()
    for _ in range(int(rng.integers(1, 4))):
        k = int(rng.integers(len(lines)))
        name, equals, _ = lines[k].partition("=")
        if equals and rng.random() < 0.7:
            value = _value(rng)
            text = "[]" if value is None else json.dumps(value).replace("NaN", "nan").replace("Infinity", "inf")
            lines[k] = f"{name}= {text}"
        elif rng.random() < 0.4:
            del lines[k]
        else:
            lines.insert(k, ("[mask]", "x = 1", "[[data]]", "a.b = 1979-05-27", "\ufeff", "= 3")[int(rng.integers(6))])
        lines = lines or [""]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def mutate_xml(data: bytes, rng: Generator) -> bytes:
    """Change a value, take an element away, repeat it, or declare entities."""
    text = data.decode("utf-8", "replace")
    kind = rng.random()
    if kind < 0.03:
        return f"{ENTITIES}<ismrmrdHeader>&b;&c;</ismrmrdHeader>".encode()
    if kind < 0.05:
        return b"<a>" * 20_000
    elements = list(re.finditer(r"<(\w+)>[^<>]*</\1>", text)) if kind < 0.3 else []
    if elements:
        found = elements[int(rng.integers(len(elements)))]
        changed = text[: found.start()] + found[0] * int(rng.choice((0, 2, 40))) + text[found.end() :]
        return changed.encode("utf-8", "replace")
    values = list(re.finditer(r"(?<=>)[^<>]*\w[^<>]*(?=<)", text))
    if not values:
        return data + b"<"
    found = values[int(rng.integers(len(values)))]
    word = WORDS[int(rng.integers(len(WORDS)))]
    return (text[: found.start()] + word + text[found.end() :]).encode("utf-8", "replace")


def mutate_lines(data: bytes, rng: Generator) -> bytes:
    """Change a word of a header in lines, such as BART's."""
    words = re.split(r"(\s+)", data.decode("utf-8", "replace"))
    for _ in range(int(rng.integers(1, 4))):
        words[int(rng.integers(len(words)))] = WORDS[int(rng.integers(len(WORDS)))]
    return "".join(words).encode("utf-8", "replace")
