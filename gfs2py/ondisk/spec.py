"""Every GFS2 structure as one table of fields: what drives packing, printing, patching and checking.

A row is F(offset, width, name, ...), offsets and widths in bytes, all numbers big-endian. The rows of a
structure lie gapless one after the other and fill its size; a test proves that, and compares offsets and
sizes with the C structures. A structure that begins a block carries its metadata type and format.

Source: include/uapi/linux/gfs2_ondisk.h for layout, fs/gfs2 for the meaning of units and pointers.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gfs2py.ondisk import constants as c


class Kind(enum.Enum):
    """How the bytes of a field are to be read."""

    UINT = "unsigned"
    INT = "signed"
    STRING = "string"  # NUL terminated within its width
    UUID = "uuid"
    RESERVED = "reserved"  # written as zeros, read without a look


class Unit(enum.Enum):
    """What a number counts or means; it decides how the number is printed."""

    NONE = ""
    BYTES = "bytes"
    BLOCKS = "blocks"  # file system blocks
    BLOCK = "block"  # the address of a file system block
    SHIFT = "log2"
    SECS = "seconds"  # since the epoch
    NSECS = "nanoseconds"
    MODE = "mode"
    UID = "uid"
    GID = "gid"
    CHECK = "checksum"


@dataclass(frozen=True, slots=True)
class Field:
    """One field: `points_to` names the structures that may stand at the block it addresses (0 = none)."""

    offset: int
    width: int
    name: str
    kind: Kind = Kind.UINT
    unit: Unit = Unit.NONE
    points_to: tuple[str, ...] = ()
    values: Mapping[int, str] | None = None  # the legal numbers and their names
    mask: Mapping[int, str] | None = None  # the legal bits and their names
    maximum: int | None = None
    hexadecimal: bool = False

    @property
    def end(self) -> int:
        return self.offset + self.width

    @property
    def is_number(self) -> bool:
        return self.kind in (Kind.UINT, Kind.INT)


@dataclass(frozen=True, slots=True)
class Structure:
    """A structure; `mh_type` and `mh_format` are set when it stands at the start of a block."""

    name: str  # as in C, with gfs2_
    title: str
    size: int
    fields: tuple[Field, ...]
    header: str = ""  # C name of the embedded gfs2_meta_header
    mh_type: int | None = None
    mh_format: int | None = None

    def field(self, name: str) -> Field:
        """The field called `name`; the header's prefix may be given as in C (di_header.mh_type). KeyError."""
        if self.header and name.startswith(self.header + "."):
            name = name[len(self.header) + 1:]
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(f"{self.name} has no field {name!r}")


