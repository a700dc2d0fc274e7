//! The queue on the system's clock and locks, with a stand-in for the side files.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::claim::{Asker, Claim, Grant, Site};
use super::queue::{SideLock, Taken, TurnQueue};
use crate::error::{Error, ErrorKind};
use crate::handoff::Patience;

const HERE: Site = Site::Ours("here");
const THERE: Site = Site::Ours("there");

/// One lock of one process, that a test can take away.
#[derive(Default)]
struct Files {
    taken: Mutex<bool>,
    freed: Condvar,
    gone: AtomicBool,
}

impl Files {
    fn take_away(&self) {
        *self.taken.lock().unwrap() = true;
    }

    fn is_taken(&self) -> bool {
        *self.taken.lock().unwrap()
    }

    fn free(&self) {
        *self.taken.lock().unwrap() = false;
        self.freed.notify_one();
    }
}

impl SideLock for Arc<Files> {
    fn try_take(&self) -> Taken {
        if self.gone.load(Ordering::Relaxed) {
            return Taken::Unavailable("gone".into());
        }
        let mut taken = self.taken.lock().unwrap();
        if std::mem::replace(&mut *taken, true) { Taken::Busy } else { Taken::Yes }
    }

    fn take(&self) -> Taken {
        let free = self.freed.wait_while(self.taken.lock().unwrap(), |taken| *taken);
        *free.unwrap() = true;
        Taken::Yes
    }

    fn give_back(&self) {
        self.free();
    }

    fn stood_still(&self) -> Option<Duration> {
        None
    }

    fn describe_holder(&self) -> Option<String> {
        self.is_taken().then(|| "process 7 has it".into())
    }

    fn note_outsider(&self) {}

    fn outsider_seen(&self) -> Option<Duration> {
        None
    }
}

type Queue = TurnQueue<Arc<Files>>;

fn queue() -> (Arc<Queue>, Arc<Files>) {
    let files = Arc::<Files>::default();
    let queue = TurnQueue::new(Arc::clone(&files), |queue| {
        thread::spawn(move || queue.keep());
        true
    });
    queue.open();
    (queue, files)
}

fn within(milliseconds: u64) -> Patience<'static> {
    let deadline = Some(Instant::now() + Duration::from_millis(milliseconds));
    Patience { deadline, ..Patience::UNDISTURBED }
}

fn acquire(queue: &Arc<Queue>, patience: &Patience<'_>) -> Result<Grant, Error> {
    queue.acquire(&Claim::of_this_thread(HERE), patience, None)
}

fn nobodys() -> Claim {
    Claim::of_nobody(THERE)
}

#[test]
fn a_thread_that_asks_again_is_told_both_places() {
    let (queue, _) = queue();
    let turn = acquire(&queue, &within(0)).unwrap();
    let again = queue.acquire(&Claim::of_this_thread(THERE), &within(60_000), None).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::TurnReentered);
    let text = again.to_string();
    assert!(text.contains("there asks") && text.contains("has from here"), "{text}");
    queue.release(turn);
    assert!(matches!(acquire(&queue, &within(0)), Ok(Grant::Held(_))));
}

#[test]
fn a_coroutine_that_asks_again_is_told_both_places_and_its_neighbour_waits() {
    let (queue, _) = queue();
    let (sender, came) = mpsc::channel();
    let ask = |site: Site, task| {
        let sender = sender.clone();
        let claim = Claim::of_this_thread(Asker::new(site, Some(task)));
        queue.request(&claim, Box::new(move |grant| sender.send(grant).unwrap()), false)
    };
    assert_eq!(ask(HERE, 1).unwrap(), None);
    let first = came.recv().unwrap();
    let again = ask(THERE, 1).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::TurnReentered);
    let text = again.to_string();
    assert!(
        text.contains("there asks") && text.contains("this task already has from here"),
        "{text}"
    );
    assert!(ask(THERE, 2).unwrap().is_some());
    // Whoever blocks stops the coroutine that would have to give it back.
    assert_eq!(acquire(&queue, &within(0)).unwrap_err().kind(), ErrorKind::TurnReentered);
    queue.release(first);
    queue.release(came.recv_timeout(Duration::from_secs(60)).unwrap());
    assert!(matches!(acquire(&queue, &within(0)), Ok(Grant::Held(_))));
}

