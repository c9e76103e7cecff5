"""Kinds of file system, mount and mix that the crash tests use."""

from __future__ import annotations

from dataclasses import dataclass

ACL = ("relatime", "acl")


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of file system and mount."""

    bsize: int = 4096
    mib: int = 24
    jsize_mb: int = 2
    flags: tuple[str, ...] = ACL
    mix: str = "general"
    steps: int = 160
    cache_bytes: int = 1 << 20
    inodes: int = 32
    commit_ms: int = 0          # 0: no log daemon; with one, runs do not repeat exactly

    @property
    def writeback(self) -> bool:
        return "writeback" in self.flags

    @property
    def quota(self) -> bool:
        return "quota_account" in self.flags


def small(mib: int = 20, **more: object) -> Shape:
    """512-byte blocks and the smallest journal: much happens in few operations."""
    return Shape(bsize=512, mib=mib, jsize_mb=1, **more)        # type: ignore[arg-type]


SHAPES = {
    "general": Shape(),
    "general-1k": Shape(bsize=1024),
    "general-512": small(),
    "directories-512": small(mix="directories", steps=60),
    "directories": Shape(mix="directories", steps=60),
    "data-1k": Shape(bsize=1024, mix="data", steps=120),
    "data": Shape(mix="data", steps=120),
    "attrs": Shape(mix="attrs"),
    "attrs-512": small(mix="attrs"),
    "writeback": Shape(flags=(*ACL, "writeback")),
    "writeback-data-512": small(mix="data", flags=(*ACL, "writeback"), steps=80),
    "quota": Shape(flags=(*ACL, "quota_account")),
    "quota-512": small(mix="owners", flags=(*ACL, "quota_account")),
    "discard": Shape(bsize=1024, flags=(*ACL, "discard")),
    "tiny": small(mib=4),
    "tiny-data": Shape(bsize=1024, mib=6, jsize_mb=2, mix="data", steps=120),
    "tiny-directories": small(mib=4, mix="directories", steps=60),
    "real-journal": Shape(mib=40, jsize_mb=8),
    "jdata-512": small(mix="jdata", steps=120),
    "full-log": small(mix="churn", steps=1000),
    "nagged": Shape(bsize=1024, commit_ms=1),
    "nagged-512": small(mix="data", steps=120, commit_ms=1),
    "nagged-attrs": small(mix="attrs", commit_ms=1),
    "combs": small(mix="combs", steps=14, commit_ms=1, cache_bytes=8 << 20),
    "daemon": Shape(bsize=1024, commit_ms=3_600_000, mix="data", steps=120),
}
