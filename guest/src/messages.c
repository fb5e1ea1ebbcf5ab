/* Decoding of requests and encoding of answers. docs/guest-protocol.md sections 3 and 4. */
#include "messages.h"

#include <string.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"

static struct pci_address read_pci_address(struct reader *r)
{
    struct pci_address a;

    a.domain = read_u32(r);
    a.bus = read_u8(r);
    a.slot = read_u8(r);
    a.function = read_u8(r);
    if (read_u8(r) != 0 || a.slot > 31 || a.function > 7)
        r->bad = true;
    return a;
}

bool decode_prepare(struct reader *r, struct prepare *m)
{
    m->layers_disk = read_pci_address(r);
    m->scratch_disk = read_pci_address(r);
    return read_done(r);
}

bool decode_configure(struct reader *r, struct configure *m)
{
    uint32_t flags;

    m->entropy = read_bytes(r, ENTROPY_BYTES);
    m->realtime_ns = read_u64(r);
    m->boot_id = read_bytes(r, BOOT_ID_BYTES);
    flags = read_u32(r);
    if ((flags & ~(uint32_t)CONFIGURE_OTHER_SCRATCH) != 0)
        r->bad = true;
    m->other_scratch = (flags & CONFIGURE_OTHER_SCRATCH) != 0;
    m->layer_count = read_u16(r);
    if (read_u16(r) != 0)
        r->bad = true;
    m->layers_disk = read_pci_address(r);
    m->scratch_disk = read_pci_address(r);
    m->hostname = read_str(r, MAX_HOSTNAME_BYTES);
    m->scratch_room = read_u64(r);
    return read_done(r) && m->hostname.length > 0;
}

static void read_path(struct reader *r, char *path)
{
    struct span s = read_str(r, MAX_PATH_BYTES);

    if (r->bad || s.length == 0 || s.data[0] != '/') {
        r->bad = true;
        return;
    }
    memcpy(path, s.data, s.length);
    path[s.length] = '\0';
}

static void read_target(struct reader *r, enum file_kind kind, char *target)
{
    struct span s;

    if (kind == FILE_HARD_LINK) {
        read_path(r, target);
        return;
    }
    s = read_str(r, MAX_PATH_BYTES);
    if (r->bad || (kind == FILE_SYMLINK) != (s.length > 0)) {
        r->bad = true;
        return;
    }
    memcpy(target, s.data, s.length);
    target[s.length] = '\0';
}

bool decode_file_begin(struct reader *r, struct file_begin *m)
{
    uint32_t kind;

    m->uid = read_u32(r);
    m->gid = read_u32(r);
    m->mode = read_u32(r);
    kind = read_u32(r);
    if (kind > FILE_HARD_LINK)
        return false;
    m->kind = (enum file_kind)kind;
    m->size = read_u64(r);
    m->mtime_s = (int64_t)read_u64(r);
    read_path(r, m->path);
    read_target(r, m->kind, m->target);
    return read_done(r) && m->mode <= 07777 && m->size <= INT64_MAX &&
           (m->kind == FILE_REGULAR || m->size == 0);
}

/* Terminates each blob in place: its u32 length field makes room for a byte after the one before.
 * */
static bool read_strings(struct reader *r, uint8_t *payload, char **list, uint32_t at_least)
{
    uint32_t count = read_u32(r);

    if (r->bad || count < at_least || count > MAX_ARGUMENTS)
        return false;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t length = read_u32(r);
        struct span s = read_bytes(r, length);
        uint8_t *text;

        if (r->bad || (length > 0 && memchr(s.data, 0, length) != NULL))
            return false;
        text = payload + (s.data - payload) - 4;
        memmove(text, text + 4, length);
        text[length] = '\0';
        list[i] = (char *)text;
    }
    list[count] = NULL;
    return true;
}

bool decode_spawn(uint8_t *payload, size_t length, struct spawn *m)
{
    static char *argv[MAX_ARGUMENTS + 1], *envp[MAX_ARGUMENTS + 1];
    struct reader r = {.data = payload, .length = length};
    uint32_t flags;

    m->spid = read_u32(&r);
    m->uid = read_u32(&r);
    m->gid = read_u32(&r);
    flags = read_u32(&r);
    m->timeout_ms = read_u32(&r);
    if (read_u32(&r) != 0 || (flags & ~(uint32_t)(SPAWN_STDIN_OPEN | SPAWN_HOME)) != 0 ||
        m->spid == 0)
        return false;
    m->stdin_open = (flags & SPAWN_STDIN_OPEN) != 0;
    m->home = (flags & SPAWN_HOME) != 0;
    m->caps[0] = read_u64(&r);
    m->caps[1] = read_u64(&r);
    read_path(&r, m->cwd);
    m->argv = argv;
    m->envp = envp;
    return !r.bad && read_strings(&r, payload, argv, 1) && read_strings(&r, payload, envp, 0) &&
           read_done(&r);
}

static void put_text(struct queue *q, const char *text)
{
    size_t length = strlen(text);

    put_u16(q, (uint16_t)length);
    put_bytes(q, text, length);
}

