//! What the `-turn` file says about its holder, in two lines of fixed length.
//!
//! ```text
//! pid 0000012345 since 01763720000.123456789
//! outsider 01763720000.123456789
//! ```

use std::fs::File;
use std::io::Write as _;
use std::time::Duration;

use super::side::nanoseconds_since_1970;

/// Bytes of the first line.
const LINE: usize = 43;

/// Who has the turn, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pid: u32,
    /// Nanoseconds since 1970.
    since: u64,
}

impl Record {
    pub(super) fn of_this_process() -> Self {
        Self { pid: std::process::id(), since: nanoseconds_since_1970() }
    }

    /// The time since it was written; `None` for one of the future, when the clock was set back.
    pub(super) fn age(&self) -> Option<Duration> {
        age(self.since)
    }
}

/// The time since then; `None` for the future.
pub(super) fn age(since: u64) -> Option<Duration> {
    nanoseconds_since_1970().checked_sub(since).map(Duration::from_nanos)
}

pub(super) fn write(file: &File, record: Record) {
    let (seconds, rest) = seconds(record.since);
    // Without a string: every turn may come here.
    let mut line = [0; LINE];
    let written = writeln!(&mut line[..], "pid {:010} since {seconds:011}.{rest:09}", record.pid);
    // Advice for error messages; nobody waits for it.
    let _ = written.and_then(|()| write_at(file, &line, 0));
}

pub(super) fn read(file: &File) -> Option<Record> {
    let line = line_at(file, 0)?;
    let rest = line.strip_prefix("pid ")?;
    let (pid, since) = rest.split_once(" since ")?;
    Some(Record { pid: pid.parse().ok()?, since: parse(since)? })
}

pub(super) fn write_outsider(file: &File, seen: u64) {
    let (seconds, rest) = seconds(seen);
    let line = format!("outsider {seconds:011}.{rest:09}\n");
    let _ = write_at(file, line.as_bytes(), LINE as u64);
}

/// When an outsider was last met; 0 for never.
pub(super) fn outsider(file: &File) -> u64 {
    let line = line_at(file, LINE as u64);
    line.and_then(|line| parse(line.strip_prefix("outsider ")?)).unwrap_or(0)
}

/// Who has the turn, or is next and does not take it, in words.
pub(super) fn describe(turn: &File, next: &File) -> Option<String> {
    let record = read(turn);
    // The record may be older than its holder by some milliseconds; the kernel knows for certain.
    let (pid, does) = match (holder_by_the_kernel(turn), holder_by_the_kernel(next)) {
        (Locked::By(pid), _) => (pid, "has had the turn"),
        (Locked::ByNobody, Locked::By(pid)) => (pid, "is next, and has not taken the turn"),
        (Locked::ByNobody, _) => return None,
        (Locked::Unknown, _) => (record?.pid, "has had the turn"),
    };
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name = match name.trim() {
        "" => String::new(),
        name => format!(" ({name})"),
    };
    let since = record.filter(|record| record.pid == pid).and_then(|record| record.age());
    let since = since.map(|age| format!(" since {:.1} s", age.as_secs_f64())).unwrap_or_default();
    Some(format!("process {pid}{name} {does}{since}"))
}

/// Who has a file locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Locked {
    By(u32),
    ByNobody,
    Unknown,
}

/// The process that has the file locked, from `/proc/locks`
/// (`12: FLOCK  ADVISORY  WRITE 4711 fd:00:789 0 EOF`).
fn holder_by_the_kernel(file: &File) -> Locked {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::MetadataExt;
        let inode = file.metadata().map(|found| found.ino());
        let (Ok(inode), Ok(locks)) = (inode, std::fs::read_to_string("/proc/locks")) else {
            return Locked::Unknown;
        };
        holder_among(&locks, device_by_the_kernel(file).as_deref(), inode)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = file;
        Locked::Unknown
    }
}

