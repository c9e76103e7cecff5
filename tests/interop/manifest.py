"""Compares manifests, the lines of oracle/walk.py, and says what differs in words."""

from __future__ import annotations

from collections.abc import Collection, Iterable

SHOWN = 20


def parse(lines: Iterable[str]) -> dict[str, dict[str, str]]:
    """Path -> field -> value."""
    tree = {}
    for line in lines:
        path, *fields = line.split(" ")
        tree[path] = dict(f.split("=", 1) for f in fields)
    return tree


def differences(wanted: Iterable[str], found: Iterable[str], ignore: Collection[str] = (),
                ignore_of_dirs: Collection[str] = ()) -> list[str]:
    """One line per difference; empty when the trees are the same."""
    want, have = parse(wanted), parse(found)
    out = [f"{path}: missing" for path in sorted(set(want) - set(have))]
    out += [f"{path}: not expected" for path in sorted(set(have) - set(want))]
    for path in sorted(set(want) & set(have)):
        a, b = want[path], have[path]
        skip = {*ignore, *(ignore_of_dirs if a.get("type") == "dir" else ())}
        for field in sorted((set(a) | set(b)) - skip):
            if a.get(field) != b.get(field):
                out.append(f"{path}: {field} should be {str(a.get(field))[:200]}, "
                           f"is {str(b.get(field))[:200]}")
    return out


def assert_same(wanted: Iterable[str], found: Iterable[str], ignore: Collection[str] = (),
                ignore_of_dirs: Collection[str] = ()) -> None:
    """Raises AssertionError that lists the first differences."""
    out = differences(wanted, found, ignore, ignore_of_dirs)
    if out:
        more = f"\n... and {len(out) - SHOWN} more" if len(out) > SHOWN else ""
        raise AssertionError(f"{len(out)} differences:\n" + "\n".join(out[:SHOWN]) + more)
