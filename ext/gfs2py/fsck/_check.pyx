"""The Python edge of the checker: one object per run, its methods are the passes (each releases the GIL)."""
from libc.errno cimport ENOMEM
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, qsort
from libc.string cimport memcpy, memset

from gfs2py.block._device cimport BlockDevice
from gfs2py.fsck._crew cimport before, crew_begin, crew_member, crew_merge, crew_undo
from gfs2py.fsck._dir cimport (
    dir_entry, dirs, dirs_free, dirs_init, find_ref, name_ref, pass2, pass3, pass4, want_names)
from gfs2py.fsck._dirent cimport dir_number
from gfs2py.fsck._file cimport MAX_BSIZE, dir_lookup, file_read, open_sb, read_dinode
from gfs2py.fsck._journal cimport journal_info, scan_journal
from gfs2py.fsck._quota cimport qc_record, scan_quota_changes
from gfs2py.fsck._rgrp cimport drop_bitmaps, find_leaks, load_bitmaps, load_rindex, number_inodes
from gfs2py.fsck._state cimport *
from gfs2py.fsck._walk cimport cursor, pass1, walker, walker_free, walker_init
from gfs2py.ondisk._ondisk cimport *

cdef enum:
    MAX_WORKERS = 16

MAX_READ = 64 * 1024 * 1024
MAX_QUOTA_CHANGES = 65536       # records of one node: one file of 1 MiB holds no more


cdef int _cmp_conflict(const void* a, const void* b) noexcept nogil:
    cdef uint64_t x = (<const conflict*>a).block, y = (<const conflict*>b).block
    return -1 if x < y else (1 if x > y else 0)


cdef void _conflict_finding(fsck* fs, const conflict* c) noexcept nogil:
    """What is wrong with a block that two have, or that the bitmap does not give to its owner.

    A second walk that could not read what the first one did (the disk fails, or somebody writes to it) takes
    nothing back.
    """
    cdef finding* f
    cdef uint32_t n = max(c.n_claims, c.n_first)
    if c.state == 0:
        f = report(fs, K_BLOCK_NOT_ALLOCATED, c.block, c.owner[0], 1, 0)
        if f != NULL:
            f.aux = c.how[0]
    elif c.state >= 2:
        f = report(fs, K_BLOCK_IS_DINODE, c.block, c.owner[0], 1, c.state)
        if f != NULL:
            f.aux = c.how[0]
    if n > 1:
        f = report(fs, K_BLOCK_DUPLICATE, c.block, c.owner[0], c.owner[1], n)
        if f != NULL:
            f.aux = c.how[0] | <uint64_t>c.how[1] << 8 | <uint64_t>c.how[2] << 16 | <uint64_t>c.how[3] << 24
            finding_name(f, <const char*>&c.owner[2], 16)


cdef list _names_in(const char* buf, uint32_t off, uint32_t bsize):
    """The names of one directory block, up to the first record that makes no sense."""
    cdef const gfs2_dirent* de
    cdef uint32_t rec, n
    out = []
    while off + SIZEOF_DIRENT <= bsize:
        de = <const gfs2_dirent*>(buf + off)
        rec = be16toh(de.de_rec_len)
        n = be16toh(de.de_name_len)
        if rec < SIZEOF_DIRENT or rec > bsize - off or n > rec - SIZEOF_DIRENT:
            break
        if de.de_inum.no_addr:
            out.append(buf[off + SIZEOF_DIRENT:off + SIZEOF_DIRENT + n])
        off += rec
    return out


