"""How a command declares its options: a dataclass, from which cyclopts makes the parser and the help."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, dataclass_transform, get_args, get_type_hints

from cyclopts import CoercionError, Group, Parameter, Token, convert


@dataclass(frozen=True)
class Section:
    """A group of options in the help; called, it declares one of them as a field of `Options`."""

    title: str
    place: int

    def __call__(
        self, help: str, default: Any = MISSING, shown: str | None = None, positional: bool = False, **further: Any
    ) -> Any:
        """Return a field; `shown` is the default in words, `further` are parameters of `cyclopts.Parameter`."""
        if shown is not None:
            further["show_default"] = shown
        parameter = Parameter(group=Group(self.title, sort_key=self.place), help=help, **further)
        return field(default=default, kw_only=not positional, metadata={"parameter": parameter})

    def setting(self, settings: Any, name: str, prefix: str = "", *, unset: bool = False, **further: Any) -> Any:
        """Return the field of an option that is a setting, with its default and with the help in its docstring.

        Parameters
        ----------
        settings : dataclass with defaults and a numpydoc section "Attributes", or an instance that has the defaults
        prefix : text before that of the docstring, whose part about None is left out
        unset : whether the option is None where it is left out, so that a value that equals the default counts as given
        """
        text = re.search(rf"^{name} : (.+(?:\n    .+)*)", inspect.getdoc(settings) or "", re.MULTILINE)
        if text is None:
            raise LookupError(f"the docstring of the settings lacks {name}")
        help = prefix + re.split(r"; None\b", " ".join(text[1].split()))[0]
        usual = getattr(settings, name)
        own = {"default": None, "shown": _show(usual)} if unset else {"default": usual}
        declared = self(help, **{**own, **further})
        return field(default=declared.default, metadata={**declared.metadata, "setting": (settings, name)})


TITLES = (  # in the order of the help
    "Input", "Output", "Sampling", "Degradation", "Method", "Posterior samples", "Coils", "Workers", "Expert",
)  # fmt: skip
INPUT, RESULTS, SAMPLING, DEGRADATION, METHOD, SAMPLES, COILS, WORKERS, EXPERT = map(
    Section, TITLES, range(len(TITLES))
)
SEVERAL: dict[str, Any] = {"consume_multiple": (1, None)}  # values after one option


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Options:
    """Options of a command: its subclasses are frozen dataclasses of fields that a `Section` declares."""

    def __init_subclass__(cls) -> None:
        """Make the dataclass, in the form in which cyclopts reads it."""
        dataclass(frozen=True, kw_only=True)(cls)
        hints, declared = get_type_hints(cls), fields(cls)  # type: ignore[arg-type]
        cls.__annotations__ = {
            option.name: Annotated[hints[option.name], option.metadata["parameter"]] for option in declared
        }
        signature = inspect.signature(cls)
        parameters = [  # without an option's name where a value stands by itself
            option if option.kind is option.KEYWORD_ONLY else option.replace(kind=option.POSITIONAL_ONLY)
            for option in signature.parameters.values()
        ]
        cls.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]


def _show(default: Any) -> str | None:
    """Write a default for the help; none of a flag."""
    if default is None or isinstance(default, bool):
        return None
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _read(kind: Any, tokens: Sequence[Token]) -> Any:
    """Convert words as cyclopts does, but of a repeated option those of the last time, and no 2.5 to a whole number."""
    tokens = tokens[max((k for k, token in enumerate(tokens) if token.keyword and token.index == 0), default=0) :]
    if int in (kind, *get_args(kind)):
        for token in tokens:
            if not re.fullmatch(r"[-+]?\d+", token.value):
                raise CoercionError(f"'{token.value}' is not a whole number", token=token)
    return convert(kind, tokens)


# of options that say nothing else
USUAL = Parameter(negative=(), allow_repeating=True, show_default=_show, converter=_read)
