"""Mount options: defaults, every name of the kernel's GFS2, and errors that name option and value."""

from __future__ import annotations

import pytest

from gfs2py.options import MS_NODEV, MS_RDONLY, MountOptions, OptionError, parse_options


def test_defaults_are_the_kernels() -> None:
    o = parse_options("")
    assert o == MountOptions()
    assert (o.data, o.errors, o.quota, o.barrier, o.commit_s) == ("ordered", "withdraw", "off", True, 30)
    assert (o.statfs_quantum_s, o.statfs_percent, o.quota_quantum_s) == (30, 0, 60)
    assert o.relatime
    assert not o.read_only


@pytest.mark.parametrize(("text", "field", "value"), [
    ("lockproto=lock_nolock", "lockproto", "lock_nolock"),
    ("locktable=a:b", "locktable", "a:b"),
    ("hostdata=jid=0", "hostdata", "jid=0"),
    ("spectator", "spectator", True),
    ("ignore_local_fs", "ignore_local_fs", True),
    ("localflocks", "localflocks", True),
    ("localcaching", "localcaching", True),
    ("norecovery", "norecovery", True),
    ("debug", "debug", True),
    ("nodebug", "debug", False),
    ("upgrade", "upgrade", True),
    ("acl", "acl", True),
    ("noacl", "acl", False),
    ("suiddir", "suiddir", True),
    ("nosuiddir", "suiddir", False),
    ("data=writeback", "data", "writeback"),
    ("quota=account", "quota", "account"),
    ("quota=quiet", "quota", "quiet"),
    ("quota", "quota", "on"),
    ("noquota", "quota", "off"),
    ("discard", "discard", True),
    ("nodiscard", "discard", False),
    ("commit=5", "commit_s", 5),
    ("statfs_quantum=0", "statfs_quantum_s", 0),
    ("statfs_percent=100", "statfs_percent", 100),
    ("quota_quantum=1", "quota_quantum_s", 1),
    ("errors=panic", "errors", "panic"),
    ("barrier", "barrier", True),
    ("nobarrier", "barrier", False),
    ("rgrplvb", "rgrplvb", True),
    ("norgrplvb", "rgrplvb", False),
    ("loccookie", "loccookie", True),
    ("noloccookie", "loccookie", False),
    ("meta", "meta", True),
    ("cache_size=512M", "cache_size_bytes", 512 << 20),
    ("cache_size=2GiB", "cache_size_bytes", 2 << 30),
    ("threads=7", "threads", 7),
    ("watchdog=0", "watchdog_s", 0),
    ("writeback_cache", "writeback_cache", True),
    ("noidle_poll", "idle_poll", False),
    ("logfile=/x", "logfile", "/x"),
])
def test_each_option(text: str, field: str, value: object) -> None:
    assert getattr(parse_options(text), field) == value


def test_the_last_one_wins() -> None:
    o = parse_options("ro,noatime,commit=1", "rw,commit=9,relatime")
    assert (o.read_only, o.noatime, o.relatime, o.commit_s) == (False, False, True, 9)


def test_vfs_flags_and_what_means_nothing() -> None:
    o = parse_options("defaults,nodev,_netdev,x-systemd.requires=a,comment=b,nofail,ro,strictatime")
    assert o.vfs_flags & (MS_NODEV | MS_RDONLY) == MS_NODEV | MS_RDONLY
    assert o.strictatime
    assert not o.relatime


@pytest.mark.parametrize("text", ["spectator", "norecovery", "ro"])
def test_read_only_in_every_way(text: str) -> None:
    assert parse_options(text).read_only


@pytest.mark.parametrize(("text", "message"), [
    ("wrong", "unknown option wrong"),
    ("wrong=1", "unknown option wrong=1"),
    ("data=x", "data=x must be one of"),
    ("commit=0", "commit=0 must be a number from 1"),
    ("commit=-1", "commit=-1"),
    ("commit", "commit needs a value"),
    ("commit=99999999999", "commit=99999999999"),
    ("commit=1٣", "commit=1٣"),
    ("statfs_percent=101", "statfs_percent=101 must be a number from 0 to 100"),
    ("quota_quantum=0", "quota_quantum=0"),
    ("errors=", "errors= must be one of"),
    ("acl=1", "acl takes no value"),
    ("noacl=1", "noacl takes no value"),
    ("spectator=yes", "spectator takes no value"),
    ("lockproto=", "lockproto needs a value"),
    ("lockproto=lock_gulm", "lockproto=lock_gulm must be"),
    ("locktable=" + "t" * 64, "longer than 63 bytes"),
    ("debug,errors=panic", "exclude each other"),
    ("cache_size=1k", "cache_size=1k is less than 4M"),
    ("cache_size=lots", "cache_size=lots must be a size"),
    ("threads=99", "threads=99"),
    ("logfile=x", "logfile=x must be an absolute path"),
    ("nospectator", "unknown option nospectator"),
    ("ro=1", "unknown option ro=1"),
    ("lockproto=lock_dlm,writeback_cache", "writeback_cache is for lock_nolock only"),
])
def test_errors_name_option_and_value(text: str, message: str) -> None:
    with pytest.raises(OptionError) as e:
        parse_options(text)
    assert message in str(e.value)
