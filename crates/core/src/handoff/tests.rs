//! The hand-off without a writer thread: limits, refusals, and who is told what.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::refusal::{cancelled, closed, expired, full, orphaned};
use super::ticket::Rendezvous as _;
use super::{
    Admission, Completed, Handoff, Limits, Patience, Pickup, Reply, Request, Sink, Withdrawn,
};
use crate::error::{Error, ErrorKind};

const LIMITS: Limits = Limits { max_batch: 3, max_rows: 2, max_bytes: 100 };
const FOR_EVER: Patience<'_> = Patience { deadline: None, slice: None, interrupted: &|| false };

#[derive(Default)]
struct Inbox(Mutex<Vec<(u64, Option<ErrorKind>)>>);

impl Sink<()> for Inbox {
    fn deliver(&self, completed: Vec<Completed<()>>, _pickup: Pickup) {
        let told =
            completed.into_iter().map(|one| (one.token, one.outcome.err().map(|e| e.kind())));
        self.0.lock().unwrap().extend(told);
    }
}

fn handoff() -> Arc<Handoff<&'static str, ()>> {
    Handoff::new(LIMITS)
}

fn request(rows: usize, bytes: usize) -> Request<&'static str> {
    Request { job: "job", rows, bytes, strict: 0, turn: None }
}

fn queue(handoff: &Handoff<&'static str, ()>, request: Request<&'static str>) -> u64 {
    match handoff.enter(request, false, &FOR_EVER).unwrap() {
        Admission::Queued(_, seq) => seq,
        Admission::Inline(_) => panic!("ran inline"),
    }
}

fn offer(
    handoff: &Handoff<&'static str, ()>,
    inbox: &Arc<Inbox>,
    deadline: Option<Instant>,
) -> Result<u64, Request<&'static str>> {
    let reply = Reply::Sink(Arc::clone(inbox) as Arc<dyn Sink<()>>, 7);
    handoff.offer(request(1, 10), deadline, reply).unwrap()
}

