//! Compresses pieces of a stream so that, one after the other, they are what pg_restore takes for one stream.
//!
//! gzip: one zlib header, then each piece as raw deflate ended by a sync flush, the last by a final block and the
//! stream's Adler-32. State is fresh for each piece, so that the output depends on the input alone. zstd: a checksummed
//! frame per piece, in chunks of its own, because pg_restore drops what follows a frame's end within a chunk. A frame
//! begins without history; a window as long as the piece, twice zstd's own at level 3, makes up for that in size.

use std::io::{self, Cursor};

use flate2::{Compress, Compression, FlushCompress, Status};
use walwarden_verifier::archive::put_int;
use zstd::{bulk::Compressor as ZstdCompressor, zstd_safe::CParameter, zstd_safe::compress_bound};

use super::Codec;

const CHUNK_BYTES: usize = 256 << 10;

const ZSTD_WINDOW_LOG: u32 = 22;

/// What a zstd frame holds by default: as much as its window.
pub(super) const ZSTD_PIECE_BYTES: usize = 1 << ZSTD_WINDOW_LOG;

/// Bytes that a chunk's length takes.
const CHUNK_HEAD_BYTES: usize = 5;

pub(super) enum Compressor {
    Gzip { level: u8, chunk: Vec<u8> },
    Zstd(Box<ZstdCompressor<'static>>),
}

impl Compressor {
    pub(super) fn new(codec: Codec) -> io::Result<Self> {
        Ok(match codec {
            Codec::Gzip(level) => Self::Gzip { level, chunk: Vec::with_capacity(CHUNK_BYTES) },
            Codec::Zstd(level) => {
                let mut compressor = ZstdCompressor::new(level.into())?;
                compressor.set_parameter(CParameter::ChecksumFlag(true))?;
                compressor.set_parameter(CParameter::WindowLog(ZSTD_WINDOW_LOG))?;
                Self::Zstd(Box::new(compressor))
            }
        })
    }

    /// Appends a piece to `out`, compressed and in chunks. `last` is the stream's Adler-32 if this ends it.
    pub(super) fn piece(&mut self, piece: &[u8], first: bool, last: Option<u32>, out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Gzip { level, chunk } => {
                chunk.clear();
                if first {
                    chunk.extend_from_slice(&zlib_header(*level));
                }
                deflate(piece, *level, last.is_some(), chunk, out)?;
                if let Some(adler) = last {
                    if chunk.len() + 4 > CHUNK_BYTES {
                        put_chunk(out, chunk);
                        chunk.clear();
                    }
                    chunk.extend_from_slice(&adler.to_be_bytes());
                }
                put_chunk(out, chunk);
            }
            Self::Zstd(compressor) => {
                let start = out.len();
                let bound = compress_bound(piece.len());
                out.reserve(bound + bound.div_ceil(CHUNK_BYTES) * CHUNK_HEAD_BYTES);
                let mut behind = Cursor::new(&mut *out);
                behind.set_position(start as u64);
                compressor.compress_to_buffer(piece, &mut behind)?;
                into_chunks(out, start);
            }
        }
        Ok(())
    }
}

/// RFC 1950, section 2.2: deflate with a 32 KiB window, and a hint at the level.
fn zlib_header(level: u8) -> [u8; 2] {
    match level {
        0..=1 => [0x78, 0x01],
        2..=5 => [0x78, 0x5e],
        6 => [0x78, 0x9c],
        _ => [0x78, 0xda],
    }
}

fn deflate(piece: &[u8], level: u8, last: bool, chunk: &mut Vec<u8>, out: &mut Vec<u8>) -> io::Result<()> {
    let mut deflate = Compress::new(Compression::new(level.into()), false);
    let flush = if last { FlushCompress::Finish } else { FlushCompress::Sync };
    loop {
        let consumed = deflate.total_in() as usize;
        let status = deflate.compress_vec(&piece[consumed..], chunk, flush).map_err(io::Error::other)?;
        // Room that is left means that nothing is pending.
        let room_left = chunk.len() < chunk.capacity();
        match status {
            Status::StreamEnd => return Ok(()),
            Status::Ok | Status::BufError if room_left => {
                if last || deflate.total_in() as usize != piece.len() {
                    return Err(io::Error::other("deflate stopped early"));
                }
                return Ok(());
            }
            Status::Ok | Status::BufError => {
                put_chunk(out, chunk);
                chunk.clear();
            }
        }
    }
}

/// Appends a chunk; an empty one would end the item.
fn put_chunk(out: &mut Vec<u8>, chunk: &[u8]) {
    if !chunk.is_empty() {
        // At most a few bytes over `CHUNK_BYTES`.
        put_int(out, chunk.len() as i32);
        out.extend_from_slice(chunk);
    }
}

/// Makes chunks of what lies behind `start`, in place: the last is moved first.
fn into_chunks(out: &mut Vec<u8>, start: usize) {
    let length = out.len() - start;
    let count = length.div_ceil(CHUNK_BYTES);
    out.resize(start + length + count * CHUNK_HEAD_BYTES, 0);
    for chunk in (0..count).rev() {
        let (from, to) = (chunk * CHUNK_BYTES, length.min((chunk + 1) * CHUNK_BYTES));
        let content = start + from + (chunk + 1) * CHUNK_HEAD_BYTES;
        out.copy_within(start + from..start + to, content);
        let mut head = Vec::with_capacity(CHUNK_HEAD_BYTES);
        put_int(&mut head, (to - from) as i32);
        out[content - CHUNK_HEAD_BYTES..content].copy_from_slice(&head);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_hold_what_was_there_in_order() {
        for length in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 7] {
            let content: Vec<u8> = (0..length).map(|at| (at * 31 / 7) as u8).collect();
            let mut expected = b"before".to_vec();
            content.chunks(CHUNK_BYTES).for_each(|chunk| put_chunk(&mut expected, chunk));
            let mut out = [&b"before"[..], &content].concat();
            into_chunks(&mut out, 6);
            assert!(out == expected, "{length}");
        }
    }
}
