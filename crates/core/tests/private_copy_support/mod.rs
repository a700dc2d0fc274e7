//! The other parties: the host's SQLite, other processes, forked children.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![allow(unsafe_code, reason = "dlopen of the host's SQLite, fork, limits")]
#![allow(clippy::undocumented_unsafe_blocks, clippy::missing_transmute_annotations)]

pub mod forking;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use turnwise::sqlite::private;

pub const MODES: [&str; 2] = ["wal", "delete"];
pub const BUSY: i32 = rusqlite::ffi::SQLITE_BUSY;

/// The copy of SQLite that the host uses: the system's shared library.
pub struct Host {
    open: unsafe extern "C" fn(*const c_char, *mut *mut c_void) -> c_int,
    exec: unsafe extern "C" fn(*mut c_void, *const c_char, usize, usize, usize) -> c_int,
    close: unsafe extern "C" fn(*mut c_void) -> c_int,
    busy_timeout: unsafe extern "C" fn(*mut c_void, c_int) -> c_int,
    source_id: unsafe extern "C" fn() -> *const c_char,
}

impl Host {
    pub fn load() -> Self {
        unsafe {
            let flags = libc::RTLD_NOW | libc::RTLD_LOCAL | libc::RTLD_DEEPBIND;
            let library = libc::dlopen(c"libsqlite3.so.0".as_ptr(), flags);
            assert!(
                !library.is_null(),
                "libsqlite3.so.0 not found: it plays the host's copy (Debian: libsqlite3-0)"
            );
            let symbol = |name: &CStr| {
                let address = libc::dlsym(library, name.as_ptr());
                assert!(!address.is_null(), "{name:?} is missing from libsqlite3.so.0");
                address
            };
            Self {
                open: std::mem::transmute::<*mut c_void, _>(symbol(c"sqlite3_open")),
                exec: std::mem::transmute::<*mut c_void, _>(symbol(c"sqlite3_exec")),
                close: std::mem::transmute::<*mut c_void, _>(symbol(c"sqlite3_close")),
                busy_timeout: std::mem::transmute::<*mut c_void, _>(symbol(
                    c"sqlite3_busy_timeout",
                )),
                source_id: std::mem::transmute::<*mut c_void, _>(symbol(c"sqlite3_sourceid")),
            }
        }
    }

    pub fn source_id(&self) -> String {
        unsafe { CStr::from_ptr((self.source_id)()).to_str().unwrap().to_owned() }
    }

    pub fn source_id_address(&self) -> usize {
        self.source_id as *const () as usize
    }

    pub fn connect(&self, path: &Path) -> HostConnection<'_> {
        let path = CString::new(path.to_str().unwrap()).unwrap();
        let mut db = std::ptr::null_mut();
        assert_eq!(
            unsafe { (self.open)(path.as_ptr(), &raw mut db) },
            0,
            "the host cannot open {path:?}"
        );
        HostConnection { host: self, db }
    }
}

pub struct HostConnection<'host> {
    host: &'host Host,
    db: *mut c_void,
}

impl HostConnection<'_> {
    pub fn execute(&self, sql: &str) -> Result<(), i32> {
        let sql = CString::new(sql).unwrap();
        match unsafe { (self.host.exec)(self.db, sql.as_ptr(), 0, 0, 0) } {
            0 => Ok(()),
            code => Err(code & 0xFF),
        }
    }

    pub fn busy_timeout(&self, milliseconds: i32) {
        unsafe { (self.host.busy_timeout)(self.db, milliseconds) };
    }
}

impl Drop for HostConnection<'_> {
    fn drop(&mut self) {
        assert_eq!(unsafe { (self.host.close)(self.db) }, 0, "the host cannot close");
    }
}

pub fn arm() {
    private::arm().unwrap();
    assert!(private::is_armed());
}

/// A database with the empty table `t(x)`, made by a process that has nothing to do with this one.
pub fn database(folder: &Path, name: &str, mode: &str) -> PathBuf {
    let path = folder.join(name);
    assert_eq!(run_role("create", &path, mode), FREE);
    path
}

pub fn ours(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::ZERO).unwrap();
    connection
}

/// Waits for locks by polling every millisecond, for at most 20 s.
pub fn patient(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open(path)?;
    connection.busy_handler(Some(|tries| {
        std::thread::sleep(Duration::from_millis(1));
        tries < 20_000
    }))?;
    connection.execute_batch("PRAGMA synchronous = normal")?;
    Ok(connection)
}