fn run_inline(handoff: &Handoff<&'static str, ()>) -> Request<&'static str> {
    match handoff.enter(request(1, 10), true, &FOR_EVER).unwrap() {
        Admission::Inline(request) => request,
        Admission::Queued(..) => panic!("was queued"),
    }
}

fn refused(handoff: &Handoff<&'static str, ()>, request: Request<&'static str>) -> Error {
    let soon = Patience { deadline: Some(Instant::now()), ..FOR_EVER };
    handoff.enter(request, false, &soon).map(|_| ()).unwrap_err()
}

#[test]
fn refusals_say_in_plain_words_that_nothing_was_written() {
    let handoff = handoff();
    queue(&handoff, request(2, 10));
    let full = full(&LIMITS, &handoff.lock());
    let not_begun =
        [cancelled(), expired(7, "app.db", None), expired(0, "app.db", None), orphaned(), full];
    for error in &not_begun {
        assert!(error.message().contains("not in the file"), "{error}");
    }
    for error in not_begun.iter().chain([&closed()]) {
        assert!(!error.message().contains("  "), "{error}");
        assert!(!error.message().ends_with('.'), "{error}");
    }
}

#[test]
fn a_time_out_names_its_cause() {
    let locked = expired(7, "app.db", None);
    assert!(locked.message().starts_with("database is locked"));
    assert!(locked.message().contains("app.db"));
    assert_eq!(
        (locked.kind(), locked.code(), locked.attempts()),
        (ErrorKind::LockTimeout, Some(5), 7)
    );
    assert_eq!(expired(0, "app.db", None).kind(), ErrorKind::WriteTimeout);
    assert_eq!(expired(0, "app.db", None).code(), None);
}

#[test]
fn a_write_larger_than_the_queue_is_refused_though_the_queue_is_empty() {
    let handoff = handoff();
    for (request, said) in [
        (request(3, 10), "holds 3 rows, the queue takes 2"),
        (request(1, 101), "holds 101 bytes, the queue takes 100"),
    ] {
        let error = refused(&handoff, request);
        assert_eq!(error.kind(), ErrorKind::UnitTooLarge);
        assert!(error.message().contains(said), "{error}");
    }
}

#[test]
fn a_full_queue_is_refused_with_its_numbers_and_room_is_reported() {
    let handoff = handoff();
    let first = queue(&handoff, request(2, 60));
    let error = refused(&handoff, request(1, 10));
    assert_eq!(error.kind(), ErrorKind::QueueFull);
    assert!(error.message().contains("2 of 2 rows, 60 of 100 bytes"), "{error}");

    let inbox = Arc::new(Inbox::default());
    assert!(offer(&handoff, &inbox, None).is_err());
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    handoff.when_room((1, 10), Box::new(move || _ = count.fetch_add(1, Ordering::Relaxed)));
    assert_eq!(calls.load(Ordering::Relaxed), 0);
    assert_eq!(handoff.withdraw(first), Withdrawn::NotBegun { locked: false });
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert!(offer(&handoff, &inbox, None).is_ok());
    assert_eq!(handoff.lock().load(), (1, 10));
}

#[test]
fn a_request_larger_than_the_room_left_is_not_called_at_once() {
    let handoff = handoff();
    queue(&handoff, request(1, 10));
    let called = Arc::new(AtomicBool::new(false));
    let call = |size| {
        let called = Arc::clone(&called);
        handoff.when_room(size, Box::new(move || called.store(true, Ordering::Relaxed)));
    };
    call((2, 10));
    assert!(!called.load(Ordering::Relaxed));
    call((1, 10));
    assert!(called.load(Ordering::Relaxed));
}

#[test]
fn nobody_overtakes_in_the_doorway() {
    let handoff = handoff();
    let seqs = [queue(&handoff, request(1, 10)), queue(&handoff, request(1, 10))];
    let wait_until_blocked = |count| {
        while handoff.lock().doorway.len() < count {
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    // Not for ever: a caller that was overtaken would keep the test from failing.
    let blocked = |rows| {
        let deadline = Some(Instant::now() + Duration::from_secs(2));
        match handoff.enter(request(rows, 10), false, &Patience { deadline, ..FOR_EVER }).unwrap() {
            Admission::Queued(_, seq) => seq,
            Admission::Inline(_) => panic!("ran inline"),
        }
    };
    std::thread::scope(|scope| {
        let large = scope.spawn(|| blocked(2));
        wait_until_blocked(1);
        let small = scope.spawn(|| blocked(1));
        wait_until_blocked(2);
        handoff.withdraw(seqs[0]);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(handoff.lock().doorway.len(), 2, "there is room for the second only");
        assert!(offer(&handoff, &Arc::new(Inbox::default()), None).is_err());
        handoff.withdraw(seqs[1]);
        let large = large.join().unwrap();
        handoff.withdraw(large);
        assert!(small.join().unwrap() > large);
    });
}

#[test]
fn the_holder_of_a_turn_is_refused_and_others_are_not() {
    let handoff = handoff();
    run_inline(&handoff);
    let turn = handoff.take_turn(Duration::from_secs(60));
    let error = refused(&handoff, request(1, 10));
    assert_eq!(error.kind(), ErrorKind::WriterReentered);
    std::thread::scope(|scope| {
        scope.spawn(|| queue(&handoff, request(1, 10)));
    });
    assert!(handoff.leave_turn(turn, false));
    queue(&handoff, request(1, 10));
}

#[test]
fn a_turn_is_given_back_once() {
    let handoff = handoff();
    run_inline(&handoff);
    let turn = handoff.take_turn(Duration::from_secs(60));
    assert!(handoff.leave_turn(turn, false));
    run_inline(&handoff);
    assert!(!handoff.leave_turn(turn, false), "the lane has another owner now");
    assert!(matches!(handoff.enter(request(1, 10), true, &FOR_EVER), Ok(Admission::Queued(..))));
}

#[test]
fn no_job_has_the_number_of_a_turn() {
    let handoff = handoff();
    run_inline(&handoff);
    let turn = handoff.take_turn(Duration::from_secs(60));
    assert!(handoff.leave_turn(turn, false));
    assert_ne!(queue(&handoff, request(1, 10)), turn);
}

#[test]
fn only_a_write_that_waited_for_the_lock_is_told_of_it() {
    let handoff = handoff();
    let request_back = run_inline(&handoff);
    let (_, seq) = handoff.requeue_inline(request_back, None);
    assert_eq!(handoff.withdraw(seq), Withdrawn::NotBegun { locked: true });
    let later = queue(&handoff, request(1, 10));
    assert_eq!(handoff.withdraw(later), Withdrawn::NotBegun { locked: false });
}

#[test]
fn a_write_whose_deadline_has_passed_is_not_begun() {
    let handoff = handoff();
    let inbox = Arc::new(Inbox::default());
    offer(&handoff, &inbox, Some(Instant::now())).unwrap();
    offer(&handoff, &inbox, None).unwrap();
    let mut group = Vec::new();
    handoff.drain(&mut group, 0);
    assert_eq!(group.len(), 1);
    assert_eq!(*inbox.0.lock().unwrap(), [(7, Some(ErrorKind::WriteTimeout))]);
}

#[test]
fn each_submitter_is_told_when_its_own_time_is_up() {
    let limits = Limits { max_rows: 10, ..LIMITS };
    let handoff: Arc<Handoff<&'static str, ()>> = Handoff::new(limits);
    let inbox = Arc::new(Inbox::default());
    let at = |seconds| Instant::now() + Duration::from_secs(seconds);
    let [first, second, last] = [at(10), at(20), at(30)];
    offer(&handoff, &inbox, Some(last)).unwrap();
    let withdrawn = offer(&handoff, &inbox, Some(first)).unwrap();
    let in_time = offer(&handoff, &inbox, Some(second)).unwrap();
    assert_eq!(handoff.lock().next_deadline(), Some(first));
    handoff.withdraw(withdrawn);
    let late =
        |now| -> Vec<u64> { handoff.lock().take_late(now).iter().map(|entry| entry.seq).collect() };
    assert!(late(first).is_empty());
    assert_eq!(handoff.lock().next_deadline(), Some(second));
    assert_eq!(late(second), [in_time]);
    assert_eq!(handoff.lock().next_deadline(), Some(last));
    assert_eq!(late(last).len(), 1);
    assert_eq!(handoff.lock().next_deadline(), None);
}

#[test]
fn a_group_takes_no_more_than_its_bound_and_no_strict_job_without_sync() {
    let limits = Limits { max_batch: 3, max_rows: 100, max_bytes: 1000 };
    let handoff: Arc<Handoff<&'static str, ()>> = Handoff::new(limits);
    for (rows, strict) in [(9, 0), (1, 0), (2, 0), (1, 2), (1, 0)] {
        queue(&handoff, Request { strict, ..request(rows, 10) });
    }
    let mut sizes = Vec::new();
    for strict in [0, 0, 1, 2] {
        let mut group = Vec::new();
        handoff.drain(&mut group, strict);
        sizes.push(group.iter().map(|entry| entry.request.rows).collect::<Vec<_>>());
    }
    assert_eq!(sizes, [vec![9], vec![1, 2], vec![], vec![1, 1]]);
    assert_eq!(handoff.lock().load(), (0, 0));
    assert_eq!(handoff.lock().strictness(), 0);
}

#[test]
fn a_writer_thread_that_panicked_leaves_nobody_waiting() {
    let handoff = handoff();
    let inbox = Arc::new(Inbox::default());
    let inline = run_inline(&handoff);
    offer(&handoff, &inbox, None).unwrap();
    handoff.abandon();
    assert_eq!(*inbox.0.lock().unwrap(), [(7, Some(ErrorKind::Internal))]);
    assert!(handoff.wait_closed(&FOR_EVER));
    assert_eq!(refused(&handoff, request(1, 10)).kind(), ErrorKind::WriterClosed);
    let (ticket, seq) = handoff.requeue_inline(inline, None);
    let soon = Patience { deadline: Some(Instant::now() + Duration::from_secs(2)), ..FOR_EVER };
    let (outcome, ..) = handoff.wait(&ticket, seq, &soon);
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Internal);
}

#[test]
fn a_caller_that_stays_away_does_not_hold_a_group_open_while_others_come() {
    let limits = Limits { max_batch: 1_000_000, max_rows: 1_000_000, max_bytes: usize::MAX };
    let handoff: Arc<Handoff<&'static str, ()>> = Handoff::new(limits);
    let over = AtomicBool::new(false);
    handoff.lock().returning = 1;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let start = Instant::now();
            while !over.load(Ordering::Relaxed) && start.elapsed() < Duration::from_secs(5) {
                queue(&handoff, request(1, 1));
                std::thread::sleep(Duration::from_micros(50));
            }
        });
        let start = Instant::now();
        handoff.gather(&mut handoff.lock());
        over.store(true, Ordering::Relaxed);
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    });
}