void send_ready(struct queue *q, enum agent_state state)
{
    struct utsname name;

    if (uname(&name) < 0)
        memset(&name, 0, sizeof(name));
    if (!frame_start(q, FRAME_READY, 20 + strlen(name.release) + strlen(name.machine)))
        return;
    put_u16(q, PROTOCOL_VERSION);
    put_u16(q, (uint16_t)state);
    put_u32(q, (uint32_t)getpid());
    put_u64(q, monotonic_us());
    put_text(q, name.release);
    put_text(q, name.machine);
}

static void send_elapsed(struct queue *q, enum guest_frame type, uint64_t elapsed_us)
{
    if (frame_start(q, type, 8))
        put_u64(q, elapsed_us);
}

void send_prepared(struct queue *q, uint64_t elapsed_us)
{
    send_elapsed(q, FRAME_PREPARED, elapsed_us);
}

void send_rehearsed(struct queue *q, uint64_t elapsed_us)
{
    send_elapsed(q, FRAME_REHEARSED, elapsed_us);
}

void send_configured(struct queue *q, uint64_t disks_us, uint64_t mounts_us)
{
    if (!frame_start(q, FRAME_CONFIGURED, 16))
        return;
    put_u64(q, disks_us);
    put_u64(q, mounts_us);
}

void send_file_ok(struct queue *q, uint64_t size)
{
    if (frame_start(q, FRAME_FILE_OK, 8))
        put_u64(q, size);
}

static void send_two(struct queue *q, enum guest_frame type, uint32_t first, uint32_t second)
{
    if (!frame_start(q, type, 8))
        return;
    put_u32(q, first);
    put_u32(q, second);
}

void send_spawned(struct queue *q, uint32_t spid, uint32_t pid)
{
    send_two(q, FRAME_SPAWNED, spid, pid);
}

void send_stdin_credit(struct queue *q, uint32_t spid, uint32_t bytes)
{
    send_two(q, FRAME_STDIN_CREDIT, spid, bytes);
}

void send_signalled(struct queue *q, uint32_t spid, uint32_t signal)
{
    send_two(q, FRAME_SIGNALLED, spid, signal);
}

void send_spawn_failed(struct queue *q, uint32_t spid, enum spawn_stage stage, int errno_value)
{
    if (!frame_start(q, FRAME_SPAWN_FAILED, 12))
        return;
    put_u32(q, spid);
    put_u16(q, (uint16_t)stage);
    put_u16(q, 0);
    put_u32(q, (uint32_t)errno_value);
}

void send_output(struct queue *q, uint32_t spid, uint8_t stream, const void *data, size_t length)
{
    if (!frame_start(q, FRAME_OUTPUT, 5 + length))
        return;
    put_u32(q, spid);
    put_u8(q, stream);
    put_bytes(q, data, length);
}

void send_truncated(struct queue *q, uint32_t spid, uint8_t stream, uint64_t emitted,
                    uint64_t dropped)
{
    if (!frame_start(q, FRAME_TRUNCATED, 21))
        return;
    put_u32(q, spid);
    put_u8(q, stream);
    put_u64(q, emitted);
    put_u64(q, dropped);
}

void send_exited(struct queue *q, const struct exited *m)
{
    const struct rusage *u = &m->usage;
    const int64_t usage[] = {
        u->ru_utime.tv_sec, u->ru_utime.tv_usec, u->ru_stime.tv_sec, u->ru_stime.tv_usec,
        u->ru_maxrss,       u->ru_ixrss,         u->ru_idrss,        u->ru_isrss,
        u->ru_minflt,       u->ru_majflt,        u->ru_nswap,        u->ru_inblock,
        u->ru_oublock,      u->ru_msgsnd,        u->ru_msgrcv,       u->ru_nsignals,
        u->ru_nvcsw,        u->ru_nivcsw,
    };
    bool killed = WIFSIGNALED(m->status);
    uint32_t flags = m->timed_out ? EXITED_TIMED_OUT : 0;

    if (killed && WCOREDUMP(m->status))
        flags |= EXITED_CORE_DUMPED;
    if (m->oom_killed)
        flags |= EXITED_OOM_KILLED;
    if (!frame_start(q, FRAME_EXITED, 28 + sizeof(usage)))
        return;
    put_u32(q, m->spid);
    put_u32(q, m->pid);
    put_u32(q, killed ? UINT32_MAX : (uint32_t)WEXITSTATUS(m->status));
    put_u32(q, killed ? (uint32_t)WTERMSIG(m->status) : UINT32_MAX);
    put_u32(q, flags);
    put_u64(q, m->duration_us);
    for (size_t i = 0; i < ARRAY_LEN(usage); i++)
        put_u64(q, (uint64_t)usage[i]);
}

void send_captured(struct queue *q, uint64_t bytes, uint64_t entries, uint64_t elapsed_us)
{
    if (!frame_start(q, FRAME_CAPTURED, 24))
        return;
    put_u64(q, bytes);
    put_u64(q, entries);
    put_u64(q, elapsed_us);
}

void send_error(struct queue *q, uint16_t about, uint32_t spid, const struct error *err)
{
    if (!frame_start(q, FRAME_ERROR, 14 + strlen(err->message)))
        return;
    put_u16(q, about);
    put_u16(q, (uint16_t)err->code);
    put_u32(q, (uint32_t)err->errno_value);
    put_u32(q, spid);
    put_text(q, err->message);
}
