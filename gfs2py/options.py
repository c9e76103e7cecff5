"""Mount options: the comma-separated text of mount(8) turned into one frozen record.

The names, values and defaults are those of the kernel's GFS2 (gfs2(5); fs/gfs2/ops_fstype.c for which values
are refused); `cache_size`, `threads`, `writeback_cache`, `idle_poll`, `watchdog`, `logfile` and `type` are
ours, and so are the `iscsi_` ones.
"""

from __future__ import annotations

TYPE_CHECKING = False       # typing and its kin take longer to load than everything else of a mount command
if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20

# mount(2) flags
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_SYNCHRONOUS, MS_REMOUNT = 1, 2, 4, 8, 16, 32
MS_DIRSYNC, MS_NOATIME, MS_NODIRATIME = 128, 1024, 2048
MS_RELATIME, MS_STRICTATIME, MS_LAZYTIME = 1 << 21, 1 << 24, 1 << 25


class OptionError(ValueError):
    """An option that cannot be; the text names it and its value."""


class MountOptions:
    """What a mount was asked for. None where the superblock or the file system decides. Never changed once made."""

    lockproto: str | None = None
    locktable: str | None = None
    hostdata: str | None = None
    spectator: bool = False
    ignore_local_fs: bool = False
    localflocks: bool | None = None
    localcaching: bool = False
    norecovery: bool = False
    debug: bool = False
    upgrade: bool = False
    meta: bool = False
    acl: bool = False
    suiddir: bool = False
    data: str = "ordered"
    quota: str = "off"
    discard: bool = False
    commit_s: int = 30
    statfs_quantum_s: int = 30
    statfs_percent: int = 0
    quota_quantum_s: int = 60
    errors: str = "withdraw"
    barrier: bool = True
    rgrplvb: bool | None = None
    loccookie: bool = True
    # ours
    cache_size_bytes: int | None = None
    threads: int = 0
    writeback_cache: bool | None = None
    watchdog_s: int = 300
    idle_poll: bool = True
    logfile: str | None = None
    type: str = "gfs2"
    iscsi_timeout_s: int | None = None
    iscsi_cache: str | None = None
    iscsi_credentials: str | None = None
    iscsi_digest: str = "none"
    # the VFS's
    vfs_flags: int = 0
    given: tuple[str, ...] = ()

    def __init__(self, **values: object) -> None:
        for name, value in values.items():
            if name not in MountOptions.__annotations__:
                raise TypeError(f"there is no mount option {name}")
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"mount options do not change: {name}")

    def __eq__(self, other: object) -> bool:
        """The same in all but the words that were given."""
        return isinstance(other, MountOptions) and all(
            getattr(self, name) == getattr(other, name) for name in self.__annotations__ if name != "given")

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in self.__annotations__ if name != "given"))

    @property
    def read_only(self) -> bool:
        """Nothing of ours may write: `ro`, `spectator` and `norecovery` alike."""
        return bool(self.vfs_flags & MS_RDONLY) or self.spectator or self.norecovery

    @property
    def noatime(self) -> bool:
        return bool(self.vfs_flags & MS_NOATIME)

    @property
    def nodiratime(self) -> bool:
        return bool(self.vfs_flags & (MS_NODIRATIME | MS_NOATIME))

    @property
    def strictatime(self) -> bool:
        return bool(self.vfs_flags & MS_STRICTATIME)

    @property
    def relatime(self) -> bool:
        """The default of Linux unless noatime or strictatime was asked for."""
        return not self.noatime and not self.strictatime

    @property
    def synchronous(self) -> bool:
        return bool(self.vfs_flags & MS_SYNCHRONOUS)

    @property
    def remount(self) -> bool:
        return bool(self.vfs_flags & MS_REMOUNT)


# name -> (flags set, flags cleared)
_VFS: dict[str, tuple[int, int]] = {
    "ro": (MS_RDONLY, 0), "rw": (0, MS_RDONLY), "nosuid": (MS_NOSUID, 0), "suid": (0, MS_NOSUID),
    "nodev": (MS_NODEV, 0), "dev": (0, MS_NODEV), "noexec": (MS_NOEXEC, 0), "exec": (0, MS_NOEXEC),
    "sync": (MS_SYNCHRONOUS, 0), "async": (0, MS_SYNCHRONOUS), "dirsync": (MS_DIRSYNC, 0),
    "remount": (MS_REMOUNT, 0), "noatime": (MS_NOATIME, MS_RELATIME | MS_STRICTATIME),
    "atime": (0, MS_NOATIME), "nodiratime": (MS_NODIRATIME, 0), "diratime": (0, MS_NODIRATIME),
    "relatime": (MS_RELATIME, MS_NOATIME | MS_STRICTATIME), "norelatime": (0, MS_RELATIME),
    "strictatime": (MS_STRICTATIME, MS_NOATIME | MS_RELATIME), "nostrictatime": (0, MS_STRICTATIME),
    "lazytime": (MS_LAZYTIME, 0), "nolazytime": (0, MS_LAZYTIME), "defaults": (0, 0),
}
# For mount(8), systemd and the desktop; they mean nothing to a file system.
_IGNORED = frozenset("auto noauto nofail _netdev user nouser users nousers owner noowner group nogroup "
                     "allow_other default_permissions mand nomand loop silent loud _rnetdev".split())
_IGNORED_PREFIXES = ("x-", "X-", "comment=", "helper=", "uhelper=")

