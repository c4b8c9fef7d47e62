//! The page that is made of what was seen.

use std::{collections::BTreeSet, fs};

use walwarden_contract::failure::FailureClass;
use walwarden_tests::tools;

/// A backup or check that failed.
pub struct JobRow {
    /// `None`: it was ridden out.
    pub class: Option<FailureClass>,
    pub provoked: String,
    /// What the source check before it found.
    pub check: String,
    /// What became of the backup.
    pub backup: String,
    /// How the runner ended.
    pub runner: String,
    /// The log's entry.
    pub entry: String,
}

/// A restore that failed.
pub struct RestoreRow {
    /// A failure class, or the error's code where it is none.
    pub class: String,
    pub provoked: String,
    pub exit: i32,
    /// First line of the error.
    pub error: String,
    /// First line of the hint.
    pub hint: String,
    /// The restore's state.
    pub state: String,
    /// The log's entry.
    pub entry: String,
}

pub enum Row {
    Job(JobRow),
    Restore(RestoreRow),
}

/// A class that no test provokes through the whole product: why, and where a narrower test is.
struct Apart {
    class: FailureClass,
    why: &'static str,
    file: &'static str,
    test: &'static str,
}

const APART: [Apart; 3] = [
    Apart {
        class: FailureClass::SourceIpv6Only,
        why: "needs a machine without a route for IPv6, and whether this one has is not ours to say",
        file: "runner/src/source/dial.rs",
        test: "a_host_that_only_ipv6_reaches_has_its_own_class",
    },
    Apart {
        class: FailureClass::DumpTooLong,
        why: "`maxHours` is an hour at least",
        file: "runner/tests/jobs/main.rs",
        test: "limits_end_a_dump",
    },
    Apart {
        class: FailureClass::Internal,
        why: "what is known to go wrong has a class of its own",
        file: "runner/src/fault.rs",
        test: "a_full_disk_is_told_from_a_bug",
    },
];

const HEAD: &str = "\
# Failures

