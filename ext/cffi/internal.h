/* The initiator's own structures. One mutex guards everything that more than the event thread looks at. */
#ifndef GFS2PY_INTERNAL_H
#define GFS2PY_INTERNAL_H

#include "initiator.h"

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>
#include <pthread.h>

enum { IOV_MAX_PIECES = 256, UNIT_ATTENTIONS_MAX = 16, TRIES_MAX = 5, SENSE_UNIT_ATTENTION = 6,
       REPLAY_DEPTH = 8 };
enum { LOGIN_S = 10, COMMAND_S = 60, CDB_BYTES = 16, REDIRECTS_MAX = 4 };

enum kind { K_READ, K_WRITE, K_FLUSH, K_UNMAP, K_RAW, K_READY, K_CHECK, K_REPLAY };

enum state { ST_DOWN, ST_CONNECT, ST_LOGIN, ST_CHECK, ST_REPLAY, ST_UP, ST_DEAD };

struct kept {                   /* the data of a write that is not known to be durable */
    struct kept *next;
    uint64_t off, number, owner;    /* owner: the batch of a shared disk that waits for its flush; else 0 */
    uint32_t len;
    uint8_t data[];
};

struct op {                     /* somebody who waits for one or more commands */
    pthread_cond_t done;
    uint32_t left;
    int err;
};

struct cmd {
    struct cmd *prev, *next;
    struct gi_device *d;
    struct op *op;              /* NULL: the initiator's own */
    enum kind kind;
    uint8_t cdb[CDB_BYTES];
    uint32_t cdb_len, len;
    int dir, fua;
    uint64_t off;
    struct scsi_iovec *iov;
    int n_iov;
    struct kept *copy;          /* of a write, until it is acknowledged */
    struct scsi_task *task;     /* while it is in flight */
    uint64_t sent_ns, covers;   /* covers: of a flush, the number of the last write before it */
    uint32_t tries, attentions;
    int err;
    void *in;                   /* of a raw command */
    struct gi_answer answer;
    uint32_t first_piece, n_pieces;
    int verdict;                /* of an answer that has to wait (linger) */
    uint8_t small[24];
};

struct cmd_list {
    struct cmd *head, *tail;
    uint32_t n;
};

struct check {
    int kind;
    uint8_t cdb[CDB_BYTES];
    uint32_t cdb_len, len;
    uint8_t wanted[GI_CHECK_BYTES];
};

struct gi_device {
    /* never changed after gi_new */
    char *initiator, *target, *label, *user, *password, *target_user, *target_password;
    char *portals[GI_PORTALS];
    uint32_t n_portals, lun, isid, depth, ping_s;
    int header_digest;
    uint64_t keep_bytes, canary;
    pthread_t thread;
    int has_thread, wake_fd;

    /* of the event thread alone */
    struct iscsi_context *ctx;
    struct iscsi_context *doomed;
    uint32_t portal_at, failures, redirects;
    char redirect[GI_WHY_BYTES];
    uint64_t deadline_ns, retry_ns, heard_ns, ping_ns, say_ns, say_gap_ns;
    int lost, next_check;
    struct cmd own;             /* the one question of bringing a session up */
    uint8_t own_in[GI_CHECK_BYTES];
    struct kept *replay_next;
    struct cmd replays[REPLAY_DEPTH];
    struct scsi_iovec replay_iov[REPLAY_DEPTH];
    uint32_t replays_flying;
    uint64_t good_since_full;
    struct cmd self_flush;      /* when too much is kept */

    /* under the lock */
    pthread_mutex_t lock;
    pthread_cond_t changed;     /* state, and room for kept writes */
    enum state state;
    int started, stop, asleep, dead_errno, lost_writes, self_flushing, self_flush_err;
    uint32_t waiters;           /* for room among the kept writes */
    struct cmd_list queue, flying, linger;
    uint32_t depth_now;
    uint64_t hold_ns;           /* nothing is sent before */
    struct gi_geometry geo;
    int cache;
    uint32_t timeout_s;
    struct check checks[GI_CHECKS];
    int n_checks;
    struct kept *kept_head, *kept_tail;
    uint64_t kept_bytes, pending_bytes;         /* pending: copies of writes not acknowledged yet */
    uint64_t owners;            /* given out so far */
    uint64_t acked, flushed;    /* number of the last write that is not durable by itself, and of the last flushed */
    uint64_t n_kept, resent, replayed, busy, self_flush_retry_ns;
    uint32_t sessions;
    uint64_t trouble_ns;        /* since when nothing gets through; 0: all is well */
    char why[GI_WHY_BYTES], portal[GI_WHY_BYTES];
};

uint64_t gi_now(void);
void gi_say(struct gi_device *d, const char *form, ...) __attribute__((format(printf, 2, 3)));
void gi_wake(struct gi_device *d);                                  /* with the lock */

void list_add(struct cmd_list *l, struct cmd *c);
void list_add_front(struct cmd_list *l, struct cmd *c);
void list_remove(struct cmd_list *l, struct cmd *c);

/* commands.c: what becomes of a command */
void cmd_prepare(struct cmd *c, struct gi_device *d, enum kind kind, const uint8_t *cdb, uint32_t cdb_len);
int cmd_send(struct cmd *c);                                        /* event thread, without the lock */
void cmd_finish(struct cmd *c, int err);                            /* with the lock */
void cmd_fail_all(struct gi_device *d, int err);                    /* with the lock */
void send_queued(struct gi_device *d, uint64_t now);
void release_lingering(struct gi_device *d);

/* replay.c: writes that are kept */
void keep_acknowledged(struct gi_device *d, struct cmd *c);         /* with the lock */
void keep_flushed(struct gi_device *d, uint64_t upto);              /* with the lock */
void keep_drop_all(struct gi_device *d);                            /* with the lock */
void keep_forget(struct gi_device *d, uint64_t owner);              /* with the lock */
void replay_begin(struct gi_device *d);
void replay_more(struct gi_device *d);
void replay_answered(struct gi_device *d, struct cmd *c, int err);

/* session.c */
void session_lost(struct gi_device *d, const char *form, ...) __attribute__((format(printf, 2, 3)));
const char *session_error(struct gi_device *d);                    /* what libiscsi says, when it means the session */
void session_die(struct gi_device *d, int err, const char *why);
void session_answered(struct gi_device *d, struct cmd *c, int err); /* K_READY, K_CHECK */
void session_up(struct gi_device *d);
#endif
