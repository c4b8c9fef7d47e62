//! The workspace's own programs.

use std::path::PathBuf;

/// The path of a workspace binary, `bin("walwarden")`, as built with the same profile as the running test.
///
/// Cargo builds no binaries of other packages for a test: `make test` does first.
///
/// # Panics
/// When it was not built.
pub fn bin(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of the running test");
    // target/debug/deps/test-0123 or target/debug/bench
    let path = test.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file());
    path.unwrap_or_else(|| {
        panic!("{name} is not built beside {}\nhint: cargo build --workspace --bins", test.display())
    })
}
