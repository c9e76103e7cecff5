"""A directory against a set: inserts, removals, renames, remounts and readers that stop anywhere."""

import errno
import itertools
import zlib

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from collide import colliding_names, suffix_for
from memfs import assert_clean, fresh, mounted

ROOT = 1
REG = 0o100644


def near(number: int) -> bytes:
    """A legal name whose hash begins with twelve fixed bits: leaves of such names split again and again."""
    for attempt in itertools.count():
        stem = b"n%d.%d" % (number, attempt)
        name = stem + suffix_for(stem, 0xABC00000 | zlib.crc32(stem) >> 12)
        if b"/" not in name and b"\0" not in name:
            return name
    raise AssertionError


ALIKE = list(itertools.islice(colliding_names(), 30))
NEAR = [near(i) for i in range(60)]
NAMES = st.one_of(
    st.integers(0, 60).map(lambda i: b"f%d" % i),
    st.integers(0, 20).map(lambda i: b"%d" % i + b"long" * 60),
    st.sampled_from(ALIKE),
    st.sampled_from(NEAR),
)


class DirectoryMachine(RuleBasedStateMachine):
    """512-byte blocks: eight short names fill a leaf."""

    def __init__(self) -> None:
        super().__init__()
        self.device = fresh(512, 64)
        self.volume = mounted(self.device)
        self.volume.calls.mkdir(ROOT, b"dir")
        self.node = self.volume.node("dir")
        self.names: set[bytes] = set()
        self.cookie: int | None = None
        self.seen: list[bytes] = []
        self.stayed: set[bytes] = set()

    @initialize(count=st.sampled_from([0, 5, 60]), which=st.sampled_from([ALIKE, NEAR]))
    def fill(self, count: int, which: list[bytes]) -> None:
        for name in which[:count]:
            self.add(name)

    def gone(self, name: bytes) -> None:
        self.names.discard(name)
        self.stayed.discard(name)

    @rule(name=NAMES)
    def add(self, name: bytes) -> None:
        if name in self.names:
            with pytest.raises(FileExistsError):
                self.volume.calls.mknod(self.node, name, REG)
            return
        made, _ = self.volume.calls.mknod(self.node, name, REG)
        self.volume.calls.forget(made)
        self.names.add(name)

    @rule(name=NAMES, count=st.integers(2, 40))
    def add_many(self, name: bytes, count: int) -> None:
        for i in range(count):
            self.add((b"%d-" % i + name)[:255])

    @rule(name=NAMES)
    def remove(self, name: bytes) -> None:
        if name in self.names:
            self.volume.calls.unlink(self.node, name)
            self.gone(name)
        else:
            with pytest.raises(FileNotFoundError):
                self.volume.calls.unlink(self.node, name)

    @rule(step=st.integers(2, 5))
    def remove_some(self, step: int) -> None:
        for name in sorted(self.names)[::step]:
            self.remove(name)

    @rule(old=NAMES, new=NAMES)
    def rename(self, old: bytes, new: bytes) -> None:
        if old not in self.names:
            with pytest.raises(FileNotFoundError):
                self.volume.calls.rename(self.node, old, self.node, new)
            return
        self.volume.calls.rename(self.node, old, self.node, new)
        if old != new:
            self.gone(old)
            self.names.add(new)

    @rule(name=NAMES)
    def look(self, name: bytes) -> None:
        try:
            found, _ = self.volume.calls.lookup(self.node, name)
        except OSError as failed:
            assert failed.errno == errno.ENOENT  # noqa: PT017 - both outcomes are legal
            assert name not in self.names
        else:
            self.volume.calls.forget(found)
            assert name in self.names

    @precondition(lambda self: self.cookie is None)
    @rule()
    def begin_reading(self) -> None:
        self.cookie, self.seen, self.stayed = 0, [], set(self.names)

    @precondition(lambda self: self.cookie is not None)
    @rule(most=st.integers(1, 20))
    def read_on(self, most: int) -> None:
        assert self.cookie is not None
        batch = self.volume.calls.readdir(self.node, self.cookie, most)
        for entry in batch:
            assert self.cookie < entry.next_off < 1 << 63
            self.cookie = entry.next_off
            self.seen.append(entry.name)
        if not batch:
            assert len(set(self.seen)) == len(self.seen)
            assert self.stayed <= set(self.seen)
            assert self.seen[:2] == [b".", b".."]
            self.cookie = None

    @precondition(lambda self: self.cookie is not None)
    @rule(step=st.integers(1, 3))
    def remove_what_was_read(self, step: int) -> None:
        for name in self.seen[2::step]:
            if name in self.names:
                self.remove(name)

    @rule()
    def remount(self) -> None:
        self.volume.close()
        assert_clean(self.device)
        self.volume = mounted(self.device)
        self.node = self.volume.node("dir")

    @invariant()
    def is_well(self) -> None:
        assert self.volume.fs.withdrawn is None

    def teardown(self) -> None:
        try:
            listed = self.volume.listdir("dir")
            assert sorted(listed) == sorted(self.names)
            self.volume.close()
            assert_clean(self.device)
        finally:
            self.volume.abandon()


TestDirectory = DirectoryMachine.TestCase
TestDirectory.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
