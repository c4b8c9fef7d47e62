//! The artifact in parts: while the pipeline fills one, two are on their way. There are three buffers, two once parts
//! are large; when none is free the pipeline waits, and through it pg_dump.

use std::{io, mem, sync::Arc};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use walwarden_contract::{failure::FailureClass, parts::part_bytes, worker::PartRequest};
use walwarden_verifier::parts::Part;

use super::{
    Bucket, Digester,
    put::{Content, Stored, Target},
};
use crate::{
    dump::Sink,
    fault::{Ended, Fault},
};

/// Parts uploaded at once.
const IN_FLIGHT: usize = 2;

/// Above this size the third buffer is given up: memory counts for more than filling while two are on their way.
const LARGE_PART_BYTES: usize = 16 << 20;

/// A full part on its way to the uploader.
struct Filled {
    number: u32,
    bytes: Vec<u8>,
}

/// The pipeline's end: cuts the archive into parts.
pub struct PartSink {
    cap: u32,
    number: u32,
    buffer: Vec<u8>,
    room: usize,
    /// The buffer is gone; another must be waited for.
    sent: bool,
    /// All three buffers are in use.
    third: bool,
    free: Receiver<Vec<u8>>,
    full: mpsc::Sender<Filled>,
}

/// The bucket's end.
pub struct Uploader {
    full: mpsc::Receiver<Filled>,
    home: Sender<Vec<u8>>,
}

/// Both ends. `cap` is how many parts the provider takes.
pub fn channel(cap: u32) -> (PartSink, Uploader) {
    let (home, free) = bounded(IN_FLIGHT + 1);
    for _ in 0..IN_FLIGHT {
        // Memory is taken when a buffer is first filled. One more is in the sink's hands.
        let _ = home.try_send(Vec::new());
    }
    let (sender, full) = mpsc::channel(IN_FLIGHT + 1);
    let (number, room) = (1, size(1, cap));
    let sink = PartSink { cap, number, buffer: Vec::new(), room, sent: false, third: true, free, full: sender };
    (sink, Uploader { full, home })
}

fn size(number: u32, cap: u32) -> usize {
    usize::try_from(part_bytes(number, cap)).unwrap_or(usize::MAX)
}

impl PartSink {
    fn send(&mut self) -> io::Result<()> {
        if self.number > self.cap {
            let what = "the artifact needs more parts than the bucket's provider takes";
            return Err(io::Error::other(Fault::new(FailureClass::DumpTooLarge, what)));
        }
        let filled = Filled { number: self.number, bytes: mem::take(&mut self.buffer) };
        // The uploader has a better reason than this.
        self.full.blocking_send(filled).map_err(|_| gone())?;
        self.number += 1;
        self.room = size(self.number, self.cap);
        self.sent = true;
        Ok(())
    }

    fn next_buffer(&mut self) -> io::Result<Vec<u8>> {
        if self.third && self.room > LARGE_PART_BYTES {
            self.third = false;
            drop(self.free.recv().map_err(|_| gone())?);
        }
        let mut buffer = self.free.recv().map_err(|_| gone())?;
        buffer.clear();
        Ok(buffer)
    }
}

fn gone() -> io::Error {
    io::Error::other("the upload ended early")
}

impl Sink for PartSink {
    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.sent {
                self.buffer = self.next_buffer()?;
                self.sent = false;
            }
            let missing = self.room - self.buffer.len();
            let (now, later) = bytes.split_at(bytes.len().min(missing));
            if self.buffer.is_empty() {
                self.buffer.reserve_exact(self.room);
            }
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == self.room {
                self.send()?;
            }
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        if self.buffer.is_empty() { Ok(()) } else { self.send() }
    }
}

impl Uploader {
    /// Uploads parts until the sink is done; the parts list's parts, in order. Dropping the future ends the uploads, and
    /// the sink fails.
    pub async fn run(mut self, bucket: &Bucket) -> Result<Vec<Part>, Ended> {
        let slots = Arc::new(Semaphore::new(IN_FLIGHT));
        let mut uploads: JoinSet<Result<Part, Ended>> = JoinSet::new();
        let mut parts = Vec::new();
        loop {
            tokio::select! {
                Some(done) = uploads.join_next() => parts.push(joined(done)?),
                filled = self.full.recv() => {
                    let Some(filled) = filled else { break };
                    let (bucket, home, slots) = (bucket.clone(), self.home.clone(), slots.clone());
                    uploads.spawn(async move {
                        // Digesting goes before the slot: it needs a core, not the network.
                        let (request, bytes) = digest(filled, home).await?;
                        let _slot = slots.acquire().await;
                        upload(&bucket, request, bytes).await
                    });
                }
            }
        }
        while let Some(done) = uploads.join_next().await {
            parts.push(joined(done)?);
        }
        parts.sort_by_key(|part| part.number);
        Ok(parts)
    }
}