/// The process that has a file locked by the lines of `/proc/locks`; on whichever device if that is
/// not known.
#[cfg(target_os = "linux")]
fn holder_among(locks: &str, device: Option<&str>, inode: u64) -> Locked {
    let holder = locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        if words.next() != Some("FLOCK") {
            return None;
        }
        let pid = words.nth(2)?;
        let (on, at) = words.next()?.rsplit_once(':')?;
        let same = device.is_none_or(|device| device == on) && at.parse() == Ok(inode);
        same.then(|| pid.parse().ok()).flatten()
    });
    holder.map_or(Locked::ByNobody, Locked::By)
}

/// The device of a file as `/proc/locks` writes it. Where `stat` makes up devices of its own (btrfs,
/// overlayfs), only the mount tells.
#[cfg(target_os = "linux")]
fn device_by_the_kernel(file: &File) -> Option<String> {
    use std::os::fd::AsRawFd;
    let known = format!("/proc/self/fdinfo/{}", file.as_raw_fd());
    let known = std::fs::read_to_string(known).ok()?;
    let mount = known.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    // `36 35 98:0 /mnt1 /mnt2 rw,noatime - ext3 /dev/root rw`, the device in decimal.
    let device = mounts.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(mount)).then(|| words.nth(1)).flatten()
    })?;
    let (major, minor) = device.split_once(':')?;
    let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    Some(format!("{major:02x}:{minor:02x}"))
}

fn seconds(nanoseconds: u64) -> (u64, u64) {
    (nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000)
}

fn parse(text: &str) -> Option<u64> {
    let (whole, rest) = text.split_once('.')?;
    let whole: u64 = whole.parse().ok()?;
    whole.checked_mul(1_000_000_000)?.checked_add(rest.parse().ok()?)
}

fn line_at(file: &File, offset: u64) -> Option<String> {
    let mut bytes = [0; 64];
    let read = read_at(file, &mut bytes, offset).ok()?;
    let text = std::str::from_utf8(bytes.get(..read)?).ok()?;
    text.split_once('\n').map(|(line, _)| line.to_owned())
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> std::io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, bytes, offset)
}

#[cfg(not(unix))]
fn write_at(_file: &File, _bytes: &[u8], _offset: u64) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(not(unix))]
fn read_at(_file: &File, _bytes: &mut [u8], _offset: u64) -> std::io::Result<usize> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let file = tempfile::tempfile().unwrap();
        let record = Record { pid: 4711, since: 1_763_720_000_123_456_789 };
        write(&file, record);
        write_outsider(&file, 1_763_720_001_000_000_007);
        assert_eq!(read(&file), Some(record));
        assert_eq!(outsider(&file), 1_763_720_001_000_000_007);
    }

    #[test]
    fn a_record_that_is_none_says_nothing() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!((read(&file), outsider(&file)), (None, 0));
        write_at(&file, b"\xff\xfe nonsense", 0).unwrap();
        assert_eq!((read(&file), outsider(&file)), (None, 0));
    }

    #[test]
    fn the_kernel_names_the_holder() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("x")).unwrap();
        if cfg!(target_os = "linux") {
            assert_eq!(holder_by_the_kernel(&file), Locked::ByNobody);
            file.lock().unwrap();
            assert_eq!(holder_by_the_kernel(&file), Locked::By(std::process::id()));
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_tells_devices_apart() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("x")).unwrap();
        file.lock().unwrap();
        let inode = file.metadata().unwrap().ino();
        let device = device_by_the_kernel(&file).unwrap();
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        let holder = holder_among(&locks, Some(&device), inode);
        assert_eq!(holder, Locked::By(std::process::id()));
        let elsewhere = locks.replace(&format!(" {device}:{inode} "), &format!(" fe:fe:{inode} "));
        assert_eq!(holder_among(&elsewhere, Some(&device), inode), Locked::ByNobody);
        assert_eq!(holder_among(&elsewhere, None, inode), Locked::By(std::process::id()));
    }
}
