"""The basis of definition files: strict frozen shapes, faults with their place, and reading files."""

import json
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import date
from importlib.resources.abc import Traversable
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, StringConstraints, ValidationError

Code = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}$")]
Title = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\p{Cc}]*$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=r"^[^\p{Cc}]*$")]
Listed = Strict(False)
"""Accepts the arrays of files where the shapes have tuples; the items are still checked strictly."""

MOST_ENTRIES = 1_000
"""The greatest length of a list: several times what any study or instrument has."""

VisitCode = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_.\-]{0,63}$")]
Codes = Annotated[tuple[Code, ...], Listed]
SomeCodes = Annotated[tuple[Code, ...], Listed, Field(min_length=1)]
Share = Annotated[float, Field(gt=0, le=1)]


def _day(value: object) -> object:
    return date.fromisoformat(value) if isinstance(value, str) else value


Day = Annotated[date, BeforeValidator(_day)]
"""A calendar date: a date in TOML, text in JSON."""


class Definition(BaseModel):
    """A part of a definition file: unknown keys are refused, types are not converted, and it is immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class Versioned(Definition):
    """A whole definition file, known by its code and version."""

    code: Code
    version: Code
    title: Title
    source: Text

    @property
    def key(self) -> str:
        return f"{self.code}/{self.version}"


class ProtocolFault(NamedTuple):
    """One thing wrong in a definition; `path` is a JSON pointer (RFC 6901) into it."""

    path: str
    code: str
    message: str


class ProtocolInvalid(ValueError):
    """A protocol or instrument definition that cannot be used, with every fault found."""

    def __init__(self, faults: Iterable[ProtocolFault], file: str = "") -> None:
        self.faults = list(faults)
        lines = [f"{fault.path or '/'}: {fault.message} ({fault.code})" for fault in self.faults]
        super().__init__("\n".join([f"{file}:", *lines] if file else lines))


Shape = TypeVar("Shape", bound=Versioned)


def decode(text: str, suffix: Literal["toml", "json"]) -> dict[str, Any]:
    """Read the text of a definition file. Raises ProtocolInvalid where it is no TOML or JSON table."""
    try:
        data = tomllib.loads(text) if suffix == "toml" else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolInvalid([ProtocolFault("", "syntax", f"Not readable as {suffix}: {error}")]) from None
    if not isinstance(data, dict):
        raise ProtocolInvalid([ProtocolFault("", "syntax", "Must be a table of keys and values")])
    return data


def build(shape: type[Shape], data: Mapping[str, Any], check: Callable[[Shape], Iterable[ProtocolFault]]) -> Shape:
    """Make a definition out of plain data: the shape is checked first, and if it is right, the content."""
    try:
        definition = shape.model_validate(dict(data))
    except ValidationError as error:
        shape_errors = error.errors(include_url=False, include_input=False, include_context=False)
        raise ProtocolInvalid(
            ProtocolFault(_pointer(one["loc"]), one["type"], one["msg"]) for one in shape_errors
        ) from None
    if faults := list(check(definition)):
        raise ProtocolInvalid(faults)
    return definition


def endless(data: Mapping[str, Any]) -> Iterator[ProtocolFault]:
    """Faults of lists that are longer than any study's. They are checked first, as finding a fault in each of so many
    entries would take seconds."""
    waiting: list[tuple[tuple[int | str, ...], Any]] = [((), data)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [((*place, name), inner) for name, inner in value.items()]
        elif isinstance(value, list) and len(value) <= MOST_ENTRIES:
            waiting += [((*place, number), inner) for number, inner in enumerate(value)]
        elif isinstance(value, list):
            yield ProtocolFault(_pointer(place), "too_long", f"At most {MOST_ENTRIES} entries")


def read_folder(folder: Traversable, load: Callable[[str], Shape]) -> Mapping[str, Shape]:
    """Every TOML file of a folder under its `code/version`. Raises ProtocolInvalid, naming the file."""
    definitions: dict[str, Shape] = {}
    for file in sorted((one for one in folder.iterdir() if one.name.endswith(".toml")), key=lambda one: one.name):
        try:
            definition = load(file.read_text("utf-8"))
        except ProtocolInvalid as error:
            raise ProtocolInvalid(error.faults, file.name) from None
        if definition.key in definitions:
            fault = ProtocolFault("/version", "duplicate_definition", f"{definition.key} is in another file too")
            raise ProtocolInvalid([fault], file.name)
        definitions[definition.key] = definition
    return MappingProxyType(definitions)


def repeated(path: str, kind: str, codes: Iterable[str]) -> Iterator[ProtocolFault]:
    """A `duplicate_<kind>` fault at every code that came before. `path` has a `*` where the position goes."""
    seen: set[str] = set()
    for position, code in enumerate(codes):
        if code in seen:
            message = f"{code} is there more than once"
            yield ProtocolFault(path.replace("*", str(position)), f"duplicate_{kind}", message)
        seen.add(code)


def similar(path: str, kind: str, codes: Iterable[str]) -> Iterator[ProtocolFault]:
    """`duplicate_<kind>` for a code that came before, `overlapping_<kind>` for one that differs in capitals only."""
    spelled: dict[str, set[str]] = {}
    for position, code in enumerate(codes):
        others = spelled.setdefault(code.lower(), set())
        if others:
            same = code in others
            message = f"{code} is there more than once" if same else f"{code} differs from another in capitals only"
            fault = f"{'duplicate' if same else 'overlapping'}_{kind}"
            yield ProtocolFault(path.replace("*", str(position)), fault, message)
        others.add(code)


def unknown(path: str, kind: str, codes: Iterable[str], known: Collection[str]) -> Iterator[ProtocolFault]:
    """`unknown_<kind>` for each code that is not known; `path` may have a `*` where the position goes."""
    for position, code in enumerate(codes):
        if code not in known:
            where = path.replace("*", str(position))
            yield ProtocolFault(where, f"unknown_{kind}", f"The protocol has no {kind} {code}")


def _pointer(parts: Iterable[int | str]) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)
