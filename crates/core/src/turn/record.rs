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

    /// The time since it was written; none where the clock was set back.
    pub(super) fn age(&self) -> Duration {
        Duration::from_nanos(nanoseconds_since_1970().saturating_sub(self.since))
    }
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

/// The holder in words.
pub(super) fn describe(file: &File) -> Option<String> {
    let record = read(file);
    // The record may be older than its holder by some milliseconds; the kernel knows for certain.
    let pid = holder_by_the_kernel(file).or(record.map(|record| record.pid))?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name = match name.trim() {
        "" => String::new(),
        name => format!(" ({name})"),
    };
    let since = match record.filter(|record| record.pid == pid) {
        Some(record) => format!(" since {:.1} s", record.age().as_secs_f64()),
        None => String::new(),
    };
    Some(format!("process {pid}{name} has had the turn{since}"))
}

/// The process that has the file locked, from `/proc/locks`
/// (`12: FLOCK  ADVISORY  WRITE 4711 fd:00:789 0 EOF`).
fn holder_by_the_kernel(file: &File) -> Option<u32> {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::MetadataExt;
        let inode = file.metadata().ok()?.ino().to_string();
        let locks = std::fs::read_to_string("/proc/locks").ok()?;
        locks.lines().find_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            if words.next() != Some("FLOCK") {
                return None;
            }
            let pid = words.nth(2)?;
            let at = words.next()?.rsplit(':').next()?;
            (at == inode).then(|| pid.parse().ok()).flatten()
        })
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = file;
        None
    }
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
        assert_eq!(holder_by_the_kernel(&file), None);
        file.lock().unwrap();
        if cfg!(target_os = "linux") {
            assert_eq!(holder_by_the_kernel(&file), Some(std::process::id()));
        }
    }
}
