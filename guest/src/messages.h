/* The protocol's messages as C values: what the host asks, what the agent answers.
 * docs/guest-protocol.md sections 3 and 4. Decoded messages point into the payload they came from.
 * */
#ifndef CONTREE_MESSAGES_H
#define CONTREE_MESSAGES_H

#include <sys/resource.h>

#include "error.h"
#include "frames.h"

struct pci_address {
    uint32_t domain;
    uint8_t bus, slot, function;
};

struct prepare {
    struct pci_address layers_disk, scratch_disk;
};

struct configure {
    struct span entropy, boot_id, hostname;
    uint64_t realtime_ns;
    bool other_scratch; /* not the disk that PREPARE mounted */
    uint64_t scratch_room; /* bytes of it that may be taken; 0: all */
    uint16_t layer_count;
    struct pci_address layers_disk, scratch_disk;
};

struct file_begin {
    uint32_t uid, gid, mode;
    enum file_kind kind;
    uint64_t size;
    int64_t mtime_s; /* MTIME_ARRIVAL: none */
    char path[MAX_PATH_BYTES + 1];
    char target[MAX_PATH_BYTES + 1]; /* of links */
};

/* argv and envp are NULL-terminated and live in static storage until the next decode. */
struct spawn {
    uint32_t spid, uid, gid, timeout_ms;
    bool stdin_open;
    bool home; /* HOME is to be set if envp has none */
    uint64_t caps[2]; /* stdout, stderr */
    char cwd[MAX_PATH_BYTES + 1];
    char **argv, **envp;
};

/* Each returns false on a malformed payload. decode_spawn writes into the payload: strings are
 * moved down over their length fields to make room for terminators. */
bool decode_prepare(struct reader *r, struct prepare *m);
bool decode_configure(struct reader *r, struct configure *m);
bool decode_file_begin(struct reader *r, struct file_begin *m);
bool decode_spawn(uint8_t *payload, size_t length, struct spawn *m);

struct exited {
    uint32_t spid, pid;
    int status; /* as wait4 gives it */
    bool timed_out;
    bool oom_killed; /* it, or a process that it started */
    uint64_t duration_us;
    struct rusage usage;
};

void send_ready(struct queue *q, enum agent_state state);
void send_prepared(struct queue *q, uint64_t elapsed_us);
void send_rehearsed(struct queue *q, uint64_t elapsed_us);
void send_configured(struct queue *q, uint64_t disks_us, uint64_t mounts_us);
void send_file_ok(struct queue *q, uint64_t size);
void send_spawned(struct queue *q, uint32_t spid, uint32_t pid);
void send_spawn_failed(struct queue *q, uint32_t spid, enum spawn_stage stage, int errno_value);
void send_output(struct queue *q, uint32_t spid, uint8_t stream, const void *data, size_t length);
void send_truncated(struct queue *q, uint32_t spid, uint8_t stream, uint64_t emitted,
                    uint64_t dropped);
void send_stdin_credit(struct queue *q, uint32_t spid, uint32_t bytes);
void send_signalled(struct queue *q, uint32_t spid, uint32_t signal);
void send_exited(struct queue *q, const struct exited *m);
void send_captured(struct queue *q, uint64_t bytes, uint64_t entries, uint64_t elapsed_us);
void send_error(struct queue *q, uint16_t about, uint32_t spid, const struct error *err);

#endif