#[test]
fn a_turn_that_no_coroutine_has_taken_up_goes_to_its_thread() {
    let (queue, _) = queue();
    let (sender, came) = mpsc::channel();
    let ask = |task, first| {
        let sender = sender.clone();
        let claim = Claim::of_an_offer(Asker::new(HERE, Some(task)));
        let then = Box::new(move |grant| sender.send((task, grant)).unwrap());
        queue.request(&claim, then, first).unwrap();
        came.recv_timeout(Duration::from_millis(100)).ok()
    };
    let Some((1, Grant::Held(offered))) = ask(1, false) else { panic!("it was free") };
    // Who only asks by the way does not get it, nor does another thread.
    let claim = Claim::of_this_thread(HERE);
    assert_eq!(queue.try_acquire(&claim).unwrap_err().kind(), ErrorKind::TurnReentered);
    let elsewhere = thread::scope(|scope| {
        scope.spawn(|| acquire(&queue, &within(0)).unwrap_err().kind()).join().unwrap()
    });
    assert_eq!(elsewhere, ErrorKind::LockTimeout);
    let turn = acquire(&queue, &within(0)).unwrap();
    assert!(!queue.take_up(offered));
    queue.release(Grant::Held(offered));
    assert_eq!(acquire(&queue, &within(0)).unwrap_err().kind(), ErrorKind::TurnReentered);
    assert_eq!((ask(2, false), ask(1, true)), (None, None));
    queue.release(turn);
    let (task, Grant::Held(offered)) = came.recv().unwrap() else { panic!("it was free") };
    assert_eq!(task, 1);
    assert!(queue.take_up(offered));
    assert_eq!(acquire(&queue, &within(0)).unwrap_err().kind(), ErrorKind::TurnReentered);
    queue.release(Grant::Held(offered));
    assert_eq!(came.recv().unwrap().0, 2);
}

#[test]
fn a_thread_that_blocks_goes_before_its_own_coroutines() {
    let (queue, files) = queue();
    files.take_away();
    let order = Arc::<Mutex<Vec<_>>>::default();
    let ask = |name: u8, claim: &Claim| {
        let (order, giver) = (Arc::clone(&order), Arc::clone(&queue));
        let then = move |grant| {
            order.lock().unwrap().push(name);
            // Elsewhere: a coroutine that goes on gives it back.
            thread::spawn(move || giver.release(grant));
        };
        queue.request(claim, Box::new(then), false).unwrap().expect("the turn is taken")
    };
    ask(1, &nobodys());
    ask(3, &Claim::of_this_thread(Asker::new(HERE, Some(1))));
    let freed = Arc::clone(&files);
    let soon = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        freed.free();
    });
    let turn = acquire(&queue, &within(60_000)).unwrap();
    order.lock().unwrap().push(2);
    queue.release(turn);
    soon.join().unwrap();
    while order.lock().unwrap().len() < 3 {
        thread::yield_now();
    }
    assert_eq!(*order.lock().unwrap(), [1, 2, 3]);
}

#[test]
fn a_turn_goes_by_its_number_to_another_claimant() {
    let (queue, _) = queue();
    let Some(turn @ Grant::Held(id)) = queue.try_acquire(&nobodys()).unwrap() else {
        panic!("it was free");
    };
    assert!(!queue.claimed.load(Ordering::Relaxed));
    assert_eq!(queue.try_acquire(&Claim::of_this_thread(HERE)).unwrap(), None);
    queue.release(Grant::Held(id + 1));
    queue.hand_to(id + 1, Claim::of_this_thread(HERE));
    assert!(queue.check_reentry(&Claim::of_this_thread(THERE), false).is_ok());
    queue.hand_to(id, Claim::of_this_thread(HERE));
    assert!(queue.claimed.load(Ordering::Relaxed));
    assert!(queue.check_reentry(&Claim::of_this_thread(THERE), false).is_err());
    queue.release(turn);
    assert!(!queue.claimed.load(Ordering::Relaxed));
}

#[test]
fn the_deadline_names_who_has_the_turn() {
    let (queue, files) = queue();
    files.take_away();
    let began = Instant::now();
    let error = acquire(&queue, &within(30)).unwrap_err();
    assert!(began.elapsed() >= Duration::from_millis(30));
    assert_eq!((error.kind(), error.code()), (ErrorKind::LockTimeout, Some(5)));
    assert!(error.to_string().contains("process 7 has it"), "{error}");
    files.free();
    let turn = queue.acquire(&nobodys(), &within(60_000), None).unwrap();
    let error = acquire(&queue, &within(0)).unwrap_err();
    assert!(error.to_string().contains("from there"), "{error}");
    queue.release(turn);
}

