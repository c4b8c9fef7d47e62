//! How far a job has come: written by whoever works, read by the heartbeat.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::pipeline;

/// What the runner is doing, one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Reaching the source.
    #[default]
    Connecting,
    /// Reading the catalogue.
    Inspecting,
    /// Dumping and uploading.
    Dumping,
    /// Writing and uploading annex and parts list.
    Describing,
    /// Reporting the end: from here on the control plane decides, and needs no signs of life.
    Finishing,
}

impl Phase {
    /// As sent.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Inspecting => "inspecting",
            Self::Dumping => "dumping",
            Self::Describing => "describing",
            Self::Finishing => "finishing",
        }
    }
}

/// How much of the tables' bytes must be done before what is left is judged by it.
const JUDGED_BY_PERCENT: u64 = 5;
/// How long a dump must have run before its rate says anything.
const RATE_NEEDS: Duration = Duration::from_secs(5);

/// Shared progress.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    phase: Mutex<Phase>,
    dumping_since: Mutex<Option<Instant>>,
    total_bytes: AtomicU64,
    pipeline: pipeline::Progress,
}

impl Progress {
    /// The current phase.
    pub fn phase(&self) -> Phase {
        *self.0.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a phase.
    pub fn enter(&self, phase: Phase) {
        *self.0.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
        if phase == Phase::Dumping {
            *self.0.dumping_since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        tracing::info!(phase = phase.as_str(), "entering");
    }

    /// Sets how many raw bytes are expected, as the size of the database has it.
    pub fn expect(&self, bytes: u64) {
        self.0.total_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Raw bytes expected in all. At first that is the database's size, indexes and all; then what is done of the tables
    /// tells how many bytes of COPY a byte on the server's disk makes.
    pub fn total_bytes(&self) -> Option<u64> {
        let size = self.0.total_bytes.load(Ordering::Relaxed);
        let estimate = self.remaining_bytes().map(|remaining| self.raw_bytes() + remaining);
        estimate.or(Some(size).filter(|total| *total > 0))
    }

    /// How long the dump goes on, at the rate it has had so far.
    pub fn eta_seconds(&self) -> Option<u64> {
        let since = (*self.0.dumping_since.lock().unwrap_or_else(PoisonError::into_inner))?;
        let elapsed = since.elapsed();
        if self.phase() != Phase::Dumping || elapsed < RATE_NEEDS {
            return None;
        }
        let (remaining, raw) = (self.remaining_bytes()?, self.raw_bytes().max(1));
        Some((remaining as f64 * elapsed.as_secs_f64() / raw as f64).ceil() as u64)
    }

    /// `None` as long as nothing is known: tables that were never analyzed have no size in the catalogue.
    fn remaining_bytes(&self) -> Option<u64> {
        let pipeline = &self.0.pipeline;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        remaining(Weighed {
            total: load(&pipeline.total_weight),
            done: load(&pipeline.done_weight),
            current: load(&pipeline.current_weight),
            done_raw: load(&pipeline.done_raw_bytes),
            raw: load(&pipeline.raw_bytes),
            database: load(&self.0.total_bytes),
        })
    }

    /// Bytes pg_dump has written.
    pub fn raw_bytes(&self) -> u64 {
        self.0.pipeline.raw_bytes.load(Ordering::Relaxed)
    }

    /// The pipeline's counters.
    pub fn pipeline(&self) -> &pipeline::Progress {
        &self.0.pipeline
    }
}

/// Tables' bytes on the server's disk, and bytes of the archive.
struct Weighed {
    total: u64,
    done: u64,
    current: u64,
    done_raw: u64,
    raw: u64,
    database: u64,
}

fn remaining(bytes: Weighed) -> Option<u64> {
    let Weighed { total, done, current, done_raw, raw, database } = bytes;
    // Most tables have no known size if those that have make so little of the database.
    if total == 0 || total < database / 10 {
        return None;
    }
    let judged = done.saturating_mul(100) >= total.saturating_mul(JUDGED_BY_PERCENT);
    let ratio = if judged { done_raw as f64 / done as f64 } else { 1.0 };
    let left = total.saturating_sub(done) as f64 * ratio;
    let of_current = (raw.saturating_sub(done_raw) as f64).min(current as f64 * ratio);
    Some((left - of_current).max(0.0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_judged_by_what_is_done() {
        let at = |done, current, done_raw, raw| {
            remaining(Weighed { total: 1000, done, current, done_raw, raw, database: 2000 })
        };
        assert_eq!(at(0, 0, 0, 0), Some(1000));
        // Half done, and a byte on disk made two of COPY.
        assert_eq!(at(500, 0, 1000, 1000), Some(1000));
        // The table under way counts as far as it has come, and never for more than it is.
        assert_eq!(at(500, 100, 1000, 1050), Some(950));
        assert_eq!(at(500, 100, 1000, 5000), Some(800));
        assert_eq!(at(1000, 0, 3000, 3000), Some(0));
        assert_eq!(remaining(Weighed { total: 10, done: 0, current: 0, done_raw: 0, raw: 0, database: 2000 }), None);
    }
}
