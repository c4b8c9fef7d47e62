//! Server versions.

use std::ops::RangeInclusive;

/// Majors that can be dumped.
const SUPPORTED: RangeInclusive<u32> = 14..=18;

/// A server's version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerVersion {
    /// `server_version`, as the server calls itself.
    pub text: String,
    /// `server_version_num`, such as 150018.
    pub number: u32,
}

impl ServerVersion {
    /// The major.
    pub fn major(&self) -> u32 {
        self.number / 10_000
    }

    /// Whether it can be dumped at all.
    pub fn is_supported(&self) -> bool {
        SUPPORTED.contains(&self.major())
    }
}