METATYPES: Final = {
    c.GFS2_METATYPE_NONE: "GFS2_METATYPE_NONE", c.GFS2_METATYPE_SB: "GFS2_METATYPE_SB",
    c.GFS2_METATYPE_RG: "GFS2_METATYPE_RG", c.GFS2_METATYPE_RB: "GFS2_METATYPE_RB",
    c.GFS2_METATYPE_DI: "GFS2_METATYPE_DI", c.GFS2_METATYPE_IN: "GFS2_METATYPE_IN",
    c.GFS2_METATYPE_LF: "GFS2_METATYPE_LF", c.GFS2_METATYPE_JD: "GFS2_METATYPE_JD",
    c.GFS2_METATYPE_LH: "GFS2_METATYPE_LH", c.GFS2_METATYPE_LD: "GFS2_METATYPE_LD",
    c.GFS2_METATYPE_LB: "GFS2_METATYPE_LB", c.GFS2_METATYPE_EA: "GFS2_METATYPE_EA",
    c.GFS2_METATYPE_ED: "GFS2_METATYPE_ED", c.GFS2_METATYPE_QC: "GFS2_METATYPE_QC",
}
FORMATS: Final = {
    getattr(c, name): name for name in dir(c)
    if name.startswith("GFS2_FORMAT_") and name not in ("GFS2_FORMAT_FS", "GFS2_FORMAT_MULTI")
}
DINODE_FLAGS: Final = {
    c.GFS2_DIF_JDATA: "Jdata", c.GFS2_DIF_EXHASH: "ExHash", 0x4: "Unused",
    c.GFS2_DIF_EA_INDIRECT: "EaIndirect", c.GFS2_DIF_DIRECTIO: "Directio",
    c.GFS2_DIF_IMMUTABLE: "Immutable", c.GFS2_DIF_APPENDONLY: "AppendOnly",
    c.GFS2_DIF_NOATIME: "NoAtime", c.GFS2_DIF_SYNC: "Sync", c.GFS2_DIF_SYSTEM: "System",
    c.GFS2_DIF_TOPDIR: "TopLevel", c.GFS2_DIF_TRUNC_IN_PROG: "TruncInProg",
    c.GFS2_DIF_INHERIT_DIRECTIO: "InheritDirectio", c.GFS2_DIF_INHERIT_JDATA: "InheritJdata",
}
RGRP_FLAGS: Final = {
    c.GFS2_RGF_JOURNAL: "Journal", c.GFS2_RGF_METAONLY: "MetaOnly", c.GFS2_RGF_DATAONLY: "DataOnly",
    c.GFS2_RGF_NOALLOC: "NoAlloc", c.GFS2_RGF_TRIMMED: "Trimmed",
}
LOG_FLAGS: Final = {
    c.GFS2_LOG_HEAD_UNMOUNT: "UNMOUNT", c.GFS2_LOG_HEAD_FLUSH_NORMAL: "FLUSH_NORMAL",
    c.GFS2_LOG_HEAD_FLUSH_SYNC: "FLUSH_SYNC", c.GFS2_LOG_HEAD_FLUSH_SHUTDOWN: "FLUSH_SHUTDOWN",
    c.GFS2_LOG_HEAD_FLUSH_FREEZE: "FLUSH_FREEZE", c.GFS2_LOG_HEAD_RECOVERY: "RECOVERY",
    c.GFS2_LOG_HEAD_USERSPACE: "USERSPACE",
} | {getattr(c, name): name[5:] for name in dir(c) if name.startswith("GFS2_LFC_")}
LOG_DESCRIPTORS: Final = {
    c.GFS2_LOG_DESC_METADATA: "METADATA", c.GFS2_LOG_DESC_REVOKE: "REVOKE", c.GFS2_LOG_DESC_JDATA: "JDATA",
}
EA_TYPES: Final = {
    c.GFS2_EATYPE_UNUSED: "UNUSED", c.GFS2_EATYPE_USR: "USR", c.GFS2_EATYPE_SYS: "SYS",
    c.GFS2_EATYPE_SECURITY: "SECURITY", c.GFS2_EATYPE_TRUSTED: "TRUSTED",
}
EA_FLAGS: Final = {c.GFS2_EAFLAG_LAST: "LAST"}
QC_FLAGS: Final = {c.GFS2_QCF_USER: "USER"}
DIRENT_TYPES: Final = {
    1: "FIFO", 2: "CHR", c.DT_DIR: "DIR", 6: "BLK", c.DT_REG: "REG", c.DT_LNK: "LNK", 12: "SOCK",
}
FS_FORMATS: Final = {n: str(n) for n in range(c.GFS2_FS_FORMAT_MIN, c.GFS2_FS_FORMAT_MAX + 1)}

F = Field
RES, INT, STR = Kind.RESERVED, Kind.INT, Kind.STRING
BYTES, BLOCKS, BLOCK, SECS, NSECS, CHECK = (
    Unit.BYTES, Unit.BLOCKS, Unit.BLOCK, Unit.SECS, Unit.NSECS, Unit.CHECK)
DINODE, RGRP, LEAF = ("gfs2_dinode",), ("gfs2_rgrp",), ("gfs2_leaf",)
ANY_BLOCK = ("any",)


def _inum(offset: int, name: str) -> tuple[Field, Field]:
    return (F(offset, 8, name + ".no_formal_ino"),
            F(offset + 8, 8, name + ".no_addr", unit=BLOCK, points_to=DINODE))


META_HEADER: Final = (
    F(0, 4, "mh_magic", values={c.GFS2_MAGIC: "GFS2_MAGIC"}, hexadecimal=True),
    F(4, 4, "mh_type", values=METATYPES),
    F(8, 8, "__pad0", RES),
    F(16, 4, "mh_format", values=FORMATS),
    F(20, 4, "mh_jid"),
)


def _block(name: str, title: str, header: str, mh_type: int, mh_format: int, size: int = 24,
           fields: tuple[Field, ...] = ()) -> Structure:
    """A structure that begins with a metadata header."""
    return Structure(name, title, size, META_HEADER + fields, header, mh_type, mh_format)