cdef class Worker:
    """One more thread's part in a shared pass 1; made by Checker.share()."""
    cdef fsck fs
    cdef walker w

    def __cinit__(self):
        memset(&self.fs, 0, sizeof(fsck))
        memset(&self.w, 0, sizeof(walker))

    def __dealloc__(self):
        walker_free(&self.w)
        self.fs.rg = NULL       # the checker's own
        self.fs.ch = NULL
        self.fs.it = NULL
        fsck_free(&self.fs)

    def walk1(self, uint64_t first, uint64_t n):
        """Checker.walk1() of other groups, at the same time. Groups must come in rising order."""
        cdef int rc = -ENOMEM
        if self.fs.dev == NULL or not self.fs.shared:
            raise RuntimeError("a worker belongs to a shared pass")
        with nogil:
            rc = pass1(&self.fs, &self.w, first, n)
        if rc:
            raise MemoryError("not enough memory to check this file system")


cdef class Checker:
    """One run over a device. Calls must come in the order of gfs2py.fsck.check; others raise RuntimeError.

    Raises MemoryError when there is not enough memory for the file system's map.
    """
    cdef BlockDevice device
    cdef fsck fs
    cdef walker w
    cdef dirs ds
    cdef cursor c
    cdef before was
    cdef int stage

    def __cinit__(self, BlockDevice device not None):
        self.device = device
        device.check_open()
        memset(&self.ds, 0, sizeof(dirs))
        memset(&self.w, 0, sizeof(walker))
        memset(&self.c, 0, sizeof(cursor))
        self.stage = 0
        if fsck_init(&self.fs, &device.dev) or walker_init(&self.w):
            raise MemoryError("no memory for the checker")

    def __dealloc__(self):
        dirs_free(&self.ds)
        walker_free(&self.w)
        fsck_free(&self.fs)

    cdef int _need(self, int stage) except -1:
        if self.stage < stage:
            raise RuntimeError("the checker's passes were called out of order")
        return 0

    cdef int _done(self, int rc) except -1:
        if rc < 0:
            raise MemoryError(f"{self.device.name}: not enough memory to check this file system")
        return 0

    def open(self):
        """Superblock and resource group index. False: the findings say why it cannot be checked."""
        cdef int rc
        with nogil:
            rc = open_sb(&self.fs)
            if rc == 0:
                rc = load_rindex(&self.fs)
        if rc == -ENOMEM:
            self._done(rc)
        if rc:
            return False
        self.stage = 1
        return True

    @property
    def n_rgrps(self):
        return self.fs.n_rg

    @property
    def n_inodes(self):
        return self.fs.n_it

    def geometry(self):
        """Facts of the superblock and the totals of the bitmaps."""
        cdef uint64_t i, total = 0, n_free = 0, used = 0, unlinked = 0, dinodes = 0
        for i in range(self.fs.n_rg):
            total += self.fs.rg[i].data
            n_free += self.fs.rg[i].n_free
            used += self.fs.rg[i].n_used
            unlinked += self.fs.rg[i].n_unlinked
            dinodes += self.fs.rg[i].n_dinode
        return {"bsize": self.fs.bsize, "fs_format": self.fs.fs_format, "dev_blocks": self.fs.dev_blocks,
                "master": self.fs.master, "root": self.fs.root, "rgrps": self.fs.n_rg, "total": total,
                "free": n_free, "used": used, "unlinked": unlinked, "dinodes": dinodes}

    def load(self, uint64_t first, uint64_t n):
        """Bitmaps of groups [first, first + n)."""
        cdef int rc
        self._need(1)
        with nogil:
            rc = load_bitmaps(&self.fs, first, n)
        self._done(rc)

    def prepare(self):
        """After all bitmaps: number the inodes."""
        self._need(1)
        self._done(number_inodes(&self.fs))
        self.stage = 2

    def walk1(self, uint64_t first, uint64_t n):
        """Inodes of groups [first, first + n), and all trees but those of directories."""
        cdef int rc
        self._need(2)
        with nogil:
            rc = pass1(&self.fs, &self.w, first, n)
        self._done(rc)

    def share(self, uint32_t n):
        """From here to merge(), walk1() of this object and of `n` workers may run side by side."""
        cdef Worker worker
        self._need(2)
        crew_begin(&self.fs, &self.was)
        self.fs.shared = 1
        workers = []
        for _ in range(min(n, MAX_WORKERS)):
            worker = Worker()
            if crew_member(&worker.fs, &self.fs) or walker_init(&worker.w):
                worker.fs.dev = NULL
                break           # fewer do it too
            workers.append(worker)
        return workers

    def merge(self, list workers not None):
        """All have done their parts. False: everything was undone, and pass 1 is to be done without workers."""
        cdef fsck* members[MAX_WORKERS]
        cdef uint32_t n = 0
        cdef Worker worker
        cdef int rc
        self._need(2)
        for worker in workers[:MAX_WORKERS]:
            members[n] = &worker.fs
            worker.fs.shared = 0
            n += 1
        with nogil:
            rc = crew_merge(&self.fs, &self.was, members, n)
            if rc == 1:
                self.w.c = NULL
                rc = crew_undo(&self.fs, &self.was)
                if rc == 0:
                    rc = 1
        self._done(rc)
        return rc == 0

    def list_dirs(self):
        """After pass 1: which inodes are directories. Returns how many.

        The second walk goes through those of the first, which know their parents: it reads no entries.
        """
        self._need(2)
        if self.ds.d == NULL:
            self._done(dirs_init(&self.fs, &self.ds))
            self._done(want_names(&self.fs, &self.ds))
        memset(&self.c, 0, sizeof(cursor))
        self.stage = 3
        return self.ds.n

    def walk2(self, uint32_t n_waves):
        """Directories, a few waves of 512. True: there is more to do."""
        cdef int rc
        self._need(3)
        with nogil:
            rc = pass2(&self.fs, &self.w, &self.ds, &self.c, n_waves)
        self._done(rc)
        return rc == 1

    def connect(self):
        """Connectivity of the directories."""
        cdef int rc
        self._need(3)
        with nogil:
            rc = pass3(&self.fs, &self.ds)
        self._done(rc)

    def links(self, uint64_t first, uint64_t n):
        """Link counts of inodes [first, first + n) of the table."""
        cdef int rc
        self._need(3)
        with nogil:
            rc = pass4(&self.fs, &self.ds, first, n)
        self._done(rc)

    def leaks(self, uint64_t first, uint64_t n):
        """Blocks of groups [first, first + n) that are used by nobody."""
        self._need(3)
        with nogil:
            find_leaks(&self.fs, first, n)

    def second_walk_needed(self):
        """Are there blocks whose first owner is not known yet?"""
        cdef uint64_t i
        for i in range(self.fs.conf_cap):
            if self.fs.conf[i].block and self.fs.conf[i].state == 1:
                return True
        return False

    def begin_second_walk(self):
        """From here on load, prepare, walk1, list_dirs and walk2 only look for owners of conflicts."""
        cdef uint64_t i
        self._need(3)
        self.fs.hunting = 1
        self.w.c = NULL
        drop_bitmaps(&self.fs)
        for i in range(self.fs.conf_cap):
            self.fs.conf[i].n_first = self.fs.conf[i].n_claims
            self.fs.conf[i].n_claims = 0

    def report_conflicts(self):
        """The end of the walks: turn the conflict table into findings, in block order."""
        cdef conflict* all_of_them
        cdef uint64_t i, n = 0
        self.fs.hunting = 0
        if self.fs.n_conf == 0:
            return
        all_of_them = <conflict*>malloc(self.fs.n_conf * sizeof(conflict))
        if all_of_them == NULL:
            raise MemoryError("no memory for the list of conflicts")
        with nogil:
            for i in range(self.fs.conf_cap):
                if self.fs.conf[i].block:
                    all_of_them[n] = self.fs.conf[i]
                    n += 1
            qsort(all_of_them, n, sizeof(conflict), _cmp_conflict)
            for i in range(n):
                _conflict_finding(&self.fs, &all_of_them[i])
        free(all_of_them)

    # ---- for the checks of system files, which are written in Python ----

    def add(self, int kind, uint64_t block, uint64_t inode, uint64_t wanted, uint64_t found, bytes name=b""):
        """Note a finding."""
        cdef finding* f = report(&self.fs, <Kind>kind, block, inode, wanted, found)
        if f != NULL and name:
            finding_name(f, <const char*>name, len(name))

    def lookup(self, uint64_t directory, bytes name not None):
        """The inode a directory has under a name, 0 if none."""
        self._need(1)
        return dir_lookup(&self.fs, directory, <const char*>name, <uint32_t>len(name))

    def dinode(self, uint64_t addr):
        """(mode, size, entries, flags, height) of an inode; None if there is no dinode."""
        cdef char di[MAX_BSIZE]
        cdef gfs2_dinode* d = <gfs2_dinode*>&di[0]
        self._need(1)
        if addr == 0 or read_dinode(&self.fs, addr, di):
            return None
        return (be32toh(d.di_mode), be64toh(d.di_size), be32toh(d.di_entries), be32toh(d.di_flags),
                be16toh(d.di_height))

    def read_file(self, uint64_t addr, uint64_t off, uint64_t length):
        """Bytes of a file, short at its end; None if it cannot be read. At most 64 MiB at a time."""
        cdef char di[MAX_BSIZE]
        cdef char* buf
        cdef int64_t got
        self._need(1)
        if addr == 0 or length > MAX_READ or read_dinode(&self.fs, addr, di):
            return None
        buf = <char*>malloc(length + 1)
        if buf == NULL:
            raise MemoryError("no memory to read a system file")
        try:
            with nogil:
                got = file_read(&self.fs, di, off, buf, length, 0)
            return None if got < 0 else buf[:got]
        finally:
            free(buf)

    def names(self, uint64_t addr):
        """The names in a (small, system) directory, at most 65536; entries behind damage are left out."""
        cdef char di[MAX_BSIZE]
        cdef char leaf[MAX_BSIZE]
        cdef gfs2_dinode* d = <gfs2_dinode*>&di[0]
        cdef uint64_t ptr, last = 0, i, n
        self._need(1)
        if addr == 0 or read_dinode(&self.fs, addr, di):
            return []
        if not be32toh(d.di_flags) & GFS2_DIF_EXHASH:
            return _names_in(di, SIZEOF_DINODE, self.fs.bsize)
        out = []
        n = 1 << min(be16toh(d.di_depth), GFS2_DIR_MAX_DEPTH)
        for i in range(n):
            if file_read(&self.fs, di, i * 8, <char*>&ptr, 8, SIZEOF_META_HEADER) != 8 or len(out) > 65536:
                break
            if be64toh(ptr) != last and read_block(&self.fs, be64toh(ptr), leaf) == 0:
                out += _names_in(leaf, SIZEOF_LEAF, self.fs.bsize)
            last = be64toh(ptr)
        return out

    cdef bytes _name_in(self, uint64_t block, uint64_t directory, uint64_t inode):
        """The name a directory block has for an inode; empty if it cannot be read (any more)."""
        cdef char buf[MAX_BSIZE]
        cdef uint32_t off = SIZEOF_DINODE if block == directory else SIZEOF_LEAF
        cdef uint32_t rec, n
        cdef const gfs2_dirent* de
        if read_block(&self.fs, block, buf):
            return b""
        while off + SIZEOF_DIRENT <= self.fs.bsize:
            de = <const gfs2_dirent*>(&buf[0] + off)
            rec = be16toh(de.de_rec_len)
            n = be16toh(de.de_name_len)
            if rec < SIZEOF_DIRENT or rec > self.fs.bsize - off or n > rec - SIZEOF_DIRENT:
                return b""
            if be64toh(de.de_inum.no_addr) == inode and not (n <= 2 and buf[off + SIZEOF_DIRENT] == c'.'):
                return buf[off + SIZEOF_DIRENT:off + SIZEOF_DIRENT + n]
            off += rec
        return b""

    def path(self, uint64_t inode):
        """The path of a directory, or of a file that had a finding before pass 2; empty if it is not known.

        Paths of the system files begin with '//'.
        """
        cdef name_ref* ref
        cdef dir_entry* d
        cdef uint64_t number, addr, up, steps = 0
        cdef int64_t index
        self._need(3)
        parts = []
        ref = find_ref(&self.ds, inode)
        index = inode_index(&self.fs, inode)
        number = dir_number(&self.ds, <uint64_t>index) if index >= 0 else 0
        if number == 0:
            if ref == NULL or ref.block == 0:
                return b""
            number = ref.parent
            parts.append(self._name_in(ref.block, inode_block(&self.fs, self.ds.d[number - 1].index), inode))
        while steps < 4096:
            d = &self.ds.d[number - 1]
            addr = inode_block(&self.fs, d.index)
            if addr == self.fs.root or addr == self.fs.master:
                return (b"/" if addr == self.fs.root else b"//") + b"/".join(reversed(parts))
            if d.parent == 0:
                return b""
            number = d.parent
            up = inode_block(&self.fs, self.ds.d[number - 1].index)
            parts.append(self._name_in(d.parent_block, up, addr))
            steps += 1
        return b""

    def journal(self, uint64_t addr, bint full):
        """Scan a journal; a dict of what its head says (key 'found' is False without one)."""
        cdef journal_info j
        cdef int rc
        self._need(1)
        with nogil:
            rc = scan_journal(&self.fs, addr, full, &j)
        if rc == -ENOMEM:
            self._done(rc)
        return {"n_blocks": j.n_blocks, "n_headers": j.n_headers, "n_bad": j.n_bad, "n_drops": j.n_drops,
                "head": j.head, "head_block": j.head_block, "sequence": j.sequence, "flags": j.flags,
                "tail": j.tail, "local": (j.local_total, j.local_free, j.local_dinodes),
                "found": bool(j.found), "broken": bool(j.broken)}

    def quota_changes(self, uint64_t addr, bytes name not None):
        """The records [(change, flags, id)] of a quota_change file; its blocks' headers are checked."""
        cdef qc_record* out
        cdef int64_t n, i
        cdef const char* raw = <const char*>name
        cdef uint32_t length = <uint32_t>len(name)
        cdef uint64_t n_max = <uint64_t>MAX_QUOTA_CHANGES
        self._need(1)
        out = <qc_record*>malloc(n_max * sizeof(qc_record))
        if out == NULL:
            raise MemoryError("no memory to read a quota_change file")
        try:
            with nogil:
                n = scan_quota_changes(&self.fs, addr, raw, length, out, n_max)
            if n == -ENOMEM:
                self._done(-ENOMEM)
            return [(out[i].change, out[i].flags, out[i].ident) for i in range(n if n > 0 else 0)]
        finally:
            free(out)

    # ---- results ----

    def findings(self, uint32_t first=0):
        """The stored findings from the first-th on: (kind, block, inode, wanted, found, aux, name)."""
        cdef uint32_t i
        cdef finding* f
        out = []
        for i in range(first, self.fs.n_fnd):
            f = &self.fs.fnd[i]
            out.append((f.kind, f.block, f.inode, f.wanted, f.found, f.aux, f.name[:f.name_len]))
        return out

    def totals(self):
        """How often each kind was found: {kind: number}."""
        cdef int k
        return {k: self.fs.kind_total[k] for k in range(1, <int>K_COUNT) if self.fs.kind_total[k]}

    def usage(self):
        """Blocks per owner: {(is_group, id): blocks}; None if there were too many owners to count."""
        cdef uint64_t i, key
        if self.fs.usage_off:
            return None
        out = {}
        for i in range(self.fs.usage_cap):
            if self.fs.usage[i].key:
                key = self.fs.usage[i].key - 1
                out[(key & 1, key >> 1)] = self.fs.usage[i].blocks
        return out
