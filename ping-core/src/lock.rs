//! Locks whose data no panic can leave half changed.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks data between the steps of whose changes nothing can panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
