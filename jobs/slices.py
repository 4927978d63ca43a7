"""The option `--slice I/N`: one part of work that several jobs share."""

from collections.abc import Callable
from typing import Any

import click


class SliceType(click.ParamType[Any]):
    """`I/N`: part I, from 0, of N."""

    name = "slice"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        index, _, count = str(value).partition("/")
        if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            self.fail(f"{value!r}: expected I/N with I from 0 to N-1, like 0/4", param, ctx)
        return int(index), int(count)


def slice_option(text: str, **more: Any) -> Callable[[Any], Any]:
    """`--slice`, passed as `part`, with `text` as its help; `more` as `click.option` takes it."""
    return click.option("--slice", "part", metavar="I/N", type=SliceType(), default="0/1", help=text, **more)
