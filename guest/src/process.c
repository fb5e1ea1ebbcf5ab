/* The process table. Everything is non-blocking; the poll loop in agent.c drives it. */
#include "process.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cgroups.h"
#include "clock.h"
#include "feed.h"

/* Of each stream: others want their turn, and a stream over its cap may never end. */
enum { READS_PER_STEP = 8, MAX_POLL_MS = 3600000 };

enum phase { PHASE_FREE, PHASE_STARTING, PHASE_RUNNING, PHASE_FAILED };

struct output {
    int fd;
    uint64_t cap, emitted, dropped;
    bool closing;     /* the grace is over: `remaining` bytes, then close */
    size_t remaining;
};

struct process {
    enum phase phase;
    uint32_t spid;
    pid_t pid;
    int status_fd;
    struct spawn_failure failure;
    struct output outputs[2];
    uint64_t started_us, deadline_us; /* deadline 0: none */
    bool timed_out;
    bool reaped;
    bool oom_killed;
    uint64_t ended_us;
    int wait_status;
    struct rusage usage;
    struct feed stdin_feed; /* last: its ring is not worth clearing */
};

static struct process table[MAX_LIVE_PROCESSES];

void processes_init(void)
{
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        table[i].phase = PHASE_FREE;
}

static struct process *find(uint32_t spid)
{
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (table[i].phase != PHASE_FREE && table[i].spid == spid)
            return &table[i];
    return NULL;
}

static struct process *find_alive(uint32_t spid, struct error *err)
{
    struct process *p = find(spid);

    if (p == NULL || p->reaped || p->phase == PHASE_FAILED) {
        (void)error_set(err, ERROR_NO_PROCESS, 0, "no live process with spid %u", spid);
        return NULL;
    }
    return p;
}

static struct process *find_free(void)
{
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (table[i].phase == PHASE_FREE)
            return &table[i];
    return NULL;
}

void processes_spawn(const struct spawn *request, const struct workload *where, struct queue *out)
{
    struct process *p = find_free();
    struct spawned s;

    if (find(request->spid) != NULL || p == NULL) {
        send_spawn_failed(out, request->spid, STAGE_SLOT, p == NULL ? EAGAIN : EEXIST);
        return;
    }
    memset(p, 0, offsetof(struct process, stdin_feed));
    p->started_us = monotonic_us();
    if (spawn_process(request, where, &s) < 0) {
        send_spawn_failed(out, request->spid, STAGE_FORK, errno);
        return;
    }
    p->phase = PHASE_STARTING;
    p->spid = request->spid;
    p->pid = s.pid;
    p->status_fd = s.status_fd;
    feed_open(&p->stdin_feed, s.stdin_fd);
    if (request->timeout_ms > 0)
        p->deadline_us = p->started_us + (uint64_t)request->timeout_ms * 1000;
    for (size_t i = 0; i < ARRAY_LEN(p->outputs); i++) {
        p->outputs[i].fd = s.output_fds[i];
        p->outputs[i].cap = request->caps[i];
    }
}

int processes_stdin(uint32_t spid, struct span data, struct error *err)
{
    struct process *p = find_alive(spid, err);

    return p == NULL ? -1 : feed_add(&p->stdin_feed, spid, data, err);
}

int processes_stdin_eof(uint32_t spid, struct error *err)
{
    struct process *p = find_alive(spid, err);

    if (p == NULL)
        return -1;
    p->stdin_feed.eof = true;
    return 0;
}

/* A session leader cannot leave its group, but a child just forked has not made it yet. */
static int kill_group(const struct process *p, int number)
{
    if (kill(-p->pid, number) == 0)
        return 0;
    return errno == ESRCH ? kill(p->pid, number) : -1;
}

int processes_signal(uint32_t spid, uint32_t number, struct error *err)
{
    struct process *p = find_alive(spid, err);

    if (p == NULL)
        return -1;
    if (kill_group(p, (int)number) < 0)
        return error_set(err, ERROR_IO, errno, "signal %u to spid %u: %s", number, spid,
                         strerror(errno));
    return 0;
}

