//! Compresses pieces of a stream so that, one after the other, they are what pg_restore takes for one stream.
//!
//! gzip: one zlib header, then each piece as raw deflate ended by a sync flush, the last by a final block and the
//! stream's Adler-32. State is fresh for each piece, so that the output depends on the input alone. zstd: a checksummed
//! frame per piece, in chunks of its own, because pg_restore drops what follows a frame's end within a chunk.

use std::io;

use flate2::{Compress, Compression, FlushCompress, Status};
use walwarden_verifier::archive::put_int;
use zstd::{bulk::Compressor as ZstdCompressor, zstd_safe::CParameter, zstd_safe::compress_bound};

use super::Codec;

const CHUNK_BYTES: usize = 256 << 10;

pub(super) enum Compressor {
    Gzip { level: u8, chunk: Vec<u8> },
    Zstd { compressor: Box<ZstdCompressor<'static>>, frame: Vec<u8> },
}

impl Compressor {
    pub(super) fn new(codec: Codec) -> io::Result<Self> {
        Ok(match codec {
            Codec::Gzip(level) => Self::Gzip { level, chunk: Vec::with_capacity(CHUNK_BYTES) },
            Codec::Zstd(level) => {
                let mut compressor = ZstdCompressor::new(level.into())?;
                compressor.set_parameter(CParameter::ChecksumFlag(true))?;
                Self::Zstd { compressor: Box::new(compressor), frame: Vec::new() }
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
            Self::Zstd { compressor, frame } => {
                frame.clear();
                frame.reserve(compress_bound(piece.len()));
                compressor.compress_to_buffer(piece, frame)?;
                for chunk in frame.chunks(CHUNK_BYTES) {
                    put_chunk(out, chunk);
                }
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
