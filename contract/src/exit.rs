//! Exit codes of every command.

/// What a command's exit code tells a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Done.
    Ok = 0,
    /// Passing trouble (network, 5xx, 429, time-out): run it again.
    Retryable = 1,
    /// The user's to fix: arguments, authentication, scope, not found, conflict, precondition.
    UserError = 2,
    /// Will not succeed by trying again.
    Terminal = 3,
    /// Interrupted by a signal.
    Cancelled = 4,
}

impl ExitCode {
    /// All, in order.
    pub const ALL: [Self; 5] = [Self::Ok, Self::Retryable, Self::UserError, Self::Terminal, Self::Cancelled];

    /// The documented name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Retryable => "RETRYABLE",
            Self::UserError => "USER_ERROR",
            Self::Terminal => "TERMINAL",
            Self::Cancelled => "CANCELLED",
        }
    }
}
