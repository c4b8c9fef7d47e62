//! Joins the workers' results in the archive's order, hashes the whole and passes it on.

use std::{io, sync::atomic::Ordering};

use sha2::{Digest, Sha256};
use walwarden_verifier::archive::RowSum;

use super::{Failure, PipelineError, Settings, Stopped, batch::WriterEnd};

pub(super) struct Written {
    pub(super) sha256: [u8; 32],
    pub(super) size_bytes: u64,
    /// Rows the workers saw whole, by table.
    pub(super) row_sums: Vec<RowSum>,
}

pub(super) fn write(
    end: WriterEnd,
    settings: &Settings<'_>,
    mut sink: impl FnMut(&[u8]) -> io::Result<()>,
    failure: &Failure<'_>,
) -> Result<Written, Stopped> {
    let _guard = failure.guard();
    let mut hash = Sha256::new();
    let mut size_bytes = 0;
    let mut row_sums: Vec<RowSum> = Vec::new();
    for result in end.order {
        // A worker drops its reply only when it, or somebody else, failed.
        let finished = result.recv().map_err(|_| failure.set(PipelineError::Died))?;
        failure.check()?;
        hash.update(&finished.bytes);
        sink(&finished.bytes).map_err(|error| failure.set(PipelineError::Sink(error)))?;
        size_bytes += finished.bytes.len() as u64;
        settings.progress.output_bytes.store(size_bytes, Ordering::Relaxed);
        for (table, rows) in &finished.rows {
            if row_sums.len() <= *table {
                row_sums.resize(table + 1, RowSum::default());
            }
            row_sums[*table].add(rows);
        }
        // The producer may have finished.
        let _ = end.free.send(finished.bytes);
    }
    // The producer closes the line when it is done, and also when it fails.
    failure.check()?;
    Ok(Written { sha256: hash.finalize().into(), size_bytes, row_sums })
}
