//! What is known of each connection for as long as it is open.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use turnwise::session::LeaseId;

use crate::lock::lock;

struct Connected {
    record: usize,
    pool: Arc<str>,
    backend_pid: i64,
    lease: Option<LeaseId>,
}

/// Connections, by the address of the driver's object. Touched with the GIL held alone.
#[derive(Default)]
pub(super) struct Connections(Mutex<HashMap<usize, Connected>>);

impl Connections {
    /// A connection's pool, the server's number, and the lease that is not closed, if the connection
    /// is still the one of this entry of the pool.
    pub(super) fn known(
        &self,
        connection: usize,
        record: usize,
    ) -> Option<(Arc<str>, i64, Option<LeaseId>)> {
        let known = lock(&self.0);
        let known = known.get(&connection).filter(|known| known.record == record)?;
        Some((Arc::clone(&known.pool), known.backend_pid, known.lease))
    }

    pub(super) fn add(&self, connection: usize, record: usize, pool: Arc<str>, backend_pid: i64) {
        lock(&self.0).insert(connection, Connected { record, pool, backend_pid, lease: None });
    }

    pub(super) fn lend(&self, connection: usize, lease: Option<LeaseId>) {
        if let Some(known) = lock(&self.0).get_mut(&connection) {
            known.lease = lease;
        }
    }

    pub(super) fn lease_at(&self, connection: usize) -> Option<LeaseId> {
        lock(&self.0).get(&connection)?.lease
    }

    /// Ends a connection's lease.
    pub(super) fn give_back(&self, connection: usize) -> Option<LeaseId> {
        lock(&self.0).get_mut(&connection)?.lease.take()
    }

    /// Ends a connection.
    pub(super) fn remove(&self, connection: usize) -> Option<LeaseId> {
        lock(&self.0).remove(&connection)?.lease
    }

    /// Ends all of them.
    pub(super) fn clear(&self) -> Vec<LeaseId> {
        lock(&self.0).drain().filter_map(|(_, known)| known.lease).collect()
    }
}
