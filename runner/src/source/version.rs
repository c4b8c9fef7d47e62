//! Server versions.

/// The oldest major that can be dumped.
const OLDEST: u32 = 14;
/// The newest of which we know the archives.
const NEWEST_KNOWN: u32 = 18;

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
        self.major() >= OLDEST
    }

    /// Whether its archives are understood, and can be rewritten in flight.
    pub fn is_known(&self) -> bool {
        (OLDEST..=NEWEST_KNOWN).contains(&self.major())
    }
}
