//! A page taken apart: which fenced blocks are run, how, and what the page shows them to print.
//!
//! | in the page | what becomes of it |
//! |---|---|
//! | ```` ```sh ```` | run, in the page's one shell |
//! | ```` ```sql ```` | run as the superuser in the source database |
//! | ```` ```text ```` | what the block before it in the same section prints: each line, `…` standing for anything |
//! | ```` ```json ````, ```` ```console ````, no language | not run |
//! | `<!-- not run: reason -->` | before a block that would be run: it is not |
//! | `<!-- in a terminal of its own -->` | a program that runs until the next such block or the page's end |
//! | `<!-- with the server stopped -->` | that program is stopped first |
//! | `<!-- the content of FILE -->` | the block is written to that file |
//! | `<!-- not printed here -->` | before a `text` block that no block on the page prints |

use std::path::Path;

/// How a block is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Commands.
    Commands,
    /// Commands for which the program in the other terminal is stopped.
    CommandsAlone,
    /// One program that does not end by itself.
    Terminal,
    /// SQL for the source database.
    Statements,
    /// A file's content.
    Content(String),
}

/// A block that is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Line of its fence, from 1.
    pub line: usize,
    pub kind: Kind,
    pub text: String,
    /// Lines that it prints, in this order and perhaps with others between.
    pub shows: Vec<String>,
}

/// A page.
#[derive(Debug, Clone)]
pub struct Page {
    /// Path in the repository.
    pub name: String,
    pub blocks: Vec<Block>,
    /// Lines of `text` blocks that no block prints.
    pub messages: Vec<String>,
}

impl Page {
    /// Reads a page of the repository.
    pub fn read(repository: &Path, name: &str) -> Page {
        let text = std::fs::read_to_string(repository.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        Page::parse(name, &text).unwrap_or_else(|problem| panic!("{problem}"))
    }

    /// Takes a page apart. An error where it says something that is not understood: what is not run must say so.
    pub fn parse(name: &str, text: &str) -> Result<Page, String> {
        let mut page = Page { name: name.to_owned(), blocks: Vec::new(), messages: Vec::new() };
        let mut remark: Option<&str> = None;
        let mut printing = false;
        let mut lines = (1..).zip(text.lines());
        while let Some((number, line)) = lines.next() {
            let problem = |what: &str| Err(format!("{name}:{number}: {what}"));
            let indent = line.len() - line.trim_start().len();
            let line = line.trim();
            if let Some(inner) = line.strip_prefix("<!--").and_then(|rest| rest.strip_suffix("-->")) {
                remark = Some(inner.trim());
                continue;
            }
            let Some(language) = line.strip_prefix("```") else {
                printing &= !line.starts_with('#');
                if let Some(remark) = remark.filter(|_| !line.is_empty()) {
                    return problem(&format!("{remark:?} stands before no block"));
                }
                continue;
            };
            let mut block = String::new();
            loop {
                let Some((_, inside)) = lines.next() else { return problem("the block has no end") };
                if inside.trim() == "```" {
                    break;
                }
                block.push_str(inside.get(indent..).unwrap_or_default());
                block.push('\n');
            }
            let kind = match (language, remark.take()) {
                ("sh" | "sql", Some(reason)) if reason.strip_prefix("not run: ").is_some_and(|r| !r.is_empty()) => {
                    printing = false;
                    continue;
                }
                ("sh", None) => Kind::Commands,
                ("sh", Some("with the server stopped")) => Kind::CommandsAlone,
                ("sh", Some("in a terminal of its own")) => Kind::Terminal,
                ("sql", None) => Kind::Statements,
                ("json", Some(remark)) if remark.starts_with("the content of ") => {
                    Kind::Content(remark.trim_start_matches("the content of ").to_owned())
                }
                ("text", None) if printing => {
                    let last = page.blocks.last_mut().expect("a block that prints");
                    last.shows.extend(block.lines().map(str::to_owned));
                    continue;
                }
                ("text", None | Some("not printed here")) => {
                    page.messages.extend(block.lines().map(str::to_owned));
                    continue;
                }
                ("json" | "console" | "", None) => continue,
                (language, remark) => {
                    return problem(&format!("a block of {language:?} with {remark:?} is not understood"));
                }
            };
            printing = true;
            page.blocks.push(Block { line: number, kind, text: block, shows: Vec::new() });
        }
        Ok(page)
    }
}

/// Whether a line of a program's output is what the page shows; `…` stands for anything.
pub fn is_shown(shown: &str, line: &str) -> bool {
    let (shown, line) = (shown.trim(), line.trim());
    let parts: Vec<&str> = shown.split('…').collect();
    let [first, middle @ .., last] = parts.as_slice() else { return shown == line };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    for part in middle {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

/// The first line that is shown and not printed after those before it.
pub fn missing<'a>(shows: &'a [String], output: &str) -> Option<&'a str> {
    let mut lines = output.lines();
    shows.iter().map(String::as_str).find(|shown| !lines.any(|line| is_shown(shown, line)))
}
