/* Dispatch and poll loop. Single-threaded; the only waiting is in poll, and, during a capture, on
 * the data port: nothing else is left alive then. */
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "capture.h"
#include "channel.h"
#include "clock.h"
#include "configure.h"
#include "files.h"
#include "mounts.h"
#include "process.h"
#include "rehearse.h"

enum {
    DISCONNECTED_RETRY_MS = 10, /* a virtio port does not wake a poller when its host comes */
    UNSENT_RETRY_MS = 2,        /* ... nor when it has drained */
    KILL_RETRY_MS = 20,
    POLL_SLOTS = 2 + MAX_LIVE_PROCESSES * POLL_SLOTS_PER_PROCESS,
};

struct agent {
    struct agent_config config;
    enum agent_state state;
    struct workload workload;
    struct transfer transfer;
    bool prepared; /* the scratch disk and what goes inside the root are mounted */
    bool capturing; /* CAPTURE came; waiting for the last process to be gone */
    uint64_t capture_max_bytes;
    int signal_fd;
    bool ended; /* hosted: the host is gone */
};

static struct agent agent;
static struct channel channel;

static int refuse(const char *what, struct error *err)
{
    return error_set(err, ERROR_STATE, 0, "%s is not possible in state %d", what, (int)agent.state);
}

static int configure_hosted(struct error *err)
{
    agent.workload.root_fd = open(agent.config.root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (agent.workload.root_fd < 0)
        return error_set(err, ERROR_MOUNT, errno, "open %s", agent.config.root);
    return 0;
}

static int on_prepare(struct reader *r, struct error *err)
{
    uint64_t started_us = monotonic_us();
    struct prepare m;

    if (!decode_prepare(r, &m))
        return error_set(err, ERROR_BAD_FRAME, 0, "malformed PREPARE");
    if (agent.state != STATE_BLANK || agent.prepared || agent.config.hosted)
        return refuse("PREPARE", err);
    if (prepare_guest(&m, MAX_LAYERS, err) < 0 || hold_scratch(err) < 0) {
        agent.state = STATE_FAILED;
        return -1;
    }
    agent.prepared = true;
    send_prepared(&channel.out, monotonic_us() - started_us);
    return 0;
}

static int on_rehearse(struct reader *r, struct error *err)
{
    uint64_t started_us = monotonic_us();
    struct configure m;

    if (!decode_configure(r, &m))
        return error_set(err, ERROR_BAD_FRAME, 0, "malformed REHEARSE");
    if (agent.state != STATE_BLANK || !agent.prepared || m.other_scratch)
        return refuse("REHEARSE", err);
    if (rehearse(&m, err) < 0) {
        agent.state = STATE_FAILED;
        return -1;
    }
    send_rehearsed(&channel.out, monotonic_us() - started_us);
    return 0;
}

static int on_configure(struct reader *r, struct error *err)
{
    uint64_t started_us = monotonic_us(), disks_us = 0;
    struct configure m;

    if (!decode_configure(r, &m))
        return error_set(err, ERROR_BAD_FRAME, 0, "malformed CONFIGURE");
    if (agent.state != STATE_BLANK)
        return refuse("CONFIGURE", err);
    if ((agent.config.hosted
             ? configure_hosted(err)
             : configure_guest(&m, agent.prepared, &agent.workload, &disks_us, err)) < 0) {
        agent.state = STATE_FAILED;
        return -1;
    }
    agent.state = STATE_CONFIGURED;
    send_configured(&channel.out, disks_us, monotonic_us() - started_us - disks_us);
    return 0;
}

static int on_file_begin(struct reader *r, struct error *err)
{
    if (agent.transfer.open)
        (void)transfer_end(&agent.transfer, err); /* short of its size: it cannot have succeeded */
    if (!decode_file_begin(r, &agent.transfer.file))
        return error_set(err, ERROR_BAD_FRAME, 0, "malformed FILE_BEGIN");
    if (agent.state != STATE_CONFIGURED || agent.capturing) {
        agent.transfer.open = true;
        agent.transfer.failed = true;
        (void)refuse("FILE_BEGIN", &agent.transfer.err);
        return 0;
    }
    transfer_begin(&agent.transfer, agent.workload.root_fd);
    return 0;
}

static int on_file_end(struct error *err)
{
    if (!agent.transfer.open)
        return error_set(err, ERROR_STATE, 0, "FILE_END without FILE_BEGIN");
    if (transfer_end(&agent.transfer, err) < 0)
        return -1;
    send_file_ok(&channel.out, agent.transfer.file.size);
    return 0;
}

static int on_spawn(uint8_t *payload, size_t length, struct error *err)
{
    static struct spawn m;

    if (!decode_spawn(payload, length, &m))
        return error_set(err, ERROR_BAD_FRAME, 0, "malformed SPAWN");
    if (!agent.transfer.open)
        transfer_forget(&agent.transfer);
    if (agent.state != STATE_CONFIGURED || agent.capturing)
        send_spawn_failed(&channel.out, m.spid, STAGE_STATE, ENOTCONN);
    else
        processes_spawn(&m, &agent.workload, &channel.out);
    return 0;
}

static int on_signal(struct reader *r, uint32_t spid, struct error *err)
{
    uint32_t number = read_u32(r);

    if (!read_done(r) || number < 1 || number > 64)
        return error_set(err, ERROR_BAD_FRAME, 0, "malformed SIGNAL");
    if (processes_signal(spid, number, err) < 0)
        return -1;
    send_signalled(&channel.out, spid, number);
    return 0;
}

static int on_process_frame(uint16_t type, struct reader *r, uint32_t spid, struct error *err)
{
    struct span data;

    if (type == FRAME_SIGNAL)
        return on_signal(r, spid, err);
    data = read_rest(r);
    if (r->bad || (type == FRAME_STDIN) != (data.length > 0) || data.length > MAX_DATA_CHUNK_BYTES)
        return error_set(err, ERROR_BAD_FRAME, 0, "malformed STDIN");
    return type == FRAME_STDIN ? processes_stdin(spid, data, err) : processes_stdin_eof(spid, err);
}

static int on_capture(struct reader *r, struct error *err)
{
    agent.capture_max_bytes = read_u64(r);
    if (!read_done(r))
        return error_set(err, ERROR_BAD_FRAME, 0, "malformed CAPTURE");
    if (agent.state != STATE_CONFIGURED)
        return refuse("CAPTURE", err);
    agent.capturing = true;
    processes_kill_all();
    return 0;
}

static int on_hello(struct reader *r, struct error *err)
{
    (void)read_u32(r); /* the host's version: it decides whether it can live with ours */
    if (!read_done(r))
        return error_set(err, ERROR_BAD_FRAME, 0, "malformed HELLO");
    send_ready(&channel.out, agent.state);
    return 0;
}

static void on_shutdown(void)
{
    if (agent.config.hosted) {
        agent.ended = true;
        return;
    }
    (void)reboot(RB_POWER_OFF); /* returns only where there is no ACPI */
    (void)reboot(RB_AUTOBOOT);
}

static int dispatch(const struct frame *f, uint32_t *spid, struct error *err)
{
    struct reader r = {.data = f->payload, .length = f->length};

    switch ((enum host_frame)f->type) {
    case FRAME_HELLO:
        return on_hello(&r, err);
    case FRAME_PREPARE:
        return on_prepare(&r, err);
    case FRAME_REHEARSE:
        return on_rehearse(&r, err);
    case FRAME_CONFIGURE:
        return on_configure(&r, err);
    case FRAME_FILE_BEGIN:
        return on_file_begin(&r, err);
    case FRAME_FILE_DATA:
        if (agent.transfer.open)
            transfer_data(&agent.transfer, f->payload, f->length);
        return 0;
    case FRAME_FILE_END:
        return on_file_end(err);
    case FRAME_SPAWN:
        return on_spawn(f->payload, f->length, err);
    case FRAME_STDIN:
    case FRAME_STDIN_EOF:
    case FRAME_SIGNAL:
        *spid = read_u32(&r);
        return on_process_frame(f->type, &r, *spid, err);
    case FRAME_CAPTURE:
        return on_capture(&r, err);
    case FRAME_SHUTDOWN:
        on_shutdown();
        return 0;
    }
    return error_set(err, ERROR_BAD_FRAME, 0, "unknown frame type %#x", f->type);
}

/* Answers frames while there is room for the answers. During a capture they wait their turn. */
static void serve_frames(void)
{
    while (!agent.capturing && !agent.ended && queue_room(&channel.out) >= STEP_ROOM_BYTES) {
        struct frame f;
        struct error err;
        uint32_t spid = 0;
        enum frame_result result = channel_next(&channel, &f);

        if (result == FRAME_NONE)
            return;
        if (result == FRAME_LOST) {
            (void)error_set(&err, ERROR_BAD_FRAME, 0, "framing is lost");
            send_error(&channel.out, 0, 0, &err);
        } else if (dispatch(&f, &spid, &err) < 0) {
            send_error(&channel.out, f.type, spid, &err);
        }
    }
}

/* The capture itself, once every process is dead, reaped and reported. */
static void serve_capture(bool children_left)
{
    const char *upper = agent.config.hosted ? agent.config.upper : UPPER_DIR;
    struct capture_result result;
    struct error err;

    if (!agent.capturing || queue_room(&channel.out) < STEP_ROOM_BYTES)
        return;
    if (children_left || processes_any()) {
        processes_kill_all();
        return;
    }
    if (capture_stream(upper, agent.config.data_fd, agent.capture_max_bytes, &result, &err) < 0)
        send_error(&channel.out, FRAME_CAPTURE, 0, &err);
    else
        send_captured(&channel.out, result.bytes, result.entries, result.elapsed_us);
    agent.capturing = false;
    agent.state = STATE_CAPTURED;
}

static void take_signals(void)
{
    struct signalfd_siginfo info;

    while (read(agent.signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
        ; /* only SIGCHLD comes, and reaping looks at every child anyway */
}

static int next_timeout(void)
{
    int timeout = processes_poll_timeout();
    int limit = -1;

    if (!channel.connected)
        limit = DISCONNECTED_RETRY_MS;
    else if (channel.out.start < channel.out.end)
        limit = UNSENT_RETRY_MS;
    else if (agent.capturing)
        limit = KILL_RETRY_MS;
    return limit >= 0 && (timeout < 0 || limit < timeout) ? limit : timeout;
}

static void look_at_control(short revents)
{
    /* A hang-up with bytes still to read is a host that left after speaking: hear it out. */
    bool hung_up = (revents & (POLLHUP | POLLERR)) != 0 && (revents & POLLIN) == 0;

    if ((revents & POLLIN) != 0 && !channel_read(&channel))
        hung_up = true;
    if (hung_up && channel.connected) {
        channel_reset(&channel);
        agent.ended = agent.config.hosted;
    }
    channel.connected = !hung_up;
}

static void wait_for_something(void)
{
    struct pollfd set[POLL_SLOTS];
    bool room_to_read = channel.in_length - channel.in_at < sizeof(channel.in) && !agent.capturing;
    size_t count = 2;

    set[0] = (struct pollfd){.fd = agent.signal_fd, .events = POLLIN};
    set[1] = (struct pollfd){.fd = channel.connected ? channel.fd : -1};
    if (room_to_read && queue_room(&channel.out) >= STEP_ROOM_BYTES)
        set[1].events |= POLLIN;
    if (channel.out.start < channel.out.end)
        set[1].events |= POLLOUT;
    count += processes_poll_set(set + 2, queue_room(&channel.out) >= 2 * STEP_ROOM_BYTES);
    if (poll(set, count, next_timeout()) < 0)
        return; /* EINTR, ENOMEM: the loop comes round again */
    if (!channel.connected) {
        set[1] = (struct pollfd){.fd = channel.fd, .events = POLLIN};
        (void)poll(&set[1], 1, 0);
    }
    take_signals();
    look_at_control(set[1].revents);
}

static int open_signals(struct error *err)
{
    sigset_t child;

    if (sigemptyset(&child) < 0 || sigaddset(&child, SIGCHLD) < 0 ||
        sigprocmask(SIG_BLOCK, &child, NULL) < 0 || signal(SIGPIPE, SIG_IGN) == SIG_ERR)
        return error_set(err, ERROR_IO, errno, "set up signals");
    agent.signal_fd = signalfd(-1, &child, SFD_NONBLOCK | SFD_CLOEXEC);
    return agent.signal_fd < 0 ? error_set(err, ERROR_IO, errno, "signalfd") : 0;
}

int agent_run(const struct agent_config *config, struct error *err)
{
    agent.config = *config;
    agent.state = STATE_BLANK;
    agent.workload = (struct workload){.namespace_fd = -1, .root_fd = -1};
    transfer_init(&agent.transfer);
    processes_init();
    channel_init(&channel, config->control_fd);
    if (open_signals(err) < 0)
        return -1;
    while (!agent.ended) {
        bool children_left;

        serve_frames();
        children_left = processes_reap();
        processes_step(&channel.out);
        serve_capture(children_left);
        channel_flush(&channel);
        wait_for_something();
    }
    processes_kill_all();
    return 0;
}
