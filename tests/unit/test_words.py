"""Plain command lines are read without argparse; whatever is not plain is left to it."""

from __future__ import annotations

import pytest

from gfs2py import words


@pytest.mark.parametrize(("line", "found", "rest"), [
    ("", {}, []),
    ("a b", {}, ["a", "b"]),
    ("a b -o ro,noatime -v", {"o": ["ro,noatime"], "v": [""]}, ["a", "b"]),
    ("-oro a -o acl b", {"o": ["ro", "acl"]}, ["a", "b"]),
    ("-vfo ro a", {"v": [""], "f": [""], "o": ["ro"]}, ["a"]),
    ("-", {}, ["-"]),
])
def test_plain(line: str, found: dict[str, list[str]], rest: list[str]) -> None:
    assert words.split(line.split(), "fv", "o") == (found, rest)


@pytest.mark.parametrize("line", ["-h", "--verbose a", "a -x", "a -o", "-o -v a", "-- a", "-vx"])
def test_not_plain(line: str) -> None:
    assert words.split(line.split(), "fv", "o") is None
