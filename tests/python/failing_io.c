/* Preloaded into a process, makes system calls on the files of one folder fail on purpose. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static struct {
    char folder[4096];
    char file[16];
    char call[16];
    int error;
    int once_synced;
    int after;
    int times;
    int struck;
    int synced;
    /* The descriptor plus 1 of a write whose first half was let through: the rest does not fit. */
    int half;
} fault;
static int armed;

/* Has `call` (read, write, sync, truncate, unlink) on files of `folder` fail with `error`, once
 * `after` such calls have passed and `times` times. `file` names the kind of file: journal, wal,
 * shm, database, directory, or "" for any. `once_synced`: not before the database file was synced. */
void failing_io_arm(const char *folder, const char *file, const char *call, int error,
                    int once_synced, int after, int times) {
    memset(&fault, 0, sizeof fault);
    snprintf(fault.folder, sizeof fault.folder, "%s", folder);
    snprintf(fault.file, sizeof fault.file, "%s", file);
    snprintf(fault.call, sizeof fault.call, "%s", call);
    fault.error = error;
    fault.once_synced = once_synced;
    fault.after = after;
    fault.times = times;
    __atomic_store_n(&armed, 1, __ATOMIC_RELEASE);
}

int failing_io_struck(void) { return fault.struck; }

void failing_io_disarm(void) { __atomic_store_n(&armed, 0, __ATOMIC_RELEASE); }

static int ends_with(const char *text, const char *end) {
    size_t text_length = strlen(text), end_length = strlen(end);
    return text_length >= end_length && strcmp(text + text_length - end_length, end) == 0;
}

static int must_fail_on(const char *path, const char *call) {
    const char *file = ends_with(path, "-journal") ? "journal"
                     : ends_with(path, "-wal")     ? "wal"
                     : ends_with(path, "-shm")     ? "shm"
                     : ends_with(path, ".db")      ? "database"
                                                   : "directory";
    if (strncmp(path, fault.folder, strlen(fault.folder)) != 0) return 0;
    int synced = fault.synced;
    if (strcmp(call, "sync") == 0 && strcmp(file, "database") == 0) fault.synced = 1;
    if (strcmp(call, fault.call) != 0) return 0;
    if (fault.file[0] != '\0' && strcmp(file, fault.file) != 0) return 0;
    if (fault.once_synced && !synced) return 0;
    if (fault.after > 0) {
        fault.after--;
        return 0;
    }
    if (fault.struck >= fault.times) return 0;
    fault.struck++;
    return 1;
}

static int must_fail(int fd, const char *call) {
    char link[64], path[4096];
    if (!__atomic_load_n(&armed, __ATOMIC_ACQUIRE)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = '\0';
    return must_fail_on(path, call);
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (real == NULL) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define FAIL_OR(fd, call) \
    if (must_fail(fd, call)) { \
        errno = fault.error; \
        return -1; \
    }

/* What a full disk does: part of the bytes still fit. */
static size_t fitting(int fd, size_t size) {
    if (fault.half == fd + 1) {
        fault.half = 0;
        return 0;
    }
    if (!must_fail(fd, "write")) return size;
    if (fault.error != ENOSPC || size < 2) return 0;
    fault.half = fd + 1;
    return size / 2;
}

#define WRITE_OR_FAIL(write) \
    size_t fits = size; \
    if (__atomic_load_n(&armed, __ATOMIC_ACQUIRE)) fits = fitting(fd, size); \
    if (fits == 0 && size > 0) { \
        errno = fault.error; \
        return -1; \
    } \
    return write

int fsync(int fd) {
    REAL(fsync);
    FAIL_OR(fd, "sync")
    return real(fd);
}

int fdatasync(int fd) {
    REAL(fdatasync);
    FAIL_OR(fd, "sync")
    return real(fd);
}

int ftruncate(int fd, off_t size) {
    REAL(ftruncate);
    FAIL_OR(fd, "truncate")
    return real(fd, size);
}

int ftruncate64(int fd, off64_t size) {
    REAL(ftruncate64);
    FAIL_OR(fd, "truncate")
    return real(fd, size);
}

ssize_t read(int fd, void *bytes, size_t size) {
    REAL(read);
    FAIL_OR(fd, "read")
    return real(fd, bytes, size);
}

ssize_t pread(int fd, void *bytes, size_t size, off_t at) {
    REAL(pread);
    FAIL_OR(fd, "read")
    return real(fd, bytes, size, at);
}

ssize_t pread64(int fd, void *bytes, size_t size, off64_t at) {
    REAL(pread64);
    FAIL_OR(fd, "read")
    return real(fd, bytes, size, at);
}

ssize_t write(int fd, const void *bytes, size_t size) {
    REAL(write);
    WRITE_OR_FAIL(real(fd, bytes, fits));
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) {
    REAL(pwrite);
    WRITE_OR_FAIL(real(fd, bytes, fits, at));
}

ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at) {
    REAL(pwrite64);
    WRITE_OR_FAIL(real(fd, bytes, fits, at));
}

int unlink(const char *path) {
    REAL(unlink);
    if (__atomic_load_n(&armed, __ATOMIC_ACQUIRE) && must_fail_on(path, "unlink")) {
        errno = fault.error;
        return -1;
    }
    return real(path);
}