#[test]
fn who_is_called_away_leaves_the_line() {
    let (queue, files) = queue();
    files.take_away();
    let asked = AtomicBool::new(false);
    let interrupted = || asked.swap(true, Ordering::Relaxed);
    let slice = Some(Duration::from_millis(1));
    let patience = Patience { deadline: None, slice, interrupted: &interrupted };
    let error = acquire(&queue, &patience).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WriteCancelled);
    files.free();
    // The keeper is still at the side files, and gives back what comes too late.
    assert!(matches!(acquire(&queue, &within(60_000)), Ok(Grant::Held(_))));
}

#[test]
fn a_turn_that_stands_still_is_gone_without() {
    let (queue, files) = queue();
    files.take_away();
    let stuck = Duration::from_millis(30);
    let began = Instant::now();
    let claim = Claim::of_this_thread(HERE);
    let grant = queue.acquire(&claim, &Patience::UNDISTURBED, Some(stuck)).unwrap();
    assert_eq!(grant, Grant::Without);
    assert!(began.elapsed() >= stuck);
    assert!(queue.is_stuck(stuck) && !queue.is_stuck(Duration::from_secs(3600)));
    assert_eq!((queue.stats().waits, queue.stats().fall_throughs), (1, 1));
    queue.release(grant);
    assert!(files.is_taken(), "what nobody here had was given back");
}

#[test]
fn requests_come_in_their_order_and_can_be_taken_back() {
    let (queue, files) = queue();
    files.take_away();
    let (sender, receiver) = mpsc::channel();
    let ask = |name: u8| {
        let sender = sender.clone();
        let then = move |grant| sender.send((name, grant)).unwrap();
        queue.request(&nobodys(), Box::new(then), false).unwrap().expect("the turn is taken")
    };
    let ids = [ask(1), ask(2), ask(3)];
    assert!(queue.withdraw(ids[1]) && !queue.withdraw(ids[1]));
    files.free();
    for (name, id) in [(1, ids[0]), (3, ids[2])] {
        let (came, grant) = receiver.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!((came, grant), (name, Grant::Held(id)));
        assert!(!queue.withdraw(id));
        assert!(receiver.try_recv().is_err(), "two have the turn");
        queue.release(grant);
    }
    drop(sender);
    assert_eq!(queue.stats().waits, 3);
    assert!(!files.is_taken());
}

#[test]
fn without_side_files_everybody_goes_on_without_a_turn() {
    let (queue, files) = queue();
    files.gone.store(true, Ordering::Relaxed);
    assert_eq!(acquire(&queue, &within(0)).unwrap(), Grant::Without);
    let (sender, receiver) = mpsc::channel();
    let then = move |grant| sender.send(grant).unwrap();
    assert_eq!(queue.request(&nobodys(), Box::new(then), false).unwrap(), None);
    assert_eq!(receiver.try_recv(), Ok(Grant::Without));
    assert_eq!(queue.stats().fall_throughs, 2);
}

#[test]
fn without_a_keeper_who_would_wait_goes_on_without_a_turn() {
    let files = Arc::<Files>::default();
    let queue = TurnQueue::new(Arc::clone(&files), |_| false);
    files.take_away();
    assert_eq!(acquire(&queue, &within(60_000)).unwrap(), Grant::Without);
    let (sender, receiver) = mpsc::channel();
    let then = move |grant| sender.send(grant).unwrap();
    assert_eq!(queue.request(&nobodys(), Box::new(then), false).unwrap(), None);
    assert_eq!(receiver.try_recv(), Ok(Grant::Without));
    assert_eq!((queue.stats().waits, queue.stats().fall_throughs), (0, 2));
}

#[test]
fn the_keeper_ends_with_the_queue() {
    let (queue, files) = queue();
    files.take_away();
    acquire(&queue, &within(1)).unwrap_err();
    files.free();
    queue.close();
    let began = Instant::now();
    while Arc::strong_count(&queue) > 1 {
        assert!(began.elapsed() < Duration::from_secs(60), "the keeper goes on");
        thread::sleep(Duration::from_millis(1));
    }
    assert!(!files.is_taken());
}
