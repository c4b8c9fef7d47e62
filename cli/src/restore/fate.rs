//! What became of a target that is overwritten in place: no failure and no interruption leaves that open. It says
//! what is known to be true, or that it is not known.

use walwarden_contract::token::RestoreMode;

use crate::failure::Failure;

/// What became of the target's database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nothing of it was written.
    Untouched,
    /// All that was done was rolled back.
    RolledBack,
    /// The backup is in it.
    Restored,
    /// Some of it was dropped or loaded, for good.
    HalfRestored,
    /// Either nothing was kept or all of it.
    AllOrNothing,
    /// Nothing was done, or some of it.
    PerhapsHalf,
}

impl Fate {
    /// For programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Untouched => "untouched",
            Self::RolledBack => "rolled_back",
            Self::Restored => "restored",
            Self::HalfRestored => "half_restored",
            Self::AllOrNothing | Self::PerhapsHalf => "unknown",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Untouched => "the target is untouched",
            Self::RolledBack => "the target is as it was before: everything was rolled back",
            Self::Restored => "the target was overwritten: the backup is restored already",
            Self::HalfRestored => "the target is half restored: what was dropped and loaded by then stays so",
            Self::AllOrNothing => "the target is either as it was before or restored already; which, is not known",
            Self::PerhapsHalf => "the target is either as it was before or half restored; which, is not known",
        }
    }

    /// A failure that says so too, where something was to be overwritten.
    pub fn told(self, mut failure: Failure, mode: RestoreMode) -> Failure {
        if mode == RestoreMode::InPlace {
            let add = |message: &mut String| message.push_str(&format!("; {}", self.words()));
            add(&mut failure.message);
            if let Some(told) = &mut failure.told {
                add(&mut told.0);
            }
        }
        failure
    }
}

/// How far a restore has come.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// The artifact is here and verified: from now on what is stopped cannot go on.
    pub fetched: bool,
    /// The plan's roles were made.
    pub made_roles: bool,
    /// What became of the target so far.
    pub fate: Fate,
}

impl Progress {
    /// At the claim.
    pub const START: Self = Self { fetched: false, made_roles: false, fate: Fate::Untouched };
}