SB = _block("gfs2_sb", "superblock", "sb_header", c.GFS2_METATYPE_SB, c.GFS2_FORMAT_SB, 272, (
    F(24, 4, "sb_fs_format", values=FS_FORMATS),
    F(28, 4, "sb_multihost_format", values={c.GFS2_FORMAT_MULTI: "1900"}),
    F(32, 4, "__pad0_flags", RES),
    F(36, 4, "sb_bsize", unit=BYTES, values={n: str(n) for n in (*c.BLOCK_SIZES, 8192, 16384, 32768, 65536)}),
    F(40, 4, "sb_bsize_shift", unit=Unit.SHIFT, maximum=16),
    F(44, 4, "__pad1", RES),
    *_inum(48, "sb_master_dir"),
    F(64, 16, "__pad2", RES),
    *_inum(80, "sb_root_dir"),
    F(96, 64, "sb_lockproto", STR),
    F(160, 64, "sb_locktable", STR),
    F(224, 16, "__pad3", RES),
    F(240, 16, "__pad4", RES),
    F(256, 16, "sb_uuid", Kind.UUID),
))

RINDEX = Structure("gfs2_rindex", "resource group index entry", 96, (
    F(0, 8, "ri_addr", unit=BLOCK, points_to=RGRP),
    F(8, 4, "ri_length", unit=BLOCKS),
    F(12, 4, "__pad", RES),
    F(16, 8, "ri_data0", unit=BLOCK, points_to=ANY_BLOCK),
    F(24, 4, "ri_data", unit=BLOCKS),
    F(28, 4, "ri_bitbytes", unit=BYTES),
    F(32, 64, "ri_reserved", RES),
))

RG = _block("gfs2_rgrp", "resource group", "rg_header", c.GFS2_METATYPE_RG, c.GFS2_FORMAT_RG, 128, (
    F(24, 4, "rg_flags", mask=RGRP_FLAGS),
    F(28, 4, "rg_free", unit=BLOCKS),
    F(32, 4, "rg_dinodes", unit=BLOCKS),
    F(36, 4, "rg_skip", unit=BLOCKS),
    F(40, 8, "rg_igeneration"),
    F(48, 8, "rg_data0", unit=BLOCK, points_to=ANY_BLOCK),
    F(56, 4, "rg_data", unit=BLOCKS),
    F(60, 4, "rg_bitbytes", unit=BYTES),
    F(64, 4, "rg_crc", unit=CHECK, hexadecimal=True),
    F(68, 60, "rg_reserved", RES),
))

DI = _block("gfs2_dinode", "disk inode", "di_header", c.GFS2_METATYPE_DI, c.GFS2_FORMAT_DI, 232, (
    *_inum(24, "di_num"),
    F(40, 4, "di_mode", unit=Unit.MODE),
    F(44, 4, "di_uid", unit=Unit.UID),
    F(48, 4, "di_gid", unit=Unit.GID),
    F(52, 4, "di_nlink"),
    F(56, 8, "di_size", unit=BYTES),
    F(64, 8, "di_blocks", unit=BLOCKS),
    F(72, 8, "di_atime", INT, unit=SECS),
    F(80, 8, "di_mtime", INT, unit=SECS),
    F(88, 8, "di_ctime", INT, unit=SECS),
    F(96, 4, "di_major"),
    F(100, 4, "di_minor"),
    F(104, 8, "di_goal_meta", unit=BLOCK, points_to=ANY_BLOCK),
    F(112, 8, "di_goal_data", unit=BLOCK, points_to=ANY_BLOCK),
    F(120, 8, "di_generation"),
    F(128, 4, "di_flags", mask=DINODE_FLAGS),
    F(132, 4, "di_payload_format"),
    F(136, 2, "__pad1", RES),
    F(138, 2, "di_height", maximum=c.GFS2_MAX_META_HEIGHT),
    F(140, 4, "__pad2", RES),
    F(144, 2, "__pad3", RES),
    F(146, 2, "di_depth", maximum=c.GFS2_DIR_MAX_DEPTH),
    F(148, 4, "di_entries"),
    F(152, 16, "__pad4", RES),
    F(168, 8, "di_eattr", unit=BLOCK, points_to=("gfs2_ea_attr", "gfs2_indirect")),
    F(176, 4, "di_atime_nsec", unit=NSECS, maximum=999_999_999),
    F(180, 4, "di_mtime_nsec", unit=NSECS, maximum=999_999_999),
    F(184, 4, "di_ctime_nsec", unit=NSECS, maximum=999_999_999),
    F(188, 44, "di_reserved", RES),
))

