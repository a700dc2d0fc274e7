/* Preloaded into processes, records what they do to the databases, -wal and -journal files of the
 * folder RECORDED_FOLDER, in the true order across threads and processes, in the file RECORDED_LOG.
 * Each sync takes up to twice RECORDED_SYNC_US microseconds longer.
 *
 * A record is a `struct record` and its data. An operation and its record are one step under a lock.
 * A sync has two records, before and after, and holds no lock between them: what was recorded before
 * the first is on disk from the second on.
 *
 * `recorded_io_fail` lets a sync of a -wal fail, once, for every descriptor of a -wal that is open then, in
 * all processes, as Linux does it (errseq_t): each is told at its next sync, and later ones pass.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

struct record {
    uint32_t size;
    /* C creation of a name, W write, T truncation, U unlink, R rename (two names, a 0 between),
     * B and E begin and end of a file's sync, b and e of the folder's, N a note of the test. */
    uint32_t kind;
    uint64_t inode;
    /* Where it was written; the new length; of a sync 0, FAILED or TOLD. */
    int64_t at;
    /* Pairs the records of a sync. */
    uint64_t sync;
};

/* Nobody knows what of it is on disk; and: it was written, but is told of an earlier sync that had failed. */
enum { FAILED = -1, TOLD = -2 };

#define REAL(name) \
    static __typeof__(name) *real; \
    if (real == NULL) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static int ends_with(const char *text, const char *end) {
    size_t text_length = strlen(text), end_length = strlen(end);
    return text_length >= end_length && strcmp(text + text_length - end_length, end) == 0;
}

static const char *folder(void) {
    const char *name = getenv("RECORDED_FOLDER");
    return name != NULL && getenv("RECORDED_LOG") != NULL ? name : NULL;
}

/* The name within the folder, "" for the folder itself, NULL for what is not recorded. */
static const char *recorded(const char *path) {
    const char *base = folder();
    size_t length = base == NULL ? 0 : strlen(base);
    if (base == NULL || strncmp(path, base, length) != 0) return NULL;
    if (path[length] == '\0') return "";
    const char *name = path + length + 1;
    int counts = ends_with(name, ".db") || ends_with(name, ".db-wal") || ends_with(name, ".db-journal");
    return path[length] == '/' && strchr(name, '/') == NULL && counts ? name : NULL;
}

/* As `recorded`, for a descriptor; also for a file that was unlinked. */
static const char *recorded_file(int fd, char *path) {
    char link[64];
    if (folder() == NULL) return NULL;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length <= 0) return NULL;
    path[length] = '\0';
    if (ends_with(path, " (deleted)")) path[length - 10] = '\0';
    return recorded(path);
}

static uint64_t inode_of(int fd) {
    struct stat status;
    return fstat(fd, &status) == 0 ? status.st_ino : 0;
}

/* Takes the lock, which belongs to the descriptor that is returned: threads exclude each other too. */
static int lock(void) {
    int log = (int)syscall(SYS_openat, AT_FDCWD, getenv("RECORDED_LOG"),
                           O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    while (log >= 0 && flock(log, LOCK_EX) != 0 && errno == EINTR) {}
    if (log < 0) abort();
    return log;
}

static void append(int log, struct record record, const void *data, size_t size) {
    record.size = (uint32_t)size;
    struct iovec parts[] = {{&record, sizeof record}, {(void *)data, size}};
    if (syscall(SYS_writev, log, parts, 2) != (long)(sizeof record + size)) abort();
}

static void release(int log) {
    int error = errno;
    /* Not by the close alone: a child between fork and exec has the descriptor too. */
    flock(log, LOCK_UN);
    syscall(SYS_close, log);
    errno = error;
}

/* What all processes share, under the lock: in how many syncs one fails, 0 for none; failures so far. */
struct failing {
    uint32_t left, failures;
};

static struct failing *failing(void) {
    static struct failing *shared;
    char path[PATH_MAX];
    if (shared != NULL) return shared;
    snprintf(path, sizeof path, "%s-failing", getenv("RECORDED_LOG"));
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || syscall(SYS_ftruncate, fd, sizeof *shared) != 0) abort();
    void *mapped = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED) abort();
    syscall(SYS_close, fd);
    return shared = mapped;
}

/* Failures that a descriptor has been told of. */
static uint32_t told[1 << 16];

/* Has a sync of a -wal fail, after `after` others. */
void recorded_io_fail(int after) {
    int log = lock();
    failing()->left = (uint32_t)after + 1;
    release(log);
}

int recorded_io_failures(void) { return (int)failing()->failures; }

/* What the sync that ends now has come to. */
static int end_of_sync(int fd, const char *name) {
    if (!ends_with(name, "-wal") || fd >= (int)(sizeof told / sizeof *told)) return 0;
    struct failing *shared = failing();
    int fails = shared->left > 0 && --shared->left == 0;
    if (fails) shared->failures++;
    if (told[fd] == shared->failures) return 0;
    told[fd] = shared->failures;
    return fails ? FAILED : TOLD;
}

/* Puts a note of the test into the record. */
void recorded_io_note(const void *text, size_t size) {
    int log = lock();
    append(log, (struct record){.kind = 'N'}, text, size);
    release(log);
}

