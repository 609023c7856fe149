"""What a run is made of, as plain values: its hash names it, and two of them differ readably."""

import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from types import CodeType
from typing import Any

NEUTRAL: Mapping[str, bool] = {"neutral": True}
"""Metadata of a dataclass field that changes no result: a folder, a number of workers. It is not described."""


def describe(value: Any) -> Any:
    """`value` as nested dictionaries, lists and plain values that JSON can hold.

    An object is described by its class and its constructor's arguments: a dataclass by its fields, another by attributes
    of the same names or by Lightning's `hparams`, and where an argument is not kept under its name, by every plain value
    that it keeps; a partial or a class as the object that it makes, with the defaults filled in. A module that has weights
    is described by these too, and a function that has no name of its own by its code.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)  # 0 in a signature and 0.0 from a command line are one value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): describe(each) for key, each in value.items()}
    if isinstance(value, Set):
        return sorted((describe(each) for each in value), key=repr)
    if isinstance(value, Sequence):
        return [describe(each) for each in value]
    if isinstance(value, partial):
        return _described_partial(value)
    if isinstance(value, type):
        return {"class": _name(value), **_defaults(value)}
    if is_dataclass(value):
        described = [each for each in fields(value) if not each.metadata.get("neutral")]
        return {"class": _name(type(value)), **{each.name: describe(getattr(value, each.name)) for each in described}}
    if inspect.isfunction(value):
        return _described_function(value)
    if hasattr(value, "__array__"):
        return {"array": _hash_of({"": value})}
    return {"class": _name(type(value)), **_kept_arguments(value), **_described_weights(value)}


def digest(description: Any) -> str:
    """A hash of a description, 12 hexadecimal digits, the same for the same values in any order of keys."""
    return blake2b(json.dumps(description, sort_keys=True).encode(), digest_size=6).hexdigest()


def title(description: Any) -> str:
    """A description as people write it: the last word of a class, with those arguments that are not its defaults.

    >>> title({"class": "deepal.strategies.hybrid.Prefilter", "by": {"class": "Margin"}, "keep": None, "factor": 7})
    'Prefilter(by=Margin, factor=7)'
    """
    if isinstance(description, Mapping):
        name = description.get("class", description.get("function", ""))
        defaults = _defaults_by_name(name)
        given = {key: each for key, each in description.items() if key not in ("class", "function", "code", "closure")}
        said = [f"{key}={title(each)}" for key, each in given.items() if defaults.get(key) != each]
        return name.rpartition(".")[2] + (f"({', '.join(said)})" if said else "")
    if isinstance(description, list):
        return f"[{', '.join(map(title, description))}]"
    return str(description)


def _defaults_by_name(name: str) -> dict[str, Any]:
    """The described defaults of a class that this process knows; none where it does not."""
    module, _, word = name.rpartition(".")
    made = getattr(sys.modules.get(module), word, None)
    return _defaults(made) if isinstance(made, type) else {}


def differences(before: Any, now: Any) -> list[str]:
    """Lines that say where two descriptions differ.

    >>> differences({"seed": 0, "strategy": {"class": "Margin"}}, {"seed": 0, "strategy": {"class": "BADGE"}})
    ["strategy.class: was 'Margin', is 'BADGE'"]
    """
    first, second = dict(leaves(before)), dict(leaves(now))
    return [
        f"{key}: was {first.get(key, 'absent')!r}, is {second.get(key, 'absent')!r}"
        for key in dict.fromkeys((*first, *second))
        if first.get(key, _ABSENT) != second.get(key, _ABSENT)
    ]


_ABSENT = object()


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, plain value) of everything in a description."""
    if isinstance(value, Mapping) and value:
        for key, each in value.items():
            yield from leaves(each, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _described_partial(value: partial) -> Any:
    """A partial of a class, also where jsonargparse has wrapped the class in functions of its own."""
    made = next((each for each in (value.func, *value.args) if isinstance(each, type)), None)
    if made is None:
        return {"function": _name(value.func), "args": describe(value.args), **describe(value.keywords)}
    given = dict(zip(_parameters(made), [each for each in value.args if not _is_wrapping(each, made)], strict=False))
    return {"class": _name(made), **_defaults(made), **describe(given), **describe(value.keywords)}


def _described_function(value: Any) -> Any:
    if "<" not in value.__qualname__:
        return {"function": _name(value)}
    closure = [describe(cell.cell_contents) for cell in value.__closure__ or ()]
    return {
        "function": _name(value),
        "code": _code(value.__code__),
        "defaults": describe(value.__defaults__),
        "closure": closure,
    }


def _code(code: CodeType) -> list[Any]:
    """What a function does, so far as one can tell: its instructions, and the names and constants that they use."""
    constants = [_code(each) if isinstance(each, CodeType) else _constant(each) for each in code.co_consts]
    return [code.co_code.hex(), list(code.co_names), constants]


def _constant(value: Any) -> str:
    return repr(sorted(value, key=repr) if isinstance(value, frozenset) else value)  # sets have another order each time


def _kept_arguments(value: Any) -> dict[str, Any]:
    """The arguments that made an object, as far as it has kept them."""
    kept, unseen = {}, False
    hparams = getattr(value, "hparams", {})
    for name in _parameters(type(value)):
        if hasattr(value, name):
            kept[name] = describe(getattr(value, name))
        elif name in hparams:
            kept[name] = describe(hparams[name])
        else:
            unseen = True
    if unseen:
        plain = (bool, int, float, str, tuple, type(None))
        kept |= {name: describe(each) for name, each in vars(value).items() if isinstance(each, plain)}
    return kept


def _described_weights(value: Any) -> dict[str, str]:
    """Hashes of the weights and the layers that an object was given with, where it is a torch module that has any."""
    state = value.state_dict() if callable(getattr(value, "state_dict", None)) and hasattr(value, "parameters") else {}
    if not state:
        return {}
    return {"weights": _hash_of(state), "layers": blake2b(repr(value).encode(), digest_size=8).hexdigest()}


def _hash_of(tensors: Mapping[str, Any]) -> str:
    hashed = blake2b(digest_size=8)
    for name, tensor in sorted(tensors.items()):
        hashed.update(name.encode() + _bytes_of(tensor))
    return hashed.hexdigest()


def _bytes_of(array: Any) -> bytes:
    if "Uninitialized" in type(array).__name__:  # a lazy layer, whose weights are drawn later
        return b""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        array = (array.float() if "bfloat16" in str(array.dtype) else array).numpy()
    return array.tobytes()


def _is_wrapping(argument: Any, made: type) -> bool:
    return argument is made or (inspect.isfunction(argument) and argument.__module__.startswith("jsonargparse"))


def _defaults(made: type) -> dict[str, Any]:
    parameters = _parameters(made).values()
    return {each.name: describe(each.default) for each in parameters if each.default is not inspect.Parameter.empty}


def _parameters(made: type) -> Mapping[str, inspect.Parameter]:
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    try:
        parameters = inspect.signature(made).parameters
    except ValueError:  # made in C, and does not say how
        return {}
    return {name: each for name, each in parameters.items() if each.kind not in variadic}


def _name(value: type | Callable) -> str:
    module = "__main__" if value.__module__ == "__mp_main__" else value.__module__  # a script, as its workers know it
    return f"{module}.{value.__qualname__}"
