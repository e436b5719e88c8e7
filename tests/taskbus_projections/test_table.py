"""Tables: fitted to a terminal, whole elsewhere, and harmless whatever an envelope says."""

from __future__ import annotations

import csv
import io

import pytest

from taskbus.cli.rendering import cells
from taskbus_projections.table import Column, as_csv, table


def columns(**more):
    """A fixed column, a flexible one, and a number."""
    return [
        Column("id", lambda row: row["id"]),
        Column("goal", lambda row: row["goal"], flexible=True, **more),
        Column("n", lambda row: str(row["n"]), number=True),
    ]


ROWS = [{"id": "a", "goal": "short", "n": 7}, {"id": "bcd", "goal": "long " * 30, "n": 1234}]


def test_without_a_width_nothing_is_cut():
    """What goes into a file or a pipe is whole; numbers stand on the right."""
    lines = table(columns(), ROWS).splitlines()
    assert lines[0] == "id   goal" + " " * 146 + "     n"
    assert lines[2].split() == ["a", "short", "7"]
    assert ("long " * 30).strip() in lines[3]
    assert {len(line) for line in lines} == {len(lines[0])}


@pytest.mark.parametrize("width", [30, 40, 80])
def test_with_a_width_the_flexible_column_gives_way(width):
    """No line is longer, the fixed columns are whole, and what was cut ends with an ellipsis."""
    lines = table(columns(), ROWS, width=width).splitlines()
    assert {cells(line) for line in lines} == {width}
    assert lines[3].startswith("bcd  long ")
    assert "…" in lines[3]
    assert lines[3].endswith("  1234")


def test_the_widest_flexible_column_gives_way_first():
    """A short text is not cut for a long one beside it."""
    both = [Column("a", lambda row: row["a"], flexible=True), Column("b", lambda row: row["b"], flexible=True)]
    (*_, line) = table(both, [{"a": "x" * 15, "b": "y" * 90}], width=50).splitlines()
    assert line == "x" * 15 + "  " + "y" * 32 + "…"


def test_a_terminal_that_is_too_narrow_gets_longer_lines():
    """A text is not cut below what can still be told apart; without flexible columns nothing is cut."""
    assert "  long …  " in table(columns(), ROWS, width=5)
    assert table([Column("id", lambda row: row["id"])], ROWS, width=2) == "id\n---\na\nbcd"


def test_columns_to_spare_are_left_out_before_a_row_breaks():
    """The one to be spared most goes first, and only where texts cannot give way any more."""
    wide = [
        Column("first", lambda _: "x" * 10, spare=2),
        Column("second", lambda _: "y" * 10, spare=1),
        Column("text", lambda _: "word " * 20, flexible=True),
    ]
    for width, headings in ((40, ["first", "second", "text"]), (30, ["second", "text"]), (20, ["text"])):
        lines = table(wide, [{}], width=width).splitlines()
        assert lines[0].split() == headings
        assert max(map(len, lines)) == width


def test_a_column_without_any_text_is_left_out():
    """It takes no room; one that has a text in some row is shown."""
    rows = [{"id": "a", "goal": "", "n": 1}, {"id": "b", "goal": "", "n": 2}]
    assert table(columns(), rows).splitlines()[0] == "id  n"
    rows[1]["goal"] = "some"
    assert table(columns(), rows).splitlines()[0] == "id  goal  n"


def test_wide_and_combining_characters_keep_the_columns_apart():
    """Characters of two columns and of none are counted as what they take."""
    rows = [{"id": "a", "goal": "日本語", "n": 1}, {"id": "b", "goal": "e\u0301e\u0301", "n": 2}]
    lines = table(columns(), rows).splitlines()
    assert {cells(line) for line in lines} == {len("id  goal    n")}


def test_control_characters_do_not_reach_the_terminal():
    """Escape sequences, line breaks and marks of direction are made visible."""
    shown = table(columns(), [{"id": "a", "goal": "red\x1b[31m\nnext\u202e", "n": 1}])
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "red\\x1b[31m next" in shown
    assert len(shown.splitlines()) == 3


def test_colours_take_no_room():
    """A painted text stands in the same place; an empty one is not painted."""
    painted = table(columns(paint=lambda text: f"<{text}>" if text else ""), [*ROWS, {"id": "e", "goal": "", "n": 0}])
    plain = table(columns(), [*ROWS, {"id": "e", "goal": "", "n": 0}])
    assert painted.replace("<", "").replace(">", "") == plain
    assert "<short>" in painted


def test_a_table_without_rows_has_its_headings():
    """Headings say what would stand there."""
    assert table(columns(), []).splitlines() == ["id  goal  n", "--  ----  -"]


def test_csv_can_be_read_back():
    """Commas, quotes and line breaks come back as they were; NULL is empty, flags are numbers."""
    rows = [{"a": 'say "hi", twice\nor more', "b": None}, {"a": "=1+1", "b": True}, {"a": "", "b": 0.5}]
    read = list(csv.reader(io.StringIO(as_csv(["a", "b"], rows))))
    assert read == [["a", "b"], ['say "hi", twice\nor more', ""], ["=1+1", "1"], ["", "0.5"]]
