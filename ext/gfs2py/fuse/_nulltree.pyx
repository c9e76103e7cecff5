"""The tree of the null file system: hashed directories with stable cookies, contents in chunks with holes."""
from libc.errno cimport ENOMEM, ENXIO
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from gfs2py.fuse._sys cimport *

cdef uint64_t MAX_CHUNKS = 1 << 24      # 1 TiB of content per file


cdef ntree* tree_new() noexcept nogil:
    cdef ntree* t = <ntree*>calloc(1, sizeof(ntree))
    cdef nnode* root
    if t == NULL:
        return NULL
    pthread_mutex_init(&t.mutex, NULL)
    t.n_nodes = 1                       # number 0 is nobody's; the first made is 1, the root
    t.generation = 1
    t.next_fh = 1
    root = node_new(t, 0o40755, 0, 0)
    if root == NULL:
        free(t)
        return NULL
    root.nlink = 2
    root.nlookup = 1
    root.parent = root.ino
    return t


cdef void tree_free(ntree* t) noexcept nogil:
    cdef uint64_t i
    if t == NULL:
        return
    for i in range(t.n_nodes):
        if t.nodes[i] != NULL:
            node_destroy(t.nodes[i])
    free(t.nodes)
    free(t.spare)
    pthread_mutex_destroy(&t.mutex)
    free(t)


cdef void node_destroy(nnode* n) noexcept nogil:
    cdef ndent* e
    cdef nxattr* x
    cdef uint64_t i
    while n.first != NULL:
        e = n.first
        n.first = e.next
        free(e)
    while n.xattrs != NULL:
        x = n.xattrs
        n.xattrs = x.next
        free(x.value)
        free(x)
    for i in range(n.n_chunks):
        free(n.chunks[i])
    free(n.chunks)
    free(n.buckets)
    free(n.target)
    pthread_mutex_destroy(&n.mutex)
    free(n)


cdef nnode* node_get(ntree* t, uint64_t ino) noexcept nogil:
    return t.nodes[ino] if ino < t.n_nodes else NULL


cdef bint grow(void** array, uint64_t* cap, uint64_t need, size_t item) noexcept nogil:
    cdef uint64_t want = cap[0] if cap[0] else 64
    cdef void* p
    while want < need:
        want *= 2
    if want == cap[0]:
        return True
    p = realloc(array[0], want * item)
    if p == NULL:
        return False
    memset(<uint8_t*>p + cap[0] * item, 0, (want - cap[0]) * item)
    array[0] = p
    cap[0] = want
    return True


cdef nnode* node_new(ntree* t, uint32_t mode, uint32_t uid, uint32_t gid) noexcept nogil:
    cdef nnode* n
    cdef uint64_t ino
    if not grow(<void**>&t.nodes, &t.cap_nodes, t.n_nodes + 1, sizeof(void*)):
        return NULL
    n = <nnode*>calloc(1, sizeof(nnode))
    if n == NULL:
        return NULL
    if t.n_spare > 0:
        t.n_spare -= 1
        ino = t.spare[t.n_spare]
    else:
        ino = t.n_nodes
        t.n_nodes += 1
    pthread_mutex_init(&n.mutex, NULL)
    n.ino = ino
    n.generation = t.generation
    t.generation += 1
    n.mode = mode
    n.uid = uid
    n.gid = gid
    n.nlink = 1
    n.next_cookie = 3                   # 1 and 2 are '.' and '..'
    touch(n, True)
    n.atime = n.mtime
    n.atimensec = n.mtimensec
    t.nodes[ino] = n
    t.n_live += 1
    return n


cdef void node_release_if_unused(ntree* t, nnode* n) noexcept nogil:
    """Gone when it has no name, is not open and the kernel does not know it."""
    if n.nlink > 0 or n.opens > 0 or n.nlookup > 0 or n.ino == 1:
        return
    t.nodes[n.ino] = NULL
    t.n_live -= 1
    if grow(<void**>&t.spare, &t.cap_spare, t.n_spare + 1, sizeof(uint64_t)):
        t.spare[t.n_spare] = n.ino
        t.n_spare += 1
    node_destroy(n)


cdef inline uint32_t hash_name(const char* name, uint32_t n) noexcept nogil:
    cdef uint32_t h = 2166136261U
    cdef uint32_t i
    for i in range(n):
        h = (h ^ <uint8_t>name[i]) * 16777619U
    return h


cdef ndent* dir_find(nnode* d, const char* name, uint32_t namelen) noexcept nogil:
    cdef uint32_t h
    cdef ndent* e
    if d.n_buckets == 0:
        return NULL
    h = hash_name(name, namelen)
    e = d.buckets[h & (d.n_buckets - 1)]
    while e != NULL:
        if e.hash == h and e.namelen == namelen and memcmp(e.name, name, namelen) == 0:
            return e
        e = e.chain
    return NULL


cdef void rehash(nnode* d) noexcept nogil:
    cdef uint32_t want = d.n_buckets * 2 if d.n_buckets else 16
    cdef ndent** b = <ndent**>calloc(want, sizeof(void*))
    cdef ndent* e = d.first
    if b == NULL:
        return
    while e != NULL:
        e.chain = b[e.hash & (want - 1)]
        b[e.hash & (want - 1)] = e
        e = e.next
    free(d.buckets)
    d.buckets = b
    d.n_buckets = want