What each failure class looks like. A test makes this page: it provokes every class through the whole product, with the
real server, runner and CLI against real servers of Postgres and S3, and writes down what it sees
(`tests/tests/e2e/failures.rs`). The classes are [listed with the API](api.md#failure-classes).

Whatever happened, the test also looks that nothing was called a backup: no `completed`, no manifest in the bucket,
`protectedUntil` unmoved; that an upload that was begun was aborted; and that API, log and list of classes agree on
whether trying again can help and on what to do.

- [Backups and checks](#backups-and-checks)
- [Restores](#restores)
- [Not provoked here](#not-provoked-here)
";

const JOBS: &str = "\
## Backups and checks

*Source check* is what the check found that runs when the database is added; a backup was asked for all the same. A
backup that is `failed_retryable` is tried again, three times in all. *Runner* is the exit code of the runner's process:
1, trying again can help; 3, it cannot; 0, the runner had done its part.

| class | provoked by | source check | backup | runner | in the log | what to do |
|---|---|---|---|---|---|---|
";

const RESTORES: &str = "\
## Restores

*Exit* is the exit code of `walwarden restore` ([what they mean](restore.md#exit-codes)); its error and its hint begin
with the lines shown. A restore that is `created` has not begun, and its token is good; one that is `downloading` or
`restoring` goes on when the command is run again, which the test does. Nothing of a restore that failed is left on the
target; where that was gone, the database that could not be removed is named with the command that does.

| class or code | provoked by | exit | error | hint | restore | in the log |
|---|---|---|---|---|---|---|
";

const APART_HEAD: &str = "\
## Not provoked here

| class | why not | covered by |
|---|---|---|
";

/// The whole page. `left_out`: classes that this machine could not provoke.
pub fn render(rows: &[Row], left_out: &[FailureClass]) -> String {
    let mut jobs: Vec<(usize, &str, String)> = Vec::new();
    let mut restores = Vec::new();
    for row in rows {
        match row {
            Row::Job(row) => jobs.push((place(row.class), row.provoked.as_str(), job_line(row))),
            Row::Restore(row) => {
                let class = FailureClass::ALL.iter().find(|class| class.as_str() == row.class);
                restores.push((place(class.copied()), row.provoked.as_str(), restore_line(row)));
            }
        }
    }
    jobs.sort();
    restores.sort();
    let lines = |rows: Vec<(usize, &str, String)>| rows.into_iter().map(|(.., line)| line).collect::<String>();
    let apart: String = APART.iter().map(apart_line).collect();
    let page = format!("{HEAD}\n{JOBS}{}\n{RESTORES}{}\n{APART_HEAD}{apart}", lines(jobs), lines(restores));
    without(&page, left_out)
}

/// A page without the rows of classes that this machine could not provoke.
pub fn without(page: &str, left_out: &[FailureClass]) -> String {
    let is_left_out = |line: &&str| left_out.iter().any(|class| line.starts_with(&format!("| `{class}` |")));
    page.split_inclusive('\n').filter(|line| !is_left_out(line)).collect()
}

fn place(class: Option<FailureClass>) -> usize {
    class.and_then(|class| FailureClass::ALL.iter().position(|other| *other == class)).unwrap_or(usize::MAX)
}

fn job_line(row: &JobRow) -> String {
    let JobRow { class, provoked, check, backup, runner, entry } = row;
    let (class, remedy) = match class {
        Some(class) => (format!("`{class}`"), class.remedy()),
        None => ("none".into(), "nothing"),
    };
    format!("| {class} | {provoked} | {check} | {backup} | {runner} | {entry} | {remedy} |\n")
}

fn restore_line(row: &RestoreRow) -> String {
    let RestoreRow { class, provoked, exit, error, hint, state, entry } = row;
    let [error, hint] = [error, hint].map(|text| text.replace('|', "\\|"));
    format!("| `{class}` | {provoked} | {exit} | {error} | {hint} | {state} | {entry} |\n")
}

fn apart_line(apart: &Apart) -> String {
    let Apart { class, why, file, test } = apart;
    format!("| `{class}` | {why} | `{test}` in `{file}` |\n")
}

/// Fails the test where a class is neither in a table nor set apart, or the test that covers it is gone.
pub fn is_complete(rows: &[Row], left_out: &[FailureClass]) {
    let seen: BTreeSet<&str> = rows
        .iter()
        .filter_map(|row| match row {
            Row::Job(row) => row.class.map(FailureClass::as_str),
            Row::Restore(row) => Some(row.class.as_str()),
        })
        .collect();
    let apart: BTreeSet<&str> = APART.iter().map(|apart| apart.class.as_str()).collect();
    let all = FailureClass::ALL.iter().filter(|class| !left_out.contains(class)).map(|class| class.as_str());
    let missing: Vec<&str> = all.filter(|class| !seen.contains(class) && !apart.contains(class)).collect();
    assert!(missing.is_empty(), "provoke these, or say why not: {missing:?}");
    for Apart { class, file, test, .. } in &APART {
        let text = fs::read_to_string(tools::repository().join(file)).unwrap_or_default();
        assert!(text.contains(&format!("fn {test}(")), "{class}: there is no test {test} in {file}");
    }
}

/// A line without what differs from run to run: ids, digests, ports, paths, sizes.
pub fn steady(line: &str) -> String {
    // How far it came, and how the server tells that, is another each time.
    const FULL: &str = "could not extend file";
    let line = &line.split_once(FULL).map_or_else(|| line.to_owned(), |(before, _)| format!("{before}{FULL} …"));
    let words: Vec<&str> = line.split(' ').collect();
    let is_unit = |word: &str| ["bytes", "kB", "MB", "GB"].contains(&word.trim_end_matches([',', ';']));
    let steadied = words.iter().enumerate().map(|(nth, word)| {
        let bare = word.trim_matches(['"', ',', ';', ':', '.', '(', ')']);
        let is_size =
            words.get(nth + 1).is_some_and(|next| is_unit(next)) && bare.starts_with(|c: char| c.is_ascii_digit());
        let is_digest = bare.len() == 64 && bare.bytes().all(|byte| byte.is_ascii_hexdigit());
        let ids = ["rst_", "bkp_", "ww_rst_"];
        let is_port = nth > 0 && words[nth - 1] == "port" && bare.bytes().all(|byte| byte.is_ascii_digit());
        if bare.starts_with('/') || is_size || is_digest || is_port {
            return word.replace(bare, "…");
        }
        if let Some(prefix) = ids.into_iter().find(|prefix| bare.starts_with(prefix)) {
            return word.replace(bare, &format!("{prefix}…"));
        }
        match word.split_once("127.0.0.1:") {
            Some((before, after)) => {
                let rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
                format!("{before}127.0.0.1:…{rest}")
            }
            None => (*word).to_owned(),
        }
    });
    steadied.collect::<Vec<_>>().join(" ")
}
