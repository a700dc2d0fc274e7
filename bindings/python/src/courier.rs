//! The courier: takes turns from whichever thread gives them, which never takes the GIL, and brings
//! them to the coroutines that wait.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, Weak};

use pyo3::prelude::*;
use turnwise::sqlite::fork::Owned;
use turnwise::turn::Turn;

use crate::lock::lock;
use crate::turn::NativeTurn;

/// A turn, and the future of the coroutine that waits for it.
pub(crate) struct Arrival {
    pub(crate) turn: Turn,
    pub(crate) event_loop: Py<PyAny>,
    pub(crate) came: Py<PyAny>,
}

/// The way to the courier thread, which ends with the last of its copies.
#[derive(Clone)]
pub(crate) struct Courier(Arc<Owned<Sender<Arrival>>>);

/// The one of this process, started now if need be; `None`: no thread is to be had. The GIL is held.
pub(crate) fn courier() -> Option<Courier> {
    // Only touched with the GIL held, so that a fork never finds it locked.
    static SHARED: Mutex<Weak<Owned<Sender<Arrival>>>> = Mutex::new(Weak::new());
    let mut shared = lock(&SHARED);
    if let Some(known) = shared.upgrade().filter(|known| !known.is_inherited()) {
        return Some(Courier(known));
    }
    let (sender, arrivals) = channel();
    let serve = move || {
        for arrival in arrivals {
            // At the end of the interpreter nobody is left to be told.
            if Python::try_attach(|py| bring(py, arrival)).is_none() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("turnwise-courier".into()).spawn(serve).ok()?;
    let started = Arc::new(Owned::new(sender));
    *shared = Arc::downgrade(&started);
    Some(Courier(started))
}

impl Courier {
    /// Whether the thread is one of the parent of this process.
    pub(crate) fn is_inherited(&self) -> bool {
        self.0.is_inherited()
    }

    /// Has a turn brought. Neither blocks nor takes the GIL.
    pub(crate) fn bring(&self, arrival: Arrival) {
        if let Some(sender) = self.0.get() {
            // Without the thread the turn is dropped, and so given back.
            let _ = sender.send(arrival);
        }
    }
}

fn bring(py: Python<'_>, arrival: Arrival) {
    let Arrival { turn, event_loop, came } = arrival;
    // A loop that is closed drops the turn, or refuses it, and so it is given back.
    let posted = Py::new(py, NativeTurn::new(turn)).and_then(|turn| {
        let land = py.import("turnwise.turn")?.getattr("_land")?;
        event_loop.call_method1(py, "call_soon_threadsafe", (land, came, turn))
    });
    drop(posted);
}
