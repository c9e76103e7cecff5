/* The event thread: it alone talks to libiscsi, which knows no threads.
 *
 *   DOWN -> CONNECT -> LOGIN -> CHECK -> REPLAY -> UP          any -> DOWN when the session is lost
 *                                                              any -> DEAD when an outage lasts too long
 *
 * A login uses the same ISID as the one before: the target then ends the old session and its commands (RFC 7143,
 * session reinstatement), so none of them can be carried out after it was sent again. libiscsi's own reconnecting is
 * off: it knows nothing of what the target may have forgotten.
 */
#include "internal.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define S_NS 1000000000ULL
#define MS_NS 1000000ULL
enum { RETRY_FIRST_MS = 50, RETRY_MAX_MS = 1000, SAY_FIRST_S = 2, SAY_MAX_S = 60, LOGOUT_MS = 500 };

static __thread struct gi_device *mine;         /* of this event thread: libiscsi's log function gets no pointer */

uint64_t gi_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * S_NS + (uint64_t)t.tv_nsec;
}

void gi_say(struct gi_device *d, const char *form, ...)
{
    char text[2 * GI_WHY_BYTES], line[3 * GI_WHY_BYTES];
    va_list args;
    int n;

    va_start(args, form);
    vsnprintf(text, sizeof(text), form, args);
    va_end(args);
    n = snprintf(line, sizeof(line), "gfs2py: %s: %s\n", d->label, text);
    if (n > 0 && write(2, line, n < (int)sizeof(line) ? (size_t)n : sizeof(line) - 1) < 0)
        return;                                 /* nobody reads it */
}

void gi_wake(struct gi_device *d)
{
    uint64_t one = 1;

    if (d->asleep) {
        d->asleep = 0;
        if (write(d->wake_fd, &one, sizeof(one)) < 0)
            return;                             /* full: it is awake */
    }
}

/* -- losing a session -------------------------------------------------------------------------------------------- */

void session_lost(struct gi_device *d, const char *form, ...)
{
    va_list args;

    if (d->lost)
        return;                                 /* the first reason is the one */
    d->lost = 1;
    pthread_mutex_lock(&d->lock);
    va_start(args, form);
    vsnprintf(d->why, sizeof(d->why), form, args);
    va_end(args);
    for (char *p = d->why; *p; p++)
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            *p = p[1] ? '?' : 0;                /* what a target says goes into logs */
    if (!d->why[0])
        strcpy(d->why, "the target closed the connection");
    pthread_mutex_unlock(&d->lock);
}

/* libiscsi keeps the text of the last error, which may be that of a command long ago. */
const char *session_error(struct gi_device *d)
{
    static const char *const of_commands[] = {"SENSE", "RESERVATION", "TASK", "BUSY", "ACA", "iscsi_service"};
    const char *text = d->ctx ? iscsi_get_error(d->ctx) : "";

    for (size_t i = 0; i < sizeof(of_commands) / sizeof(*of_commands); i++)
        if (strncmp(text, of_commands[i], strlen(of_commands[i])) == 0)
            return "";
    return text;
}

void session_die(struct gi_device *d, int err, const char *why)
{
    d->lost = 1;
    pthread_mutex_lock(&d->lock);
    d->state = ST_DEAD;
    d->dead_errno = err;
    if (why != d->why)
        snprintf(d->why, sizeof(d->why), "%s", why);
    pthread_mutex_unlock(&d->lock);
    if (d->started)
        gi_say(d, "given up (%s): every access fails until it is opened again", why);
}

static void forget_task(struct cmd *c)
{
    if (c->task)
        scsi_free_scsi_task(c->task);
    c->task = NULL;
}