bool processes_reap(void)
{
    for (;;) {
        struct rusage usage;
        int status;
        pid_t pid = wait4(-1, &status, WNOHANG | __WALL, &usage);

        if (pid < 0 && errno == EINTR)
            continue;
        if (pid <= 0)
            return pid == 0;
        for (size_t i = 0; i < ARRAY_LEN(table); i++) {
            struct process *p = &table[i];

            if (p->phase == PHASE_FREE || p->reaped || p->pid != pid)
                continue;
            p->reaped = true;
            p->ended_us = monotonic_us();
            p->wait_status = status;
            p->usage = usage;
            p->oom_killed = group_close(p->spid);
        }
    }
}

void processes_kill_all(void)
{
    if (getpid() == 1)
        (void)kill(-1, SIGKILL); /* ESRCH: nobody is left */
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (table[i].phase != PHASE_FREE && !table[i].reaped)
            (void)kill_group(&table[i], SIGKILL);
}

bool processes_any(void)
{
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (table[i].phase != PHASE_FREE)
            return true;
    return false;
}

static size_t add(struct pollfd *set, size_t count, int fd, short events)
{
    set[count].fd = fd;
    set[count].events = events;
    set[count].revents = 0;
    return count + 1;
}

size_t processes_poll_set(struct pollfd *set, bool queue_has_room)
{
    size_t count = 0;

    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        const struct process *p = &table[i];

        if (p->phase == PHASE_FREE)
            continue;
        if (p->stdin_feed.fd >= 0 && p->stdin_feed.length > 0)
            count = add(set, count, p->stdin_feed.fd, POLLOUT);
        if (!queue_has_room)
            continue;
        if (p->phase == PHASE_STARTING) {
            count = add(set, count, p->status_fd, POLLIN);
            continue;
        }
        for (size_t o = 0; o < ARRAY_LEN(p->outputs); o++)
            if (p->outputs[o].fd >= 0)
                count = add(set, count, p->outputs[o].fd, POLLIN);
    }
    return count;
}

int processes_poll_timeout(void)
{
    uint64_t now = monotonic_us(), next = UINT64_MAX;

    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        const struct process *p = &table[i];
        uint64_t grace_us = p->ended_us + OUTPUT_GRACE_MS * 1000;

        if (p->phase == PHASE_FREE)
            continue;
        if (!p->reaped && p->deadline_us > 0 && !p->timed_out && p->deadline_us < next)
            next = p->deadline_us;
        if (p->reaped && !p->outputs[0].closing && grace_us < next)
            next = grace_us;
    }
    if (next == UINT64_MAX)
        return -1;
    if (next <= now)
        return 0;
    return (next - now) / 1000 >= MAX_POLL_MS ? MAX_POLL_MS : (int)((next - now) / 1000) + 1;
}

static void step_starting(struct process *p, struct queue *out)
{
    ssize_t got = read(p->status_fd, &p->failure, sizeof(p->failure));

    if (got < 0)
        return; /* EAGAIN: still on its way */
    close_descriptor(&p->status_fd);
    if (got == (ssize_t)sizeof(p->failure)) {
        p->phase = PHASE_FAILED; /* told once it is reaped: the spid must be free by then */
        return;
    }
    p->phase = PHASE_RUNNING;
    send_spawned(out, p->spid, (uint32_t)p->pid);
}

static void close_output(struct process *p, size_t index, struct queue *out)
{
    struct output *o = &p->outputs[index];

    close_descriptor(&o->fd);
    if (o->dropped > 0)
        send_truncated(out, p->spid, (uint8_t)(index + 1), o->emitted, o->dropped);
}

