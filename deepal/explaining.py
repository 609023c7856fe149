"""A command line parser whose refusals are sentences: what was typed, and what was probably meant."""

import difflib
import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

from jsonargparse import ArgumentParser

import deepal.callbacks
import deepal.data
import deepal.modules
import deepal.nn
import deepal.oracles
import deepal.probes
import deepal.recorders
import deepal.representation
import deepal.strategies


class ExplainingParser(ArgumentParser):
    """An ArgumentParser that answers an unknown name with the nearest known one, and no page of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # it reads the options of a class: the parser above it knows whose they are
            super().error(message, ex)
        sys.exit(f"deepal: {_explained(message, _options(self))} All options: {self.prog} --help.")


def _explained(message: str, options: Iterable[str]) -> str:
    """The parser's message as a sentence of ours, where it is one of the mistakes that people make."""
    text = " ".join(message.split())
    key = ".".join(dict.fromkeys(re.findall(r'Parser key "([^"]+)"', text)))
    where = f" for --{key}" if key else ""
    classes = [_exported()[name] for name in re.findall(r"class_path[ =]'(?:\w+\.)*(\w+)'", text) if name in _exported()]
    if denied := _found(r"Importing '([^']+)' is not allowed", text):
        if Path(denied).suffix in _FILES:
            return f"--{key} does not take a file, '{denied}', but a class{_taken(text)}."
        return f"'{denied}' is not allowed{where}: --allow-import {denied.partition('.')[0]} allows what you trust."
    if unknown := _found(r"Expected a dot import path string: ([\w.]+)|module '[\w.]+' has no attribute '(\w+)'", text):
        if key and unknown in _exported():
            return f"--{key} does not take '{unknown}'{_taken(_kind_of(key, classes)) or _taken(text)}."
        return f"there is no '{unknown}'{where}{_called_here(unknown)}."
    unknown = _found(r"^[Uu]nrecognized arguments: --?([^\s=]+)|Option '([^']+)' is not accepted", text)
    if unknown and unknown not in _options_of(classes):  # else it is one of another class that would do
        return f"there is no option '{unknown}'{where}{_nearest(unknown, _options_of(classes) or options)}."
    if option := _found(r"is abstract.*?NestedArg\(key='([\w.]+)'", text):
        taken = _taken(_kind_of(key, classes)) or _taken(text)
        return f"--{key}.{option} is an option of a class, and none was named before it by --{key}{taken}."
    if missing := _found(r"arguments are required: (\w+)", text):
        return f"--{f'{key}.' if key else ''}{missing} is missing; give it a value."
    if wrong := re.search(r"Expected a <class '(\w+)'>\. Got value: (\S+)", text):
        return f"--{key} takes {'a list' if wrong[1] == 'list' else wrong[1]}, and was given {wrong[2].rstrip('.')}."
    if given := _found(r"(?:Got|Given) value: (?:NestedArg\(.*val='(.*)'\)|(\S+))$", text):
        of_the_option = text.rpartition('Parser key "')[2].partition("Given")[0]
        kinds = dict.fromkeys(re.findall(r"typing\.Literal\[([^\]]+)\]|<class '(?:\w+\.)*(\w+)'>", of_the_option))
        names = [literal or kind for literal, kind in kinds if kind != "NoneType"]
        expected = ", or ".join([name for name in names if name not in ("list", "Sequence")] or ["a list"] * bool(names))
        if expected:
            return f"--{key} takes {expected}, and was given {given}."
    return f"{text}."


def _found(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return next(group for group in match.groups() if group) if match else None


_FILES = {".csv", ".npy", ".pt", ".safetensors", ".yaml"}


def _options_of(classes: Sequence[type]) -> list[str]:
    return [name for made in classes for name in inspect.signature(made).parameters]


def _kind_of(key: str, classes: Sequence[type]) -> str:
    """Of what kind the option of one of these classes is to be, as the parser writes it."""
    kinds = (get_type_hints(made.__init__).get(key.rpartition(".")[2]) for made in classes)  # type: ignore[misc]
    return "".join(f"{each}" for kind in kinds for each in (get_args(kind) or [kind]))


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
    kinds = set(re.findall(r"<class 'deepal\.(?:\w+\.)*(\w+)'>", text))
    made = [
        name
        for name, each in _exported().items()
        if kinds & {base.__name__ for base in each.__mro__} and not inspect.isabstract(each)
    ]
    return f"; it takes {', '.join(made)}" if made else ""


def _exported() -> dict[str, type]:
    rooms: list[Any] = [
        deepal.strategies, deepal.modules, deepal.data, deepal.nn, deepal.oracles, deepal.callbacks, deepal.probes,
        deepal.recorders, deepal.representation,
    ]  # fmt: skip
    return {name: each for room in rooms for name, each in vars(room).items() if isinstance(each, type)}


def _options(parser: ArgumentParser) -> list[str]:
    """Every option of the parser, whole and by its last word."""
    whole = [string.lstrip("-") for action in parser._actions for string in action.option_strings]
    return whole + [name.rpartition(".")[2] for name in whole]
