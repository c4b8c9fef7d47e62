//! A file that is hashed while something else reads it.
//!
//! One pass over an artifact of any size. What the parser makes of the bytes counts only if they turn out
//! to be the stated ones: after a parser's failure the rest is still read, so that a file that simply is
//! not the stated one is called that.

use std::io::{self, Read};

use sha2::{Digest, Sha256};

use super::Failure;

/// Counts and hashes what passes through, and stops one byte after the stated size.
pub(super) struct Measured<R> {
    input: R,
    hash: Sha256,
    size: u64,
    stated_size: u64,
    failed: Option<String>,
}

impl<R: Read> Measured<R> {
    pub(super) fn new(input: R, stated_size: u64) -> Self {
        Self { input, hash: Sha256::new(), size: 0, stated_size, failed: None }
    }

    /// Reads to the end, then holds the whole to its stated size and digest.
    pub(super) fn check(mut self, place: &str, sha256: &str) -> Result<(), Failure> {
        let mut buffer = vec![0; 64 * 1024];
        while self.failed.is_none() && self.read(&mut buffer).is_ok_and(|count| count > 0) {}
        if let Some(error) = self.failed {
            return Err(Failure::not_checked(format!("the {place} cannot be read: {error}")));
        }
        if self.size != self.stated_size {
            let how = if self.size < self.stated_size { "shorter" } else { "longer" };
            let stated = self.stated_size;
            return Err(Failure::bad(place, format!("is {how} than the manifest's {stated} bytes")));
        }
        if hex::encode(self.hash.finalize()) != sha256 {
            return Err(Failure::bad(place, "its SHA-256 is not the manifest's"));
        }
        Ok(())
    }
}

impl<R: Read> Read for Measured<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // One byte more than stated shows an excess; there is no need to read all of it.
        let room = (self.stated_size.saturating_add(1)).saturating_sub(self.size);
        let length = buffer.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        if length == 0 {
            return Ok(0);
        }
        loop {
            match self.input.read(&mut buffer[..length]) {
                Ok(count) => {
                    self.hash.update(&buffer[..count]);
                    self.size += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failed = Some(error.to_string());
                    return Err(error);
                }
            }
        }
    }
}
