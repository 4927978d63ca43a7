"""Plain-text tables for people."""

from collections.abc import Iterable, Sequence


def align(rows: Iterable[Sequence[object]], right: Sequence[int] = ()) -> str:
    """The rows as lines with aligned columns, two spaces apart; the columns numbered in `right` end aligned."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*texts, strict=True)]
    return "\n".join(_line(row, widths, right).rstrip() for row in texts)


def _line(row: list[str], widths: list[int], right: Sequence[int]) -> str:
    cells = zip(row, widths, strict=True)
    return "  ".join(c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(cells))
