//! Keeps callers' statements from ending or changing the transaction that they share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, ffi};

use crate::sync::Mutex;

/// Pragmas that read, or that write inside the transaction like any statement.
const HARMLESS: &[&str] = &[
    "application_id",
    "foreign_key_check",
    "foreign_key_list",
    "incremental_vacuum",
    "index_info",
    "index_list",
    "index_xinfo",
    "integrity_check",
    "optimize",
    "quick_check",
    "table_info",
    "table_list",
    "table_xinfo",
    "user_version",
];

/// Pragmas that act even without an argument.
const NEVER: &[&str] = &["wal_checkpoint", "shrink_memory"];

/// A temporary table hides the table of the same name: what others then write to it is acknowledged
/// and goes away with the connection.
const TEMPORARY: &str = "temporary objects would live in the connection that all writes share, and \
                         hide tables of the same name: use a table of the file, or your own \
                         connection";

/// What statements on a connection may do.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    /// While set, our own control statements are being prepared.
    lifted: Arc<AtomicBool>,
    /// While set, savepoints are the caller's own business (an interactive transaction).
    savepoints: Arc<AtomicBool>,
    /// Why the last statement was refused.
    reason: Arc<Mutex<Option<String>>>,
}

impl Guard {
    /// Puts the guard on a connection.
    pub(crate) fn install(connection: &mut Connection) -> rusqlite::Result<Self> {
        let guard = Self {
            lifted: Arc::new(AtomicBool::new(false)),
            savepoints: Arc::new(AtomicBool::new(false)),
            reason: Arc::new(Mutex::new(None)),
        };
        let seen = guard.clone();
        connection.authorizer(Some(move |context: AuthContext<'_>| seen.judge(&context)))?;
        Ok(guard)
    }

    /// Runs `f` with every statement allowed.
    pub(crate) fn lifted<R>(&self, f: impl FnOnce() -> R) -> R {
        self.lifted.store(true, Ordering::Relaxed);
        let result = f();
        self.lifted.store(false, Ordering::Relaxed);
        result
    }

    pub(crate) fn allow_savepoints(&self, allowed: bool) {
        self.savepoints.store(allowed, Ordering::Relaxed);
    }

    /// Why the last statement was refused, once.
    pub(crate) fn take_reason(&self) -> Option<String> {
        self.reason.lock().take()
    }

    fn judge(&self, context: &AuthContext<'_>) -> Authorization {
        if self.lifted.load(Ordering::Relaxed) {
            return Authorization::Allow;
        }
        let reason = match context.action {
            AuthAction::Transaction { .. } => {
                "BEGIN, COMMIT and ROLLBACK belong to the writer; for several statements in one \
                 transaction use transaction()"
                    .to_owned()
            }
            AuthAction::Savepoint { .. } if !self.savepoints.load(Ordering::Relaxed) => {
                "SAVEPOINT and RELEASE are allowed inside transaction() only".to_owned()
            }
            // Unknown: a name that is an expression or a placeholder.
            AuthAction::Attach { .. } | AuthAction::Unknown { code: ffi::SQLITE_ATTACH, .. } => {
                "ATTACH would open a second connection of this copy of SQLite; open another \
                 BatchWriter for the other file"
                    .to_owned()
            }
            AuthAction::Detach { .. } | AuthAction::Unknown { code: ffi::SQLITE_DETACH, .. } => {
                "DETACH is not allowed on a shared connection".to_owned()
            }
            AuthAction::CreateTempTrigger { .. } => TEMPORARY.to_owned(),
            // Into its schema, as every CREATE does whatever it makes.
            AuthAction::Insert { .. } if context.database_name == Some("temp") => {
                TEMPORARY.to_owned()
            }
            AuthAction::Pragma { pragma_name, pragma_value }
                if changes_connection(pragma_name, pragma_value) =>
            {
                format!(
                    "PRAGMA {pragma_name} would change the connection that all writes share; set \
                     it when the writer is opened, or on your own connection"
                )
            }
            _ => return Authorization::Allow,
        };
        *self.reason.lock() = Some(reason);
        Authorization::Deny
    }
}

fn changes_connection(name: &str, value: Option<&str>) -> bool {
    let name = name.to_ascii_lowercase();
    let name = name.as_str();
    NEVER.contains(&name) || value.is_some() && !HARMLESS.contains(&name)
}