cdef int dir_add(nnode* d, const char* name, uint32_t namelen, uint64_t ino) noexcept nogil:
    cdef ndent* e = <ndent*>malloc(sizeof(ndent) - 256 + namelen + 1)
    if e == NULL:
        return -ENOMEM
    if d.n_entries >= d.n_buckets:
        rehash(d)
    if d.n_buckets == 0:
        free(e)
        return -ENOMEM
    memcpy(e.name, name, namelen)
    e.namelen = namelen
    e.hash = hash_name(name, namelen)
    e.ino = ino
    e.cookie = d.next_cookie
    d.next_cookie += 1
    e.chain = d.buckets[e.hash & (d.n_buckets - 1)]
    d.buckets[e.hash & (d.n_buckets - 1)] = e
    e.next = NULL
    e.prev = d.last
    if d.last != NULL:
        d.last.next = e
    else:
        d.first = e
    d.last = e
    d.n_entries += 1
    return 0


cdef void dir_remove(nnode* d, ndent* e) noexcept nogil:
    cdef ndent** p = &d.buckets[e.hash & (d.n_buckets - 1)]
    while p[0] != e:
        p = &p[0].chain
    p[0] = e.chain
    if e.prev != NULL:
        e.prev.next = e.next
    else:
        d.first = e.next
    if e.next != NULL:
        e.next.prev = e.prev
    else:
        d.last = e.prev
    if d.hint == e:
        d.hint = NULL
    d.n_entries -= 1
    free(e)


cdef ndent* dir_after(nnode* d, uint64_t cookie) noexcept nogil:
    """The first entry whose cookie is larger; cookies rise along the list, the hint saves the walk."""
    cdef ndent* e = d.first
    if d.hint != NULL and d.hint.cookie <= cookie:
        e = d.hint
    while e != NULL and e.cookie <= cookie:
        e = e.next
    return e


cdef void touch(nnode* n, bint modified) noexcept nogil:
    cdef timespec ts
    clock_gettime(CLOCK_REALTIME, &ts)
    n.ctime = ts.tv_sec
    n.ctimensec = <uint32_t>ts.tv_nsec
    if modified:
        n.mtime = ts.tv_sec
        n.mtimensec = <uint32_t>ts.tv_nsec


cdef uint32_t data_read(nnode* n, uint64_t off, uint32_t size, uint8_t* buf) noexcept nogil:
    cdef uint64_t done = 0
    cdef uint64_t at, part
    if off >= n.size:
        return 0
    if size > n.size - off:
        size = <uint32_t>(n.size - off)
    while done < size:
        at = (off + done) % CHUNK
        part = CHUNK - at if CHUNK - at < size - done else size - done
        if (off + done) // CHUNK < n.n_chunks and n.chunks[(off + done) // CHUNK] != NULL:
            memcpy(buf + done, n.chunks[(off + done) // CHUNK] + at, part)
        else:
            memset(buf + done, 0, part)
        done += part
    return size


cdef int need_chunk(nnode* n, uint64_t i) noexcept nogil:
    if i >= MAX_CHUNKS:
        return -27          # EFBIG
    if not grow(<void**>&n.chunks, &n.n_chunks, i + 1, sizeof(void*)):
        return -ENOMEM
    if n.chunks[i] == NULL:
        n.chunks[i] = <uint8_t*>calloc(1, CHUNK)
        if n.chunks[i] == NULL:
            return -ENOMEM
        n.used_chunks += 1
    return 0


cdef int data_write(nnode* n, uint64_t off, uint32_t size, const uint8_t* buf) noexcept nogil:
    cdef uint64_t done = 0
    cdef uint64_t at, part
    cdef int err
    while done < size:
        at = (off + done) % CHUNK
        part = CHUNK - at if CHUNK - at < size - done else size - done
        err = need_chunk(n, (off + done) // CHUNK)
        if err < 0:
            return err
        memcpy(n.chunks[(off + done) // CHUNK] + at, buf + done, part)
        done += part
    if off + size > n.size:
        n.size = off + size
    return 0


cdef void data_punch(nnode* n, uint64_t off, uint64_t length) noexcept nogil:
    """Zero a range; whole chunks are given back."""
    cdef uint64_t end = off + length
    cdef uint64_t i, a, b
    i = off // CHUNK
    while i < n.n_chunks and i * CHUNK < end:
        if n.chunks[i] != NULL:
            a = off - i * CHUNK if off > i * CHUNK else 0
            b = end - i * CHUNK if end < (i + 1) * CHUNK else CHUNK
            if a == 0 and b == CHUNK:
                free(n.chunks[i])
                n.chunks[i] = NULL
                n.used_chunks -= 1
            else:
                memset(n.chunks[i] + a, 0, b - a)
        i += 1


cdef int data_resize(nnode* n, uint64_t size) noexcept nogil:
    if size > MAX_CHUNKS * CHUNK:
        return -27          # EFBIG
    if size < n.size:
        data_punch(n, size, ((n.size + CHUNK - 1) // CHUNK) * CHUNK - size)
    n.size = size
    return 0


cdef int data_allocate(nnode* n, uint64_t off, uint64_t length) noexcept nogil:
    cdef uint64_t i = off // CHUNK
    cdef int err
    while i * CHUNK < off + length:
        err = need_chunk(n, i)
        if err < 0:
            return err
        i += 1
    return 0


cdef int data_seek(nnode* n, uint64_t off, bint hole, uint64_t* out) noexcept nogil:
    cdef uint64_t i
    cdef bint data
    if off >= n.size:
        return -ENXIO
    i = off // CHUNK
    while i * CHUNK < n.size:
        data = i < n.n_chunks and n.chunks[i] != NULL
        if data != hole:
            out[0] = i * CHUNK if i * CHUNK > off else off
            return 0
        i += 1
    if not hole:
        return -ENXIO
    out[0] = n.size
    return 0