#[test]
fn the_last_caller_that_comes_back_ends_the_pause() {
    let handoff = handoff();
    {
        let mut state = handoff.lock();
        state.returning = 2;
        state.group = 4;
    }
    handoff.back(3, 1);
    assert_eq!(handoff.lock().returning, 2, "a caller of another group");
    handoff.back(4, 2);
    assert_eq!(handoff.lock().returning, 0);
    handoff.gather(&mut handoff.lock());
}

#[test]
fn the_lane_is_known_by_its_owner() {
    let handoff = handoff();
    run_inline(&handoff);
    assert!(!handoff.is_idle());
    let turn = handoff.take_turn(Duration::from_secs(60));
    assert!(handoff.holds_turn(turn) && !handoff.holds_turn(turn + 1));
    assert_eq!(handoff.check_reentry().unwrap_err().kind(), ErrorKind::WriterReentered);
    handoff.leave_turn(turn, false);
    assert!(handoff.is_idle());
}

#[test]
fn time_outs_in_a_long_queue_hold_nobody_up() {
    let handoff = Handoff::new(Limits { max_batch: 3, max_rows: 100_000, max_bytes: 1 << 30 });
    let inbox = Arc::new(Inbox::default());
    let now = Instant::now();
    for number in 0..100_000 {
        let deadline = now + Duration::from_secs(if number % 2 == 0 { 0 } else { 3600 });
        offer(&handoff, &inbox, Some(deadline)).unwrap();
    }
    let began = Instant::now();
    handoff.expire(&mut handoff.lock());
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(inbox.0.lock().unwrap().len(), 50_000);
    assert_eq!(handoff.lock().load(), (50_000, 500_000));
}
