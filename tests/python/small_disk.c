/* Preloaded into a process, makes the folder SMALL_DISK a disk of SMALL_DISK_BYTES bytes: a write
 * that would let its files grow beyond them fails with ENOSPC, as on a full file system.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static long long used(const char *folder) {
    long long total = 0;
    DIR *entries = opendir(folder);
    if (entries == NULL) return 0;
    for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
        struct stat status;
        if (fstatat(dirfd(entries), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0
            && S_ISREG(status.st_mode)) {
            total += status.st_size;
        }
    }
    closedir(entries);
    return total;
}

/* Whether a write that ends at `end` needs more room than there is. */
static int is_full(int fd, off_t end) {
    const char *folder = getenv("SMALL_DISK"), *bytes = getenv("SMALL_DISK_BYTES");
    char link[64], path[4096];
    struct stat status;
    if (folder == NULL || bytes == NULL) return 0;
    if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode) || end <= status.st_size) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = '\0';
    size_t prefix = strlen(folder);
    if (strncmp(path, folder, prefix) != 0 || path[prefix] != '/') return 0;
    return used(folder) + (end - status.st_size) > atoll(bytes);
}

#define REAL(type, name) ((type)dlsym(RTLD_NEXT, name))

static ssize_t write_at(const char *name, int fd, const void *data, size_t size, off_t at) {
    if (is_full(fd, at + (off_t)size)) {
        errno = ENOSPC;
        return -1;
    }
    return REAL(ssize_t (*)(int, const void *, size_t, off_t), name)(fd, data, size, at);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    return write_at("pwrite", fd, data, size, at);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    return write_at("pwrite64", fd, data, size, (off_t)at);
}

ssize_t write(int fd, const void *data, size_t size) {
    off_t at = lseek(fd, 0, SEEK_CUR);
    if (at >= 0 && is_full(fd, at + (off_t)size)) {
        errno = ENOSPC;
        return -1;
    }
    return REAL(ssize_t (*)(int, const void *, size_t), "write")(fd, data, size);
}