/// Waits until `path` exists, for at most 20 s.
pub fn wait_for(path: &Path) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !path.exists() {
        assert!(Instant::now() < deadline, "{} does not appear", path.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn code_of<T: std::fmt::Debug>(result: rusqlite::Result<T>) -> i32 {
    match result {
        Err(rusqlite::Error::SqliteFailure(error, _)) => error.extended_code & 0xFF,
        other => panic!("expected an SQLite error, got {other:?}"),
    }
}

pub const FREE: i32 = 20;
const LOCKED: i32 = 21;

/// Whether a process that has nothing to do with this one gets the write lock.
pub fn other_process_can_write(path: &Path) -> bool {
    match run_role("try_write", path, "") {
        FREE => true,
        LOCKED => false,
        code => panic!("the other process failed: {code}"),
    }
}

/// Rows of `t`, counted by another process after `PRAGMA integrity_check` said ok.
pub fn sound_rows(path: &Path) -> i64 {
    assert_eq!(run_role("check", path, ""), FREE, "integrity_check of {}", path.display());
    std::fs::read_to_string(count_file(path)).unwrap().trim().parse().unwrap()
}

fn count_file(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}.count", path.display()))
}

fn run_role(role: &str, path: &Path, argument: &str) -> i32 {
    let mut child = start_role(role, path, argument);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap_or(-1);
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("the process for {role} hangs");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs `role` of this test binary (see [`play`]) in a process of its own.
pub fn start_role(role: &str, path: &Path, argument: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["role", "--exact", "--nocapture", "--test-threads=1"])
        .env("TURNWISE_TEST_ROLE", role)
        .env("TURNWISE_TEST_PATH", path)
        .env("TURNWISE_TEST_ARGUMENT", argument)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Runs `role` to its end and fails if it does.
pub fn in_own_process(role: &str, path: &Path, argument: &str) {
    assert_eq!(run_role(role, path, argument), FREE, "{role} {argument} failed; see its output");
}

/// What a process does with its path and argument.
pub type Role = fn(&Path, &str);

/// What the test named `role` of each file calls: nothing, unless this process was started for a role.
pub fn play(own_roles: &[(&str, Role)]) {
    let Ok(role) = std::env::var("TURNWISE_TEST_ROLE") else { return };
    let path = PathBuf::from(std::env::var_os("TURNWISE_TEST_PATH").unwrap());
    let argument = std::env::var("TURNWISE_TEST_ARGUMENT").unwrap();
    let code = match role.as_str() {
        "create" => {
            let db = Connection::open(&path).unwrap();
            db.pragma_update(None, "journal_mode", &argument).unwrap();
            db.execute_batch("CREATE TABLE t(x)").unwrap();
            FREE
        }
        "try_write" => {
            let db = ours(&path);
            match db.execute_batch("BEGIN IMMEDIATE; ROLLBACK") {
                Ok(()) => FREE,
                result => {
                    assert_eq!(code_of(result), BUSY);
                    LOCKED
                }
            }
        }
        "check" => {
            let db = patient(&path).unwrap();
            let report: String =
                db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
            assert_eq!(report, "ok");
            let rows: i64 = db.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
            std::fs::write(count_file(&path), rows.to_string()).unwrap();
            FREE
        }
        "leave_last" => {
            let db = ours(&path);
            db.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap();
            std::fs::write(&argument, "").unwrap();
            std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
            db.close().unwrap();
            let wal = PathBuf::from(format!("{}-wal", path.display()));
            if wal.exists() { LOCKED } else { FREE }
        }
        "write" => {
            let db = patient(&path).unwrap();
            for row in 0..argument.parse::<i64>().unwrap() {
                db.execute("INSERT INTO t VALUES (?1)", [row]).unwrap();
            }
            FREE
        }
        other => {
            let (_, act) = own_roles.iter().find(|(name, _)| *name == other).unwrap();
            act(&path, &argument);
            FREE
        }
    };
    std::process::exit(code);
}

/// Writes `rows` rows over a connection of the calling process's own.
pub fn write_rows(path: &Path, rows: i64) -> Result<(), String> {
    let db = patient(path).map_err(|error| format!("open: {error}"))?;
    for row in 0..rows {
        db.execute("INSERT INTO t VALUES (?1)", [row])
            .map_err(|error| format!("write: {error}"))?;
    }
    Ok(())
}

/// Descriptors of this process whose files lie in `folder`, with the names that the kernel gives.
pub fn descriptors_in(folder: &Path) -> Vec<(c_int, String)> {
    let folder = folder.canonicalize().unwrap();
    std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let target = std::fs::read_link(entry.path()).ok()?;
            let fd = entry.file_name().to_str()?.parse().ok()?;
            target.starts_with(&folder).then(|| (fd, target.display().to_string()))
        })
        .collect()
}

pub fn limit_descriptors(count: u64) {
    let limit = libc::rlimit { rlim_cur: count, rlim_max: count };
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
}
