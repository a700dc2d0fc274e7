/*
** What the private copy cannot write in stable Rust: SQLite calls fcntl through a variadic pointer.
*/
#ifndef _GNU_SOURCE
# define _GNU_SOURCE 1
#endif
/* SQLite is compiled with 64-bit offsets everywhere; struct flock must have the same layout here. */
#ifndef _FILE_OFFSET_BITS
# define _FILE_OFFSET_BITS 64
#endif
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/stat.h>

#ifndef F_OFD_GETLK
# define F_OFD_GETLK 36
# define F_OFD_SETLK 37
# define F_OFD_SETLKW 38
#endif

/* Lets Rust refuse a platform where its struct stat is not the one that SQLite was compiled with. */
const size_t turnwise_private_stat_size = sizeof(struct stat);

/* SQLite leaves l_pid unset, and the kernel refuses an OFD command whose l_pid is not 0. */
static int ofd_lock(int fd, int command, struct flock *lock){
  if( lock==NULL ){
    errno = EFAULT;
    return -1;
  }
  lock->l_pid = 0;
  return fcntl(fd, command, lock);
}

int turnwise_private_fcntl(int fd, int command, ...){
  int rc;
  va_list args;
  va_start(args, command);
  switch( command ){
    case F_GETLK:  rc = ofd_lock(fd, F_OFD_GETLK,  va_arg(args, struct flock*)); break;
    case F_SETLK:  rc = ofd_lock(fd, F_OFD_SETLK,  va_arg(args, struct flock*)); break;
    case F_SETLKW: rc = ofd_lock(fd, F_OFD_SETLKW, va_arg(args, struct flock*)); break;
    case F_GETFD:
    case F_GETFL:
      rc = fcntl(fd, command);
      break;
    case F_SETFD:
    case F_SETFL:
    case F_DUPFD:
    case F_DUPFD_CLOEXEC:
      rc = fcntl(fd, command, va_arg(args, int));
      break;
    default:
      rc = fcntl(fd, command, va_arg(args, void*));
      break;
  }
  va_end(args);
  return rc;
}
