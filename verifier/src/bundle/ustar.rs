//! The least of tar that a bundle needs: regular files under short names, one way to write each header.
//!
//! The reader rebuilds every header from its name and size and demands the same 512 bytes, so that no
//! field is left in which two tools could read different things (links, long names, odd numbers, sparse
//! files). Nothing is ever written to a disk.

use std::{
    fmt,
    io::{self, Read},
};

const BLOCK: usize = 512;
/// A size field holds eleven octal digits.
const MAX_SIZE: u64 = 0o77_777_777_777;
const MAX_NAME: usize = 100;

/// Which rule of the archive does not hold.
#[derive(Debug)]
pub(super) enum TarError {
    /// The bytes under the archive could not be had.
    Io(io::Error),
    /// The rule.
    Rule(&'static str),
}

impl fmt::Display for TarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Rule(rule) => f.write_str(rule),
        }
    }
}

/// The only header that a regular file of that name and size can have here (POSIX.1-1988 ustar).
fn header(name: &str, size: u64) -> Option<[u8; BLOCK]> {
    if name.is_empty() || name.len() > MAX_NAME || size > MAX_SIZE {
        return None;
    }
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    put(329, b"0000000\0");
    put(337, b"0000000\0");
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Some(block)
}

fn padding(size: u64) -> usize {
    // The remainder is below 512.
    (BLOCK - (size % BLOCK as u64) as usize) % BLOCK
}

/// Appends one member. `None` where name or size have no place in a header.
pub(super) fn append(out: &mut Vec<u8>, name: &str, content: &[u8]) -> Option<()> {
    let size = content.len() as u64;
    out.extend_from_slice(&header(name, size)?);
    out.extend_from_slice(content);
    out.resize(out.len() + padding(size), 0);
    Some(())
}

/// Appends the end: two blocks of zeros and nothing else.
pub(super) fn finish(out: &mut Vec<u8>) {
    out.resize(out.len() + 2 * BLOCK, 0);
}

/// Reads members in order and stops at `remaining` bytes of archive.
pub(super) struct Reader<R> {
    input: R,
    remaining: u64,
}

impl<R: Read> Reader<R> {
    /// A reader that takes at most `limit` bytes of archive from `input`.
    pub(super) fn new(input: R, limit: u64) -> Self {
        Self { input, remaining: limit }
    }

    /// Name and size of the next member, or `None` at the end, after which the input has ended too.
    pub(super) fn next(&mut self) -> Result<Option<(String, u64)>, TarError> {
        let block = self.block()?;
        if block == [0; BLOCK] {
            if self.block()? != [0; BLOCK] {
                return Err(TarError::Rule("the archive does not end with two blocks of zeros"));
            }
            let mut more = [0];
            return match read_full(&mut self.input, &mut more) {
                Ok(0) => Ok(None),
                Ok(_) => Err(TarError::Rule("bytes follow the end of the archive")),
                Err(error) => Err(TarError::Io(error)),
            };
        }
        let name = block[..MAX_NAME].split(|&byte| byte == 0).next().unwrap_or_default();
        let name = std::str::from_utf8(name).map_err(|_| TarError::Rule("a member's name is not UTF-8"))?;
        let digits = std::str::from_utf8(&block[124..135]).unwrap_or_default();
        let size = u64::from_str_radix(digits, 8).map_err(|_| TarError::Rule("a member's size is not octal"))?;
        if header(name, size) != Some(block) {
            return Err(TarError::Rule("a member's header is not that of a plain file of its name and size"));
        }
        Ok(Some((name.to_owned(), size)))
    }

    /// The content of the member just announced.
    pub(super) fn content(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        let padded = size + padding(size) as u64;
        self.take(padded)?;
        // Grows with what is read, whatever the header claims.
        let mut content = Vec::new();
        (&mut self.input).take(padded).read_to_end(&mut content).map_err(TarError::Io)?;
        if content.len() as u64 != padded {
            return Err(TarError::Rule("the archive ends within a member"));
        }
        let padding = content.split_off(content.len() - padding(size));
        if padding.iter().any(|&byte| byte != 0) {
            return Err(TarError::Rule("a member's padding is not zeros"));
        }
        Ok(content)
    }

    fn block(&mut self) -> Result<[u8; BLOCK], TarError> {
        self.take(BLOCK as u64)?;
        let mut block = [0; BLOCK];
        if read_full(&mut self.input, &mut block).map_err(TarError::Io)? != BLOCK {
            return Err(TarError::Rule("the archive ends too early"));
        }
        Ok(block)
    }

    fn take(&mut self, count: u64) -> Result<(), TarError> {
        self.remaining =
            self.remaining.checked_sub(count).ok_or(TarError::Rule("larger than the limit once decompressed"))?;
        Ok(())
    }
}

fn read_full(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Vec<u8> {
        let mut out = Vec::new();
        append(&mut out, "a", b"").unwrap();
        append(&mut out, "dir/b", &[7; 513]).unwrap();
        finish(&mut out);
        out
    }

    fn read(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, TarError> {
        let mut reader = Reader::new(bytes, 1 << 20);
        let mut members = Vec::new();
        while let Some((name, size)) = reader.next()? {
            members.push((name, reader.content(size)?));
        }
        Ok(members)
    }

    #[test]
    fn round_trip() {
        assert_eq!(read(&archive()).unwrap(), [("a".into(), vec![]), ("dir/b".into(), vec![7; 513])]);
    }

    #[test]
    fn every_byte_of_the_frame_counts() {
        let good = archive();
        for at in (0..1024).chain(1024 + 513..good.len()) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            // A name may be another name; the bundle's reader has a list of them. Its checksum differs, though.
            assert!(read(&bad).is_err(), "byte {at}");
        }
        for end in 0..good.len() {
            assert!(read(&good[..end]).is_err(), "cut at {end}");
        }
        assert!(read(&[good.as_slice(), &[0]].concat()).is_err());
    }

    #[test]
    fn a_limit_is_a_limit() {
        let bytes = archive();
        let mut reader = Reader::new(bytes.as_slice(), 1024);
        assert!(reader.next().unwrap().is_some());
        assert!(reader.next().unwrap().is_some());
        assert!(reader.content(513).is_err());
    }
}
