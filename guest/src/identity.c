/* Reseed, set the clock, take the host name and boot id. Runs before any code of the workload. */
#include "identity.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"

/* The host's bytes are full entropy: 8 bits credited for each. Clones restored from one template
 * would otherwise continue one and the same random stream, hence the explicit reseed. */
static int reseed(struct span entropy, struct error *err)
{
    union {
        struct rand_pool_info info;
        uint8_t bytes[sizeof(struct rand_pool_info) + ENTROPY_BYTES];
    } pool;
    cleanup_close int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);

    pool.info.entropy_count = ENTROPY_BYTES * 8;
    pool.info.buf_size = ENTROPY_BYTES;
    memcpy(pool.info.buf, entropy.data, ENTROPY_BYTES);
    if (fd < 0 || ioctl(fd, RNDADDENTROPY, &pool) < 0 || ioctl(fd, RNDRESEEDCRNG) < 0)
        return error_set(err, ERROR_IO, errno, "reseed the random generator");
    explicit_bzero(&pool, sizeof(pool));
    return 0;
}

static int write_boot_id(struct span id, struct error *err)
{
    char text[2 * BOOT_ID_BYTES + 6];
    size_t at = 0;
    cleanup_close int fd = open(BOOT_ID_FILE, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0444);

    for (size_t i = 0; i < BOOT_ID_BYTES; i++)
        at += (size_t)snprintf(text + at, sizeof(text) - at, "%s%02x",
                               i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", id.data[i]);
    text[at++] = '\n';
    if (fd < 0 || write(fd, text, at) != (ssize_t)at)
        return error_set(err, ERROR_IO, errno, "write the boot id");
    return 0;
}

int identity_take(const struct configure *request, struct error *err)
{
    struct timespec now = {
        .tv_sec = (time_t)(request->realtime_ns / 1000000000),
        .tv_nsec = (long)(request->realtime_ns % 1000000000),
    };

    if (reseed(request->entropy, err) < 0)
        return -1;
    if (clock_settime(CLOCK_REALTIME, &now) < 0)
        return error_set(err, ERROR_IO, errno, "set the clock");
    if (sethostname((const char *)request->hostname.data, request->hostname.length) < 0)
        return error_set(err, ERROR_IO, errno, "set the host name");
    return write_boot_id(request->boot_id, err);
}
