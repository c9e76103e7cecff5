"""gfs2_tool: look into mounted GFS2 file systems and their daemons.

It asks gfs2d over its control socket or reads its control files, and never touches the file system itself, so it
answers while that hangs.
Exit status: 0, or 1 with one line that says what was wrong.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from gfs2py import stats
from gfs2py.control.client import Control, Identity, Unreachable, all_mounts, connect
from gfs2py.control.protocol import ControlError
from gfs2py.fuse.control import find_mount
from rhcs_tools import gfs2_files

USAGE = """Usage: gfs2_tool COMMAND [--json] ...

counters MOUNTPOINT [-c [SECONDS]]
    what a mount has done since it was mounted: requests by kind, waits, device, cache, journal;
    with -c go on and print what was added in each interval (1 second without a number)
inflight MOUNTPOINT [-a MILLISECONDS]
    the requests under way now, at least that old, and what each waits for
df [MOUNTPOINT]
    superblock, mount and space; of all mounts without a mount point
journals MOUNTPOINT
    the journals and their sizes
list
    all mounted file systems: device number, lock table, mount point
waits MOUNTPOINT
    who waits for a lock, and who is in the way
lockdump MOUNTPOINT
    all glocks with their holders and waiters, as the kernel's debugfs shows them; --json: those in use, with paths,
    processes and nodes
glocktop [ARGUMENTS]
    run glocktop of gfs2-utils on the mounts of this machine
gettune MOUNTPOINT
settune MOUNTPOINT NAME VALUE
    the tunables of a mount
withdraw MOUNTPOINT
    stop a mount at once: nothing more is written, every request fails, the other nodes replay its journal
freeze MOUNTPOINT
unfreeze MOUNTPOINT
    on all nodes: writers wait and all journals are empty, so that the disk can be copied; readers go on
sb DEVICE [all|proto|table|ondisk|multihost|uuid]
    print the superblock, or one value of it
version
    the version of this program

