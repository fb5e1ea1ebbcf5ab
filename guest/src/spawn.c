/* fork, and in the child: session, namespace, cwd, credentials, exec. The child reports the stage
 * that failed through a close-on-exec pipe, so that a successful exec is seen as its end of file.
 * */
#include "spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cgroups.h"
#include "home.h"

static const char DEFAULT_PATH[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
enum { STATUS_FD = 3 };

struct pipes {
    int in[2], out[2], err[2], status[2];
};

static int status_fd; /* of the child: the status pipe, wherever it is just now */

_Noreturn static void child_fail(enum spawn_stage stage)
{
    struct spawn_failure failure = {.stage = (uint32_t)stage, .errno_value = errno};
    ssize_t written = write(status_fd, &failure, sizeof(failure));

    _exit(written == (ssize_t)sizeof(failure) ? 127 : 126);
}

/* The agent ignores SIGPIPE and blocks SIGCHLD; neither may reach the program. */
static void reset_signals(void)
{
    sigset_t none;

    for (int number = 1; number < NSIG; number++)
        (void)signal(number, SIG_DFL); /* fails for SIGKILL, SIGSTOP and libc's own two */
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

/* 0, 1, 2 and the status pipe at STATUS_FD are all that stay open. No pipe end is below 3: main
 * has seen to it. */
static void arrange_descriptors(const struct pipes *p, const struct spawn *request)
{
    bool stdin_open = request->stdin_open;
    uid_t uid = request->uid;
    gid_t gid = request->gid;
    int in = stdin_open ? p->in[0] : open("/dev/null", O_RDONLY | O_CLOEXEC);

    /* As on any machine, whoever runs may open /dev/stdout and the like anew. */
    if ((stdin_open && fchown(in, uid, gid) < 0) || fchown(p->out[1], uid, gid) < 0 ||
        fchown(p->err[1], uid, gid) < 0)
        child_fail(STAGE_STDIO);
    if (in < 0 || dup2(in, 0) < 0 || dup2(p->out[1], 1) < 0 || dup2(p->err[1], 2) < 0)
        child_fail(STAGE_STDIO);
    if (status_fd != STATUS_FD && dup3(status_fd, STATUS_FD, O_CLOEXEC) < 0)
        child_fail(STAGE_STDIO);
    status_fd = STATUS_FD;
    if (close_range(STATUS_FD + 1, ~0U, 0) < 0)
        child_fail(STAGE_STDIO);
}

static void enter(const struct workload *where)
{
    if (where->namespace_fd >= 0) {
        if (setns(cgroups_namespace(), CLONE_NEWCGROUP) < 0 ||
            setns(where->namespace_fd, CLONE_NEWNS) < 0)
            child_fail(STAGE_NAMESPACE);
    } else if (fchdir(where->root_fd) < 0 || chroot(".") < 0) {
        child_fail(STAGE_NAMESPACE);
    }
}

/* mkdir -p, then chdir. The path is the child's own copy and is cut at each slash in turn. */
static void change_directory(char *path)
{
    if (chdir(path) == 0)
        return;
    for (char *slash = path; errno == ENOENT && slash != NULL;) {
        slash = strchr(slash + 1, '/');
        if (slash != NULL)
            *slash = '\0';
        if (mkdir(path, 0755) < 0 && errno != EEXIST)
            child_fail(STAGE_CWD);
        if (slash != NULL)
            *slash = '/';
        errno = ENOENT;
    }
    if (chdir(path) < 0)
        child_fail(STAGE_CWD);
}

static void take_credentials(uid_t uid, gid_t gid)
{
    if (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
        child_fail(STAGE_CREDENTIALS);
}

/* The environment with a HOME, unless it has one. */
static char **with_home(const struct spawn *request)
{
    static char *envp[MAX_ARGUMENTS + 2];
    size_t count = 0;

    for (; request->envp[count] != NULL; count++) {
        envp[count] = request->envp[count];
        if (strncmp(envp[count], "HOME=", 5) == 0)
            return request->envp;
    }
    envp[count] = home_variable(request->uid);
    return envp;
}

/* As execvp: a file without a known format is a script for /bin/sh. Returns only on failure. */
static void exec_file(const char *file, char **argv, char **envp)
{
    static char *shell_argv[MAX_ARGUMENTS + 2];

    (void)execve(file, argv, envp);
    if (errno != ENOEXEC)
        return;
    shell_argv[0] = argv[0];
    shell_argv[1] = (char *)(uintptr_t)file; /* execve takes but never writes its strings */
    for (size_t i = 1; argv[i - 1] != NULL; i++)
        shell_argv[i + 1] = argv[i];
    (void)execve("/bin/sh", shell_argv, envp);
}

/* Looks argv[0] up in the PATH of envp. A file that may not be executed does not end the search,
 * but is what is reported if nothing better is found. */
static void exec_search(char **argv, char **envp)
{
    const char *path = DEFAULT_PATH;
    bool denied = false;
    char file[PATH_MAX];

    for (size_t i = 0; envp[i] != NULL; i++)
        if (strncmp(envp[i], "PATH=", 5) == 0)
            path = envp[i] + 5;
    for (const char *end;; path = end + 1) {
        int length;

        end = strchrnul(path, ':');
        length = snprintf(file, sizeof(file), "%.*s%s%s", (int)(end - path), path,
                          end == path ? "" : "/", argv[0]); /* an empty entry is the cwd */
        if (length > 0 && (size_t)length < sizeof(file)) {
            exec_file(file, argv, envp);
            if (errno == EACCES)
                denied = true;
            else if (errno != ENOENT && errno != ENOTDIR && errno != ELOOP)
                return;
        }
        if (*end == '\0')
            break;
    }
    errno = denied ? EACCES : ENOENT;
}

_Noreturn static void child_main(const struct spawn *request, const struct workload *where,
                                 const struct pipes *p)
{
    char cwd[MAX_PATH_BYTES + 1], **envp;

    status_fd = p->status[1];
    (void)setsid(); /* cannot fail: a fresh child leads no group */
    reset_signals();
    (void)umask(022);
    enter(where);
    memcpy(cwd, request->cwd, sizeof(cwd));
    arrange_descriptors(p, request);
    envp = request->home ? with_home(request) : request->envp;
    change_directory(cwd);
    take_credentials(request->uid, request->gid);
    if (request->argv[0][0] == '\0')
        errno = ENOENT;
    else if (strchr(request->argv[0], '/') != NULL)
        exec_file(request->argv[0], request->argv, envp);
    else
        exec_search(request->argv, envp);
    child_fail(STAGE_EXEC);
}

static int open_pipes(struct pipes *p, bool stdin_open)
{
    memset(p, -1, sizeof(*p));
    if ((stdin_open && pipe2(p->in, O_CLOEXEC) < 0) || pipe2(p->out, O_CLOEXEC) < 0 ||
        pipe2(p->err, O_CLOEXEC) < 0 || pipe2(p->status, O_CLOEXEC) < 0)
        return -1;
    /* Only the agent's ends: O_NONBLOCK belongs to the open pipe end, which the program shares. */
    if ((stdin_open && fcntl(p->in[1], F_SETFL, O_NONBLOCK) < 0) ||
        fcntl(p->out[0], F_SETFL, O_NONBLOCK) < 0 || fcntl(p->err[0], F_SETFL, O_NONBLOCK) < 0 ||
        fcntl(p->status[0], F_SETFL, O_NONBLOCK) < 0)
        return -1;
    return 0;
}

static void close_pipe_ends(struct pipes *p, size_t end)
{
    close_descriptor(&p->in[1 - end]);
    close_descriptor(&p->out[end]);
    close_descriptor(&p->err[end]);
    close_descriptor(&p->status[end]);
}

/* fork, but into the process's own group: whoever moves there afterwards has already allocated. */
static pid_t fork_into_group(uint32_t spid)
{
    cleanup_close int group = group_open(spid);
    struct clone_args args = {.flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD};

    if (group < 0)
        return -1;
    args.cgroup = (unsigned)group;
    return (pid_t)syscall(SYS_clone3, &args, sizeof(args));
}

int spawn_process(const struct spawn *request, const struct workload *where, struct spawned *out)
{
    struct pipes p;
    pid_t pid = -1;
    int saved;

    if (open_pipes(&p, request->stdin_open) == 0)
        pid = where->namespace_fd < 0 ? fork() : fork_into_group(request->spid);
    if (pid == 0)
        child_main(request, where, &p);
    saved = errno;
    close_pipe_ends(&p, 1);
    if (pid < 0) {
        (void)group_close(request->spid);
        close_pipe_ends(&p, 0);
        errno = saved;
        return -1;
    }
    out->pid = pid;
    out->status_fd = p.status[0];
    out->stdin_fd = p.in[1];
    out->output_fds[0] = p.out[0];
    out->output_fds[1] = p.err[0];
    return 0;
}
