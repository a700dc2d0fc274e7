//! The private copy beside the host's: locks and descriptors.
#![cfg(all(feature = "private-copy", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks, reason = "flags of descriptors")]

mod private_copy_support;

use std::fs;
use std::path::Path;

use private_copy_support::{
    BUSY, FREE, Host, MODES, arm, code_of, database, descriptors_in, in_own_process,
    limit_descriptors, other_process_can_write, ours, play, sound_rows, start_role, wait_for,
};
use rusqlite::{Connection, ffi};
use tempfile::tempdir;

#[test]
fn role() {
    play(&[
        ("one_path", one_path),
        ("temporary_files", temporary_files),
        ("living_files", living_files),
        ("no_standard_descriptors", no_standard_descriptors),
    ]);
}

#[test]
fn the_copies_are_two() {
    let host = Host::load();
    assert_ne!(host.source_id(), ffi::SQLITE_SOURCE_ID.to_str().unwrap());
    assert_ne!(host.source_id_address(), ffi::sqlite3_sourceid as *const () as usize);
    let used: String = Connection::open_in_memory()
        .unwrap()
        .query_row("SELECT sqlite_source_id()", [], |row| row.get(0))
        .unwrap();
    assert_eq!(used, ffi::SQLITE_SOURCE_ID.to_str().unwrap());
}

#[test]
fn only_one_copy_gets_the_write_lock() {
    arm();
    let host = Host::load();
    for mode in MODES {
        let folder = tempdir().unwrap();
        let path = database(folder.path(), "a.db", mode);
        let (our, their) = (ours(&path), host.connect(&path));
        our.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert_eq!(their.execute("BEGIN IMMEDIATE"), Err(BUSY), "{mode}");
        our.execute_batch("COMMIT").unwrap();
        their.execute("BEGIN IMMEDIATE").unwrap();
        assert_eq!(code_of(our.execute_batch("BEGIN IMMEDIATE")), BUSY, "{mode}");
        their.execute("COMMIT").unwrap();
        our.execute_batch("BEGIN IMMEDIATE; COMMIT").unwrap();
    }
}

#[test]
fn a_host_reader_that_closes_leaves_our_lock() {
    arm();
    let host = Host::load();
    for mode in MODES {
        let folder = tempdir().unwrap();
        let path = database(folder.path(), "a.db", mode);
        let our = ours(&path);
        our.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (1)").unwrap();
        for _ in 0..3 {
            host.connect(&path).execute("SELECT * FROM t").unwrap();
        }
        assert!(!other_process_can_write(&path), "{mode}: the host's close freed our lock");
        our.execute_batch("COMMIT").unwrap();
        assert!(other_process_can_write(&path), "{mode}");
    }
}

#[test]
fn our_close_leaves_the_hosts_lock() {
    arm();
    let host = Host::load();
    for mode in MODES {
        let folder = tempdir().unwrap();
        let path = database(folder.path(), "a.db", mode);
        let their = host.connect(&path);
        their.execute("BEGIN IMMEDIATE; INSERT INTO t VALUES (1)").unwrap();
        for _ in 0..3 {
            let our = ours(&path);
            our.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap();
        }
        assert!(!other_process_can_write(&path), "{mode}: our close freed the host's lock");
        their.execute("COMMIT").unwrap();
        assert!(other_process_can_write(&path), "{mode}");
    }
}

#[test]
fn the_name_of_a_file_does_not_decide() {
    arm();
    let host = Host::load();
    for name in ["x-wal", "x-journal", "x-shm"] {
        let folder = tempdir().unwrap();
        let path = database(folder.path(), name, "delete");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let hard = folder.path().join("hard-journal");
        fs::hard_link(&path, &hard).unwrap();
        let their = host.connect(&path);
        their.execute("BEGIN IMMEDIATE").unwrap();
        for path in [&path, &link, &hard] {
            ours(path).query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap();
        }
        assert!(!other_process_can_write(&path), "{name}: our close freed the host's lock");
        let files = descriptors_in(folder.path()).len();
        assert!(files <= 2, "one of the host's and one of ours, not {files}");
    }
}

#[test]
fn a_held_back_descriptor_holds_no_lock() {
    arm();
    let folder = tempdir().unwrap();
    let path = database(folder.path(), "a.db", "wal");
    let ready = folder.path().join("ready");
    let mut last = start_role("leave_last", &path, ready.to_str().unwrap());
    wait_for(&ready);
    ours(&path).execute_batch("INSERT INTO t VALUES (1)").unwrap();
    drop(last.stdin.take());
    // The last connection to leave removes the -wal, unless it sees another's lock on the -shm.
    assert_eq!(last.wait().unwrap().code(), Some(FREE), "our closed connection still holds a lock");
}

#[test]
fn deleted_journals_are_not_kept() {
    arm();
    for mode in MODES {
        let folder = tempdir().unwrap();
        let path = database(folder.path(), "a.db", mode);
        let our = ours(&path);
        our.execute_batch("INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)").unwrap();
        let while_open = descriptors_in(folder.path());
        assert_eq!(while_open.len(), if mode == "wal" { 3 } else { 1 }, "{while_open:?}");
        drop(our);
        let open = descriptors_in(folder.path());
        assert_eq!(open.len(), 1, "{mode}: {open:?}");
        assert!(open[0].1.ends_with("a.db"), "{mode}: {open:?}");
    }
}

