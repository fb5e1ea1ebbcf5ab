/* A child with namespaces of its own does it: its mounts, its host name and its processes end with
 * it. What would outlast it is the few names that it leaves on the scratch disk, below a directory
 * of its own, and the process numbers it used; both are put back. */
#include "rehearse.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "capture.h"
#include "configure.h"
#include "mounts.h"
#include "process.h"

#define STAGE_DIR SCRATCH_DIR "/r" /* the child's SCRATCH_DIR */
#define LAST_PID "/proc/sys/kernel/ns_last_pid"

enum { SPID = 1, TIMEOUT_MS = 10000, POLL_MS = 2, OUTPUT_CAP_BYTES = 4096, OPEN_DIRECTORIES = 8 };

static const uint64_t CAPTURE_MAX_BYTES = 1 << 20;

static int fail(const char *what, struct error *err)
{
    return error_set(err, ERROR_IO, errno, "%s: %s", what, strerror(errno));
}

/* SCRATCH_DIR, for this process, becomes an empty directory of the scratch disk. */
static int enter_stage(struct error *err)
{
    if (unshare(CLONE_NEWNS | CLONE_NEWUTS) < 0)
        return fail("leave the agent's namespaces", err);
    if (mkdir(STAGE_DIR, 0755) < 0)
        return fail("make " STAGE_DIR, err);
    if (mount(STAGE_DIR, SCRATCH_DIR, NULL, MS_BIND, NULL) < 0)
        return fail("put " STAGE_DIR " in place", err);
    return furnish_scratch(err);
}

static int run_program(const struct workload *where, struct error *err)
{
    static struct queue unsent;
    static char *argv[] = {REHEARSED_PROGRAM, REHEARSED_ARGUMENT, NULL}, *envp[] = {NULL};
    const struct spawn request = {
        .spid = SPID, .home = true, .timeout_ms = TIMEOUT_MS, .cwd = "/", .argv = argv,
        .envp = envp, .caps = {OUTPUT_CAP_BYTES, OUTPUT_CAP_BYTES},
    };

    processes_spawn(&request, where, &unsent);
    while (processes_any()) {
        struct pollfd set[POLL_SLOTS_PER_PROCESS];

        (void)poll(set, processes_poll_set(set, true), POLL_MS);
        (void)processes_reap();
        processes_step(&unsent);
    }
    if (access(UPPER_DIR REHEARSED_FILE, F_OK) < 0)
        return fail("the program did not run", err);
    return 0;
}

static int capture_to_nowhere(struct error *err)
{
    cleanup_close int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    struct capture_result ignored;

    return capture_stream(UPPER_DIR, nowhere, CAPTURE_MAX_BYTES, &ignored, err);
}

/* The child. Its last words go to the console; its exit status is all that the agent sees. */
_Noreturn static void perform(const struct configure *request)
{
    struct workload where = {.namespace_fd = -1, .root_fd = -1};
    uint64_t disks_us;
    struct error err;

    if (enter_stage(&err) == 0 && configure_guest(request, true, &where, &disks_us, &err) == 0 &&
        run_program(&where, &err) == 0 && capture_to_nowhere(&err) == 0)
        _exit(0);
    (void)fprintf(stderr, "contree agent: rehearsal: %s\n", err.message);
    _exit(1);
}

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *place)
{
    (void)status;
    (void)kind;
    (void)place;
    return remove(path);
}

static int clear_stage(struct error *err)
{
    if (nftw(STAGE_DIR, remove_one, OPEN_DIRECTORIES, FTW_DEPTH | FTW_PHYS) != 0)
        return fail("clear " STAGE_DIR, err);
    return 0;
}

/* So that the workload's processes have the numbers that they would have had. */
static int restore_last_pid(const char *last, struct error *err)
{
    cleanup_close int fd = open(LAST_PID, O_WRONLY | O_CLOEXEC);

    return fd < 0 || write(fd, last, strlen(last)) < 0 ? fail("write " LAST_PID, err) : 0;
}

int rehearse(const struct configure *request, struct error *err)
{
    char last[32];
    int status = -1;
    pid_t pid;

    if (read_line(LAST_PID, last, sizeof(last), err) < 0 || take_scratch(err) < 0)
        return -1;
    pid = fork();
    if (pid == 0)
        perform(request);
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return fail("rehearse in a child", err);
    if (status != 0)
        return error_set(err, ERROR_IO, 0, "the rehearsal failed, see the console");
    if (restore_last_pid(last, err) < 0 || clear_stage(err) < 0)
        return -1;
    return hold_scratch(err);
}

int rehearsed_program(void)
{
    static const char text[] = "rehearsed\n";
    cleanup_close int fd = open(REHEARSED_FILE, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);

    return fd < 0 || write(fd, text, sizeof(text) - 1) < 0 ||
           write(STDOUT_FILENO, text, sizeof(text) - 1) < 0;
}
