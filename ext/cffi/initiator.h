/* An iSCSI initiator for threads that only want to read and write: what the two sides of it share.
 *
 * Python (by cffi) opens, probes and closes; compiled threads (by Cython, without the GIL) move data through the table.
 * Everything here is thread-safe. Functions return 0 or -errno unless they say otherwise.
 */
#ifndef GFS2PY_INITIATOR_H
#define GFS2PY_INITIATOR_H

#include <stddef.h>
#include <stdint.h>

#define GI_TABLE_VERSION 1
#define GI_PORTALS 4            /* of one target, tried in turn */
#define GI_CHECKS 4             /* questions that a LUN has to answer as before, after every login */
#define GI_CHECK_BYTES 252
#define GI_WHY_BYTES 256

/* What becomes of writes that the target has acknowledged but not made durable, when its cache may be lost. */
enum gi_cache {
    GI_REPLAY = 0,              /* they are kept until a flush, and sent again after every login */
    GI_THROUGH = 1,             /* there are none: every write is durable when it returns */
    GI_FAIL = 2                 /* every later flush fails */
};

/* How an answer is compared with the one at opening. */
enum gi_check {
    GI_SAME = 0,                /* byte for byte */
    GI_CAPACITY = 1,            /* READ CAPACITY(16): the same block length, not fewer blocks */
    GI_CACHE = 2                /* if it differs, the cache counts as volatile from now on */
};

struct gi_device;

struct gi_piece {               /* one contiguous piece of a batch; bytes */
    uint64_t off;
    void *buf;
    uint64_t len;
    int32_t res;                /* out: 0 or -errno of this piece */
};

struct gi_table {
    uint32_t version, piece_bytes;
    int (*transfer)(struct gi_device *d, int writing, struct gi_piece *pieces, uint32_t n, int fua);
    int (*flush)(struct gi_device *d);
    int (*discard)(struct gi_device *d, uint64_t off, uint64_t len);
    void (*close)(struct gi_device *d);
};

struct gi_settings {            /* strings are copied */
    const char *initiator, *target, *label;
    const char *portals[GI_PORTALS];
    const char *user, *password, *target_user, *target_password;    /* NULL without CHAP */
    uint32_t n_portals, lun, isid, depth;
    int header_digest;          /* 0 none, 1 CRC32C wanted */
    uint32_t timeout_s;         /* how long an outage may last; 0 for ever */
    uint32_t ping_s;            /* silence after which the target is asked whether it lives, and time to answer */
    uint64_t keep_bytes;        /* at most so much is kept for replay */
};

struct gi_geometry {            /* what the probing found out */
    uint64_t blocks;
    uint32_t block_bytes, max_bytes, max_unmap_blocks;  /* per command; 0 unmap blocks: no UNMAP */
    int volatile_cache, has_fua, has_flush;
};

struct gi_answer {              /* of one SCSI command */
    int status, key, ascq;      /* SAM status; sense key and code (ASC << 8 | ASCQ) for CHECK CONDITION */
    uint32_t got;               /* bytes that came */
};

struct gi_status {
    int state, dead_errno, cache;
    uint32_t in_flight, queued, sessions;
    uint64_t unflushed_writes, unflushed_bytes, resent, replayed, busy;
    uint64_t outage_ns;         /* of the present outage; 0 without one */
    char why[GI_WHY_BYTES];     /* of the present or last outage */
    char portal[GI_WHY_BYTES];
};

const struct gi_table *gi_operations(void);
struct gi_device *gi_new(const struct gi_settings *s);      /* NULL: out of memory */
int gi_connect(struct gi_device *d);                        /* the first session; gi_status says why not */
int gi_command(struct gi_device *d, const uint8_t *cdb, uint32_t cdb_len, const void *out, uint32_t out_len,
               void *in, uint32_t in_len, struct gi_answer *answer);
int gi_remember(struct gi_device *d, int kind, const uint8_t *cdb, uint32_t cdb_len, const void *wanted, uint32_t len);
int gi_start(struct gi_device *d, const struct gi_geometry *g);     /* from here on outages are survived */
int gi_set_cache(struct gi_device *d, int cache);
void gi_set_timeout(struct gi_device *d, uint32_t timeout_s);
void gi_get_status(struct gi_device *d, struct gi_status *out);
void gi_close(struct gi_device *d);
#endif
