//! The row digest: a table's rows as one number that does not depend on their order.
//!
//! It is the sum modulo 2²⁵⁶ of SHA-256(*K* ‖ line), the digests read as big-endian numbers, a line being a row in COPY
//! text form without its LF. A heap does not keep load order, so a restored table can only be compared as a set. It
//! finds errors; it does not bind someone who knows *K* and can choose the rows.
//!
//! *K* is exactly one SHA-256 block, so it is compressed once and each row starts from that state: this loop sees every
//! row of every backup, which is why it pads by hand instead of going through a general hasher.

use std::io::BufRead;

use sha2::{Digest, Sha256, block_api::compress256};

/// Length of the row key *K*: one SHA-256 block.
pub const ROW_KEY_BYTES: usize = 64;

/// The row key *K*.
pub type RowKey = [u8; ROW_KEY_BYTES];

/// What closes table data in an archive; no part of any row.
pub const TERMINATOR: &[u8; 5] = b"\\.\n\n\n";

/// FIPS 180-4, section 5.3.3.
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// A number of rows and the sum of their digests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RowSum {
    /// Rows.
    pub rows: u64,
    /// The sum's limbs, most significant first.
    limbs: [u64; 4],
}

impl RowSum {
    /// Adds another set of rows.
    pub fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.add_limbs(other.limbs);
    }

    /// The row digest, big-endian.
    pub fn digest(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (chunk, limb) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(self.limbs) {
            *chunk = limb.to_be_bytes();
        }
        bytes
    }

    fn add_limbs(&mut self, limbs: [u64; 4]) {
        let mut carry = false;
        for (mine, theirs) in self.limbs.iter_mut().zip(limbs).rev() {
            (*mine, carry) = mine.carrying_add(theirs, carry);
        }
    }

    fn add_state(&mut self, state: [u32; 8]) {
        let pair = |high: usize| u64::from(state[high]) << 32 | u64::from(state[high + 1]);
        self.rows += 1;
        self.add_limbs([pair(0), pair(2), pair(4), pair(6)]);
    }
}

/// A row whose end has not come yet.
#[derive(Clone)]
struct OpenRow {
    hash: Sha256,
    length: u64,
    head: [u8; 2],
}

/// Sums rows.
#[derive(Clone)]
pub struct RowHasher {
    key: RowKey,
    keyed: [u32; 8],
    sum: RowSum,
    open: Option<OpenRow>,
    terminators: u64,
}

impl RowHasher {
    /// A sum of no rows under `key`.
    pub fn new(key: &RowKey) -> Self {
        let mut keyed = INITIAL;
        compress256(&mut keyed, &[*key]);
        Self { key: *key, keyed, sum: RowSum::default(), open: None, terminators: 0 }
    }

    /// Adds a row, given without its LF.
    pub fn row(&mut self, line: &[u8]) {
        if line == b"\\." {
            self.terminators += 1;
        }
        let mut state = self.keyed;
        let (blocks, tail) = line.as_chunks::<64>();
        if !blocks.is_empty() {
            compress256(&mut state, blocks);
        }
        let mut last = [0; 64];
        last[..tail.len()].copy_from_slice(tail);
        last[tail.len()] = 0x80;
        if tail.len() >= 56 {
            compress256(&mut state, &[last]);
            last = [0; 64];
        }
        let bits = (ROW_KEY_BYTES as u64 + line.len() as u64) * 8;
        last[56..].copy_from_slice(&bits.to_be_bytes());
        compress256(&mut state, &[last]);
        self.sum.add_state(state);
    }

    /// Adds text: rows each closed by LF. A row may continue in the next call.
    pub fn write(&mut self, mut text: &[u8]) {
        if self.open.is_some() {
            let line = next_line(&mut text);
            self.extend_open(line);
        }
        while !text.is_empty() {
            let line = next_line(&mut text);
            match line.split_last() {
                Some((b'\n', line)) => self.row(line),
                _ => {
                    let hash = Sha256::new_with_prefix(self.key);
                    self.open = Some(OpenRow { hash, length: 0, head: [0; 2] });
                    self.extend_open(line);
                }
            }
        }
    }

    fn extend_open(&mut self, piece: &[u8]) {
        let Some(open) = &mut self.open else { return };
        let (piece, ended) = match piece.split_last() {
            Some((b'\n', piece)) => (piece, true),
            _ => (piece, false),
        };
        for (byte, at) in piece.iter().zip(open.length..2) {
            open.head[at as usize] = *byte;
        }
        open.length += piece.len() as u64;
        open.hash.update(piece);
        if ended && let Some(open) = self.open.take() {
            if open.length == 2 && open.head == *b"\\." {
                self.terminators += 1;
            }
            let digest: [u8; 32] = open.hash.finalize().into();
            let mut limbs = [0; 4];
            for (limb, bytes) in limbs.iter_mut().zip(digest.as_chunks::<8>().0) {
                *limb = u64::from_be_bytes(*bytes);
            }
            self.sum.rows += 1;
            self.sum.add_limbs(limbs);
        }
    }

    /// A row is under way.
    pub fn in_row(&self) -> bool {
        self.open.is_some()
    }

    /// Lines `\.` among the rows: in COPY text these end the data, so they cannot be rows.
    pub fn terminators(&self) -> u64 {
        self.terminators
    }

    /// The sum of the rows that were closed.
    pub fn finish(self) -> RowSum {
        self.sum
    }
}

/// Splits off the text up to and with the first LF, or all of it. `skip_until` is the standard library's own fast
/// search, which keeps a dependency out of the verifier.
fn next_line<'a>(text: &mut &'a [u8]) -> &'a [u8] {
    let whole = *text;
    // Reading a slice cannot fail.
    let length = text.skip_until(b'\n').unwrap_or(whole.len());
    &whole[..length]
}

/// What table data may not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextFault {
    /// It does not end with the terminator on a line of its own.
    NotTerminated,
    /// A terminator before the end.
    EarlyTerminator,
}

impl TextFault {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotTerminated => "it does not end with \\. and two empty lines",
            Self::EarlyTerminator => "a line \\. before the end",
        }
    }
}

/// Table data as an archive holds it: rows, then the terminator. Takes it in pieces of any size.
pub struct TableText {
    rows: RowHasher,
    /// The last bytes so far, which may be the terminator.
    held: Vec<u8>,
    bytes: u64,
}

impl TableText {
    /// No text yet.
    pub fn new(key: &RowKey) -> Self {
        Self { rows: RowHasher::new(key), held: Vec::with_capacity(2 * TERMINATOR.len()), bytes: 0 }
    }

    /// Takes the next piece.
    pub fn write(&mut self, text: &[u8]) {
        self.bytes += text.len() as u64;
        let keep_from = text.len().saturating_sub(TERMINATOR.len());
        let (rows, tail) = text.split_at(keep_from);
        // Of the held bytes only as many stay as, with `tail`, make a terminator.
        let release = (self.held.len() + tail.len()).saturating_sub(TERMINATOR.len());
        self.rows.write(&self.held[..release]);
        self.held.drain(..release);
        if !rows.is_empty() {
            self.rows.write(rows);
        }
        self.held.extend_from_slice(tail);
    }

    /// Bytes taken, the terminator included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The rows.
    pub fn finish(self) -> Result<RowSum, TextFault> {
        if self.held != TERMINATOR || self.rows.in_row() {
            return Err(TextFault::NotTerminated);
        }
        if self.rows.terminators() > 0 {
            return Err(TextFault::EarlyTerminator);
        }
        Ok(self.rows.finish())
    }
}
