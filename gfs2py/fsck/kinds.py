"""What the checker can find: one line per kind, with its severity, place and wording.

Severities: `error` makes a file system not clean; `warning` is odd but harms nobody (a field that only old
or foreign tools write so); `note` is a normal state worth mentioning (an unlinked inode still to be freed).
The compiled passes know kinds by number (gfs2py.fsck._state.Kind); users see the codes of this table.
"""

from typing import Literal, NamedTuple

from gfs2py.fsck._state import Kind

Severity = Literal["error", "warning", "note"]


class KindInfo(NamedTuple):
    """A kind of finding. `text` is a format string over the finding's fields (block, inode, wanted ...)."""

    code: str
    severity: Severity
    struct: str
    field: str
    text: str


_TABLE: tuple[tuple[str, Severity, str, str, str], ...] = (
    ("IO_ERROR", "error", "", "", "block {block} ({block:#x}) cannot be read: error {found}"),
    ("SB_HEADER", "error", "gfs2_sb", "sb_header",
     "the superblock's header is wrong: {found:#x} should be {wanted:#x}; this is no GFS2 file "
     "system"),
    ("SB_FORMAT", "error", "gfs2_sb", "sb_fs_format",
     "file system format {found} is not known (1801 and 1802 are)"),
    ("SB_MULTIHOST", "error", "gfs2_sb", "sb_multihost_format",
     "multihost format is {found}, should be {wanted}"),
    ("SB_BSIZE", "error", "gfs2_sb", "sb_bsize",
     "block size {found} is not a power of two from 512 to 4096"),
    ("SB_BSIZE_SHIFT", "error", "gfs2_sb", "sb_bsize_shift",
     "block size shift is {found}, should be {wanted}"),
    ("SB_MASTER", "error", "gfs2_sb", "sb_master_dir",
     "the superblock's master directory {found:#x} is no directory"),
    ("SB_ROOT", "error", "gfs2_sb", "sb_root_dir",
     "the superblock's root directory {found:#x} is no directory"),
    ("SB_LOCKPROTO", "error", "gfs2_sb", "sb_lockproto", "lock protocol '{name}' is not known"),
    ("SB_LOCKTABLE", "error", "gfs2_sb", "sb_locktable", "the lock table's name has no end: '{name}'"),
    ("DEVICE_SHORT", "error", "", "", "the device is too small: {found} bytes, {wanted} are needed"),
    ("RINDEX_MISSING", "error", "gfs2_dinode", "", "the resource group index (rindex) cannot be read"),
    ("RINDEX_SIZE", "error", "gfs2_dinode", "di_size",
     "rindex has {found} bytes, which is no number of entries"),
    ("RINDEX_ENTRY", "error", "gfs2_rindex", "ri_addr",
     "rindex entry {aux} is wrong: address {found:#x} ({wanted:#x} is where a group's header is)"),
    ("RINDEX_OVERLAP", "error", "gfs2_rindex", "ri_addr",
     "the resource group at {found} ({found:#x}) begins before the one in front of it ends, at "
     "{wanted:#x}"),
    ("RINDEX_GAP", "error", "gfs2_rindex", "ri_addr",
     "no resource group covers blocks {wanted} to {found}"),
    ("RG_HEADER", "error", "gfs2_rgrp", "rg_header",
     "resource group block {block} ({block:#x}) has a wrong header: {found:#x} should be {wanted:#x}"),
    ("RG_CRC", "error", "gfs2_rgrp", "rg_crc",
     "RG #{block} ({block:#x}) checksum is wrong: is {found:#x} should be {wanted:#x}"),
    ("RG_FREE", "error", "gfs2_rgrp", "rg_free",
     "RG #{block} ({block:#x}) free count inconsistent: is {found} should be {wanted}"),
    ("RG_DINODES", "error", "gfs2_rgrp", "rg_dinodes",
     "RG #{block} ({block:#x}) Inode count inconsistent: is {found} should be {wanted}"),
    ("RG_DATA0", "error", "gfs2_rgrp", "rg_data0",
     "RG #{block} ({block:#x}) data0 is {found:#x}, should be {wanted:#x}"),
    ("RG_DATA", "error", "gfs2_rgrp", "rg_data",
     "RG #{block} ({block:#x}) data is {found}, should be {wanted}"),
    ("RG_BITBYTES", "error", "gfs2_rgrp", "rg_bitbytes",
     "RG #{block} ({block:#x}) bitbytes is {found}, should be {wanted}"),
    ("RG_SKIP", "warning", "gfs2_rgrp", "rg_skip",
     "RG #{block} ({block:#x}) says the next group is {found} blocks on, it is {wanted}"),
    ("RG_FLAGS", "warning", "gfs2_rgrp", "rg_flags",
     "RG #{block} ({block:#x}) has unknown flags {found:#x}"),
    ("RG_TAIL_BITS", "warning", "gfs2_rgrp", "",
     "bitmap block {block} ({block:#x}) has bits beyond its end"),
    ("BLOCK_LEAKED", "error", "bitmap", "",
     "Block {block} ({block:#x}) bitmap says 1 (Data) but no inode has it ({aux} blocks from there "
     "on)"),
    ("BLOCK_NOT_ALLOCATED", "error", "bitmap", "",
     "Block {block} ({block:#x}) of inode {inode} ({inode:#x}), {how}, is free in the bitmap"),
    ("BLOCK_DUPLICATE", "error", "", "", "Block {block} ({block:#x}) has {found} owners: {owners}"),
    ("BLOCK_IS_DINODE", "error", "", "",
     "Block {block} ({block:#x}) of inode {inode} ({inode:#x}), {how}, is an inode by the bitmap"),
    ("DI_HEADER", "error", "gfs2_dinode", "di_header",
     "Found invalid inode at block {block} ({block:#x}): header {found:#x} should be {wanted:#x}"),
    ("DI_NUM", "error", "gfs2_dinode", "di_num.no_addr",
     "Inode #{block} ({block:#x}): Bad inode address found: {found} ({found:#x})"),
    ("DI_FORMAL", "error", "gfs2_dinode", "di_num.no_formal_ino",
     "Inode #{block} ({block:#x}): formal number is 0"),
    ("DI_MODE", "error", "gfs2_dinode", "di_mode",
     "Inode #{block} ({block:#x}): mode {found:#o} is no kind of file"),
    ("DI_SIZE", "error", "gfs2_dinode", "di_size",
     "Inode #{block} ({block:#x}): size {found} does not go with its kind and height (expected "
     "{wanted})"),
    ("DI_HEIGHT", "error", "gfs2_dinode", "di_height",
     "Inode #{block} ({block:#x}): height {found} does not go with its kind and size (expected "
     "{wanted})"),
    ("DI_BLOCKS", "error", "gfs2_dinode", "di_blocks",
     "Inode #{block} ({block:#x}): Ondisk block count ({found}) does not match what was found "
     "({wanted})"),
    ("DI_GOAL", "error", "gfs2_dinode", "di_goal_meta",
     "Inode #{block} ({block:#x}): Bad allocation goal block found: {found} ({found:#x})"),
    ("DI_FLAGS", "error", "gfs2_dinode", "di_flags",
     "Inode #{block} ({block:#x}): flags {found:#x} should be {wanted:#x}"),
    ("DI_PAYLOAD", "warning", "gfs2_dinode", "di_payload_format",
     "Inode #{block} ({block:#x}): payload format {found}, should be {wanted}"),
    ("DI_DEPTH", "error", "gfs2_dinode", "di_depth",
     "Inode #{block} ({block:#x}): directory depth {found} is wrong (expected {wanted})"),
    ("DI_EATTR", "error", "gfs2_dinode", "di_eattr",
     "Inode #{block} ({block:#x}): extended attribute block {found} ({found:#x}) is invalid"),
    ("DI_NSEC", "warning", "gfs2_dinode", "di_mtime_nsec",
     "Inode #{block} ({block:#x}): {found} nanoseconds in a time"),
    ("DI_UNLINKED", "note", "gfs2_dinode", "",
     "Unlinked inode at block {block} ({block:#x}), to be freed by a mount"),
    ("DI_TRUNC", "note", "gfs2_dinode", "di_flags",
     "Inode #{block} ({block:#x}): a truncation to {found} bytes is still to be finished by a mount"),
    ("DI_SYMLINK", "error", "gfs2_dinode", "",
     "Inode #{block} ({block:#x}): the symbolic link's target ends after {found} of {wanted} bytes"),
    ("PTR_RANGE", "error", "", "",
     "inode {inode} ({inode:#x}) has a bad block pointer {found} ({found:#x}) at byte {aux} of block "
     "{block} ({block:#x})"),
    ("META_HEADER", "error", "gfs2_meta_header", "mh_type",
     "Block {block} ({block:#x}) of inode {inode} ({inode:#x}) is not {metatype}: {found:#x} should "
     "be {wanted:#x}"),
    ("META_FORMAT", "warning", "gfs2_meta_header", "mh_format",
     "Block {block} ({block:#x}): format number {found}, should be {wanted}"),
    ("EA_REC_LEN", "error", "gfs2_ea_header", "ea_rec_len",
     "inode {inode} ({inode:#x}): EA record at byte {aux} of block {block} ({block:#x}) has length "
     "{found}"),
    ("EA_NAME", "error", "gfs2_ea_header", "ea_name_len",
     "inode {inode} ({inode:#x}): EA at byte {aux} of block {block} ({block:#x}) has name length "
     "{found}"),
    ("EA_TYPE", "error", "gfs2_ea_header", "ea_type",
     "inode {inode} ({inode:#x}): EA ({name}) in block {block} ({block:#x}) type is invalid ({found} "
     "> {wanted})"),
    ("EA_LAST", "error", "gfs2_ea_header", "ea_flags",
     "inode {inode} ({inode:#x}): the last EA record of block {block} ({block:#x}) is not where the "
     "flag says"),
    ("EA_DATA_LEN", "error", "gfs2_ea_header", "ea_data_len",
     "inode {inode} ({inode:#x}): EA at byte {aux} of block {block} ({block:#x}) has {found} bytes, "
     "room for {wanted}"),
    ("EA_PTRS", "error", "gfs2_ea_header", "ea_num_ptrs",
     "inode {inode} ({inode:#x}): EA at byte {aux} of block {block} ({block:#x}) has {found} "
     "pointers, wanted {wanted}"),
    ("EA_PTR_RANGE", "error", "gfs2_ea_header", "",
     "inode {inode} ({inode:#x}): EA pointer {found} ({found:#x}) at byte {aux} of block {block} "
     "({block:#x}) is invalid"),
    ("EA_HOLE", "error", "", "",
     "inode {inode} ({inode:#x}): EA pointer {found} ({found:#x}) behind an empty one in block "
     "{block} ({block:#x})"),
    ("EA_DUPLICATE", "error", "gfs2_ea_header", "",
     "inode {inode} ({inode:#x}): EA ({name}) is twice in block {block} ({block:#x})"),
    ("DIR_HASH_HOLE", "error", "hash table", "",
     "directory {inode} ({inode:#x}) has no leaf for {aux} entries of its hash table from {found} on"),
    ("DIR_HASH_RUN", "error", "hash table", "",
     "directory {inode} ({inode:#x}): leaf {wanted:#x} has {found} hash table entries from {aux}: "
     "not a proper length"),
    ("DIR_HASH_PTR", "error", "hash table", "",
     "directory {inode} ({inode:#x}): hash table entry {aux} has a bad leaf pointer {found} "
     "({found:#x})"),
    ("LEAF_DEPTH", "error", "gfs2_leaf", "lf_depth",
     "Leaf {block} ({block:#x}) of directory {inode} ({inode:#x}): depth {found} does not go with "
     "{wanted} entries of a hash table of depth {aux}"),
    ("LEAF_ENTRIES", "error", "gfs2_leaf", "lf_entries",
     "Leaf {block} ({block:#x}) entry count in directory {inode} ({inode:#x}) is {found}, found "
     "{wanted}"),
    ("LEAF_INODE", "error", "gfs2_leaf", "lf_inode",
     "Leaf {block} ({block:#x}) says it belongs to {found} ({found:#x}), directory {inode} "
     "({inode:#x}) has it"),
    ("LEAF_DIST", "warning", "gfs2_leaf", "lf_dist",
     "Leaf {block} ({block:#x}) of directory {inode} ({inode:#x}) is number {wanted} of its chain, "
     "not {found}"),
    ("LEAF_FORMAT", "warning", "gfs2_leaf", "lf_dirent_format",
     "Leaf {block} ({block:#x}) of directory {inode} ({inode:#x}): format {found}, should be "
     "{wanted}"),
    ("LEAF_LOOP", "error", "gfs2_leaf", "lf_next",
     "Leaf {block} ({block:#x}) of directory {inode} ({inode:#x}) is followed by {found:#x}, which "
     "came before"),
    ("DE_REC_LEN", "error", "gfs2_dirent", "de_rec_len",
     "Directory block {block} ({block:#x}) of directory {inode} ({inode:#x}) is corrupt: record "
     "length {found} at byte {aux}"),
    ("DE_NAME_LEN", "error", "gfs2_dirent", "de_name_len",
     "Dir entry at byte {aux} of block {block} ({block:#x}) in {inode} ({inode:#x}) with bad name "
     "length {found}"),
    ("DE_SENTINEL", "error", "gfs2_dirent", "de_inum",
     "Directory entry with inode number of zero at byte {aux} of block {block} ({block:#x}) in "
     "{inode} ({inode:#x})"),
    ("DE_NAME", "error", "gfs2_dirent", "",
     "Directory entry '{name}' in {inode} ({inode:#x}) is no file name"),
    ("DE_HASH", "error", "gfs2_dirent", "de_hash",
     "Dir entry '{name}' in {inode} ({inode:#x}) with bad hash: is {found:#x}, should be {wanted:#x}"),
    ("DE_WRONG_LEAF", "error", "gfs2_dirent", "de_hash",
     "Directory entry '{name}' of {inode} ({inode:#x}) is on the wrong leaf block {block} "
     "({block:#x})"),
    ("DE_INUM_RANGE", "error", "gfs2_dirent", "de_inum.no_addr",
     "Block # referenced by directory entry '{name}' in inode {inode} ({inode:#x}) is invalid: "
     "{found} ({found:#x})"),
    ("DE_TARGET", "error", "gfs2_dirent", "de_inum.no_addr",
     "Directory entry '{name}' in {inode} ({inode:#x}) leads to block {wanted} ({wanted:#x}), which "
     "is no inode in use"),
    ("DE_FORMAL", "error", "gfs2_dirent", "de_inum.no_formal_ino",
     "Directory entry '{name}' in {inode} ({inode:#x}) has the wrong 'formal' inode number {found}, "
     "the inode has {wanted}"),
    ("DE_TYPE", "error", "gfs2_dirent", "de_type",
     "Type {found} in dir entry '{name}' in {inode} ({inode:#x}) conflicts with type {wanted} in "
     "dinode"),
    ("DE_DUPLICATE", "error", "gfs2_dirent", "",
     "Directory {inode} ({inode:#x}) has the name '{name}' twice, the second time in block {block} "
     "({block:#x})"),
    ("DE_SYSTEM", "error", "gfs2_dinode", "di_flags",
     "Directory entry '{name}' of {inode} ({inode:#x}): system flag is {found}, the directory's is "
     "{wanted}"),
    ("DOT_MISSING", "error", "gfs2_dirent", "",
     "No '.' entry found for directory inode at block {inode} ({inode:#x})"),
    ("DOT_WRONG", "error", "gfs2_dirent", "de_inum",
     "'.' of directory {inode} ({inode:#x}) leads to {found} ({found:#x})"),
    ("DOTDOT_MISSING", "error", "gfs2_dirent", "",
     "No '..' entry found for directory inode at block {inode} ({inode:#x})"),
    ("DOTDOT_WRONG", "error", "gfs2_dirent", "de_inum",
     "'..' of directory {inode} ({inode:#x}) leads to {found} ({found:#x}), the parent is {wanted} "
     "({wanted:#x})"),
    ("DIR_ENTRIES", "error", "gfs2_dinode", "di_entries",
     "Entries is {found} - should be {wanted} for inode block {block} ({block:#x})"),
    ("NLINK", "error", "gfs2_dinode", "di_nlink",
     "Link count inconsistent for inode {block} ({block:#x}) has {found} but found {wanted}"),
    ("ORPHAN", "error", "gfs2_dinode", "",
     "Found unlinked inode at {block} ({block:#x}): no directory has it"),
    ("DIR_HARD_LINK", "error", "gfs2_dirent", "de_inum",
     "Directory entry '{name}' in block {block} ({block:#x}) is a second link to a directory"),
    ("DIR_UNREACHABLE", "error", "gfs2_dinode", "",
     "Directory {block} ({block:#x}) is part of a loop that hangs on nothing"),
    ("SYS_MISSING", "error", "gfs2_dirent", "", "System file '{name}' is missing"),
    ("SYS_SIZE", "error", "gfs2_dinode", "di_size",
     "System file '{name}' ({inode:#x}) has an invalid size: is {found}, should be {wanted}"),
    ("JOURNAL_HOLE", "error", "gfs2_dinode", "",
     "Journal {inode} ({inode:#x}) has a hole at its block {found}"),
    ("JOURNAL_SIZE", "error", "gfs2_dinode", "di_size", "Journal {inode} ({inode:#x}) has {found} bytes"),
    ("JOURNAL_NO_HEAD", "error", "gfs2_log_header", "",
     "Journal \"{name}\" is corrupt: no valid log header"),
    ("JOURNAL_HEADER", "warning", "gfs2_log_header", "lh_hash",
     "Journal \"{name}\": {found} log headers are damaged"),
    ("JOURNAL_SEQ", "error", "gfs2_log_header", "lh_sequence",
     "Journal \"{name}\" has {found} sequencing errors"),
    ("JOURNAL_DIRTY", "warning", "gfs2_log_header", "lh_flags",
     "Journal #{number} (\"{name}\") is dirty: it is to be replayed by a mount"),
    ("JINDEX_NAME", "error", "gfs2_dirent", "", "Journal index entry '{name}' has an invalid filename"),
    ("STATFS", "error", "gfs2_statfs_change", "{sc_field}",
     "The statfs file is wrong: {sc_field} is {found}, should be {wanted}"),
    ("STATFS_PENDING", "note", "gfs2_statfs_change", "",
     "'{name}' has changes that are still to be added to the statfs file"),
    ("QC_HEADER", "error", "gfs2_meta_header", "mh_type",
     "quota_change block at {block} ({block:#x}) of '{name}' is the wrong metadata type"),
    ("QC_FLAGS", "warning", "gfs2_quota_change", "qc_flags", "'{name}' has a record with flags {found:#x}"),
    ("QUOTA_USAGE", "note", "gfs2_quota", "qu_value",
     "quota of {name}: the file says {found} blocks, {wanted} are in use"),
)

KINDS: dict[int, KindInfo] = {
    Kind["K_" + name].value: KindInfo(name.lower(), severity, struct, field, text)
    for name, severity, struct, field, text in _TABLE
}
CODES: dict[str, KindInfo] = {info.code: info for info in KINDS.values()}

METATYPES = {
    0: "metadata", 1: "a superblock", 2: "a resource group", 3: "a bitmap", 4: "an inode",
    5: "an indirect block", 6: "a directory leaf", 7: "a directory hash table block", 8: "a log header",
    9: "a log descriptor",
    10: "an extended attribute block", 11: "an extended attribute data block", 12: "a log block",
    14: "a quota change block",
}  # fmt: skip
HOW = {0: "?", 1: "data", 2: "an indirect block", 3: "a hash table block", 4: "a directory leaf",
       5: "extended attributes"}  # fmt: skip
