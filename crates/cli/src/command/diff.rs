//! `gavel diff`: how two states differ.

use crate::output::hinted;
use crate::past::{ask, print_json_line};
use crate::target::Target;
use anyhow::ensure;
use clap::Args;
use gavel_history::compare::Aspect;
use gavel_history::diff::DiffLine;
use gavel_runtime::host::history::{Line, Question};
use gavel_types::At;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// How two states of a file, or of a directory and all that is below it, differ.
#[derive(Args)]
#[command(
    after_help = "Exit status: 0 done, whether they differ or not; 1 could not be done; 2 wrong command line.\n\n\
Signs: + made, - removed, M changed, R renamed. Of a directory that was renamed, only what changed below it is told.\n\n\
Examples:\n  gavel diff /srv/shared --from 2h\n  gavel diff /srv/shared/project --from monday --to friday -p\n  \
gavel diff /srv/shared/report@@1d /srv/shared/report@@1h"
)]
pub struct Diff {
    /// The path; or two, each with a state behind `@@`
    #[arg(required = true, num_args = 1..=2, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The earlier state: a transaction (0x...), a time (RFC 3339), an age (2h), a snapshot
    #[arg(long, value_name = "AT")]
    from: Option<String>,
    /// The later one; by default the present
    #[arg(long, value_name = "AT")]
    to: Option<String>,
    /// The lines in which texts differ, too (files of up to 1 MiB)
    #[arg(long, short = 'p', visible_alias = "content")]
    patch: bool,
    /// Only how many paths differ, and in what way
    #[arg(long, conflicts_with_all = ["patch", "json"])]
    stat: bool,
    /// For programs: one JSON object on each line
    #[arg(long)]
    json: bool,
}

/// A path, and the state behind its `@@`, if there is one.
fn split(path: &Path) -> (PathBuf, Option<String>) {
    let bytes = path.as_os_str().as_bytes();
    let at = (0..bytes.len().saturating_sub(1)).rev().find(|at| &bytes[*at..*at + 2] == b"@@");
    let state = at.and_then(|at| {
        let text = std::str::from_utf8(&bytes[at + 2..]).ok()?;
        text.parse::<At>().ok()?;
        Some((at, text.to_owned()))
    });
    match state {
        Some((at, text)) if at == 0 || bytes[at - 1] == b'/' => {
            (Path::new(OsStr::from_bytes(&bytes[..at])).join("."), Some(text))
        }
        Some((at, text)) => (PathBuf::from(OsStr::from_bytes(&bytes[..at])), Some(text)),
        None => (path.to_owned(), None),
    }
}

impl Diff {
    /// # Errors
    /// Why it could not be done.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let (old, old_at) = split(&self.paths[0]);
        let (new, new_at) = self.paths.get(1).map_or_else(|| (old.clone(), None), |path| split(path));
        let twice = old_at.is_some() && self.from.is_some() || new_at.is_some() && self.to.is_some();
        let hint = "gavel diff PATH --from AT [--to AT], or gavel diff PATH@@AT PATH[@@AT]";
        if twice {
            return Err(hinted("a state is named twice, behind `@@` and by an option", hint));
        }
        let Some(old_at) = old_at.or(self.from.clone()) else {
            return Err(hinted("which state is to be compared? None is named", hint));
        };
        let (from, to) = (Target::of(&old)?, Target::of(&new)?);
        ensure!(
            (&from.socket, from.volume) == (&to.socket, to.volume),
            "{} and {} are not in the same mount",
            old.display(),
            new.display()
        );
        let new_at = new_at.or(self.to.clone());
        let question =
            Question::Diff { old_path: from.path.clone(), old_at, new_path: to.path, new_at, patch: self.patch };
        let mut counts: BTreeMap<char, u64> = BTreeMap::new();
        ask(&from, question, false, |line| {
            let Line::Diff(line) = line else { return Ok(()) };
            if self.json {
                return print_json_line(&line);
            }
            *counts.entry(line.sign.as_char()).or_default() += 1;
            if !self.stat {
                print(&line);
            }
            Ok(())
        })?;
        if self.stat {
            let count = |sign| counts.get(&sign).copied().unwrap_or(0);
            println!("{} made, {} removed, {} changed, {} renamed", count('+'), count('-'), count('M'), count('R'));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints one line for people.
pub(super) fn print(line: &DiffLine) {
    let slash = if line.kind == "directory" { "/" } else { "" };
    let path = if line.path.is_empty() { "." } else { &line.path };
    let path = match &line.from {
        Some(from) => format!("{from}{slash} -> {path}{slash}"),
        None => format!("{path}{slash}"),
    };
    let differs = line.differs.iter().map(|aspect| word(*aspect)).collect::<Vec<_>>().join(", ");
    let differs = if differs.is_empty() { differs } else { format!("  ({differs})") };
    println!("{} {path}{differs}", line.sign.as_char());
    if let Some(patch) = &line.patch {
        print!("{patch}");
    }
    match line.no_patch.as_deref() {
        Some("binary") => println!("Binary contents differ."),
        Some("too-large") => println!("Too large to be compared line by line."),
        Some(cause) => println!("Contents could not be read: {cause}"),
        None => {}
    }
}

fn word(aspect: Aspect) -> &'static str {
    match aspect {
        Aspect::Kind => "kind",
        Aspect::Content => "content",
        Aspect::Target => "target",
        Aspect::Mode => "mode",
        Aspect::Owner => "owner",
        Aspect::Xattrs => "xattrs",
        Aspect::Times => "times",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_stands_behind_the_last_pair_of_signs() {
        let parts = |path: &str| {
            let (path, at) = split(Path::new(path));
            (path.to_string_lossy().into_owned(), at)
        };
        assert_eq!(parts("a/b@@2h"), ("a/b".into(), Some("2h".into())));
        assert_eq!(parts("a@@b@@0x10"), ("a@@b".into(), Some("0x10".into())));
        assert_eq!(parts("a/@@monday"), ("a/.".into(), Some("monday".into())));
        assert_eq!(parts("a@@2h/b"), ("a@@2h/b".into(), None));
        assert_eq!(parts("a/b"), ("a/b".into(), None));
    }
}
