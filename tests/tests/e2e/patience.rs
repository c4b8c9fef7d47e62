//! Waiting for what must come, never longer than a bound and never blindly.

use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(40);

/// Looks until there is something, for at most so many seconds.
pub fn within<T>(seconds: u64, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if begun.elapsed() > Duration::from_secs(seconds) {
            return None;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// As [`within`]; the test fails where nothing comes.
pub fn expect<T>(what: &str, seconds: u64, look: impl FnMut() -> Option<T>) -> T {
    within(seconds, look).unwrap_or_else(|| panic!("{what}: not within {seconds} s"))
}