fn joined(done: Result<Result<Part, Ended>, tokio::task::JoinError>) -> Result<Part, Ended> {
    done.unwrap_or_else(|e| Err(Fault::internal("an upload's task died", e).into()))
}

async fn digest(filled: Filled, home: Sender<Vec<u8>>) -> Result<(PartRequest, Bytes), Ended> {
    let Filled { number, bytes } = filled;
    let digested = tokio::task::spawn_blocking(move || {
        let mut digester = Digester::default();
        digester.update(&bytes);
        (digester.finish(), bytes)
    });
    let (digest, bytes) = digested.await.map_err(|e| Fault::internal("digesting a part", e))?;
    let bytes = Bytes::from_owner(Lent { bytes, home });
    Ok((PartRequest { number, bytes: digest }, bytes))
}

async fn upload(bucket: &Bucket, request: PartRequest, bytes: Bytes) -> Result<Part, Ended> {
    let part =
        Part { number: request.number, size_bytes: request.bytes.size_bytes, sha256: request.bytes.sha256.clone() };
    match bucket.put(&Target::Part(request), Content::Memory(bytes)).await? {
        Stored::Taken => Ok(part),
        Stored::AlreadyThere(_) => {
            let what = format!("the bucket refused part {} with a condition that was not set", part.number);
            Err(Fault::new(FailureClass::StorageRefused, what).into())
        }
    }
}

/// A buffer that goes home when the last reader is done with it: an HTTP connection may hold on to it after its request
/// was given up.
struct Lent {
    bytes: Vec<u8>,
    home: Sender<Vec<u8>>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // The dump may be over.
        let _ = self.home.try_send(mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use walwarden_contract::parts::FIRST_PART_BYTES;

    use super::*;

    #[test]
    fn the_archive_is_cut_by_the_schedule_and_waits_for_buffers() {
        let (mut sink, mut uploader) = channel(20);
        let writer = std::thread::spawn(move || {
            for chunk in 0..60u8 {
                sink.write(&vec![chunk; 1 << 20])?;
            }
            sink.finish()
        });
        let mut sizes = Vec::new();
        let mut held = Vec::new();
        while let Some(filled) = uploader.full.blocking_recv() {
            assert_eq!(filled.number as usize, sizes.len() + 1);
            assert_eq!(filled.bytes[0] as usize, sizes.iter().sum::<usize>() >> 20);
            sizes.push(filled.bytes.len());
            held.push(Lent { bytes: filled.bytes, home: uploader.home.clone() });
            if held.len() == if sizes.len() > 4 { 2 } else { 3 } {
                // All buffers are out: nothing can come before one is back.
                std::thread::sleep(std::time::Duration::from_millis(20));
                assert!(uploader.full.try_recv().is_err());
                held.clear();
            }
        }
        writer.join().unwrap().unwrap();
        let first = FIRST_PART_BYTES as usize;
        assert_eq!(sizes, [first, first, 2 * first, 2 * first, (60 << 20) - 6 * first]);
    }

    #[test]
    fn a_lost_uploader_ends_the_dump() {
        let (mut sink, uploader) = channel(10_000);
        drop(uploader);
        let error = (0..64).find_map(|_| sink.write(&vec![0; 1 << 20]).err()).unwrap();
        assert!(error.to_string().contains("ended early"));
    }

    #[test]
    fn more_parts_than_the_provider_takes_are_too_large() {
        let (mut sink, uploader) = channel(1);
        let home = uploader.home.clone();
        sink.write(&vec![0; FIRST_PART_BYTES as usize]).unwrap();
        home.try_send(Vec::new()).ok();
        sink.write(b"x").unwrap();
        let error = sink.finish().unwrap_err();
        assert_eq!(error.downcast::<Fault>().unwrap().class, FailureClass::DumpTooLarge);
    }
}
