/* The codec as a filter, so that the host's tests can hold both sides to the same bytes:
 * `encode` writes one of each guest frame with known fields; `decode` reads host frames from
 * standard input and prints their fields, a line each. */
#include <string.h>
#include <unistd.h>

#include "channel.h"
#include "check.h"
#include "messages.h"

static struct channel channel;

static void print_hex(const char *name, struct span s)
{
    (void)printf(" %s=", name);
    for (size_t i = 0; i < s.length; i++)
        (void)printf("%02x", s.data[i]);
}

static int encode(void)
{
    static struct queue q;
    struct exited exited = {.spid = 9, .pid = 10, .status = 3 << 8, .duration_us = 1234567};
    struct error err;

    exited.usage.ru_utime.tv_sec = 1;
    exited.usage.ru_utime.tv_usec = 2;
    exited.usage.ru_stime.tv_sec = 3;
    exited.usage.ru_stime.tv_usec = 4;
    exited.usage.ru_maxrss = 5;
    exited.usage.ru_minflt = 6;
    exited.usage.ru_majflt = 7;
    exited.usage.ru_inblock = 8;
    exited.usage.ru_oublock = 9;
    exited.usage.ru_nvcsw = 10;
    exited.usage.ru_nivcsw = 11;
    send_ready(&q, STATE_CONFIGURED);
    send_prepared(&q, 12);
    send_rehearsed(&q, 13);
    send_configured(&q, 1000, UINT64_MAX);
    send_file_ok(&q, 1ULL << 40);
    send_spawned(&q, 1, 77);
    send_spawn_failed(&q, 2, STAGE_EXEC, 2);
    send_output(&q, 3, 2, "a\0\xff", 3);
    send_truncated(&q, 4, 1, 5, 6);
    send_stdin_credit(&q, 5, 65536);
    send_signalled(&q, 6, 15);
    send_exited(&q, &exited);
    exited.status = 9 | 0x80;
    exited.timed_out = true;
    send_exited(&q, &exited);
    exited.status = 9;
    exited.timed_out = false;
    exited.oom_killed = true;
    send_exited(&q, &exited);
    send_captured(&q, 1024, 1, 50);
    (void)error_set(&err, ERROR_BAD_NAME, 0, "caf\xe9/.wh.x");
    send_error(&q, FRAME_CAPTURE, 7, &err);
    return write(STDOUT_FILENO, q.bytes, q.end) == (ssize_t)q.end ? 0 : 1;
}

static void print_pci(const char *name, const struct pci_address *a)
{
    (void)printf(" %s=%u:%u:%u.%u", name, a->domain, a->bus, a->slot, a->function);
}

static void print_frame(const struct frame *f)
{
    static struct file_begin file;
    static struct spawn spawn;
    struct configure configure;
    struct prepare prepare;
    struct reader r = {.data = f->payload, .length = f->length};

    (void)printf("%04x", f->type);
    if (f->type == FRAME_CONFIGURE) {
        CHECK(decode_configure(&r, &configure));
        print_hex("entropy", configure.entropy);
        print_hex("boot_id", configure.boot_id);
        print_hex("hostname", configure.hostname);
        print_pci("layers", &configure.layers_disk);
        print_pci("scratch", &configure.scratch_disk);
        (void)printf(" ns=%llu layers=%u other_scratch=%d room=%llu",
                     (unsigned long long)configure.realtime_ns, configure.layer_count,
                     configure.other_scratch,
                     (unsigned long long)configure.scratch_room);
    } else if (f->type == FRAME_PREPARE) {
        CHECK(decode_prepare(&r, &prepare));
        print_pci("layers", &prepare.layers_disk);
        print_pci("scratch", &prepare.scratch_disk);
    } else if (f->type == FRAME_FILE_BEGIN) {
        CHECK(decode_file_begin(&r, &file));
        (void)printf(" %u %u %o %d %llu %lld %s %s", file.uid, file.gid, file.mode,
                     (int)file.kind, (unsigned long long)file.size, (long long)file.mtime_s,
                     file.path, file.target);
    } else if (f->type == FRAME_SPAWN) {
        CHECK(decode_spawn(f->payload, f->length, &spawn));
        (void)printf(" %u %u %u %d %u %llu %llu %s %d", spawn.spid, spawn.uid, spawn.gid,
                     spawn.stdin_open, spawn.timeout_ms, (unsigned long long)spawn.caps[0],
                     (unsigned long long)spawn.caps[1], spawn.cwd, spawn.home);
        for (char **s = spawn.argv; *s != NULL; s++)
            (void)printf(" [%s]", *s);
        for (char **s = spawn.envp; *s != NULL; s++)
            (void)printf(" {%s}", *s);
    } else {
        print_hex("payload", read_rest(&r));
    }
    (void)printf("\n");
}

static int decode(void)
{
    struct frame f;

    channel_init(&channel, STDIN_FILENO);
    CHECK(!channel_read(&channel)); /* all of it, up to the end of file */
    while (channel_next(&channel, &f) == FRAME_WHOLE)
        print_frame(&f);
    return channel.in_at == channel.in_length ? 0 : 1;
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    return strcmp(argv[1], "encode") == 0 ? encode() : decode();
}
