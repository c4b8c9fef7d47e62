//! What the domain is handed from outside: the time and randomness. Rules never read either by
//! themselves, so that tests can turn the clock.

use std::sync::Arc;

use walwarden_contract::time;

/// A time in the form documents write it; texts we stored ourselves have it.
pub(crate) fn timestamp(text: &str) -> jiff::Timestamp {
    text.parse().unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

/// Clock and randomness.
#[derive(Clone)]
pub struct Edge {
    now_ms: Arc<dyn Fn() -> i64 + Send + Sync>,
}

impl std::fmt::Debug for Edge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Edge")
    }
}

impl Edge {
    /// The system's clock.
    pub fn system() -> Self {
        Self { now_ms: Arc::new(|| jiff::Timestamp::now().as_millisecond()) }
    }

    /// A clock of the caller's, in milliseconds since 1970.
    pub fn with_clock(now_ms: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self { now_ms: Arc::new(now_ms) }
    }

    /// Milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        (self.now_ms)()
    }

    /// Now, as documents write it.
    pub fn now(&self) -> String {
        time::format_ms(self.now_ms())
    }

    /// `seconds` from now, as documents write it.
    pub fn in_seconds(&self, seconds: i64) -> String {
        time::format_ms(self.now_ms() + seconds * 1000)
    }

    /// Now, as a timestamp.
    pub fn timestamp(&self) -> jiff::Timestamp {
        jiff::Timestamp::from_millisecond(self.now_ms()).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
    }

    /// Random bytes from the operating system.
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        // The system's generator does not fail once it is seeded; without it nothing here is safe.
        getrandom::fill(&mut bytes).expect("the operating system gives randomness");
        bytes
    }

    /// A random number below `bound`, for jitter.
    pub fn jitter_ms(&self, bound: u64) -> u64 {
        u64::from_le_bytes(self.random::<8>()) % bound.max(1)
    }
}
