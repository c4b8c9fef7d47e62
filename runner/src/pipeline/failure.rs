//! How one thread's failure becomes everybody's, promptly, with the first reason kept.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::{PipelineError, Settings};

/// The first failure, which ends everything else.
pub(super) struct Failure<'a> {
    first: Mutex<Option<PipelineError>>,
    stopped: AtomicBool,
    cancel: &'a AtomicBool,
    on_failure: &'a (dyn Fn() + Sync),
}

/// The work was given up; the reason is in [`Failure`].
pub(super) struct Stopped;

impl<'a> Failure<'a> {
    pub(super) fn none_yet(settings: &Settings<'a>) -> Self {
        Self {
            first: Mutex::new(None),
            stopped: AtomicBool::new(false),
            cancel: settings.cancel,
            on_failure: settings.on_failure,
        }
    }

    pub(super) fn into_first(self) -> Option<PipelineError> {
        self.first.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, error: PipelineError) -> Stopped {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            *first = Some(error);
            self.stopped.store(true, Ordering::Relaxed);
            drop(first);
            (self.on_failure)();
        }
        Stopped
    }

    pub(super) fn guard(&self) -> DeathGuard<'_> {
        DeathGuard(self)
    }

    /// Fails where somebody else has, or where the caller cancelled.
    pub(super) fn check(&self) -> Result<(), Stopped> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(self.set(PipelineError::Cancelled));
        }
        if self.stopped.load(Ordering::Relaxed) { Err(Stopped) } else { Ok(()) }
    }
}

/// Makes a thread's death everybody's failure at once, and not only when it is joined: the reader may be waiting for
/// pg_dump.
pub(super) struct DeathGuard<'a>(&'a Failure<'a>);

impl Drop for DeathGuard<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.set(PipelineError::Died);
        }
    }
}
