"""Errors of a mount, its geometry, and the start of an operation."""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdio cimport fprintf, snprintf, stderr
from libc.string cimport memset, strncpy
from gfs2py.engine._freeze cimport fz_end
from gfs2py.engine._incore cimport SDF_ERRORS_PANIC, opctx, sbd
from gfs2py.engine._observe cimport ob_shut
from gfs2py.engine._sync cimport (CLOCK_REALTIME, clock_gettime, gl_atomic_store32, pthread_mutex_lock,
                                  pthread_mutex_unlock, timespec)
from gfs2py.ondisk._ondisk cimport SIZEOF_DINODE, SIZEOF_LOG_DESCRIPTOR, SIZEOF_META_HEADER

cdef extern from "<errno.h>" nogil:
    int EIO, EINVAL, EBADE
cdef extern from "<stdlib.h>" nogil:
    void abort()
cdef extern from "<unistd.h>" nogil:
    ssize_t write(int fd, const void* buf, size_t n)


cdef void sd_message(sbd* sd, int level, const char* text) noexcept nogil:
    """One line to the daemon's log; its level leads as in syslog."""
    if not sd.quiet:
        fprintf(stderr, b"<%d>gfs2py: fsid=%s: %s\n", level, sd.jid_name, text)


cdef int _withdraw(sbd* sd, const char* text) noexcept nogil:
    """The first reason is kept and told; later ones follow from it."""
    cdef char line[640]
    cdef uint64_t one = 1
    pthread_mutex_lock(&sd.err_lock)
    sd.n_corrupt += 1
    if sd.err_text[0] == 0:
        strncpy(sd.err_text, text, 511)
        snprintf(line, 640, b"%s: withdrawing from the file system, nothing more is written", text)
        sd_message(sd, LOG_ERR_, line)
    gl_atomic_store32(&sd.withdrawn, 1)
    # Also what was begun before and has not come to the device yet: others will replay this journal.
    ob_shut(&sd.ob)
    if sd.tell_fd >= 0:
        write(sd.tell_fd, &one, 8)
    pthread_mutex_unlock(&sd.err_lock)
    fz_end(sd)
    if sd.flags & SDF_ERRORS_PANIC:
        abort()
    return -EIO


cdef int sd_corrupt(sbd* sd, uint64_t block, const char* structure, const char* field, uint64_t wanted,
                    uint64_t found) noexcept nogil:
    cdef char text[400]
    snprintf(text, 400, b"damaged block %llu (0x%llx): %s.%s is %llu (0x%llx), wanted %llu (0x%llx)",
             <unsigned long long>block, <unsigned long long>block, structure, field,
             <unsigned long long>found, <unsigned long long>found,
             <unsigned long long>wanted, <unsigned long long>wanted)
    return _withdraw(sd, text)


cdef int sd_io_error(sbd* sd, const char* what, uint64_t block, int err) noexcept nogil:
    cdef char text[500]
    snprintf(text, 500, b"%s%s failed at block %llu of %s: error %d",
             b"fenced, the disk is reserved by others (reservation conflict): " if err == -EBADE else b"",
             what, <unsigned long long>block, sd.dev.name, err)
    return _withdraw(sd, text)


cdef int sd_assert_failed(sbd* sd, const char* what) noexcept nogil:
    cdef char text[400]
    snprintf(text, 400, b"internal check failed: %s", what)
    return _withdraw(sd, text)


cdef void ctx_init(opctx* cx, sbd* sd, uint32_t uid, uint32_t gid) noexcept nogil:
    cdef timespec ts
    memset(cx, 0, sizeof(opctx))
    clock_gettime(CLOCK_REALTIME, &ts)
    cx.sd = sd
    cx.uid = uid
    cx.gid = gid
    cx.now_sec = ts.tv_sec
    cx.now_nsec = <uint32_t>ts.tv_nsec


cdef int sd_set_geometry(sbd* sd, uint32_t bsize) noexcept nogil:
    """Derives every size from the block size; -EINVAL for one that GFS2 does not have."""
    cdef uint32_t shift = 9
    cdef uint32_t x
    cdef uint64_t space
    while shift < 12 and (<uint32_t>1 << shift) != bsize:
        shift += 1
    if (<uint32_t>1 << shift) != bsize:
        return -EINVAL
    sd.bsize = bsize
    sd.bsize_shift = shift
    sd.diptrs = <uint32_t>((bsize - SIZEOF_DINODE) // 8)
    sd.inptrs = <uint32_t>((bsize - SIZEOF_META_HEADER) // 8)
    sd.jbsize = bsize - SIZEOF_META_HEADER
    sd.hash_bsize = bsize // 2
    sd.hash_bsize_shift = shift - 1
    sd.hash_ptrs = sd.hash_bsize // 8
    sd.ldptrs = <uint32_t>((bsize - SIZEOF_LOG_DESCRIPTOR) // 8)
    sd.jdptrs = <uint32_t>((bsize - SIZEOF_LOG_DESCRIPTOR) // 16)
    for x in range(11):
        sd.heightsize[x] = ~<uint64_t>0
        sd.jheightsize[x] = ~<uint64_t>0
    sd.heightsize[0] = bsize - SIZEOF_DINODE
    sd.heightsize[1] = <uint64_t>bsize * sd.diptrs
    x = 2
    while x < 10:
        space = sd.heightsize[x - 1] * sd.inptrs
        if space // sd.inptrs != sd.heightsize[x - 1] or space >= <uint64_t>1 << 63:
            break
        sd.heightsize[x] = space
        x += 1
    sd.max_height = x
    sd.jheightsize[0] = bsize - SIZEOF_DINODE
    sd.jheightsize[1] = <uint64_t>sd.jbsize * sd.diptrs
    x = 2
    while x < 10:
        space = sd.jheightsize[x - 1] * sd.inptrs
        if space // sd.inptrs != sd.jheightsize[x - 1] or space >= <uint64_t>1 << 63:
            break
        sd.jheightsize[x] = space
        x += 1
    sd.max_jheight = x
    return 0