static int open_recorded(int (*real)(const char *, int, ...), const char *path, int flags, mode_t mode) {
    const char *name = recorded(path);
    if (name == NULL || name[0] == '\0') return real(path, flags, mode);
    int log = lock();
    int existed = faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    int fd = real(path, flags, mode);
    if (fd >= 0 && fd < (int)(sizeof told / sizeof *told)) told[fd] = failing()->failures;
    if (fd >= 0 && !existed) {
        append(log, (struct record){.kind = 'C', .inode = inode_of(fd)}, name, strlen(name));
    } else if (fd >= 0 && (flags & O_TRUNC) != 0) {
        append(log, (struct record){.kind = 'T', .inode = inode_of(fd)}, NULL, 0);
    }
    release(log);
    return fd;
}

#define OPEN_RECORDED(path, flags) \
    va_list rest; \
    va_start(rest, flags); \
    mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(rest, mode_t) : 0; \
    va_end(rest); \
    return open_recorded(real, path, flags, mode)

int open(const char *path, int flags, ...) {
    REAL(open);
    OPEN_RECORDED(path, flags);
}

int open64(const char *path, int flags, ...) {
    REAL(open64);
    OPEN_RECORDED(path, flags);
}

/* `at` -1: where the descriptor stands. */
#define RECORD_WRITE(fd, bytes, position, call) \
    char path[PATH_MAX]; \
    if (recorded_file(fd, path) == NULL) return call; \
    int log = lock(); \
    ssize_t done = call; \
    if (done > 0) { \
        off_t from = (position) >= 0 ? (position) : lseek(fd, 0, SEEK_CUR) - done; \
        append(log, (struct record){.kind = 'W', .inode = inode_of(fd), .at = from}, bytes, (size_t)done); \
    } \
    release(log); \
    return done

ssize_t write(int fd, const void *bytes, size_t size) {
    REAL(write);
    RECORD_WRITE(fd, bytes, (off_t)-1, real(fd, bytes, size));
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) {
    REAL(pwrite);
    RECORD_WRITE(fd, bytes, at, real(fd, bytes, size, at));
}

ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at) {
    REAL(pwrite64);
    RECORD_WRITE(fd, bytes, at, real(fd, bytes, size, at));
}

#define RECORD_TRUNCATION(fd, size) \
    char path[PATH_MAX]; \
    if (recorded_file(fd, path) == NULL) return real(fd, size); \
    int log = lock(); \
    int result = real(fd, size); \
    if (result == 0) append(log, (struct record){.kind = 'T', .inode = inode_of(fd), .at = size}, NULL, 0); \
    release(log); \
    return result

int ftruncate(int fd, off_t size) {
    REAL(ftruncate);
    RECORD_TRUNCATION(fd, size);
}

int ftruncate64(int fd, off64_t size) {
    REAL(ftruncate64);
    RECORD_TRUNCATION(fd, size);
}

int unlink(const char *path) {
    REAL(unlink);
    const char *name = recorded(path);
    if (name == NULL) return real(path);
    int log = lock();
    int result = real(path);
    if (result == 0) append(log, (struct record){.kind = 'U'}, name, strlen(name));
    release(log);
    return result;
}

int rename(const char *from, const char *to) {
    REAL(rename);
    const char *old = recorded(from), *new = recorded(to);
    if (old == NULL && new == NULL) return real(from, to);
    /* A name that comes into the folder, or leaves it, would be missed. */
    if (old == NULL || new == NULL) abort();
    char names[2 * PATH_MAX];
    int size = snprintf(names, sizeof names, "%s%c%s", old, '\0', new);
    int log = lock();
    int result = real(from, to);
    if (result == 0) append(log, (struct record){.kind = 'R'}, names, (size_t)size);
    release(log);
    return result;
}

static void take_time(uint64_t number) {
    const char *mean = getenv("RECORDED_SYNC_US");
    if (mean == NULL || atoi(mean) <= 0) return;
    usleep((useconds_t)(number * 2654435761u % (2u * (unsigned)atoi(mean))));
}

static int record_sync(int (*real)(int), int fd) {
    static uint32_t count;
    char path[PATH_MAX];
    const char *name = recorded_file(fd, path);
    if (name == NULL) return real(fd);
    uint64_t number = __atomic_fetch_add(&count, 1, __ATOMIC_RELAXED);
    struct record record = {.kind = name[0] == '\0' ? 'b' : 'B', .inode = inode_of(fd),
                            .sync = (uint64_t)getpid() << 32 | number};
    int log = lock();
    append(log, record, NULL, 0);
    release(log);
    take_time(number);
    int result = real(fd);
    record.kind += 'E' - 'B';
    log = lock();
    record.at = result != 0 ? FAILED : end_of_sync(fd, name);
    if (record.at != 0) {
        errno = EIO;
        result = -1;
    }
    append(log, record, NULL, 0);
    release(log);
    return result;
}

int fsync(int fd) {
    REAL(fsync);
    return record_sync(real, fd);
}

int fdatasync(int fd) {
    REAL(fdatasync);
    return record_sync(real, fd);
}
