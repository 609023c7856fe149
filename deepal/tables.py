"""Tables in CSV files: whole or not there as we write them, and in any dialect as spreadsheets save them."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deepal import folder


class TableError(ValueError):
    """A file is no table of text."""


def write(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table atomically; what a row does not have is left empty."""

    def fill(partial: Path) -> None:
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)

    folder.write_atomically(path, fill)


@contextmanager
def opened(path: Path) -> Iterator[tuple[list[str], Any]]:
    """The names of the columns, and a csv.reader of the rows below: comma, semicolon or tab, with or without a byte order
    mark. Raises TableError where the file is no table in UTF-8."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            header = file.readline()
            delimiter = max(",;\t", key=header.count)
            names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
            yield names, csv.reader(file, delimiter=delimiter)
        except (UnicodeDecodeError, csv.Error) as error:
            raise TableError(f"{path} is no table in UTF-8 ({error}); save it as CSV in UTF-8.") from error


def read(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, row) of each row that is not empty, by the names of the columns in lower case."""
    with opened(path) as (names, rows):
        for row in rows:
            if any(field.strip() for field in row):
                yield rows.line_num + 1, dict(zip(map(str.lower, names), row, strict=False))


def columns_of(path: Path) -> list[str]:
    """The names of the columns, in lower case."""
    with opened(path) as (names, _):
        return [name.lower() for name in names]
