//! How far a job has come: written by whoever works, read by the heartbeat.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
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

/// Shared progress.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    phase: Mutex<Phase>,
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
        tracing::info!(phase = phase.as_str(), "entering");
    }

    /// Sets how many raw bytes are expected.
    pub fn expect(&self, bytes: u64) {
        self.0.total_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Raw bytes expected, if known.
    pub fn total_bytes(&self) -> Option<u64> {
        Some(self.0.total_bytes.load(Ordering::Relaxed)).filter(|total| *total > 0)
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
