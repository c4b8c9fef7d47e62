//! The proof: the restored database is read in one snapshot and compared, row for row, with what the
//! runner saw pass when it made the backup. What cannot be compared is said, and then nothing is
//! called identical.

pub mod columns;
mod compare;
mod others;
mod units;

use std::thread;

use serde::Serialize;
use serde_json::json;
use walwarden_contract::{failure::FailureClass, token::RestoreMode};
use walwarden_verifier::{annex::Annex, receipt};

use super::{evidence::is_opaque, target::Target};
use crate::{failure::Failure, format, output::Output};

/// How many findings of a kind people are told.
const TOLD: usize = 40;

/// What was compared and found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Tables compared.
    pub tables: u64,
    /// Rows read.
    pub rows: u64,
    /// Sequences compared.
    pub sequences: u64,
    /// Large objects compared.
    pub large_objects: u64,
    /// What differs, and how.
    pub different: Vec<(String, String)>,
    /// What could not be compared, and why.
    pub not_proven: Vec<(String, String)>,
    /// How many things that is.
    pub not_compared: u64,
    /// Materialized views: computed anew, not compared.
    pub recomputed: Vec<String>,
}

impl Outcome {
    /// Of an archive that nobody has read: there is nothing to compare with.
    fn of_the_unread() -> Self {
        let why = "the backup holds no row digests: its archive was stored as pg_dump wrote it";
        Self { not_proven: vec![("everything".into(), why.into())], ..Self::default() }
    }

    /// `identical`, `different` or `notProven`.
    pub fn verdict(&self) -> &'static str {
        match (self.different.is_empty(), self.not_proven.is_empty()) {
            (false, _) => "different",
            (true, false) => "notProven",
            (true, true) => "identical",
        }
    }

    /// The failure that a difference is.
    pub fn difference(&self) -> Option<Failure> {
        (!self.different.is_empty()).then(|| {
            let names = self.names(&self.different);
            Failure::class(
                FailureClass::ProofDiffers,
                format!("the restored database differs from what was backed up: {names}"),
            )
            .hint("a new database that differs is dropped; --keep-failed keeps it, to look at")
        })
    }

    /// The first few names of what was found.
    pub fn names(&self, found: &[(String, String)]) -> String {
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).take(5).collect();
        format!("{}{}", names.join(", "), if found.len() > 5 { ", …" } else { "" })
    }

    /// For the receipt.
    pub fn proof(&self) -> receipt::Proof {
        receipt::Proof {
            result: self.verdict().into(),
            tables: self.tables,
            rows: self.rows,
            sequences: self.sequences,
            large_objects: self.large_objects,
            not_compared: self.not_compared,
        }
    }

    /// Says what was found to people; programs get all of it.
    pub fn tell(&self, output: &Output) {
        let counts = format::contents(self.tables, self.rows, self.sequences, self.large_objects);
        output.say(&match self.verdict() {
            "identical" => format!("identical: {counts}"),
            "different" => {
                format!("different: {} found in {counts}", format::count(self.different.len() as u64))
            }
            _ if self.not_compared == 0 => "not proven: nothing could be compared".to_owned(),
            _ => format!("not proven: {} could not be compared; the same: {counts}", format::count(self.not_compared)),
        });
        tell_some("differs", &self.different, output);
        tell_some("unproven", &self.not_proven, output);
        if !self.recomputed.is_empty() {
            let names = self.recomputed.join(", ");
            output.tell("anew", &format!("materialized views, computed and not compared: {names}"));
        }
    }
}

fn tell_some(label: &str, found: &[(String, String)], output: &Output) {
    for (name, what) in found.iter().take(TOLD) {
        output.tell(label, &format!("{name}: {what}"));
    }
    if found.len() > TOLD {
        output.tell(
            label,
            &format!("and {} more; the JSON output names all", format::count((found.len() - TOLD) as u64)),
        );
    }
}

/// Compares a database with the annex, with a phase of its own, and gives programs what was found.
pub async fn run(
    target: &Target,
    database: &str,
    mode: RestoreMode,
    annex: &Annex,
    money_readable: bool,
    output: &Output,
) -> Result<Outcome, Failure> {
    if is_opaque(annex) {
        let outcome = Outcome::of_the_unread();
        output.document(&json!({ "proof": outcome, "verdict": outcome.verdict() }));
        return Ok(outcome);
    }
    output.phase("prove", annex.tables.iter().map(|table| table.bytes).sum());
    let connections = thread::available_parallelism().map_or(1, |cores| cores.get().min(4));
    let outcome = compare::prove(target, database, mode, annex, money_readable, connections, output).await?;
    output.done("compared");
    output.document(&json!({ "proof": outcome, "verdict": outcome.verdict() }));
    Ok(outcome)
}

/// Compares nothing but the rows of the annex's tables, without a word about it.
pub async fn rows(target: &Target, database: &str, annex: &Annex, money_readable: bool) -> Result<Outcome, Failure> {
    compare::rows(target, database, annex, money_readable).await
}

/// A proof that was not asked for.
pub fn not_run() -> receipt::Proof {
    receipt::Proof { result: "notRun".into(), tables: 0, rows: 0, sequences: 0, large_objects: 0, not_compared: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_read_is_never_identical() {
        let outcome = Outcome::of_the_unread();
        assert_eq!((outcome.verdict(), outcome.difference().is_none()), ("notProven", true));
        let proof = outcome.proof();
        assert_eq!((proof.result.as_str(), proof.tables, proof.not_compared), ("notProven", 0, 0));
        assert!(outcome.not_proven[0].1.contains("no row digests"));
    }
}
