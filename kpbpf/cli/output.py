"""Rows for people and for machines, from the same rows: table, wide table, JSON, YAML.

A row is a mapping of plain values (text, numbers, lists, mappings, None). Columns choose from it
and say how a value looks to a person; machines get the row in whole. Prints; decides nothing.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]

FORMATS = ("table", "wide", "json", "yaml")

NAME = "name"
"""A format beside FORMATS: names alone, for other commands and for completion."""

MISSING = "-"


class Column(NamedTuple):
    """A column: its header, the row's key that it shows, and how."""

    header: str
    key: str
    show: Callable[[Any], str] = str
    wide: bool = False
    """Only with -o wide."""


def add_output(parser: argparse.ArgumentParser, *more: str) -> None:
    """Add -o, with one of FORMATS or `more`."""
    choices = (*FORMATS, *more)
    parser.add_argument(
        "-o", "--output", choices=choices, default="table", help="what to print (table)"
    )


def rows(output: str, columns: Sequence[Column], found: Iterable[Row]) -> None:
    """Print rows in one of FORMATS; no rows is an empty list, or a table of headers alone."""
    if output in ("json", "yaml"):
        document(output, list(found))
        return
    shown = [column for column in columns if output == "wide" or not column.wide]
    lines = [[column.header for column in shown]]
    lines += [[cell(column, row) for column in shown] for row in found]
    sys.stdout.write(_aligned(lines))


def facts(pairs: Iterable[tuple[str, str]]) -> None:
    """Print "Name:  value" lines, values under each other."""
    sys.stdout.write(_aligned([[f"{name}:", value] for name, value in pairs]))


def document(output: str, value: object, stream: bool = False) -> None:
    """Print a value as JSON or YAML; in a stream, JSON takes one line, and YAML a document."""
    if output == "json":
        import json

        indent = None if stream else 2
        sys.stdout.write(json.dumps(value, indent=indent, ensure_ascii=False) + "\n")
    else:
        import yaml

        dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
        yaml.dump(
            value,
            sys.stdout,
            Dumper=dumper,
            sort_keys=False,
            allow_unicode=True,
            explicit_start=stream,
        )


def age(seconds: float | None) -> str:
    """A time span in its largest fitting unit: 12s, 4m, 3h, 2d; a clock's hiccup is 0s."""
    if seconds is None:
        return MISSING
    whole = max(0, int(seconds))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if whole >= 2 * size:
            return f"{whole // size}{unit}"
    return f"{whole}s"


def listed(values: Sequence[object]) -> str:
    """Several values of one kind in one cell."""
    return ",".join(map(str, values)) or MISSING


def yes_no(value: bool) -> str:
    """A fact that holds or not."""
    return "yes" if value else "no"


def cell(column: Column, row: Row) -> str:
    """What a column shows of a row."""
    value = row.get(column.key)
    return MISSING if value is None or value == "" else column.show(value)


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns three blanks apart; the last one is not padded."""
    if not lines:
        return ""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    widths[-1] = 0
    pattern = "   ".join(f"{{:<{width}}}" for width in widths) + "\n"
    return "".join([pattern.format(*line) for line in lines])
