//! Pure rooms make no calls into the world: no I/O, no clock, no randomness, no threads, no order that changes from run to
//! run. A scan of the text; its limits are those of [`source`](super::source).

use std::collections::BTreeSet;

use super::Finding;
use super::repository::Repository;
use super::source::{Token, production, tokens, without_comments};

/// The rooms that are scanned. The store is not among them: its disk half is real.
const PURE: &[&str] = &["types", "wire", "quorum", "lease", "lock", "txn", "fs", "server", "client", "node"];

/// A sequence of tokens that pure code does not contain.
struct Banned {
    path: &'static [&'static str],
    instead: &'static str,
}

const IO: &str = "a pure room does no I/O, or the simulator cannot own it: return an effect, and let runtime do it";
const CLOCK: &str = "a pure room reads no clock: take the time as an argument of the input";
const CHANCE: &str = "a pure room uses no randomness: take a seed or a number from the input";
const ORDER: &str = "its order changes from run to run, and replicas would differ: use BTreeMap or BTreeSet; where hashing \
    is needed and measured, name a fixed hasher and write `// purity: fixed hasher` on the line";
const THREADS: &str = "a pure room is a state machine without threads: let runtime have them";

const BANNED: &[Banned] = &[
    Banned { path: &["std", "::", "fs"], instead: IO },
    Banned { path: &["std", "::", "net"], instead: IO },
    Banned { path: &["std", "::", "process"], instead: IO },
    Banned { path: &["std", "::", "env"], instead: "a pure room does not look at its surroundings: take an argument" },
    Banned { path: &["std", "::", "thread"], instead: THREADS },
    Banned { path: &["tokio"], instead: THREADS },
    Banned { path: &["Instant", "::", "now"], instead: CLOCK },
    Banned { path: &["SystemTime", "::", "now"], instead: CLOCK },
    Banned { path: &["thread_rng"], instead: CHANCE },
    Banned { path: &["getrandom"], instead: CHANCE },
    Banned { path: &["RandomState"], instead: ORDER },
    Banned { path: &["HashMap"], instead: ORDER },
    Banned { path: &["HashSet"], instead: ORDER },
];

/// What a line says when it hashes with a hasher that is the same on every run.
const FIXED_HASHER: &str = "// purity: fixed hasher";

/// Finds calls into the world in pure rooms, outside of tests.
pub(super) fn check(repository: &Repository) -> Vec<Finding> {
    PURE.iter().flat_map(|room| check_room(repository, &format!("crates/{room}/src/"))).collect()
}

fn check_room(repository: &Repository, source: &str) -> Vec<Finding> {
    let bare: Vec<_> =
        repository.below(source, ".rs").map(|(path, text)| (path, text, without_comments(text))).collect();
    let mut for_tests = BTreeSet::new();
    let mut scanned = Vec::new();
    for (path, text, bare) in &bare {
        let all = tokens(bare);
        let production = production(&all);
        for_tests.extend(production.test_modules.iter().map(|module| submodule(path, module)));
        scanned.push((*path, *text, production.tokens));
    }
    let is_for_tests = |path: &str| {
        for_tests.iter().any(|stem| path.strip_prefix(stem.as_str()).is_some_and(|rest| rest.starts_with(['.', '/'])))
    };
    scanned
        .iter()
        .filter(|(path, ..)| !is_for_tests(path))
        .flat_map(|(path, text, tokens)| check_file(path, text, tokens))
        .collect()
}

/// Where module `name` of the file `path` lives, without `.rs` or `/mod.rs`.
fn submodule(path: &str, name: &str) -> String {
    let directory = path
        .strip_suffix("/mod.rs")
        .or_else(|| path.strip_suffix("/lib.rs"))
        .or_else(|| path.strip_suffix("/main.rs"))
        .or_else(|| path.strip_suffix(".rs"))
        .unwrap_or(path);
    format!("{directory}/{name}")
}