A device or image that is mounted does for MOUNTPOINT. --json prints the same for programs.
-t SECONDS  how long a daemon may take to answer (default 5)
-h          this help
-V          the version"""

TIMEOUT_S = 5.0
_MB = 1 << 20


class UsageError(Exception):
    """A command line that cannot be."""


class Failed(Exception):
    """One line that says what was wrong."""


@dataclass
class Words:
    """A command line taken apart."""

    command: str = ""
    operands: list[str] = field(default_factory=list)
    json: bool = False
    timeout_s: float = TIMEOUT_S
    every_s: float | None = None
    min_age_ms: int = 0


def _number(text: str | None, option: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        raise UsageError(f"{option} wants a number, not {text!r}") from None
    if not 0 < value <= 10**6:
        raise UsageError(f"{option} wants a number above 0, not {text!r}")
    return value


def parse(argv: Sequence[str]) -> Words:
    """Options may stand anywhere. Raises UsageError."""
    words, rest = Words(), list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--json":
            words.json = True
        elif word in ("-t", "-a"):
            value = _number(rest.pop(0) if rest else None, word)
            if word == "-t":
                words.timeout_s = value
            else:
                words.min_age_ms = int(value)
        elif word == "-c":
            words.every_s = _number(rest.pop(0), word) if rest and rest[0].replace(".", "", 1).isdigit() else 1.0
        elif word in ("-h", "--help", "help", "-V", "--version"):
            words.command = "version" if word in ("-V", "--version") else "help"
            return words
        elif word.startswith("-") and word != "-":
            raise UsageError(f"unknown option {word}")
        elif not words.command:
            words.command = word
        else:
            words.operands.append(word)
    if not words.command:
        raise UsageError("no command was given")
    return words


def _operands(words: Words, least: int, most: int) -> list[str]:
    if not least <= len(words.operands) <= most:
        raise UsageError(f"{words.command} wants " + (f"{least}" if least == most else f"{least} to {most}")
                         + f" argument{'s' if most != 1 else ''}, not {len(words.operands)}")
    return words.operands


def _ask(words: Words, target: str) -> Control:
    try:
        return connect(target, words.timeout_s)
    except Unreachable as e:
        raise Failed(f"{target}: {e}") from None


def _json(value: object) -> str:
    return json.dumps(value, indent=2)


# ---- the commands: each yields lines


def counters(words: Words) -> Iterator[str]:
    target, = _operands(words, 1, 1)
    with _ask(words, target) as control:
        seen = control.statistics()
        if words.every_s is None:
            yield _json(stats.with_percentiles(seen)) if words.json else "\n".join([f"{target}:", *stats.report(seen)])
            return
        while True:
            time.sleep(words.every_s)
            now = control.statistics()
            added = stats.changes(now, seen)
            yield (json.dumps(stats.with_percentiles(added)) if words.json
                   else "\n".join([f"{target}: {datetime.now():%H:%M:%S}", *stats.report(added), ""]))
            seen = now


def inflight(words: Words) -> Iterator[str]:
    target, = _operands(words, 1, 1)
    with _ask(words, target) as control:
        told = control.ask("in-flight", min_age_ms=words.min_age_ms)
    if words.json:
        yield _json(told)
        return
    rows = [[one["opcode"], str(one["node"]), str(one["pid"]), one["state"], stats.time_text(one["age_ns"]),
             stats.waiting_text(one["waits_for"]) if one["waits_for"] else "-"] for one in told["requests"]]
    yield from stats.table(rows, ("request", "inode", "pid", "state", "age", "waits for"))
    for one in told["background"]:
        yield f"{one['name']}: waits for {stats.waiting_text(one)}"


def _described(words: Words) -> list[dict[str, Any]]:
    """Of the mount asked for, or of all."""
    if _operands(words, 0, 1):
        with _ask(words, words.operands[0]) as control:
            return [control.describe()]
    found = []
    for path, who in all_mounts(words.timeout_s):
        if isinstance(who, Identity):
            with Control(path, words.timeout_s) as control:
                found.append(control.describe())
    return found


def _yes(value: object) -> str:
    return "TRUE" if value else "FALSE"


def _use(name: str, total: int, used: int) -> str:
    percent = 100 * used // total if total else 0
    return f"  {name:<15}{total:<15}{used:<15}{total - used:<15}{percent}%"


def _session(told: Mapping[str, Any]) -> str:
    """How the session with an iSCSI target is doing."""
    text = f"  iSCSI session = {told['state']}, portal {told['portal']}, logins {told['sessions']}, " \
           f"writes not flushed {told['unflushed_writes']}"
    return text + (f", waiting for {told['outage_s']:.0f} s: {told['why']}" if told["outage_s"] else "")


def df_lines(told: Mapping[str, Any]) -> list[str]:
    """As the guide shows it: the superblock, the mount, and how full it is."""
    used = told["blocks_total"] - told["blocks_free"]
    return [
        f"{told['mount_point']}:",
        f"  SB lock proto = \"{told['sb_lockproto']}\"",
        f"  SB lock table = \"{told['sb_locktable']}\"",
        f"  SB ondisk format = {told['ondisk_format']}",
        f"  SB multihost format = {told['multihost_format']}",
        f"  Block size = {told['block_size']}",
        f"  Journals = {len(told['journals'])}",
        f"  Resource Groups = {told['resource_groups']}",
        f"  Mounted lock proto = \"{told['lockproto']}\"",
        f"  Mounted lock table = \"{told['locktable']}\"",
        f"  Mounted host data = \"{told['hostdata']}\"",
        f"  Journal number = {told['jid']}",
        f"  Lock module flags = {told['lock_module_flags']:x}",
        f"  Local flocks = {_yes(told['local_flocks'])}",
        f"  Local caching = {_yes(told['local_caching'])}",
        *([_session(told["iscsi"])] if "iscsi" in told else []),
        "",
        "  " + "".join(f"{title:<15}" for title in ("Type", "Total Blocks", "Used Blocks", "Free Blocks")) + "use%",
        "  " + "-" * 72,
        _use("data", told["blocks_total"], used),
        _use("inodes", told["dinodes"] + told["blocks_free"], told["dinodes"]),
    ]


def _gfs2_only(told: Mapping[str, Any]) -> Mapping[str, Any]:
    if "journals" not in told:
        raise Failed(f"{told.get('mount_point', '?')}: not a GFS2 but a file system of type {told.get('type')}")
    return told


def df(words: Words) -> Iterator[str]:
    described = _described(words)
    if words.json:
        yield _json(described)
        return
    for i, told in enumerate(described):
        if i:
            yield ""
        yield from df_lines(_gfs2_only(told))


def journals(words: Words) -> Iterator[str]:
    target, = _operands(words, 1, 1)
    with _ask(words, target) as control:
        found = _gfs2_only(control.describe())["journals"]
    if words.json:
        yield _json(found)
        return
    for one in found:
        yield f"{one['name']} - {one['size_bytes'] // _MB}MB"
    yield f"{len(found)} journal(s) found."


def list_mounts(words: Words) -> Iterator[str]:
    _operands(words, 0, 0)
    found = [who for _, who in all_mounts(words.timeout_s) if isinstance(who, Identity)]
    if words.json:
        yield _json([{"device": f"{os.major(one.device)}:{os.minor(one.device)}", "table": one.table,
                      "mount_point": one.mount_point, "source": one.source, "pid": one.pid} for one in found])
        return
    for one in found:
        yield f"{os.major(one.device)}:{os.minor(one.device)} {one.table} {one.mount_point}"


_SB_WORDS = {"proto": ("sb_lockproto", "current lock protocol name", '"{}"'),
             "table": ("sb_locktable", "current lock table name", '"{}"'),
             "ondisk": ("sb_fs_format", "current ondisk format", "{}"),
             "multihost": ("sb_multihost_format", "current multihost format", "{}"),
             "uuid": ("sb_uuid", "current uuid", "{}")}


def superblock(path: str) -> dict[str, int | str]:
    """The fields of a superblock by name. Raises OSError, DamageError."""
    import uuid

    from gfs2py.block.opening import open_device
    from gfs2py.ondisk import structs  # the format's tables are for this command only
    from gfs2py.ondisk.constants import GFS2_SB_ADDR
    from gfs2py.ondisk.spec import Kind, structure

    with open_device(path, readonly=True, direct=False) as device:
        values = structs.checked("sb", device.read(GFS2_SB_ADDR * 512, 512))
    out: dict[str, int | str] = {}
    for one in structure("sb").fields:
        value = values[one.name]
        if one.kind is Kind.RESERVED:
            continue
        if isinstance(value, int):
            out[one.name] = value
        else:
            out[one.name] = str(uuid.UUID(bytes=value)) if one.kind is Kind.UUID else structs.text(value)
    return out


def sb(words: Words) -> Iterator[str]:
    _operands(words, 1, 2)
    device, what = [*words.operands, "all"][:2]
    if what != "all" and what not in _SB_WORDS:
        raise UsageError(f"sb prints all, {', '.join(_SB_WORDS)}; not {what!r}")
    entry = find_mount(device)
    values = superblock(entry.source if entry is not None else device)
    if what != "all":
        values = {_SB_WORDS[what][0]: values[_SB_WORDS[what][0]]}
    if words.json:
        yield _json(values)
    elif what == "all":
        yield from (f"  {name} = {value}" for name, value in values.items())
    else:
        name, title, form = _SB_WORDS[what]
        yield f"{title} = {form.format(values[name])}"


def lockdump(words: Words) -> Iterator[str]:
    target, = _operands(words, 1, 1)
    yield from gfs2_files.read(_directory(words, target) / ("glocks.json" if words.json else "glocks"))


def waits(words: Words) -> Iterator[str]:
    target, = _operands(words, 1, 1)
    pieces = gfs2_files.read(_directory(words, target) / "glocks.json")
    lines = (line for piece in pieces for line in piece.splitlines())
    if words.json:
        yield _json([one for one in map(json.loads, lines) if any(h["waits"] for h in one["holders"])])
    else:
        yield from gfs2_files.waits(lines)


def _directory(words: Words, target: str) -> Path:
    try:
        return gfs2_files.directory_of(target, words.timeout_s)
    except Unreachable as e:
        raise Failed(f"{target}: {e}") from None


def gettune(words: Words) -> Iterator[str]:
    target, = _operands(words, 1, 1)
    found = gfs2_files.tunables(_directory(words, target))
    if words.json:
        yield _json({name: int(value) for name, value in found.items()})
    else:
        yield from (f"{name} = {value}" for name, value in found.items())


def settune(words: Words) -> Iterator[str]:
    target, name, value = _operands(words, 3, 3)
    directory = _directory(words, target)
    known = gfs2_files.tunables(directory)
    if name not in known:
        raise Failed(f"{target}: there is no tunable {name!r}: {', '.join(known)}")
    try:
        gfs2_files.write(directory / "tune" / name, value)
    except OSError as e:
        raise Failed(f"{target}: {name} cannot be {value}: {e.strerror}") from None
    yield from ()


def withdraw(words: Words) -> Iterator[str]:
    target, = _operands(words, 1, 1)
    gfs2_files.write(_directory(words, target) / "withdraw", "1")
    yield from ()


def freeze(words: Words) -> Iterator[str]:
    """All that was written before is on the disk first, what the kernel keeps of mapped files included."""
    target, = _operands(words, 1, 1)
    directory = _directory(words, target)
    if not gfs2_files.is_frozen(directory):     # else it would wait for the thaw
        gfs2_files.sync(target)
    _set_frozen(directory, "1")
    yield from ()


def unfreeze(words: Words) -> Iterator[str]:
    target, = _operands(words, 1, 1)
    _set_frozen(_directory(words, target), "0")
    yield from ()


_REFUSED = {errno.EBUSY: "frozen already, or being frozen", errno.EINVAL: "not frozen by this node",
            errno.ETIMEDOUT: "not all nodes stood still in time (their logs say why)",
            errno.EIO: "the mount has withdrawn or ends", errno.EAGAIN: "the mount is not through yet"}


def _set_frozen(directory: Path, value: str) -> None:
    try:
        gfs2_files.write(directory / "freeze", value)
    except OSError as e:
        raise Failed(f"{directory.name}: {_REFUSED.get(e.errno or 0, e.strerror)}") from None


def version(words: Words) -> Iterator[str]:
    from importlib.metadata import version as version_of  # slow to load, and nobody else needs it

    _operands(words, 0, 0)
    number, built = version_of("gfs2py"), datetime.fromtimestamp(os.stat(__file__).st_mtime)
    if words.json:
        yield _json({"version": number, "built": built.isoformat(timespec="seconds")})
        return
    yield f"gfs2_tool {number} (built {built:%b %d %Y %H:%M:%S})"
    yield "Free software: GNU GPL, version 2 or later"


def show_help(_: Words) -> Iterator[str]:
    yield USAGE


COMMANDS: dict[str, Callable[[Words], Iterator[str]]] = {
    "counters": counters, "inflight": inflight, "df": df, "journals": journals, "list": list_mounts, "sb": sb,
    "waits": waits, "lockdump": lockdump, "gettune": gettune, "settune": settune, "withdraw": withdraw,
    "freeze": freeze, "unfreeze": unfreeze,
    "version": version, "help": show_help}


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    words = Words()
    try:
        if arguments[:1] == ["glocktop"]:
            gfs2_files.glocktop(arguments[1:])
        words = parse(arguments)
        if words.command not in COMMANDS:
            raise UsageError(f"unknown command {words.command!r}")
        for line in COMMANDS[words.command](words):
            print(line, flush=words.every_s is not None)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has seen enough
    except KeyboardInterrupt:
        return 130
    except UsageError as e:
        print(f"gfs2_tool: {e} (gfs2_tool -h tells what can be asked)", file=sys.stderr)
        return 1
    except (Failed, ControlError, Unreachable) as e:
        where = f"{words.operands[0]}: " if words.operands and not isinstance(e, Failed) else ""
        print(f"gfs2_tool: {where}{e}", file=sys.stderr)
        return 1
    except OSError as e:
        where = e.filename or next(iter(words.operands), "")
        print(f"gfs2_tool: {where}{': ' if where else ''}{e.strerror or e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