_FLAGS = frozenset("spectator ignore_local_fs localcaching norecovery upgrade meta".split())
_FLAGS_NO = frozenset("debug acl suiddir discard barrier rgrplvb loccookie localflocks "
                      "writeback_cache idle_poll".split())
_ENUMS = {"data": ("ordered", "writeback"), "errors": ("withdraw", "panic"),
          "quota": ("off", "account", "on", "quiet"), "iscsi_cache": ("replay", "through", "fail"),
          "iscsi_digest": ("none", "header")}
_NAME_MAX_BYTES = 63
_SUFFIXES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def _text(name: str, value: str) -> str:
    if not value:
        raise OptionError(f"option {name} needs a value")
    if len(value.encode()) > _NAME_MAX_BYTES:
        raise OptionError(f"option {name}={value} is longer than {_NAME_MAX_BYTES} bytes")
    return value


def _is_number(text: str, digits: int) -> bool:
    """Decimal digits of ASCII, one to `digits` of them."""
    return text.isascii() and text.isdigit() and len(text) <= digits


def _number(low: int, high: int) -> Callable[[str, str], int]:
    def parse(name: str, value: str) -> int:
        if not _is_number(value, 10) or not low <= int(value) <= high:
            raise OptionError(f"option {name}={value} must be a number from {low} to {high}")
        return int(value)
    return parse


def _size(name: str, value: str) -> int:
    text = value.lower().removesuffix("b").removesuffix("i") if value.isascii() else ""
    suffix = text[-1:] if text[-1:].isalpha() else ""
    digits = text.removesuffix(suffix)
    if suffix not in _SUFFIXES or not _is_number(digits, 15):
        raise OptionError(f"option {name}={value} must be a size such as 512M or 2G")
    size_bytes = int(digits) * _SUFFIXES[suffix]
    if size_bytes < 4 * MIB:
        raise OptionError(f"option {name}={value} is less than 4M")
    return size_bytes


def _path(name: str, value: str) -> str:
    if not value.startswith("/"):
        raise OptionError(f"option {name}={value} must be an absolute path")
    return value


def _fs_type(name: str, value: str) -> str:
    if not (value.isascii() and value.isalnum() and value == value.lower() and len(value) <= 16):
        raise OptionError(f"option {name}={value} is no file system type")
    return value


_INT_MAX = (1 << 31) - 1
_VALUES: dict[str, tuple[str, Callable[[str, str], object]]] = {
    "lockproto": ("lockproto", _text), "locktable": ("locktable", _text), "hostdata": ("hostdata", _text),
    "commit": ("commit_s", _number(1, _INT_MAX)),
    "statfs_quantum": ("statfs_quantum_s", _number(0, _INT_MAX)),
    "statfs_percent": ("statfs_percent", _number(0, 100)),
    "quota_quantum": ("quota_quantum_s", _number(1, _INT_MAX)),
    "cache_size": ("cache_size_bytes", _size), "threads": ("threads", _number(0, 32)),
    "watchdog": ("watchdog_s", _number(0, 86400)), "logfile": ("logfile", _path), "type": ("type", _fs_type),
    "iscsi_timeout": ("iscsi_timeout_s", _number(0, 86400)), "iscsi_credentials": ("iscsi_credentials", _path),
}


def _one(name: str, value: str | None) -> dict[str, object]:
    """The field that a single option sets. Raises OptionError."""
    if name in _FLAGS or name in _FLAGS_NO:
        if value is not None:
            raise OptionError(f"option {name} takes no value, not {value!r}")
        return {name: True}
    if name.startswith("no") and name[2:] in _FLAGS_NO:
        if value is not None:
            raise OptionError(f"option {name} takes no value, not {value!r}")
        return {name[2:]: False}
    if name in ("quota", "noquota") and value is None:
        return {"quota": "on" if name == "quota" else "off"}
    if name in _ENUMS:
        if value not in _ENUMS[name]:
            raise OptionError(f"option {name}={value or ''} must be one of {', '.join(_ENUMS[name])}")
        return {name: value}
    if name in _VALUES:
        if value is None:
            raise OptionError(f"option {name} needs a value")
        attribute, parse = _VALUES[name]
        return {attribute: parse(name, value)}
    raise OptionError(f"unknown option {name}" + (f"={value}" if value is not None else ""))


def _check(options: MountOptions) -> None:
    if options.debug and options.errors == "panic":
        raise OptionError("options debug and errors=panic exclude each other")
    if options.lockproto not in (None, "lock_nolock", "lock_dlm"):
        raise OptionError(f"option lockproto={options.lockproto} must be lock_nolock or lock_dlm")
    if options.writeback_cache and options.lockproto == "lock_dlm":
        raise OptionError("option writeback_cache is for lock_nolock only: others would not see the data")


def parse_options(*texts: str) -> MountOptions:
    """Read option texts as given to -o, later ones winning. Raises OptionError."""
    values: dict[str, object] = {}
    flags = 0
    given: list[str] = []
    for item in ",".join(texts).split(","):
        if not item:
            continue
        given.append(item)
        name, equals, text = item.partition("=")
        value = text if equals else None
        if value is None and name in _VFS:
            on, off = _VFS[name]
            flags = flags & ~off | on
        elif name not in _IGNORED and not item.startswith(_IGNORED_PREFIXES):
            values |= _one(name, value)
    options = MountOptions(**values, vfs_flags=flags, given=tuple(given))
    _check(options)
    return options