fn check_file(path: &str, text: &str, tokens: &[Token<'_>]) -> Vec<Finding> {
    let lines: Vec<_> = text.lines().collect();
    let mut findings = Vec::new();
    for at in 0..tokens.len() {
        for (line, banned) in banned_at(tokens, at) {
            let excused = banned.instead == ORDER && lines[line - 1].contains(FIXED_HASHER);
            if !excused {
                findings.push(Finding::new(path, line, banned.path.concat(), banned.instead));
            }
        }
    }
    findings.dedup();
    findings
}

/// What is banned and begins with this token, also as part of `std::{...}`.
fn banned_at(tokens: &[Token<'_>], at: usize) -> Vec<(usize, &'static Banned)> {
    let line = tokens[at].line;
    let spelt = |banned: &&Banned| {
        banned.path.iter().zip(&tokens[at..]).filter(|(a, b)| **a == b.text).count() == banned.path.len()
    };
    let mut found: Vec<_> = BANNED.iter().filter(spelt).map(|banned| (line, banned)).collect();
    if tokens[at].text == "std" && tokens.get(at + 2).is_some_and(|token| token.text == "{") {
        for token in group_heads(&tokens[at + 2..]) {
            let of_std = |banned: &&Banned| banned.path[0] == "std" && banned.path.get(2) == Some(&token.text);
            found.extend(BANNED.iter().filter(of_std).map(|banned| (token.line, banned)));
        }
    }
    found
}

/// The first words of the items of a `{...}` group.
fn group_heads<'a, 'b>(tokens: &'b [Token<'a>]) -> Vec<&'b Token<'a>> {
    let mut depth = 0;
    let mut heads = Vec::new();
    let mut previous = "";
    for token in tokens {
        match token.text {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ if depth == 1 && matches!(previous, "{" | ",") => heads.push(token),
            _ => {}
        }
        if depth == 0 {
            break;
        }
        previous = token.text;
    }
    heads
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(files: &[(&str, &str)]) -> Vec<String> {
        check(&Repository::of(files)).iter().map(|f| format!("{}:{}: {}", f.path, f.line, f.what)).collect()
    }

    fn in_txn(text: &str) -> Vec<String> {
        findings(&[("crates/txn/src/lib.rs", text)])
    }

    #[test]
    fn every_banned_call_is_found() {
        for banned in BANNED {
            let text = format!("//! Fine.\nfn f() {{ {}; }}\n", banned.path.concat());
            assert_eq!(in_txn(&text), [format!("crates/txn/src/lib.rs:2: {}", banned.path.concat())]);
        }
    }

    #[test]
    fn grouped_imports_are_found() {
        let found = in_txn(
            "use std::{\n    collections::{BTreeMap, HashMap},\n    fs,\n    fmt::{self, Write},\n    thread::sleep,\n};\n",
        );
        assert_eq!(
            found,
            [
                "crates/txn/src/lib.rs:3: std::fs",
                "crates/txn/src/lib.rs:5: std::thread",
                "crates/txn/src/lib.rs:2: HashMap",
            ]
        );
    }

    #[test]
    fn spacing_does_not_hide() {
        assert_eq!(in_txn("fn f() { Instant :: \n now(); }"), ["crates/txn/src/lib.rs:1: Instant::now"]);
    }

    #[test]
    fn tests_comments_and_other_rooms_are_free() {
        let free = "// std::fs\n/// uses `HashMap`\nconst S: &str = \"tokio\";\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n";
        assert_eq!(in_txn(free), Vec::<String>::new());
        assert_eq!(findings(&[("crates/runtime/src/lib.rs", "use std::fs;")]), Vec::<String>::new());
        assert_eq!(findings(&[("crates/txn/tests/t.rs", "use std::fs;")]), Vec::<String>::new());
    }

    #[test]
    fn files_of_test_modules_are_free_and_their_neighbours_are_not() {
        let found = findings(&[
            ("crates/fs/src/ops/mod.rs", "#[cfg(test)]\nmod model;\nmod models;\n"),
            ("crates/fs/src/ops/model.rs", "use std::env;"),
            ("crates/fs/src/ops/model/deep.rs", "use std::env;"),
            ("crates/fs/src/ops/models.rs", "use std::env;"),
        ]);
        assert_eq!(found, ["crates/fs/src/ops/models.rs:1: std::env"]);
    }

    #[test]
    fn a_fixed_hasher_is_said_on_the_line() {
        assert_eq!(in_txn("type T = HashMap<u8, u8, Fixed>; // purity: fixed hasher\n"), Vec::<String>::new());
        assert_eq!(in_txn("use std::fs; // purity: fixed hasher\n").len(), 1);
    }
}