DE = Structure("gfs2_dirent", "directory entry", 40, (
    *_inum(0, "de_inum"),
    F(16, 4, "de_hash", unit=CHECK, hexadecimal=True),
    F(20, 2, "de_rec_len", unit=BYTES),
    F(22, 2, "de_name_len", unit=BYTES, maximum=c.GFS2_FNAMESIZE),
    F(24, 2, "de_type"),
    F(26, 2, "de_rahead"),
    F(28, 12, "__pad", RES),
))

LF = _block("gfs2_leaf", "directory leaf", "lf_header", c.GFS2_METATYPE_LF, c.GFS2_FORMAT_LF, 104, (
    F(24, 2, "lf_depth", maximum=c.GFS2_DIR_MAX_DEPTH),
    F(26, 2, "lf_entries"),
    F(28, 4, "lf_dirent_format", values={c.GFS2_FORMAT_DE: "GFS2_FORMAT_DE"}),
    F(32, 8, "lf_next", unit=BLOCK, points_to=LEAF),
    F(40, 8, "lf_inode", unit=BLOCK, points_to=DINODE),
    F(48, 4, "lf_dist"),
    F(52, 4, "lf_nsec", unit=NSECS),
    F(56, 8, "lf_sec", unit=SECS),
    F(64, 40, "lf_reserved2", RES),
))

EA_HEADER = Structure("gfs2_ea_header", "extended attribute", 16, (
    F(0, 4, "ea_rec_len", unit=BYTES),
    F(4, 4, "ea_data_len", unit=BYTES, maximum=c.GFS2_EA_MAX_DATA_LEN),
    F(8, 1, "ea_name_len", unit=BYTES),
    F(9, 1, "ea_type", values=EA_TYPES),
    F(10, 1, "ea_flags", mask=EA_FLAGS),
    F(11, 1, "ea_num_ptrs"),
    F(12, 4, "__pad", RES),
))

LH = _block("gfs2_log_header", "log header", "lh_header", c.GFS2_METATYPE_LH, c.GFS2_FORMAT_LH, 120, (
    F(24, 8, "lh_sequence"),
    F(32, 4, "lh_flags", mask=LOG_FLAGS),
    F(36, 4, "lh_tail"),
    F(40, 4, "lh_blkno"),
    F(44, 4, "lh_hash", unit=CHECK, hexadecimal=True),
    F(48, 4, "lh_crc", unit=CHECK, hexadecimal=True),
    F(52, 4, "lh_nsec", unit=NSECS, maximum=999_999_999),
    F(56, 8, "lh_sec", unit=SECS),
    F(64, 8, "lh_addr", unit=BLOCK, points_to=("gfs2_log_header",)),
    F(72, 8, "lh_jinode", unit=BLOCK, points_to=DINODE),
    F(80, 8, "lh_statfs_addr", unit=BLOCK, points_to=DINODE),
    F(88, 8, "lh_quota_addr", unit=BLOCK, points_to=DINODE),
    F(96, 8, "lh_local_total", INT, unit=BLOCKS),
    F(104, 8, "lh_local_free", INT, unit=BLOCKS),
    F(112, 8, "lh_local_dinodes", INT, unit=BLOCKS),
))

LD = _block("gfs2_log_descriptor", "log descriptor", "ld_header", c.GFS2_METATYPE_LD, c.GFS2_FORMAT_LD, 72, (
    F(24, 4, "ld_type", values=LOG_DESCRIPTORS),
    F(28, 4, "ld_length", unit=BLOCKS),
    F(32, 4, "ld_data1"),
    F(36, 4, "ld_data2"),
    F(40, 32, "ld_reserved", RES),
))

QUOTA = Structure("gfs2_quota", "quota record", 88, (
    F(0, 8, "qu_limit", unit=BLOCKS),
    F(8, 8, "qu_warn", unit=BLOCKS),
    F(16, 8, "qu_value", INT, unit=BLOCKS),
    F(24, 64, "qu_reserved", RES),
))

