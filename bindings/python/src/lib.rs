//! The native half of the `turnwise` Python package.

mod attention;
mod classify;
mod courier;
mod delivery;
mod drain;
mod error;
mod events;
mod lock;
mod policy;
mod result;
mod session;
mod settings;
mod testing;
mod transaction;
mod turn;
mod values;
mod verdict;
mod words;
mod writer;

/// Imported as `turnwise._native`.
#[pyo3::pymodule(gil_used = true)]
mod _native {
    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    #[pymodule_export]
    use crate::classify::{classify_code, fingerprint, rules, sqlstate};
    #[pymodule_export]
    use crate::delivery::Pickups;
    #[pymodule_export]
    use crate::drain::drain_all;
    #[pymodule_export]
    use crate::events::Event;
    #[pymodule_export]
    use crate::policy::{Budget, Learner, Retry, RetryPolicy, draws};
    #[pymodule_export]
    use crate::result::WriteResult;
    #[pymodule_export]
    use crate::session::{Finding, Lease, NativeTracker, Owner, StatementHook};
    #[pymodule_export]
    use crate::testing::rehearse;
    #[pymodule_export]
    use crate::transaction::NativeTransaction;
    #[pymodule_export]
    use crate::turn::{NativePending, NativeTurn, NativeTurnLock};
    #[pymodule_export]
    use crate::verdict::{Constraint, Override, Verdict};
    #[pymodule_export]
    use crate::words::{enums, error_states};
    #[pymodule_export]
    use crate::writer::{NativePlace, NativeWriter};
}
