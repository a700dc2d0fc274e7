/* Preloaded into a process, counts the system calls that a write could make. `calls_counted(name)`
 * tells how many there were, -1 for a name that is not counted. Futexes of Rust's standard library
 * come as `syscall`.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define NAMES(X) \
    X(fsync) X(fdatasync) X(pread) X(pread64) X(read) X(pwrite) X(pwrite64) X(write) X(fcntl) \
    X(fcntl64) X(open) X(open64) X(close) X(stat) X(stat64) X(fstat) X(fstat64) X(lstat) \
    X(lstat64) X(statx) X(access) X(unlink) X(flock) X(ftruncate) X(ftruncate64) X(getpid) X(syscall) \
    X(sched_yield) X(usleep) X(nanosleep) X(clock_nanosleep)

#define ENUM(name) call_##name,
enum call { NAMES(ENUM) calls };
#define TEXT(name) #name,
static const char *const names[] = {NAMES(TEXT)};
static atomic_long counts[calls];

long calls_counted(const char *name) {
    for (int call = 0; call < calls; call++)
        if (strcmp(names[call], name) == 0) return atomic_load(&counts[call]);
    return -1;
}

static void *real(enum call call) {
    static _Atomic(void *) found[calls];
    void *function = atomic_load(&found[call]);
    if (function == NULL) {
        function = dlsym(RTLD_NEXT, names[call]);
        atomic_store(&found[call], function);
    }
    atomic_fetch_add(&counts[call], 1);
    return function;
}

#define WRAP(result, name, parameters, arguments) \
    result name parameters { return ((result(*) parameters)real(call_##name)) arguments; }

WRAP(int, fsync, (int fd), (fd))
WRAP(int, fdatasync, (int fd), (fd))
WRAP(ssize_t, pread, (int fd, void *to, size_t size, off_t at), (fd, to, size, at))
WRAP(ssize_t, pread64, (int fd, void *to, size_t size, off64_t at), (fd, to, size, at))
WRAP(ssize_t, read, (int fd, void *to, size_t size), (fd, to, size))
WRAP(ssize_t, pwrite, (int fd, const void *from, size_t size, off_t at), (fd, from, size, at))
WRAP(ssize_t, pwrite64, (int fd, const void *from, size_t size, off64_t at), (fd, from, size, at))
WRAP(ssize_t, write, (int fd, const void *from, size_t size), (fd, from, size))
WRAP(int, close, (int fd), (fd))
WRAP(int, stat, (const char *path, struct stat *out), (path, out))
WRAP(int, stat64, (const char *path, struct stat64 *out), (path, out))
WRAP(int, flock, (int fd, int operation), (fd, operation))
WRAP(int, fstat, (int fd, struct stat *out), (fd, out))
WRAP(int, fstat64, (int fd, struct stat64 *out), (fd, out))
WRAP(int, lstat, (const char *path, struct stat *out), (path, out))
WRAP(int, lstat64, (const char *path, struct stat64 *out), (path, out))
WRAP(int, statx, (int fd, const char *path, int flags, unsigned mask, struct statx *out),
     (fd, path, flags, mask, out))
WRAP(int, access, (const char *path, int mode), (path, mode))
WRAP(int, unlink, (const char *path), (path))
WRAP(int, ftruncate, (int fd, off_t size), (fd, size))
WRAP(int, ftruncate64, (int fd, off64_t size), (fd, size))
WRAP(pid_t, getpid, (void), ())
WRAP(int, sched_yield, (void), ())
WRAP(int, usleep, (useconds_t time), (time))
WRAP(int, nanosleep, (const struct timespec *time, struct timespec *left), (time, left))
WRAP(int, clock_nanosleep,
     (clockid_t clock, int flags, const struct timespec *time, struct timespec *left),
     (clock, flags, time, left))

/* The third argument of each is an int or a pointer: a register either way. */
#define WRAP_VARIADIC(name, first)                                          \
    int name(first one, int two, ...) {                                     \
        va_list list;                                                       \
        va_start(list, two);                                                \
        void *three = va_arg(list, void *);                                 \
        va_end(list);                                                       \
        return ((int (*)(first, int, ...))real(call_##name))(one, two, three); \
    }

WRAP_VARIADIC(fcntl, int)
WRAP_VARIADIC(fcntl64, int)
WRAP_VARIADIC(open, const char *)
WRAP_VARIADIC(open64, const char *)

long syscall(long number, ...) {
    long a[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(list, long);
    va_end(list);
    return ((long (*)(long, ...))real(call_syscall))(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
