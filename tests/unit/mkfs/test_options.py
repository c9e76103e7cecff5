"""What mkfs refuses, and the journal size it chooses."""

import pytest

from gfs2py.mkfs.options import MIB, MkfsError, MkfsOptions, check_locking, journal_size_mb


@pytest.mark.parametrize(("proto", "table", "message"), [
    ("lock_gulm", None, "Invalid lock protocol"),
    ("lock_dlm", None, "No lock table"),
    ("lock_dlm", "", "empty"),
    ("lock_nolock", "a b:c", "invalid character ' '"),
    ("lock_dlm", "abc", "missing colon"),
    ("lock_dlm", ":abc", "cluster name is missing"),
    ("lock_dlm", "a:b:c", "more than one colon"),
    ("lock_dlm", "abc:", "file system name is missing"),
    ("lock_dlm", "c" * 33 + ":x", "cluster name is too long"),
    ("lock_dlm", "c:" + "x" * 31, "file system name is too long"),
])
def test_lock_tables_refused(proto: str, table: str | None, message: str) -> None:
    with pytest.raises(MkfsError, match=message) as caught:
        check_locking(proto, table)
    assert caught.value.status == 255


@pytest.mark.parametrize(("proto", "table"), [
    ("lock_nolock", None), ("lock_nolock", "a:b"), ("lock_dlm", "c" * 32 + ":" + "x" * 30),
    ("lock_dlm", "Web-1_x:gfs2-data"),
])
def test_lock_tables_taken(proto: str, table: str | None) -> None:
    check_locking(proto, table)


@pytest.mark.parametrize(("change", "message"), [
    ({"rgsize_mb": 31}, "resource group size"), ({"rgsize_mb": 2049}, "resource group size"),
    ({"journals": 0}, "No journals"), ({"journals": -1}, "negative"),
    ({"jsize_mb": 7}, "journal size"), ({"jsize_mb": 1025}, "journal size"),
    ({"qcsize_mb": 0}, "quota change"), ({"qcsize_mb": 65}, "quota change"),
    ({"sunit": 4096}, "together"), ({"swidth": 4096}, "together"),
    ({"format": 1800}, "format"), ({"format": 1803}, "format"), ({"bsize": 8192}, "power of two"),
])
def test_numbers_refused(change: dict[str, int], message: str) -> None:
    options = MkfsOptions(lockproto="lock_nolock")
    options.check()
    for name, value in change.items():
        setattr(options, name, value)
    with pytest.raises(MkfsError, match=message):
        options.check()


@pytest.mark.parametrize(("gib", "journals", "mb"), [
    (0.25, 1, 8), (0.5, 1, 16), (2, 1, 32), (8, 1, 64), (16, 1, 128), (1024, 1, 512), (10240, 1, 1024),
    (16, 8, 32), (2, 8, 8),
])
def test_default_journal_size_follows_the_size(gib: float, journals: int, mb: int) -> None:
    options = MkfsOptions(lockproto="lock_nolock", journals=journals)
    assert journal_size_mb(options, 4096, int(gib * 2**30) // 4096) == mb


def test_journals_take_at_most_half() -> None:
    options = MkfsOptions(lockproto="lock_nolock", journals=4, jsize_mb=16)
    assert journal_size_mb(options, 4096, 128 * MIB // 4096) == 16
    with pytest.raises(MkfsError, match="Maximum size for 4 journals on this device is 15MB"):
        journal_size_mb(options, 4096, 127 * MIB // 4096)
    with pytest.raises(MkfsError, match="will not fit"):
        journal_size_mb(MkfsOptions(lockproto="lock_nolock"), 4096, 15 * MIB // 4096)
