"""A command line parser whose refusals are sentences: what was typed, and what was probably meant."""

import difflib
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

import torch
from jsonargparse import ArgumentParser

import deepal.callbacks
import deepal.data
import deepal.modules
import deepal.nn
import deepal.oracles
import deepal.probes
import deepal.recorders
import deepal.representation
import deepal.stopping
import deepal.strategies


class ExplainingParser(ArgumentParser):
    """An ArgumentParser that answers an unknown name with the nearest known one, and no page of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # it reads the options of a class: the parser above it knows whose they are
            super().error(message, ex)
        sys.exit(f"deepal: {_explained(message, self)} All options: {self.prog} --help.")


def _explained(message: str, parser: ArgumentParser) -> str:
    """The parser's message as a sentence of ours, where it is one of the mistakes that people make."""
    text = " ".join(message.split())
    key = ".".join(dict.fromkeys(re.findall(r'Parser key "([^"]+)"', text)))
    where = f" for --{key}" if key else ""
    classes = [_exported()[name] for name in re.findall(r"class_path[ =]'(?:\w+\.)*(\w+)'", text) if name in _exported()]
    if denied := _found(r"Importing '([^']+)' is not allowed", text):
        if Path(denied).suffix in _FILES:
            return f"--{key} does not take a file, '{denied}', but a class{_taken(_named(text))}."
        return f"'{denied}' is not allowed{where}: --allow-import {denied.partition('.')[0]} allows what you trust."
    if unknown := _found(r"Expected a dot import path string: ([\w.]+)|module '[\w.]+' has no attribute '(\w+)'", text):
        unknown, kinds = unknown.rstrip("."), _kinds_of(key, classes, parser) or _named(text)
        if key and unknown in _exported():
            return f"--{key} does not take '{unknown}'{_taken(kinds)}."
        return (
            f"there is no '{unknown}'{where}{_called_here(unknown) or _nearest(unknown, _that_do(kinds)) or _taken(kinds)}."
        )
    unknown = _found(r"^[Uu]nrecognized arguments: --?([^\s=]+)|Option '([^']+)' is not accepted", text)
    if unknown and unknown not in _options_of(classes):  # else it is one of another class that would do
        known = _options_of(classes) or _options(parser)
        meant = _inside(unknown, key, classes, parser) or _nearest(unknown, known) or _options_said(classes)
        return f"there is no option '{unknown}'{where}{meant}."
    if option := _found(r"is abstract.*?NestedArg\(key='([\w.]+)'", text):
        taken = _taken(_kinds_of(key, classes, parser) or _named(text))
        return f"--{key}.{option} is an option of a class, and none was named before it by --{key}{taken}."
    if missing := _found(r"arguments are required: (\w+)", text):
        return f"--{f'{key}.' if key else ''}{missing} is missing; give it a value."
    if wrong := re.search(r"Expected a <class '(\w+)'>\. Got value: (\S+)", text):
        given = wrong[2].rstrip(".")
        cure = f"; --{key}+={given} adds one" if wrong[1] == "list" else ""
        return f"--{key} takes {'a list' if wrong[1] == 'list' else wrong[1]}, and was given {given}{cure}."
    if given := _found(r"(?:Got|Given) value: (?:NestedArg\(.*val='(.*)'\)|(\S+))$", text):
        of_the_option = text.rpartition('Parser key "')[2].partition("Given")[0]
        named = dict.fromkeys(re.findall(r"typing\.Literal\[([^\]]+)\]|<class '(?:\w+\.)*(\w+)'>", of_the_option))
        names = [literal or kind for literal, kind in named if kind != "NoneType"]
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


def _inside(option: str, key: str, classes: Sequence[type], parser: ArgumentParser) -> str:
    """The end of a sentence that says where the option is, where it is one of what these classes are made of."""
    for made in classes:
        for part in inspect.signature(made).parameters:
            kinds = _kinds_of(part, [made], parser)
            if option in _options_of([each for name, each in _exported().items() if name in kinds]):
                return f"; it is an option of '{part}': --{key}.{part}.{option}"
    return ""


def _options_said(classes: Sequence[type]) -> str:
    """The end of a sentence that says what these classes take."""
    taken = [f"{made.__name__} takes {', '.join(inspect.signature(made).parameters) or 'none'}" for made in classes]
    return f"; {', and '.join(taken)}" if taken else ""


def _kinds_of(key: str, classes: Sequence[type], parser: ArgumentParser) -> set[str]:
    """The names of the classes of which an option is to be: of one of these classes, or else of the parser's own."""
    hints = [get_type_hints(made.__init__).get(key.rpartition(".")[2]) for made in classes]  # type: ignore[misc]
    own = [getattr(action, "_typehint", None) for action in parser._actions if action.dest == key]
    return {each.__name__ for hint in hints or own for each in _classes_in(hint)}


def _classes_in(hint: Any) -> Iterator[type]:
    """Of a type and its arguments, those that are ours to name: no plain values, and no arguments of functions."""
    if isinstance(hint, type) and hint.__module__ != "builtins":
        yield hint
    for each in get_args(hint):
        yield from _classes_in(each)


def _named(text: str) -> set[str]:
    """The names of our classes in a message of the parser."""
    return set(re.findall(r"<class 'deepal\.(?:\w+\.)*(\w+)'>", text))


def _called_here(name: str) -> str:
    """What people who give this name to something mean."""
    return f"; here that is {_KNOWN_AS[name]}" if name in _KNOWN_AS else ""


_KNOWN_AS = {
    "MaxEntropy": "PredictiveEntropy",
    **{f"Power{of}": f"Stochastic, with {of} for its option 'of'" for of in ("BALD", "Entropy", "Margin")},
}


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1, cutoff=0.5)
    return f"; the nearest is '{close[0]}'" if close else ""


def _taken(kinds: Set[str]) -> str:
    """The end of a sentence that says which classes would do."""
    that_do = _that_do(kinds)
    return f"; it takes {', '.join(that_do)}" if that_do else ""


def _that_do(kinds: Set[str]) -> list[str]:
    """The names of our classes that are of one of these kinds."""
    return [
        name
        for name, each in _exported().items()
        if kinds & {base.__name__ for base in each.__mro__} and not inspect.isabstract(each) and each not in _BASES
    ]


_BASES = {torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler}  # abstract, though they do not say so


def _exported() -> dict[str, type]:
    rooms: list[Any] = [
        deepal.strategies, deepal.modules, deepal.data, deepal.nn, deepal.oracles, deepal.callbacks, deepal.probes,
        deepal.recorders, deepal.representation, deepal.stopping, torch.optim, torch.optim.lr_scheduler,
    ]  # fmt: skip
    return {name: each for room in rooms for name, each in vars(room).items() if isinstance(each, type)}


def _options(parser: ArgumentParser) -> list[str]:
    """Every option of the parser, whole and by its last word."""
    whole = [string.lstrip("-") for action in parser._actions for string in action.option_strings]
    return whole + [name.rpartition(".")[2] for name in whole]
