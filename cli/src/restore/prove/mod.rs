//! The proof: the restored database is read in one snapshot and compared, row for row, with what the
//! runner saw pass when it made the backup. What cannot be compared is said, and then nothing is
//! called identical.

mod columns;
mod compare;
mod others;
mod units;

use serde::Serialize;
use walwarden_verifier::receipt;

use crate::format;

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

pub use compare::prove;

impl Outcome {
    /// `identical`, `different` or `notProven`.
    pub fn verdict(&self) -> &'static str {
        match (self.different.is_empty(), self.not_proven.is_empty()) {
            (false, _) => "different",
            (true, false) => "notProven",
            (true, true) => "identical",
        }
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

    /// For people.
    pub fn lines(&self) -> Vec<String> {
        let counts = format::contents(self.tables, self.rows, self.sequences, self.large_objects);
        let head = match self.verdict() {
            "identical" => format!("identical: {counts}"),
            "different" => {
                format!("different: {} of what was compared ({counts})", format::count(self.different.len() as u64))
            }
            _ => format!(
                "not proven: {} could not be compared; what could be is the same ({counts})",
                format::count(self.not_compared)
            ),
        };
        let mut lines = vec![head];
        lines.extend(self.different.iter().map(|(name, how)| format!("differs   {name}: {how}")));
        lines.extend(self.not_proven.iter().map(|(name, why)| format!("unproven  {name}: {why}")));
        if !self.recomputed.is_empty() {
            lines.push(format!(
                "anew      materialized views, computed and not compared: {}",
                self.recomputed.join(", ")
            ));
        }
        lines
    }
}

/// A proof that was not asked for.
pub fn not_run() -> receipt::Proof {
    receipt::Proof { result: "notRun".into(), tables: 0, rows: 0, sequences: 0, large_objects: 0, not_compared: 0 }
}