/* One read, at most. Returns true if there may be more. */
static bool step_output(struct process *p, size_t index, struct queue *out)
{
    static uint8_t chunk[MAX_OUTPUT_CHUNK_BYTES];
    struct output *o = &p->outputs[index];
    size_t want = sizeof(chunk), keep;
    ssize_t got;

    if (o->fd < 0)
        return false;
    if (o->closing && o->remaining < want)
        want = o->remaining;
    got = want > 0 ? read(o->fd, chunk, want) : 0;
    if (got < 0 && (errno == EAGAIN || errno == EINTR) && !o->closing)
        return false;
    if (got <= 0) {
        close_output(p, index, out);
        return false;
    }
    keep = o->cap - o->emitted < (uint64_t)got ? (size_t)(o->cap - o->emitted) : (size_t)got;
    if (keep > 0)
        send_output(out, p->spid, (uint8_t)(index + 1), chunk, keep);
    o->emitted += keep;
    o->dropped += (size_t)got - keep;
    o->remaining -= o->closing ? (size_t)got : 0;
    return true;
}

static void step_deadlines(struct process *p)
{
    uint64_t now = monotonic_us();

    if (!p->reaped && p->deadline_us > 0 && now >= p->deadline_us && !p->timed_out) {
        p->timed_out = true;
        (void)kill_group(p, SIGKILL); /* ESRCH: it ended by itself a moment ago */
    }
    if (!p->reaped || now < p->ended_us + OUTPUT_GRACE_MS * 1000)
        return;
    for (size_t i = 0; i < ARRAY_LEN(p->outputs); i++) {
        int held = 0;

        if (p->outputs[i].closing)
            continue;
        if (p->outputs[i].fd >= 0 && ioctl(p->outputs[i].fd, FIONREAD, &held) < 0)
            held = 0;
        p->outputs[i].remaining = (size_t)held;
        p->outputs[i].closing = true;
    }
}

static void release(struct process *p)
{
    close_descriptor(&p->status_fd);
    close_descriptor(&p->stdin_feed.fd);
    for (size_t i = 0; i < ARRAY_LEN(p->outputs); i++)
        close_descriptor(&p->outputs[i].fd);
    p->phase = PHASE_FREE;
}

static void report_exit(struct process *p, struct queue *out)
{
    struct exited m = {
        .spid = p->spid,
        .pid = (uint32_t)p->pid,
        .status = p->wait_status,
        /* A process that ended by itself in the instant of its deadline was not stopped by it. */
        .timed_out = p->timed_out && WIFSIGNALED(p->wait_status),
        .oom_killed = p->oom_killed,
        .duration_us = p->ended_us - p->started_us,
        .usage = p->usage,
    };

    send_exited(out, &m);
    release(p);
}

static void report_failure(struct process *p, struct queue *out)
{
    send_spawn_failed(out, p->spid, (enum spawn_stage)p->failure.stage, p->failure.errno_value);
    release(p);
}

static void step_process(struct process *p, struct queue *out)
{
    step_deadlines(p);
    if (p->phase == PHASE_STARTING && queue_room(out) >= STEP_ROOM_BYTES)
        step_starting(p, out);
    if (queue_room(out) >= STEP_ROOM_BYTES)
        feed_step(&p->stdin_feed, p->spid, out);
    for (size_t reads = 0; p->phase == PHASE_RUNNING && reads < READS_PER_STEP; reads++) {
        if (queue_room(out) < 2 * STEP_ROOM_BYTES)
            break;
        bool more = step_output(p, 0, out);

        if (!(step_output(p, 1, out) || more))
            break;
    }
    if (!p->reaped || queue_room(out) < STEP_ROOM_BYTES)
        return;
    if (p->phase == PHASE_FAILED)
        report_failure(p, out);
    else if (p->phase == PHASE_RUNNING && p->outputs[0].fd < 0 && p->outputs[1].fd < 0)
        report_exit(p, out);
}

void processes_step(struct queue *out)
{
    static size_t first; /* whose turn it is: a full queue must not starve the later slots */

    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        struct process *p = &table[(first + i) % ARRAY_LEN(table)];

        if (p->phase != PHASE_FREE)
            step_process(p, out);
    }
    first = (first + 1) % ARRAY_LEN(table);
}
