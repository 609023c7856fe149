"""What a run is made of, as plain values: its hash names it, and two of them differ readably."""

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

NEUTRAL: Mapping[str, bool] = {"neutral": True}
"""Metadata of a dataclass field that changes no result: a folder, a number of workers. It is not described."""


def describe(value: Any) -> Any:
    """`value` as nested dictionaries, lists and plain values that JSON can hold.

    An object is described by its class and its constructor's arguments: a dataclass by its fields, another by the
    attributes of the same names, a partial or a class as the object that it makes with the defaults filled in.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)  # 0 in a signature and 0.0 from a command line are one value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): describe(each) for key, each in value.items()}
    if isinstance(value, Sequence | Set):
        return [describe(each) for each in value]
    if isinstance(value, partial):
        return _described_partial(value)
    if isinstance(value, type):
        return {"class": _name(value), **_defaults(value)}
    if is_dataclass(value):
        described = [each for each in fields(value) if not each.metadata.get("neutral")]
        return {"class": _name(type(value)), **{each.name: describe(getattr(value, each.name)) for each in described}}
    if inspect.isfunction(value):
        return {"function": _name(value)}
    parameters = [name for name in _parameters(type(value)) if hasattr(value, name)]
    return {"class": _name(type(value)), **{name: describe(getattr(value, name)) for name in parameters}}


def digest(description: Any) -> str:
    """A hash of a description, 12 hexadecimal digits, the same for the same values in any order of keys."""
    return blake2b(json.dumps(description, sort_keys=True).encode(), digest_size=6).hexdigest()


def differences(before: Any, now: Any) -> list[str]:
    """Lines that say where two descriptions differ.

    >>> differences({"seed": 0, "strategy": {"class": "Margin"}}, {"seed": 0, "strategy": {"class": "BADGE"}})
    ["strategy.class: was 'Margin', is 'BADGE'"]
    """
    first, second = dict(_leaves(before)), dict(_leaves(now))
    return [
        f"{key}: was {first.get(key, 'absent')!r}, is {second.get(key, 'absent')!r}"
        for key in dict.fromkeys((*first, *second))
        if first.get(key, _ABSENT) != second.get(key, _ABSENT)
    ]


_ABSENT = object()


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, each in value.items():
            yield from _leaves(each, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _described_partial(value: partial) -> Any:
    """A partial of a class, also where jsonargparse has wrapped the class in functions of its own."""
    made = next((each for each in (value.func, *value.args) if isinstance(each, type)), None)
    if made is None:
        return {"function": _name(value.func), "args": describe(value.args), **describe(value.keywords)}
    given = dict(zip(_parameters(made), [each for each in value.args if not _is_wrapping(each, made)], strict=False))
    return {"class": _name(made), **_defaults(made), **describe(given), **describe(value.keywords)}


def _is_wrapping(argument: Any, made: type) -> bool:
    return argument is made or (inspect.isfunction(argument) and argument.__module__.startswith("jsonargparse"))


def _defaults(made: type) -> dict[str, Any]:
    parameters = _parameters(made).values()
    return {each.name: describe(each.default) for each in parameters if each.default is not inspect.Parameter.empty}


def _parameters(made: type) -> Mapping[str, inspect.Parameter]:
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(made).parameters
    return {name: each for name, each in parameters.items() if each.kind not in variadic}


def _name(value: type | Callable) -> str:
    return f"{value.__module__}.{value.__qualname__}"
