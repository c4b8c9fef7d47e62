//! Passwords and keys that exist for one test.

/// `bytes` random bytes as lower-case hex.
///
/// # Panics
/// When the operating system has no randomness to give.
pub(crate) fn hex(bytes: usize) -> String {
    let mut buffer = vec![0; bytes];
    getrandom::fill(&mut buffer).expect("random bytes from the operating system");
    hex::encode(buffer)
}

/// A number below `bound`, roughly uniform: where to begin looking for a free port.
pub(crate) fn below(bound: u16) -> u16 {
    (getrandom::u32().expect("random bytes from the operating system") % u32::from(bound)) as u16
}
