/* Numbers of the guest protocol. Source: docs/guest-protocol.md; the host's twins are
 * contree/adapters/microvm/agent/frames.py, messages.py and commands.py. */
#ifndef CONTREE_WIRE_H
#define CONTREE_WIRE_H

#include <stddef.h>
#include <stdint.h>

enum {
    PROTOCOL_VERSION = 5,
    HEADER_BYTES = 8,
    MAX_GUEST_PAYLOAD_BYTES = 65536,
    MAX_HOST_PAYLOAD_BYTES = 1048576,
    MAX_DATA_CHUNK_BYTES = 65536,
    MAX_OUTPUT_CHUNK_BYTES = 32768,
    MAX_LIVE_PROCESSES = 64,
    STDIN_WINDOW_BYTES = 65536,
    MAX_PATH_BYTES = 4095,
    MAX_ARGUMENTS = 16384,
    MAX_LAYERS = 200,
    MAX_HOSTNAME_BYTES = 64,
    ENTROPY_BYTES = 32,
    BOOT_ID_BYTES = 16,
    OUTPUT_GRACE_MS = 100,
    MAX_MESSAGE_BYTES = 1024,
};

/* FILE_BEGIN's mtime that stands for the time of arrival. */
static const int64_t MTIME_ARRIVAL = INT64_MIN;

/* Layer i begins at (i + 1) * LAYER_ROOM_BYTES of its disk. */
static const uint64_t LAYER_ROOM_BYTES = 1ULL << 36;

enum host_frame {
    FRAME_HELLO = 0x0001,
    FRAME_CONFIGURE = 0x0002,
    FRAME_FILE_BEGIN = 0x0003,
    FRAME_FILE_DATA = 0x0004,
    FRAME_FILE_END = 0x0005,
    FRAME_SPAWN = 0x0006,
    FRAME_STDIN = 0x0007,
    FRAME_STDIN_EOF = 0x0008,
    FRAME_SIGNAL = 0x0009,
    FRAME_CAPTURE = 0x000a,
    FRAME_SHUTDOWN = 0x000b,
    FRAME_PREPARE = 0x000c,
    FRAME_REHEARSE = 0x000d,
};

enum guest_frame {
    FRAME_READY = 0x8001,
    FRAME_CONFIGURED = 0x8002,
    FRAME_FILE_OK = 0x8003,
    FRAME_SPAWNED = 0x8004,
    FRAME_SPAWN_FAILED = 0x8005,
    FRAME_OUTPUT = 0x8006,
    FRAME_TRUNCATED = 0x8007,
    FRAME_STDIN_CREDIT = 0x8008,
    FRAME_SIGNALLED = 0x8009,
    FRAME_EXITED = 0x800a,
    FRAME_CAPTURED = 0x800b,
    FRAME_ERROR = 0x800c,
    FRAME_PREPARED = 0x800d,
    FRAME_REHEARSED = 0x800e,
};

enum agent_state { STATE_BLANK = 0, STATE_CONFIGURED = 1, STATE_CAPTURED = 2, STATE_FAILED = 3 };

enum error_code {
    ERROR_BAD_FRAME = 1,
    ERROR_STATE = 2,
    ERROR_NO_PROCESS = 3,
    ERROR_LIMIT = 4,
    ERROR_BAD_NAME = 5,
    ERROR_IO = 6,
    ERROR_STDIN_CLOSED = 7,
    ERROR_MOUNT = 8,
    ERROR_DEVICE = 9,
};

enum spawn_stage {
    STAGE_STATE = 1,
    STAGE_SLOT = 2,
    STAGE_FORK = 3,
    STAGE_NAMESPACE = 4,
    STAGE_CWD = 5,
    STAGE_CREDENTIALS = 6,
    STAGE_STDIO = 7,
    STAGE_EXEC = 8,
};

enum file_kind { FILE_REGULAR = 0, FILE_DIRECTORY = 1, FILE_SYMLINK = 2, FILE_HARD_LINK = 3 };

enum { CONFIGURE_OTHER_SCRATCH = 1 };
enum { SPAWN_STDIN_OPEN = 1, SPAWN_HOME = 2 };
enum { EXITED_CORE_DUMPED = 1, EXITED_TIMED_OUT = 2, EXITED_OOM_KILLED = 4 };

#endif
