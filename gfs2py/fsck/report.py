"""What a check gives back: findings in words and in fields, counts, times.

No dataclasses here: loading them takes longer than the check of a small file system.
"""

import struct
from typing import Any, NamedTuple

from gfs2py.fsck.kinds import HOW, KINDS, METATYPES, KindInfo, Severity

RawFinding = tuple[int, int, int, int, int, int, bytes]


class Finding(NamedTuple):
    """One thing that is wrong. `block` is where it was read, `inode` whose it is (0: nobody's).

    `path` is the inode's if it is known (at the end of the check; '//' begins one of a system file).
    """

    code: str
    severity: Severity
    block: int
    inode: int
    struct: str
    field: str
    wanted: int
    found: int
    aux: int
    name: str
    text: str
    owners: tuple[tuple[int, str], ...] = ()
    path: str = ""

    def __str__(self) -> str:
        return self.text


def _text_name(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("utf-8", "backslashreplace")


def _owners(inode: int, wanted: int, found: int, aux: int, raw: bytes) -> tuple[tuple[int, str], ...]:
    """The owners of a block that has several: first two in fields, two more behind the name."""
    more = struct.unpack("=QQ", raw) if len(raw) == 16 else (0, 0)
    addrs = (inode, wanted, *more)[: min(found, 4)]
    return tuple((a, HOW.get((aux >> (8 * i)) & 0xFF, "?")) for i, a in enumerate(addrs))


def make_finding(raw: RawFinding, names: dict[tuple[int, int], str] | None = None) -> Finding:
    """A finding of the compiled passes in words."""
    kind, block, inode, wanted, found, aux, raw_name = raw
    info: KindInfo = KINDS[kind]
    owners: tuple[tuple[int, str], ...] = ()
    name = ""
    sc_field = ""
    if info.code == "block_duplicate":
        owners = _owners(inode, wanted, found, aux, raw_name)
    elif info.code == "statfs":
        sc_field = name = _text_name(raw_name)
    else:
        name = _text_name(raw_name)
    number = 0
    if name.startswith("journal") and name[7:].isdigit():
        number = int(name[7:]) + 1
    text = info.text.format(
        block=block, inode=inode, wanted=wanted, found=found, aux=aux, name=name, number=number,
        sc_field=sc_field, how=HOW.get(aux, "?"), metatype=METATYPES.get(aux, "the right metadata"),
        owners=", ".join(f"inode {a} ({a:#x}) as {how}" for a, how in owners),
    )  # fmt: skip
    place = info.field.format(sc_field=sc_field)
    return Finding(info.code, info.severity, block, inode, info.struct, place, wanted, found, aux, name, text,
                   owners)  # fmt: skip


class Report:
    """The result of a check.

    `findings` holds at most 64 of each kind; `totals` counts all of them by code. `checked` is False when the
    device holds nothing that could be checked (the findings say why). `seconds` has the time of each pass.
    """

    __slots__ = ("checked", "counts", "device", "dirty_journals", "findings", "journals", "seconds", "totals")

    def __init__(self, device: str) -> None:
        self.device = device
        self.checked = False
        self.findings: list[Finding] = []
        self.totals: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self.dirty_journals: list[int] = []
        self.journals: list[dict[str, Any]] = []

    def _count(self, severity: Severity) -> int:
        by_code = {info.code: info.severity for info in KINDS.values()}
        return sum(n for code, n in self.totals.items() if by_code[code] == severity)

    @property
    def n_errors(self) -> int:
        return self._count("error")

    @property
    def n_warnings(self) -> int:
        return self._count("warning")

    @property
    def n_notes(self) -> int:
        return self._count("note")

    @property
    def clean(self) -> bool:
        """Checked, and nothing needs repair. A dirty journal alone does not count: a mount replays it."""
        return self.checked and self.n_errors == 0

    def of(self, code: str) -> list[Finding]:
        """The stored findings of one kind."""
        return [f for f in self.findings if f.code == code]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        out = {name: getattr(self, name) for name in (
            "device", "checked", "findings", "totals", "counts", "seconds", "dirty_journals", "journals")}
        out["findings"] = [f._asdict() for f in self.findings]
        out["clean"] = self.clean
        out["errors"], out["warnings"], out["notes"] = self.n_errors, self.n_warnings, self.n_notes
        return out
