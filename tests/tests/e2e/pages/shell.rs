//! The one shell in which the blocks of a page are run, one after the other, as a reader would paste them.

use std::{fmt::Write, fs, path::Path, process::Command};

use super::page::{Block, Kind, Page, missing};
use crate::program;

/// Begins each block's part of the output.
const MARK: char = '\u{1e}';
/// `timeout` ends whatever a page started, should a page not end.
const LIMIT_SECONDS: &str = "150";

const PRELUDE: &str = r#"
set -euo pipefail
exec 2>&1
page_server=
page_stop() {
    [ -n "$page_server" ] || return 0
    kill "$page_server" 2>/dev/null || true
    wait "$page_server" || true
    page_server=
}
page_up() {
    for page_try in $(seq 600); do
        # The forms are written after the first answer; the last of them is database.json.
        if curl -fs "$PAGE_URL/healthz" >/dev/null && [ -e "$PAGE_DATA/database.json" ]; then return; fi
        kill -0 "$page_server" 2>/dev/null || break
        sleep 0.1
    done
    cat "$PAGE_LOG"
    return 1
}
trap page_stop EXIT
"#;

/// What a page is run with.
pub struct Shell<'a> {
    /// Where it begins.
    pub directory: &'a Path,
    /// All of its environment.
    pub environment: Vec<(&'static str, String)>,
    /// What the page writes for its readers' own, and what stands for it here. The first that fits is taken.
    pub literals: Vec<(&'static str, String)>,
    /// What is not to be repeated.
    pub secrets: Vec<String>,
}

impl Shell<'_> {
    /// Runs a page's blocks up to the first that fails.
    ///
    /// # Errors
    /// The block and what it said, without secrets.
    pub fn run(&self, page: &Page) -> Result<(), String> {
        let mut unused: Vec<&str> = self.literals.iter().map(|(literal, _)| *literal).collect();
        unused.retain(|literal| !page.blocks.iter().any(|block| stands_in(literal, block)));
        if !unused.is_empty() {
            return Err(format!("{}: nowhere in what is run: {unused:?}", page.name));
        }
        let script = self.directory.join("page.bash");
        fs::write(&script, self.script(page)).expect("a script");
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", LIMIT_SECONDS, "bash"]).arg(&script);
        command.current_dir(self.directory).env_clear();
        command.env("PAGE_LOG", self.directory.join("page.log"));
        command.envs(self.environment.iter().map(|(name, value)| (*name, value)));
        let said = program::run(&mut command);
        let output = said.stdout() + &said.stderr;
        let parts: Vec<&str> = output.split(MARK).skip(1).collect();
        let tell = |block: &Block, what: &str, part: &str| {
            let (text, part) = (block.text.trim_end(), self.redact(part));
            Err(format!("{}:{}: {what}\n{text}\n--- it said\n{}", page.name, block.line, part.trim_end()))
        };
        if said.code != 0 {
            return match page.blocks.get(parts.len().wrapping_sub(1)) {
                Some(block) => tell(block, &format!("exit code {}", said.code), parts[parts.len() - 1]),
                None => Err(format!("{}: {}", page.name, self.redact(&output))),
            };
        }
        assert_eq!(parts.len(), page.blocks.len(), "{}: not every block was run", page.name);
        for (block, part) in page.blocks.iter().zip(parts) {
            let shows: Vec<String> = block.shows.iter().map(|line| self.substitute(line)).collect();
            if let Some(line) = missing(&shows, part) {
                return tell(block, &format!("shown and not printed: {line}"), part);
            }
        }
        Ok(())
    }

    fn script(&self, page: &Page) -> String {
        let mut script = PRELUDE.to_owned();
        for (number, block) in page.blocks.iter().enumerate() {
            let text = self.substitute(&block.text);
            let commands = match &block.kind {
                Kind::Commands => text,
                Kind::CommandsAlone => format!("page_stop\n{text}"),
                Kind::Terminal => format!(
                    "page_stop\n( exec {text}) >\"$PAGE_LOG\" 2>&1 &\npage_server=$!\npage_up\ncat \"$PAGE_LOG\"\n"
                ),
                Kind::Statements => {
                    format!("psql -X -v ON_ERROR_STOP=1 \"$PAGE_SOURCE\" <<'PAGE_END'\n{text}PAGE_END\n")
                }
                Kind::Content(file) => format!("cat > {} <<'PAGE_END'\n{text}PAGE_END\n", self.substitute(file)),
            };
            let _ = write!(script, "printf '{MARK}%s\\n' {number}\n{commands}");
        }
        script
    }

    fn substitute(&self, text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some(next) = rest.chars().next() {
            match self.literals.iter().find(|(literal, _)| rest.starts_with(literal)) {
                Some((literal, own)) => {
                    out.push_str(own);
                    rest = &rest[literal.len()..];
                }
                None => {
                    out.push(next);
                    rest = &rest[next.len_utf8()..];
                }
            }
        }
        out
    }

    /// Without secrets and without what may be a token.
    fn redact(&self, text: &str) -> String {
        let known = self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "[redacted]"));
        let ends = |c: char| c.is_whitespace() || "\"'=".contains(c);
        let words = known.split_inclusive(ends);
        words.map(|word| if word.starts_with("wal_") || word.len() > 100 { "[redacted]\n" } else { word }).collect()
    }
}

fn stands_in(literal: &str, block: &Block) -> bool {
    let file = match &block.kind {
        Kind::Content(file) => file.as_str(),
        _ => "",
    };
    block.text.contains(literal) || file.contains(literal)
}
