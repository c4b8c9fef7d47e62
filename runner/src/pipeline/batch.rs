//! What travels between the threads, and the buffers it travels in.
//!
//! There is a fixed number of buffers. One is always in the producer's hands, one (and a spare) in each worker's, the
//! rest wait to be compressed or written. A batch keeps its buffer from the producer to the writer, so the batch at the
//! head of the line never waits for one that a later batch holds.

use std::ops::Range;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use walwarden_verifier::archive::{RowSum, TERMINATOR};

use super::{Codec, Settings};

/// A buffer's room beyond a piece: the bytes held back, framing, and incompressible data's growth.
const SLACK_BYTES: usize = 32 << 10;

/// Bytes of a stream held back until more is seen: the end of table data must not be cut from what precedes it.
pub(super) const HELD_BYTES: usize = TERMINATOR.len();

/// Small items share a batch; this bounds what their bookkeeping takes.
pub(super) const MAX_OPERATIONS: usize = 4096;

/// Part of a batch. Ranges are in the batch's buffer.
pub(super) enum Operation {
    /// Goes out as it is: contents, framing.
    Verbatim(Range<usize>),
    /// Compressed: a stream, or a piece of one.
    Segment(Segment),
}

pub(super) struct Segment {
    pub(super) range: Range<usize>,
    /// It begins its stream.
    pub(super) first: bool,
    /// It ends its stream, of which this is the Adler-32.
    pub(super) last: Option<u32>,
    /// The table it belongs to, and the whole rows to digest.
    pub(super) rows: Option<(usize, Range<usize>)>,
    /// For errors: its entry, and how much of the archive was read when it was cut.
    pub(super) dump_id: i32,
    pub(super) offset: u64,
}

pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) operations: Vec<Operation>,
}

/// A batch's part of the rewritten archive.
pub(super) struct Finished {
    pub(super) bytes: Vec<u8>,
    pub(super) rows: Vec<(usize, RowSum)>,
}

/// A batch to work on, and where its result is awaited.
pub(super) struct Job {
    pub(super) batch: Batch,
    pub(super) reply: Sender<Finished>,
}

pub(super) struct ProducerEnd {
    pub(super) jobs: Sender<Job>,
    /// The same jobs' results, in order.
    pub(super) order: Sender<Receiver<Finished>>,
    pub(super) free: Receiver<Vec<u8>>,
}

pub(super) type WorkerEnd = Receiver<Job>;

pub(super) struct WriterEnd {
    pub(super) order: Receiver<Receiver<Finished>>,
    pub(super) free: Sender<Vec<u8>>,
}

/// How the memory is spent.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    pub(super) threads: usize,
    pub(super) piece_bytes: usize,
    buffers: usize,
}

impl Plan {
    pub(super) fn new(settings: &Settings<'_>) -> Self {
        let piece_bytes = settings.piece_bytes.max(2 * HELD_BYTES);
        let buffer = piece_bytes + SLACK_BYTES;
        let compressor = compressor_bytes(settings.codec);
        // The reader's own buffer and channels; a buffer that is being filled, and one that is being written.
        let fixed = (512 << 10) + 2 * buffer;
        let memory = settings.memory_bytes.saturating_sub(fixed);
        // A thread has a buffer to work on, a spare for its output, and its compressor.
        let threads = settings.threads.get().min(memory / (compressor + 2 * buffer)).max(1);
        let waiting = memory.saturating_sub(threads * (compressor + 2 * buffer)) / buffer;
        Self { threads, piece_bytes, buffers: 2 + threads + waiting }
    }

    pub(super) fn channels(self) -> (ProducerEnd, WorkerEnd, WriterEnd) {
        // The number of buffers bounds what any of these can hold.
        let (jobs, worker_end) = unbounded();
        let (order, ordered) = unbounded();
        let (free, freed) = bounded(self.buffers);
        for _ in 0..self.buffers {
            // Capacity is taken on first use: a small database never touches most of it.
            if free.try_send(Vec::new()).is_err() {
                break;
            }
        }
        (ProducerEnd { jobs, order, free: freed }, worker_end, WriterEnd { order: ordered, free })
    }

    /// An empty buffer of the usual size. Many tiny items grow by their framing; that much is not kept.
    pub(super) fn emptied(self, mut buffer: Vec<u8>) -> Vec<u8> {
        buffer.clear();
        buffer.shrink_to(self.piece_bytes + SLACK_BYTES);
        buffer.reserve(self.piece_bytes + SLACK_BYTES);
        buffer
    }
}

/// A compressor's state, measured and rounded up; zstd's with a window of 4 MiB (`ZSTD_sizeof_CCtx` after a frame of 4 MiB).
fn compressor_bytes(codec: Codec) -> usize {
    match codec {
        Codec::Gzip(_) => 768 << 10,
        Codec::Zstd(level) => match level {
            0..=3 => 1_800 << 10,
            4..=6 => 4 << 20,
            7..=8 => 7 << 20,
            9 => 13 << 20,
            10 => 25 << 20,
            _ => 50 << 20,
        },
    }
}
