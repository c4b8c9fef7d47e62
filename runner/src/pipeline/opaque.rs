//! An archive of a version nobody here knows: passed on as pg_dump wrote it. What is known of it afterwards is its
//! digest, and that it began like an archive; that it is whole is pg_dump's word alone.

use std::{
    io::{self, ErrorKind, Read},
    sync::atomic::{AtomicBool, Ordering},
};

use sha2::{Digest, Sha256};
use walwarden_verifier::archive::{ArchiveError, ContentsDigest, Place, Rule};

use super::{Outcome, PipelineError, Progress};

/// What every custom-format archive begins with, since there are any.
const MAGIC: &[u8] = b"PGDMP";
const BUFFER_BYTES: usize = 1 << 20;

/// Passes `input` on to `sink`. Blocks until it is done; `cancel` is looked at between reads.
pub fn pass_on<R, S>(
    mut input: R,
    progress: &Progress,
    cancel: &AtomicBool,
    mut sink: S,
) -> Result<Outcome, PipelineError>
where
    R: Read,
    S: FnMut(&[u8]) -> io::Result<()>,
{
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut hash = Sha256::new();
    let mut size_bytes = 0;
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(PipelineError::Cancelled);
        }
        let mut filled = 0;
        while filled < buffer.len() {
            match input.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => {
                    filled += count;
                    progress.raw_bytes.fetch_add(count as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(PipelineError::Read(error)),
            }
        }
        let bytes = &buffer[..filled];
        if size_bytes == 0 && !bytes.starts_with(MAGIC) {
            // As from any archive: one that was cut short is pg_dump's to explain.
            let rule = if MAGIC.starts_with(bytes) { Rule::Truncated } else { Rule::Magic };
            return Err(ArchiveError::Malformed { place: Place::Header, offset: 0, rule }.into());
        }
        if filled == 0 {
            break;
        }
        hash.update(bytes);
        sink(bytes).map_err(PipelineError::Sink)?;
        size_bytes += filled as u64;
        progress.output_bytes.store(size_bytes, Ordering::Relaxed);
    }
    Ok(Outcome {
        sha256: hash.finalize().into(),
        size_bytes,
        raw_bytes: size_bytes,
        header: None,
        contents_digest: ContentsDigest::default().finish(),
        entries: Vec::new(),
        tables: Vec::new(),
        large_objects: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_archive_is_not_passed_on() {
        let (progress, cancel) = (Progress::default(), AtomicBool::new(false));
        let pass = |bytes: &[u8]| {
            let mut out = Vec::new();
            let outcome = pass_on(bytes, &progress, &cancel, |bytes| {
                out.extend_from_slice(bytes);
                Ok(())
            });
            outcome.map(|outcome| (outcome, out))
        };
        for bad in [&b""[..], b"PGDM", b"psql: error"] {
            assert!(matches!(pass(bad), Err(PipelineError::Archive(_))), "{bad:?}");
        }
        let mut archive = b"PGDMP".to_vec();
        archive.resize(BUFFER_BYTES * 2 + 7, 1);
        let (outcome, out) = pass(&archive).unwrap();
        assert_eq!((outcome.size_bytes, out == archive), (archive.len() as u64, true));
        assert_eq!(outcome.sha256, <[u8; 32]>::from(Sha256::digest(&archive)));
        assert_eq!(outcome.contents_digest, <[u8; 32]>::from(Sha256::digest([])));
    }
}
