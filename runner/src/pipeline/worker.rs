//! Digests a batch's rows and compresses it.

use walwarden_verifier::archive::{ArchiveError, Place, RowHasher, Rule, TextFault};

use super::{
    Failure, PipelineError, Settings,
    batch::{Batch, Finished, Job, Operation, Plan, Segment, WorkerEnd},
    codec::Compressor,
};

pub(super) fn work(jobs: WorkerEnd, settings: &Settings<'_>, plan: Plan, failure: &Failure<'_>) {
    let _guard = failure.guard();
    let mut compressor = match Compressor::new(settings.codec) {
        Ok(compressor) => compressor,
        Err(error) => {
            failure.set(PipelineError::Compress(error));
            return;
        }
    };
    let mut spare = Vec::new();
    for Job { batch, reply } in jobs {
        // The writer sees the dropped reply and stops.
        if failure.check().is_err() {
            return;
        }
        match finish(&batch, &mut compressor, settings, plan.emptied(spare)) {
            Ok(finished) => {
                // The buffer that came in serves the next batch's output.
                spare = batch.bytes;
                // Nobody waits any more if another thread failed.
                let _ = reply.send(finished);
            }
            Err(error) => {
                failure.set(error);
                return;
            }
        }
    }
}

fn finish(
    batch: &Batch,
    compressor: &mut Compressor,
    settings: &Settings<'_>,
    mut out: Vec<u8>,
) -> Result<Finished, PipelineError> {
    let mut rows = Vec::new();
    for operation in &batch.operations {
        match operation {
            Operation::Verbatim(range) => out.extend_from_slice(&batch.bytes[range.clone()]),
            Operation::Segment(segment) => {
                if let Some((table, range)) = &segment.rows {
                    let mut hasher = RowHasher::new(&settings.row_key);
                    hasher.write(&batch.bytes[range.clone()]);
                    if hasher.terminators() > 0 {
                        return Err(early_terminator(segment));
                    }
                    rows.push((*table, hasher.finish()));
                }
                let piece = &batch.bytes[segment.range.clone()];
                compressor.piece(piece, segment.first, segment.last, &mut out).map_err(PipelineError::Compress)?;
            }
        }
    }
    Ok(Finished { bytes: out, rows })
}

fn early_terminator(segment: &Segment) -> PipelineError {
    let rule = Rule::CopyText(TextFault::EarlyTerminator.as_str());
    ArchiveError::Malformed { place: Place::Item(segment.dump_id), offset: segment.offset, rule }.into()
}