#[test]
fn descriptors_do_not_survive_exec() {
    arm();
    let folder = tempdir().unwrap();
    let path = database(folder.path(), "a.db", "wal");
    for _ in 0..2 {
        let our = ours(&path);
        our.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        let open = descriptors_in(folder.path());
        assert_eq!(open.len(), 3, "database, -wal and -shm: {open:?}");
        for (fd, name) in open {
            let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
            assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC, "{name}");
        }
    }
}

#[test]
fn a_second_connection_is_refused() {
    arm();
    for mode in MODES {
        let folder = tempdir().unwrap();
        let path = database(folder.path(), "a.db", mode);
        let hard = folder.path().join("hard.db");
        fs::hard_link(&path, &hard).unwrap();
        let our = ours(&path);
        our.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        for path in [&path, &hard] {
            assert_eq!(code_of(Connection::open(path)), ffi::SQLITE_CANTOPEN, "{mode}");
            let attached = our.execute("ATTACH ?1 AS again", [path.to_str().unwrap()]);
            assert_eq!(code_of(attached), ffi::SQLITE_CANTOPEN, "{mode}");
        }
        our.execute_batch("INSERT INTO t VALUES (2); VACUUM").unwrap();
        drop(our);
        ours(&hard).execute_batch("INSERT INTO t VALUES (3)").unwrap();
    }
}

#[test]
fn every_journal_mode_works() {
    arm();
    let folder = tempdir().unwrap();
    let path = database(folder.path(), "a.db", "delete");
    let other = folder.path().join("b.db");
    for mode in ["truncate", "persist", "memory", "wal", "delete", "wal", "persist"] {
        for _ in 0..2 {
            let our = ours(&path);
            our.pragma_update(None, "journal_mode", mode).unwrap();
            our.execute_batch("INSERT INTO t VALUES (1); BEGIN; INSERT INTO t VALUES (2)").unwrap();
            our.execute_batch("ROLLBACK; VACUUM").unwrap();
            our.execute("ATTACH ?1 AS other", [other.to_str().unwrap()]).unwrap();
            our.execute_batch(
                "CREATE TABLE IF NOT EXISTS other.o(x);
                 BEGIN; INSERT INTO t VALUES (3); INSERT INTO o VALUES (3); COMMIT; DETACH other",
            )
            .unwrap();
        }
    }
    assert_eq!(sound_rows(&path), 28);
}

#[test]
fn a_replaced_file_is_opened_anew() {
    arm();
    let folder = tempdir().unwrap();
    let path = database(folder.path(), "a.db", "delete");
    ours(&path).execute_batch("INSERT INTO t VALUES (1)").unwrap();
    let other = database(folder.path(), "b.db", "delete");
    fs::rename(&other, &path).unwrap();
    let rows: i64 = ours(&path).query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 0);
}

#[test]
fn descriptors_stay_bounded_on_one_path() {
    for mode in MODES {
        let folder = tempdir().unwrap();
        let path = database(folder.path(), "a.db", mode);
        in_own_process("one_path", &path, mode);
    }
}

fn one_path(path: &Path, mode: &str) {
    arm();
    limit_descriptors(256);
    for cycle in 0..5_000 {
        let our = ours(path);
        our.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap();
        if cycle % 50 == 0 {
            our.execute_batch("PRAGMA synchronous = off; INSERT INTO t VALUES (1)").unwrap();
        }
    }
    let open = descriptors_in(path.parent().unwrap());
    assert!(open.len() <= 3, "{mode}: {open:?}");
}

#[test]
fn descriptors_stay_bounded_over_temporary_files() {
    let folder = tempdir().unwrap();
    in_own_process("temporary_files", folder.path(), "");
}

fn temporary_files(folder: &Path, _: &str) {
    arm();
    limit_descriptors(256);
    for number in 0..5_000 {
        let path = folder.join(format!("{number}.db"));
        let our = ours(&path);
        our.execute_batch("PRAGMA synchronous = off; CREATE TABLE t(x)").unwrap();
        drop(our);
        fs::remove_file(&path).unwrap();
    }
    assert!(descriptors_in(folder).len() <= 32);
}

#[test]
fn too_many_living_files_cannot_be_opened_and_can_again() {
    let folder = tempdir().unwrap();
    in_own_process("living_files", folder.path(), "");
}

fn living_files(folder: &Path, _: &str) {
    arm();
    limit_descriptors(256);
    let open = |number: u32| {
        let our = Connection::open(folder.join(format!("{number}.db")))?;
        our.execute_batch("PRAGMA synchronous = off; CREATE TABLE t(x)")
    };
    let failed = (0..300).find_map(|number| open(number).err().map(|error| (number, error)));
    let (number, error) = failed.expect("300 held-back descriptors where 256 are allowed");
    assert!(number > 200, "after {number} files");
    assert_eq!(code_of::<()>(Err(error)), ffi::SQLITE_CANTOPEN);
    for number in 100..103 {
        fs::remove_file(folder.join(format!("{number}.db"))).unwrap();
    }
    open(1_000).unwrap();
}

#[test]
fn standard_descriptors_are_never_used() {
    let folder = tempdir().unwrap();
    let path = database(folder.path(), "a.db", "delete");
    in_own_process("no_standard_descriptors", &path, "");
}

fn no_standard_descriptors(path: &Path, _: &str) {
    arm();
    unsafe { libc::close(0) };
    for _ in 0..3 {
        ours(path).execute_batch("INSERT INTO t VALUES (1)").unwrap();
    }
    let open = descriptors_in(path.parent().unwrap());
    assert!(open.len() == 1 && open[0].0 > 2, "{open:?}");
}
