/* Contree's guest agent: PID 1 of every microVM. It boots, listens to the host
 * (docs/guest-protocol.md), and never ends. With --hosted it runs as an ordinary process on given
 * descriptors, for tests. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"
#include "boot.h"
#include "rehearse.h"

enum { OPEN_FILES_SOFT = 1024, OPEN_FILES_HARD = 524288 };

/* A pipe must never become descriptor 0, 1 or 2 (spawn.c relies on it). */
static void fill_standard_descriptors(void)
{
    int fd;

    do
        fd = open("/dev/null", O_RDWR); /* no O_CLOEXEC: a child replaces 0, 1 and 2 */
    while (fd >= 0 && fd <= 2);
    close_descriptor(&fd);
}

static int run_as_init(struct error *err)
{
    /* For the workload, which inherits it; the kernel's own default is 4,096 hard. */
    const struct rlimit files = {.rlim_cur = OPEN_FILES_SOFT, .rlim_max = OPEN_FILES_HARD};
    struct agent_config config = {.hosted = false};

    if (setrlimit(RLIMIT_NOFILE, &files) < 0)
        return error_set(err, ERROR_IO, errno, "raise the limit of open files");
    (void)umask(0); /* modes are given in full */
    if (boot(&config.control_fd, &config.data_fd, err) < 0)
        return -1;
    fill_standard_descriptors();
    return agent_run(&config, err);
}

static int descriptor_argument(const char *text)
{
    char *end;
    long value = strtol(text, &end, 10);

    if (*end != '\0' || value < 3 || value > 1023 || fcntl((int)value, F_SETFD, FD_CLOEXEC) < 0 ||
        fcntl((int)value, F_SETFL, O_NONBLOCK) < 0)
        return -1;
    return (int)value;
}

static int run_hosted(char **argv, struct error *err)
{
    struct agent_config config = {.hosted = true, .root = argv[4], .upper = argv[5]};

    config.control_fd = descriptor_argument(argv[2]);
    config.data_fd = descriptor_argument(argv[3]);
    if (config.control_fd < 0 || config.data_fd < 0)
        return error_set(err, ERROR_IO, EBADF, "CONTROL_FD and DATA_FD must be open, from 3 on");
    (void)umask(0);
    fill_standard_descriptors();
    return agent_run(&config, err);
}

int main(int argc, char **argv)
{
    struct error err;

    if (argc == 6 && strcmp(argv[1], "--hosted") == 0) {
        if (run_hosted(argv, &err) == 0)
            return 0;
        (void)fprintf(stderr, "agent: %s\n", err.message);
        return 1;
    }
    if (argc == 2 && strcmp(argv[1], REHEARSED_ARGUMENT) == 0)
        return rehearsed_program();
    if (getpid() != 1) {
        (void)fprintf(stderr, "usage: agent --hosted CONTROL_FD DATA_FD ROOT UPPER\n"
                              "       (or as PID 1 of a guest)\n");
        return 2;
    }
    (void)run_as_init(&err);
    /* Nobody can be told but the console; the host sees the guest go. */
    (void)fprintf(stderr, "contree agent: %s (errno %d)\n", err.message, err.errno_value);
    (void)reboot(RB_AUTOBOOT);
    for (;;)
        (void)pause();
}
