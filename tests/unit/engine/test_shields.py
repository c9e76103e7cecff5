"""Parts of a file that change under pages which the kernel holds: what it writes back of the old content stays out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from gfs2py.engine._calls import Calls
from gfs2py.engine.volume import Volume
from memfs import assert_clean, fresh, mounted

WRITE_CACHE = 1
KEEP_SIZE, PUNCH, ZERO = 1, 2, 16
PAGE = 4096
OFF, LENGTH = 700, 1000
Change = Callable[[Calls, int, int, int], object]


@pytest.fixture
def volume() -> Iterator[Volume]:
    device = fresh()
    v = mounted(device)
    yield v
    v.close()
    assert_clean(device)


def punch(calls: Calls, node: int, off: int, length: int) -> None:
    calls.fallocate(node, PUNCH | KEEP_SIZE, off, length)


def zero(calls: Calls, node: int, off: int, length: int) -> None:
    calls.fallocate(node, ZERO | KEEP_SIZE, off, length)


def copy(calls: Calls, node: int, off: int, length: int) -> None:
    """From a file of zeros."""
    source, fh, _ = calls.create(1, b"source")
    calls.setattr(source, size=length)
    assert calls.copy_file_range(source, 0, node, off, length) == length
    calls.release(source, fh)


def made(volume: Volume, content: bytes, name: bytes = b"f") -> int:
    """A closed file."""
    node, fh, _ = volume.calls.create(1, name)
    assert volume.calls.write(node, 0, content, fh) == len(content)
    volume.calls.release(node, fh)
    return node


class Kernel:
    """Writes pages back while a request waits for it to have dropped them; `signals` times a signal comes as well."""

    def __init__(self, volume: Volume, *pages: tuple[int, int, bytes], signals: int = 0) -> None:
        self.calls, self.pages, self.signals = Calls(volume.fs), pages, signals
        self.asked = 0
        self.calls.write_back = self

    def __call__(self) -> bool:
        self.asked += 1
        for node, off, page in self.pages:
            assert self.calls.write(node, off, page, write_flags=WRITE_CACHE) == len(page)
        return self.asked <= self.signals


def hole(content: bytes, off: int = OFF, length: int = LENGTH) -> bytes:
    return content[:off] + bytes(length) + content[off + length:]


@pytest.mark.parametrize("signals", [0, 2])
@pytest.mark.parametrize("change", [punch, zero, copy])
def test_a_page_written_back_behind_a_change(volume: Volume, change: Change, signals: int) -> None:
    """The neighbours' bytes on both sides get there, what the page has of the changed part does not."""
    node = made(volume, b"o" * 3 * PAGE)
    page = b"n" * OFF + b"o" * LENGTH + b"n" * (PAGE - OFF - LENGTH)
    kernel = Kernel(volume, (node, 0, page), signals=signals)
    change(kernel.calls, node, OFF, LENGTH)
    assert kernel.asked == 1 + signals
    assert volume.calls.read(node, 0, 4 * PAGE) == hole(page) + b"o" * 2 * PAGE


@pytest.mark.parametrize("change", [punch, zero, copy])
def test_once_it_is_answered_all_is_written(volume: Volume, change: Change) -> None:
    node = made(volume, b"o" * PAGE)
    change(Kernel(volume).calls, node, OFF, LENGTH)
    assert volume.calls.write(node, 0, b"n" * PAGE, write_flags=WRITE_CACHE) == PAGE
    assert volume.calls.read(node, 0, PAGE) == b"n" * PAGE


def test_pages_in_the_middle_and_at_both_ends(volume: Volume) -> None:
    """Writes of several pages, of which a part, the beginning, the end, or all is shielded."""
    node = made(volume, b"o" * 6 * PAGE)
    off, length = PAGE + 100, 3 * PAGE
    pages = [(node, 0, b"a" * 6 * PAGE), (node, 2 * PAGE, b"b" * PAGE), (node, PAGE, b"c" * PAGE),
             (node, 4 * PAGE, b"d" * 2 * PAGE)]
    punch(Kernel(volume, *pages).calls, node, off, length)
    assert volume.calls.read(node, 0, 6 * PAGE) == (
        b"a" * PAGE + b"c" * 100 + bytes(length) + b"d" * (2 * PAGE - 100))


def test_two_changes_at_once(volume: Volume) -> None:
    """The second one's end leaves the first one's part as it is, also where both are."""
    node = made(volume, b"o" * PAGE)
    inner = Kernel(volume, (node, 0, b"a" * PAGE))

    class Outer(Kernel):
        def __call__(self) -> bool:
            punch(inner.calls, node, 1500, 1000)
            assert volume.calls.read(node, 0, PAGE) == b"a" * 1000 + bytes(1500) + b"a" * (PAGE - 2500)
            return super().__call__()

    punch(Outer(volume, (node, 0, b"b" * PAGE)).calls, node, 1000, 1000)
    assert volume.calls.read(node, 0, PAGE) == b"b" * 1000 + bytes(1000) + b"b" * (PAGE - 2000)


def test_a_write_that_makes_the_file_longer(volume: Volume) -> None:
    """What is behind the end nobody can have had before."""
    node = made(volume, b"o" * 1000)
    punch(Kernel(volume, (node, 0, b"n" * 2000)).calls, node, 500, 2500)
    assert volume.calls.getattr(node).size == 2000
    assert volume.calls.read(node, 0, PAGE) == b"n" * 500 + bytes(500) + b"n" * 1000


def test_writes_past_the_page_cache_and_of_other_files_are_not_held_off(volume: Volume) -> None:
    node, other = made(volume, b"o" * PAGE), made(volume, b"o" * PAGE, b"other")

    class Direct(Kernel):
        def __call__(self) -> bool:
            assert self.calls.write(node, OFF, b"d" * 10) == 10
            return super().__call__()

    punch(Direct(volume, (other, 0, b"n" * PAGE)).calls, node, OFF, LENGTH)
    assert volume.calls.read(node, 0, PAGE) == (
        b"o" * OFF + b"d" * 10 + bytes(LENGTH - 10) + b"o" * (PAGE - OFF - LENGTH))
    assert volume.calls.read(other, 0, PAGE) == b"n" * PAGE


def test_what_changes_no_content_asks_nobody(volume: Volume) -> None:
    node = made(volume, b"o" * PAGE)
    kernel = Kernel(volume)
    kernel.calls.fallocate(node, 0, 0, 4 * PAGE)
    kernel.calls.fallocate(node, KEEP_SIZE, 0, 8 * PAGE)
    with pytest.raises(OSError, match="Operation not supported"):
        kernel.calls.fallocate(node, 0x40, 0, PAGE)
    assert kernel.asked == 0
