"""A command line parser whose refusals are sentences: what was typed, and what was probably meant."""

import difflib
import inspect
import re
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

import deepal.callbacks
import deepal.data
import deepal.modules
import deepal.nn
import deepal.oracles
import deepal.probes
import deepal.strategies


class ExplainingParser(ArgumentParser):
    """An ArgumentParser that answers an unknown name with the nearest known one, and no page of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        sys.exit(f"deepal: {_explained(message, _options(self))} All options: {self.prog} --help.")


def _explained(message: str, options: Iterable[str]) -> str:
    """The parser's message as a sentence of ours, where it is one of the mistakes that people make."""
    text = " ".join(message.split())
    where = f" for --{key}" if (key := _found(r'Parser key "([^"]+)"', text)) else ""
    if denied := _found(r"Importing '([^']+)' is not allowed", text):
        return f"'{denied}' is not allowed{where}: --allow-import {denied.partition('.')[0]} allows what you trust."
    if unknown := _found(r"Expected a dot import path string: ([\w.]+)|module '[\w.]+' has no attribute '(\w+)'", text):
        if key and unknown in _exported():
            return f"--{key} does not take '{unknown}'{_taken(text)}."
        return f"there is no '{unknown}'{where}{_called_here(unknown)}."
    if unknown := _found(r"[Uu]nrecognized arguments: --?([^\s=]+)|Option '([^']+)' is not accepted", text):
        return f"there is no option '{unknown}'{where}{_nearest(unknown, options)}."
    if option := _found(r"is abstract.*NestedArg\(key='([\w.]+)'", text):
        return f"--{key}.{option} is an option of a class, and none was named before it by --{key}{_taken(text)}."
    if missing := _found(r"arguments are required: (\w+)", text):
        return f"--{_owner_of(missing)}{missing} is missing; give it a value."
    if given := _found(r"(?:Got|Given) value: (\S+)$", text):
        kinds = dict.fromkeys(
            re.findall(r"typing\.Literal\[([^\]]+)\]|<class '(?:\w+\.)*(\w+)'>", text.partition("Given")[0])
        )
        names = [literal or kind for literal, kind in kinds if kind != "NoneType"]
        expected = ", or ".join([name for name in names if name not in ("list", "Sequence")] or ["a list"] * bool(names))
        if expected:
            return f"--{key} takes {expected}, and was given {given}."
    return f"{text}."


def _found(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return next(group for group in match.groups() if group) if match else None


def _owner_of(option: str) -> str:
    """Where in the configuration a class stands that cannot do without this option: `data.`, say."""
    rooms = {"data.": deepal.data, "strategy.": deepal.strategies, "oracle.": deepal.oracles, "module.": deepal.modules}
    for owner, room in rooms.items():
        for made in (each for name, each in vars(room).items() if name[0].isupper() and isinstance(each, type)):
            needed = inspect.signature(made).parameters.get(option)
            if needed is not None and needed.default is needed.empty:
                return owner
    return ""


def _called_here(name: str) -> str:
    """What people who give this name to something mean."""
    return f"; here that is {_KNOWN_AS[name]}" if name in _KNOWN_AS else _nearest(name, _exported())


_KNOWN_AS = {
    "MaxEntropy": "PredictiveEntropy",
    **{f"Power{of}": f"Stochastic, with {of} for its option 'of'" for of in ("BALD", "Entropy", "Margin")},
}


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1, cutoff=0.5)
    return f"; the nearest is '{close[0]}'" if close else ""


def _taken(text: str) -> str:
    """The classes that would do, where the parser says of what kind they are to be."""
    known = _exported()
    kinds = tuple(known[name] for name in re.findall(r"<class 'deepal\.(?:\w+\.)*(\w+)'>", text) if name in known)
    made = [name for name, each in known.items() if issubclass(each, kinds) and not inspect.isabstract(each)]
    return f"; it takes {', '.join(made)}" if made else ""


def _exported() -> dict[str, type]:
    rooms: list[Any] = [
        deepal.strategies, deepal.modules, deepal.data, deepal.nn, deepal.oracles, deepal.callbacks, deepal.probes
    ]  # fmt: skip
    return {name: each for room in rooms for name, each in vars(room).items() if isinstance(each, type)}


def _options(parser: ArgumentParser) -> list[str]:
    """Every option of the parser, whole and by its last word."""
    whole = [string.lstrip("-") for action in parser._actions for string in action.option_strings]
    return whole + [name.rpartition(".")[2] for name in whole]
