//! A data item's bytes as they were before pg_dump compressed them.
//!
//! Stricter than `pg_restore` where it is lenient to its user's loss: bytes after a zlib stream's end make it hang, and
//! what follows a zstd frame's end within a chunk it drops without a word.

use std::io::{self, Read};

use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, InBuffer, Operation, OutBuffer};

use super::{
    error::{ArchiveError, Rule},
    header::Compression,
    reader::ArchiveReader,
};

/// 8 MiB, what zstd's level 19 uses: a frame that asks for more memory is refused.
const ZSTD_WINDOW_LOG: u32 = 23;

enum Decoder {
    None,
    Gzip { inflate: Decompress, ended: bool },
    Zstd { decoder: ZstdDecoder<'static>, in_frame: bool, frames: u64 },
}

/// The current stream of an [`ArchiveReader`], decompressed. An error of kind `InvalidData` carries an
/// [`ArchiveError`].
pub struct ItemReader<'a, R> {
    reader: &'a mut ArchiveReader<R>,
    decoder: Decoder,
}

impl<'a, R: Read> ItemReader<'a, R> {
    pub(super) fn new(reader: &'a mut ArchiveReader<R>) -> Result<Self, ArchiveError> {
        let decoder = match reader.compression() {
            Compression::None => Decoder::None,
            Compression::Gzip { .. } => Decoder::Gzip { inflate: Decompress::new(true), ended: false },
            Compression::Zstd => {
                let decoder = ZstdDecoder::new().and_then(|mut decoder| {
                    decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG))?;
                    Ok(decoder)
                });
                let decoder = decoder.map_err(|source| ArchiveError::Read { offset: reader.offset(), source })?;
                Decoder::Zstd { decoder, in_frame: false, frames: 0 }
            }
            Compression::Lz4 => return Err(reader.malformed(Rule::Lz4)),
        };
        Ok(Self { reader, decoder })
    }

    /// As [`Read::read`], with the error as it is.
    pub fn read_decoded(&mut self, out: &mut [u8]) -> Result<usize, ArchiveError> {
        if out.is_empty() {
            return Ok(0);
        }
        match &mut self.decoder {
            Decoder::None => {
                let payload = self.reader.payload()?;
                let take = payload.len().min(out.len());
                out[..take].copy_from_slice(&payload[..take]);
                self.reader.consume(take);
                Ok(take)
            }
            Decoder::Gzip { inflate, ended } => loop {
                let input = self.reader.payload()?;
                if *ended {
                    if input.is_empty() {
                        return Ok(0);
                    }
                    return Err(self.reader.malformed(Rule::CompressedTrailing));
                }
                let (before_in, before_out) = (inflate.total_in(), inflate.total_out());
                let status = inflate.decompress(input, out, FlushDecompress::None);
                let at_end = input.is_empty();
                let consumed = (inflate.total_in() - before_in) as usize;
                let produced = (inflate.total_out() - before_out) as usize;
                self.reader.consume(consumed);
                match status {
                    Ok(Status::StreamEnd) => *ended = true,
                    Ok(Status::Ok | Status::BufError) => {}
                    Err(_) => return Err(self.reader.malformed(Rule::Compressed)),
                }
                if produced > 0 {
                    return Ok(produced);
                }
                if consumed == 0 && !*ended {
                    let rule = if at_end { Rule::CompressedTruncated } else { Rule::Compressed };
                    return Err(self.reader.malformed(rule));
                }
            },
            Decoder::Zstd { decoder, in_frame, frames } => loop {
                let input = self.reader.payload()?;
                let at_end = input.is_empty();
                if at_end && !*in_frame {
                    // Even an empty item has a frame.
                    if *frames == 0 {
                        return Err(self.reader.malformed(Rule::CompressedTruncated));
                    }
                    return Ok(0);
                }
                let mut input = InBuffer::around(input);
                let mut output = OutBuffer::around(&mut *out);
                let hint = decoder.run(&mut input, &mut output);
                let (consumed, produced) = (input.pos(), output.pos());
                self.reader.consume(consumed);
                match hint {
                    Ok(0) => {
                        *in_frame = false;
                        *frames += 1;
                        if !self.reader.at_chunk_end() {
                            return Err(self.reader.malformed(Rule::FrameInsideChunk));
                        }
                    }
                    Ok(_) => *in_frame = true,
                    Err(_) => return Err(self.reader.malformed(Rule::Compressed)),
                }
                if produced > 0 {
                    return Ok(produced);
                }
                if consumed == 0 && *in_frame {
                    let rule = if at_end { Rule::CompressedTruncated } else { Rule::Compressed };
                    return Err(self.reader.malformed(rule));
                }
            },
        }
    }
}

impl<R: Read> Read for ItemReader<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        Ok(self.read_decoded(out)?)
    }
}