/* Of a lost session: what the kernel has not sent must not arrive after all, when nobody answers for it any more. */
static void forget_unsent(struct iscsi_context *ctx)
{
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    int fd = iscsi_get_fd(ctx);

    if (fd >= 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
}

/* What was in flight goes to the head of the queue, in its order; what must not be sent twice fails. */
static void take_down(struct gi_device *d)
{
    struct iscsi_context *ctx = d->ctx;
    struct cmd *c;

    d->ctx = NULL;
    if (ctx) {
        if (d->lost)
            forget_unsent(ctx);
        iscsi_destroy_context(ctx);             /* no callback of it comes after this */
    }
    release_lingering(d);
    forget_task(&d->own);
    for (int i = 0; i < REPLAY_DEPTH; i++)
        forget_task(&d->replays[i]);
    pthread_mutex_lock(&d->lock);
    if (d->cache == GI_FAIL && d->acked > d->flushed)
        d->lost_writes = 1;
    while ((c = d->flying.tail)) {
        list_remove(&d->flying, c);
        forget_task(c);
        if (c->kind == K_RAW) {
            cmd_finish(c, -ECONNRESET);
            continue;
        }
        list_add_front(&d->queue, c);
        d->resent++;
    }
    if (d->state == ST_DEAD || d->stop || (!d->started && d->sessions)) {
        if (!d->dead_errno)
            d->dead_errno = d->stop ? -ESHUTDOWN : -ECONNRESET;
        d->state = ST_DEAD;
        cmd_fail_all(d, d->dead_errno);
        keep_drop_all(d);
    } else {
        d->state = ST_DOWN;
    }
    d->depth_now = d->depth;
    pthread_cond_broadcast(&d->changed);
    pthread_mutex_unlock(&d->lock);
}

static void after_loss(struct gi_device *d, uint64_t now)
{
    int was_up = d->state == ST_UP || d->state == ST_REPLAY;
    uint32_t gap = RETRY_FIRST_MS << (d->failures < 5 ? d->failures : 5);

    take_down(d);
    d->lost = 0;
    if (d->state == ST_DEAD)
        return;
    if (!d->started) {                          /* the first login: no second chance, unless it was a redirection */
        if (!d->redirect[0] || d->redirects > REDIRECTS_MAX) {
            session_die(d, -ENOTCONN, d->why);
            return;
        }
    }
    d->retry_ns = d->redirect[0] ? now : now + (gap < RETRY_MAX_MS ? gap : RETRY_MAX_MS) * MS_NS;
    d->failures++;
    pthread_mutex_lock(&d->lock);
    if (!d->trouble_ns)
        d->trouble_ns = now;
    pthread_mutex_unlock(&d->lock);
    if (was_up && d->started) {
        gi_say(d, "connection lost (%s): %u commands wait, %llu writes are not flushed", d->why, d->queue.n,
               (unsigned long long)d->n_kept);
        d->say_gap_ns = SAY_FIRST_S * S_NS;
        d->say_ns = now + d->say_gap_ns;
    }
    if (!d->redirect[0] && !was_up)
        d->portal_at = (d->portal_at + 1) % d->n_portals;
}

/* -- bringing a session up --------------------------------------------------------------------------------------- */

static void on_log(int level, const char *text)
{
    (void)level;
    if (mine && strstr(text, "reconnect deferred"))
        session_lost(mine, "%s", session_error(mine));
}

static void ask(struct gi_device *d, enum kind kind, const uint8_t *cdb, uint32_t cdb_len, uint32_t in_len)
{
    cmd_prepare(&d->own, d, kind, cdb, cdb_len);
    if (in_len) {
        memset(d->own_in, 0, sizeof(d->own_in));
        d->own.dir = SCSI_XFER_READ;
        d->own.in = d->own_in;
        d->own.len = in_len;
    }
    if (cmd_send(&d->own) != 0)
        session_lost(d, "cannot send: %s", iscsi_get_error(d->ctx));
}

static void on_login(struct iscsi_context *ctx, int status, void *data, void *private_data)
{
    static const uint8_t test_unit_ready[6] = {0};
    struct gi_device *d = private_data;

    (void)data;
    if (status == SCSI_STATUS_REDIRECT) {
        const char *to = iscsi_get_target_address(ctx);
        d->redirects++;
        snprintf(d->redirect, sizeof(d->redirect), "%s", to ? to : "");
        session_lost(d, "redirected to %s", d->redirect);
        return;
    }
    if (status != SCSI_STATUS_GOOD) {
        session_lost(d, "login refused: %s", iscsi_get_error(ctx));
        return;
    }
    d->heard_ns = gi_now();
    d->deadline_ns = d->heard_ns + LOGIN_S * S_NS;
    d->next_check = 0;
    pthread_mutex_lock(&d->lock);
    d->state = ST_CHECK;
    pthread_mutex_unlock(&d->lock);
    ask(d, K_READY, test_unit_ready, sizeof(test_unit_ready), 0);
}

static void on_connect(struct iscsi_context *ctx, int status, void *data, void *private_data)
{
    struct gi_device *d = private_data;

    (void)data;
    if (d->lost || d->state != ST_CONNECT)
        return;
    if (status != SCSI_STATUS_GOOD) {
        session_lost(d, "cannot connect: %s", iscsi_get_error(ctx));
        return;
    }
    pthread_mutex_lock(&d->lock);
    d->state = ST_LOGIN;
    pthread_mutex_unlock(&d->lock);
    if (iscsi_login_async(ctx, on_login, d) != 0)
        session_lost(d, "cannot log in: %s", iscsi_get_error(ctx));
}

static void begin_session(struct gi_device *d, uint64_t now)
{
    struct iscsi_context *ctx = iscsi_create_context(d->initiator);
    const char *portal = d->redirect[0] ? d->redirect : d->portals[d->portal_at];

    d->ctx = ctx;
    d->deadline_ns = now + LOGIN_S * S_NS;
    d->heard_ns = now;
    d->ping_ns = 0;
    pthread_mutex_lock(&d->lock);
    d->state = ST_CONNECT;
    snprintf(d->portal, sizeof(d->portal), "%s", portal);
    pthread_mutex_unlock(&d->lock);
    if (!ctx) {
        session_lost(d, "out of memory");
        return;
    }
    iscsi_set_log_level(ctx, 2);
    iscsi_set_log_fn(ctx, on_log);
    iscsi_set_noautoreconnect(ctx, 1);
    iscsi_set_isid_random(ctx, d->isid, 0);
    if (iscsi_set_targetname(ctx, d->target) != 0 || iscsi_set_session_type(ctx, ISCSI_SESSION_NORMAL) != 0 ||
        iscsi_set_header_digest(ctx, d->header_digest ? ISCSI_HEADER_DIGEST_CRC32C_NONE
                                                      : ISCSI_HEADER_DIGEST_NONE) != 0 ||
        (d->user && iscsi_set_initiator_username_pwd(ctx, d->user, d->password) != 0) ||
        (d->target_user && iscsi_set_target_username_pwd(ctx, d->target_user, d->target_password) != 0) ||
        iscsi_connect_async(ctx, portal, on_connect, d) != 0)
        session_lost(d, "cannot connect: %s", iscsi_get_error(ctx));
    d->redirect[0] = 0;
}

static uint64_t be(const uint8_t *p, int n)
{
    uint64_t v = 0;
    while (n--)
        v = v << 8 | *p++;
    return v;
}

/* 0, or what is wrong with the LUN that answers now. */
static const char *compare(struct gi_device *d, const struct check *k)
{
    const uint8_t *got = d->own_in;

    if (d->own.answer.got < k->len)
        return "answers shorter than before";
    if (k->kind == GI_CAPACITY)
        return be(got, 8) < be(k->wanted, 8) || be(got + 8, 4) != be(k->wanted + 8, 4)
            ? "is smaller than before or has another block length" : NULL;
    if (memcmp(got, k->wanted, k->len) == 0)
        return NULL;
    if (k->kind == GI_CACHE) {
        pthread_mutex_lock(&d->lock);
        d->geo.volatile_cache = 1;
        pthread_mutex_unlock(&d->lock);
        return NULL;
    }
    return "is another one than before";
}

/* The answer to a question of bringing up: the next question, or the kept writes. */
void session_answered(struct gi_device *d, struct cmd *c, int err)
{
    const char *wrong;

    if (err) {
        if (err == -ENODEV)
            session_lost(d, "the target has no LUN %u", d->lun);
        else
            session_lost(d, "LUN %u is not usable (SCSI status %x, sense %x/%04x)", d->lun, c->answer.status,
                         c->answer.key, c->answer.ascq);
        return;
    }
    if (c->kind == K_CHECK) {
        wrong = compare(d, &d->checks[d->next_check]);
        if (wrong) {
            session_lost(d, "LUN %u %s", d->lun, wrong);
            return;
        }
        d->next_check++;
    }
    if (d->next_check < d->n_checks) {
        const struct check *k = &d->checks[d->next_check];
        ask(d, K_CHECK, k->cdb, k->cdb_len, GI_CHECK_BYTES);
        return;
    }
    d->deadline_ns = UINT64_MAX;
    replay_begin(d);
}

void session_up(struct gi_device *d)
{
    uint64_t now = gi_now();

    pthread_mutex_lock(&d->lock);
    d->state = ST_UP;
    d->sessions++;
    d->hold_ns = 0;
    d->failures = 0;
    if (d->started && d->trouble_ns)
        gi_say(d, "back after %.1f s at %s: %u commands go on, %llu unflushed writes were sent again",
               (double)(now - d->trouble_ns) / 1e9, d->portal, d->queue.n, (unsigned long long)d->n_kept);
    if (!d->queue.n)
        d->trouble_ns = 0;                      /* else when the first of them gets through */
    pthread_cond_broadcast(&d->changed);
    pthread_mutex_unlock(&d->lock);
}

/* -- watching ---------------------------------------------------------------------------------------------------- */

static void on_pong(struct iscsi_context *ctx, int status, void *data, void *private_data)
{
    struct gi_device *d = private_data;

    (void)ctx;
    (void)data;
    if (status == SCSI_STATUS_GOOD) {
        d->heard_ns = gi_now();
        d->ping_ns = 0;
    }
}

static void watch_target(struct gi_device *d)
{
    uint64_t gap = d->ping_s * S_NS, now = gi_now();   /* not the round's: something may just have been sent */
    struct cmd *oldest = d->flying.head;

    if (d->ping_ns && now - d->ping_ns > gap)
        session_lost(d, "no answer for %llu s", (unsigned long long)((now - d->heard_ns) / S_NS));
    else if (!d->ping_ns && now - d->heard_ns > gap) {
        d->ping_ns = now;
        if (iscsi_nop_out_async(d->ctx, on_pong, NULL, 0, d) != 0)
            session_lost(d, "cannot send: %s", iscsi_get_error(d->ctx));
    }
    if (oldest && now - oldest->sent_ns > COMMAND_S * S_NS)
        session_lost(d, "a command is not answered since %d s", COMMAND_S);
}

static void watch_outage(struct gi_device *d, uint64_t now)
{
    uint64_t since;
    uint32_t limit;

    pthread_mutex_lock(&d->lock);
    since = d->trouble_ns;
    limit = d->timeout_s;
    pthread_mutex_unlock(&d->lock);
    if (!since || !d->started || d->state == ST_DEAD)
        return;
    if (limit && now - since > limit * S_NS) {
        char why[2 * GI_WHY_BYTES];
        snprintf(why, sizeof(why), "nothing since %u s: %s", limit, d->why);
        session_die(d, -EIO, why);
    } else if (now >= d->say_ns) {
        gi_say(d, "waiting for iscsi portal %s since %llu s: %s", d->portal,
               (unsigned long long)((now - since) / S_NS), d->why);
        d->say_gap_ns = d->say_gap_ns * 2 < SAY_MAX_S * S_NS ? d->say_gap_ns * 2 : SAY_MAX_S * S_NS;
        d->say_ns = now + d->say_gap_ns;
    }
}

/* Too much is kept for a replay: flush, so that it can be let go. */
static void flush_kept(struct gi_device *d, uint64_t now)
{
    static const uint8_t cdb[10] = {0x35};

    pthread_mutex_lock(&d->lock);
    if (d->kept_head && (d->kept_bytes > d->keep_bytes / 2 || d->waiters) && !d->self_flushing
        && now >= d->self_flush_retry_ns) {
        cmd_prepare(&d->self_flush, d, K_FLUSH, cdb, sizeof(cdb));
        d->self_flushing = 1;
        list_add_front(&d->queue, &d->self_flush);
    }
    pthread_mutex_unlock(&d->lock);
}

static void work(struct gi_device *d, uint64_t now)
{
    switch (d->state) {
    case ST_DOWN:
        if (now >= d->retry_ns)
            begin_session(d, now);
        break;
    case ST_CONNECT:
    case ST_LOGIN:
    case ST_CHECK:
        if (now > d->deadline_ns)
            session_lost(d, "no answer within %d s while %s", LOGIN_S,
                         d->state == ST_CONNECT ? "connecting" : "logging in");
        break;
    case ST_REPLAY:
        watch_target(d);
        break;
    case ST_UP:
        flush_kept(d, now);
        send_queued(d, now);
        if (!d->lost)
            watch_target(d);
        break;
    case ST_DEAD:
        break;
    }
    watch_outage(d, now);
}

/* How long nothing can happen by itself, ms. */
static int rest_ms(struct gi_device *d, uint64_t now)
{
    uint64_t until = now + 1000 * MS_NS;

    if (d->state == ST_DEAD)
        return -1;
    if (d->state == ST_DOWN && d->retry_ns < until)
        until = d->retry_ns;
    if (d->state == ST_UP && d->queue.n && d->hold_ns > now && d->hold_ns < until)
        until = d->hold_ns;
    return until > now ? (int)((until - now + MS_NS - 1) / MS_NS) : 0;
}

static void rest(struct gi_device *d)
{
    struct pollfd fds[2] = {{d->wake_fd, POLLIN, 0}, {-1, 0, 0}};
    uint64_t now = gi_now(), count;
    int timeout;

    if (d->ctx) {
        fds[1].fd = iscsi_get_fd(d->ctx);
        fds[1].events = (short)(iscsi_which_events(d->ctx) | POLLRDHUP);
    }
    pthread_mutex_lock(&d->lock);
    timeout = d->stop ? 0 : rest_ms(d, now);
    if (d->state == ST_UP && d->queue.n && d->flying.n < d->depth_now && !d->linger.n && now >= d->hold_ns)
        timeout = 0;
    d->asleep = timeout != 0;
    pthread_mutex_unlock(&d->lock);
    if (poll(fds, fds[1].fd >= 0 ? 2 : 1, timeout) < 0)
        return;
    pthread_mutex_lock(&d->lock);
    d->asleep = 0;
    pthread_mutex_unlock(&d->lock);
    if ((fds[0].revents & POLLIN) && read(d->wake_fd, &count, sizeof(count)) < 0)
        return;
    if (!d->ctx || fds[1].fd < 0)
        return;
    if (iscsi_service(d->ctx, fds[1].revents & ~POLLRDHUP) < 0)
        session_lost(d, "%s", session_error(d));
    else if ((fds[1].revents & (POLLHUP | POLLERR)) && d->state > ST_LOGIN)
        session_lost(d, "%s", session_error(d));
}

static void log_out(struct gi_device *d)
{
    uint64_t until = gi_now() + LOGOUT_MS * MS_NS;
    struct pollfd fd;

    if (!d->ctx || d->state != ST_UP || iscsi_logout_async(d->ctx, on_pong, d) != 0)
        return;
    d->ping_ns = 1;                             /* on_pong clears it */
    while (d->ping_ns && !d->lost && gi_now() < until) {
        fd.fd = iscsi_get_fd(d->ctx);
        fd.events = (short)iscsi_which_events(d->ctx);
        if (fd.fd < 0 || poll(&fd, 1, 50) < 0 || iscsi_service(d->ctx, fd.revents) < 0)
            return;
    }
}

static void *event_thread(void *arg)
{
    struct gi_device *d = arg;
    int stop = 0;

    mine = d;
    while (!stop) {
        uint64_t now = gi_now();
        work(d, now);
        if (!d->lost) {
            rest(d);
            if (d->linger.n && !d->lost)
                release_lingering(d);
        }
        if (d->lost)
            after_loss(d, gi_now());
        pthread_mutex_lock(&d->lock);
        stop = d->stop;
        pthread_mutex_unlock(&d->lock);
    }
    log_out(d);
    take_down(d);
    return NULL;
}

/* -- from outside ------------------------------------------------------------------------------------------------ */

static char *copy(const char *s, int *failed)
{
    char *c = s ? strdup(s) : NULL;
    if (s && !c)
        *failed = 1;
    return c;
}

static void free_device(struct gi_device *d)
{
    char *strings[] = {d->initiator, d->target, d->label, d->user, d->password, d->target_user, d->target_password};

    for (size_t i = 0; i < sizeof(strings) / sizeof(*strings); i++)
        free(strings[i]);
    for (int i = 0; i < GI_PORTALS; i++)
        free(d->portals[i]);
    if (d->wake_fd >= 0)
        close(d->wake_fd);
    pthread_cond_destroy(&d->changed);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

struct gi_device *gi_new(const struct gi_settings *s)
{
    struct gi_device *d = calloc(1, sizeof(*d));
    int failed = 0;

    if (!d)
        return NULL;
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->changed, NULL);
    d->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    d->initiator = copy(s->initiator, &failed);
    d->target = copy(s->target, &failed);
    d->label = copy(s->label, &failed);
    d->user = copy(s->user, &failed);
    d->password = copy(s->password, &failed);
    d->target_user = copy(s->target_user, &failed);
    d->target_password = copy(s->target_password, &failed);
    d->n_portals = s->n_portals < GI_PORTALS ? s->n_portals : GI_PORTALS;
    for (uint32_t i = 0; i < d->n_portals; i++)
        d->portals[i] = copy(s->portals[i], &failed);
    d->lun = s->lun;
    d->isid = s->isid;
    d->depth = d->depth_now = s->depth ? s->depth : 1;
    d->header_digest = s->header_digest;
    d->timeout_s = s->timeout_s;
    d->ping_s = s->ping_s ? s->ping_s : 1;
    d->keep_bytes = s->keep_bytes;
    d->geo.block_bytes = 512;
    d->geo.max_bytes = 1 << 18;
    d->geo.volatile_cache = 1;
    if (getrandom(&d->canary, sizeof(d->canary), 0) != sizeof(d->canary))
        failed = 1;
    if (failed || d->wake_fd < 0 || !d->n_portals) {
        free_device(d);
        return NULL;
    }
    return d;
}

int gi_connect(struct gi_device *d)
{
    sigset_t all, before;
    int err;

    sigfillset(&all);                           /* signals are for other threads; SIGPIPE is for nobody */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    err = pthread_create(&d->thread, NULL, event_thread, d);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (err)
        return -err;
    d->has_thread = 1;
    pthread_mutex_lock(&d->lock);
    while (d->state != ST_UP && d->state != ST_DEAD)
        pthread_cond_wait(&d->changed, &d->lock);
    err = d->state == ST_DEAD ? d->dead_errno : 0;
    pthread_mutex_unlock(&d->lock);
    return err;
}

int gi_remember(struct gi_device *d, int kind, const uint8_t *cdb, uint32_t cdb_len, const void *wanted, uint32_t len)
{
    struct check *k;

    if (d->started || d->n_checks == GI_CHECKS || cdb_len > CDB_BYTES || len > GI_CHECK_BYTES
        || (kind == GI_CAPACITY && len < 12))
        return -EINVAL;
    k = &d->checks[d->n_checks];
    k->kind = kind;
    memcpy(k->cdb, cdb, cdb_len);
    k->cdb_len = cdb_len;
    memcpy(k->wanted, wanted, len);
    k->len = len;
    d->n_checks++;
    return 0;
}

int gi_start(struct gi_device *d, const struct gi_geometry *g)
{
    uint32_t block = g->block_bytes;

    if (block < 512 || block > 65536 || (block & (block - 1)) || g->max_bytes < block || g->max_bytes % block
        || g->max_bytes > 1U << 24 || g->blocks > UINT64_MAX / block)
        return -EINVAL;
    pthread_mutex_lock(&d->lock);
    d->geo = *g;
    d->started = 1;
    pthread_mutex_unlock(&d->lock);
    return 0;
}

int gi_set_cache(struct gi_device *d, int cache)
{
    if (cache < GI_REPLAY || cache > GI_FAIL)
        return -EINVAL;
    pthread_mutex_lock(&d->lock);
    d->cache = cache;
    pthread_mutex_unlock(&d->lock);
    return 0;
}

void gi_set_timeout(struct gi_device *d, uint32_t timeout_s)
{
    pthread_mutex_lock(&d->lock);
    d->timeout_s = timeout_s;
    pthread_mutex_unlock(&d->lock);
}

void gi_get_status(struct gi_device *d, struct gi_status *out)
{
    memset(out, 0, sizeof(*out));
    pthread_mutex_lock(&d->lock);
    out->state = (int)d->state;
    out->dead_errno = d->dead_errno;
    out->cache = d->cache;
    out->in_flight = d->flying.n;
    out->queued = d->queue.n;
    out->sessions = d->sessions;
    out->unflushed_writes = d->acked - d->flushed;
    out->unflushed_bytes = d->kept_bytes;
    out->resent = d->resent;
    out->replayed = d->replayed;
    out->busy = d->busy;
    out->outage_ns = d->trouble_ns ? gi_now() - d->trouble_ns : 0;
    memcpy(out->why, d->why, sizeof(out->why));
    memcpy(out->portal, d->portal, sizeof(out->portal));
    pthread_mutex_unlock(&d->lock);
}

void gi_close(struct gi_device *d)
{
    pthread_mutex_lock(&d->lock);
    d->stop = 1;
    d->asleep = 1;
    gi_wake(d);
    pthread_mutex_unlock(&d->lock);
    if (d->has_thread)
        pthread_join(d->thread, NULL);
    pthread_mutex_lock(&d->lock);
    keep_drop_all(d);
    pthread_mutex_unlock(&d->lock);
    free_device(d);
}