QUOTA_CHANGE = Structure("gfs2_quota_change", "quota change record", 16, (
    F(0, 8, "qc_change", INT, unit=BLOCKS),
    F(8, 4, "qc_flags", mask=QC_FLAGS),
    F(12, 4, "qc_id"),
))

INUM_RANGE = Structure("gfs2_inum_range", "inum range", 16, (
    F(0, 8, "ir_start"),
    F(8, 8, "ir_length"),
))

STATFS_CHANGE = Structure("gfs2_statfs_change", "statfs change", 24, (
    F(0, 8, "sc_total", INT, unit=BLOCKS),
    F(8, 8, "sc_free", INT, unit=BLOCKS),
    F(16, 8, "sc_dinodes", INT, unit=BLOCKS),
))

INUM = Structure("gfs2_inum", "inode number", 16, (
    F(0, 8, "no_formal_ino"),
    F(8, 8, "no_addr", unit=BLOCK, points_to=DINODE),
))

INODE_LVB = Structure("gfs2_inode_lvb", "inode lock value block", 16, (
    F(0, 4, "ri_magic", values={c.GFS2_MAGIC: "GFS2_MAGIC"}, hexadecimal=True),
    F(4, 4, "__pad", RES),
    F(8, 8, "ri_generation_deleted"),
))

RGRP_LVB = Structure("gfs2_rgrp_lvb", "resource group lock value block", 32, (
    F(0, 4, "rl_magic", values={c.GFS2_MAGIC: "GFS2_MAGIC"}, hexadecimal=True),
    F(4, 4, "rl_flags", mask=RGRP_FLAGS),
    F(8, 4, "rl_free", unit=BLOCKS),
    F(12, 4, "rl_dinodes", unit=BLOCKS),
    F(16, 8, "rl_igeneration"),
    F(24, 4, "rl_unlinked", unit=BLOCKS),
    F(28, 4, "__pad", RES),
))

QUOTA_LVB = Structure("gfs2_quota_lvb", "quota lock value block", 32, (
    F(0, 4, "qb_magic", values={c.GFS2_MAGIC: "GFS2_MAGIC"}, hexadecimal=True),
    F(4, 4, "__pad", RES),
    F(8, 8, "qb_limit", unit=BLOCKS),
    F(16, 8, "qb_warn", unit=BLOCKS),
    F(24, 8, "qb_value", INT, unit=BLOCKS),
))

MH = Structure("gfs2_meta_header", "metadata header", 24, META_HEADER)

STRUCTURES: Final[dict[str, Structure]] = {s.name: s for s in (
    MH, SB, RINDEX, RG, DI, DE, LF, EA_HEADER, LH, LD, QUOTA, QUOTA_CHANGE, INUM_RANGE, STATFS_CHANGE, INUM,
    INODE_LVB, RGRP_LVB, QUOTA_LVB,
    _block("gfs2_rgrp_bitmap", "resource group bitmap", "rb_header", c.GFS2_METATYPE_RB, c.GFS2_FORMAT_RB),
    _block("gfs2_indirect", "indirect block", "in_header", c.GFS2_METATYPE_IN, c.GFS2_FORMAT_IN),
    _block("gfs2_jdata", "journalled data of a directory", "jd_header", c.GFS2_METATYPE_JD, c.GFS2_FORMAT_JD),
    _block("gfs2_log_block", "log continuation block", "lb_header", c.GFS2_METATYPE_LB, c.GFS2_FORMAT_LB),
    _block("gfs2_ea_attr", "extended attribute block", "ea_header", c.GFS2_METATYPE_EA, c.GFS2_FORMAT_EA),
    _block("gfs2_ea_data", "extended attribute data", "ed_header", c.GFS2_METATYPE_ED, c.GFS2_FORMAT_ED),
    _block("gfs2_quota_change_block", "quota change block", "qc_header",
           c.GFS2_METATYPE_QC, c.GFS2_FORMAT_QC),
)}
BY_METATYPE: Final[dict[int, Structure]] = {
    s.mh_type: s for s in STRUCTURES.values() if s.mh_type is not None
}


def structure(name: str) -> Structure:
    """The structure called `name`, with or without gfs2_ in front. Raises KeyError."""
    found = STRUCTURES.get(name) or STRUCTURES.get("gfs2_" + name)
    if found is None:
        raise KeyError(f"no structure is called {name!r}")
    return found
