//! The house's own checks, run by CI.
//!
//! - `direction`: crates depend downwards only, and each foreign library has its one home
//! - `purity`: pure rooms make no calls into the world
//! - `machine`: no path or registry of somebody's machine in the repository
//! - `length`: no file beyond 1,500 lines
//! - `reasons`: each dependency has its sentence of reason
//! - `links`: links in documents lead to files that exist
//! - `source`: what a text scan understands of Rust, and what it does not
//! - `repository`: which files there are
//!
//! Invariants:
//! 1. A check reads; it never changes a file.
//! 2. Every finding names a path and a line, says why, and says what to do.
//! 3. Each check has a test in which it finds something.

mod direction;
mod length;
mod links;
mod machine;
mod purity;
mod reasons;
mod repository;
mod source;

use std::fmt;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use repository::{Metadata, Repository};

/// What `xtask check` is told.
#[derive(Args)]
pub struct CheckArguments {
    /// Only these checks: direction, purity, machine, length, reasons, links
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// Something that breaks a rule of the house.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    /// Counted from 1.
    line: usize,
    what: String,
    /// Why it is wrong, and what to do.
    advice: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {} ({})", self.path, self.line, self.what, self.advice)
    }
}

impl Finding {
    fn new(path: &str, line: usize, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into(), advice: advice.into() }
    }
}

type Check = fn(&Repository, &Metadata) -> Vec<Finding>;

const CHECKS: &[(&str, Check)] = &[
    ("direction", |repository, metadata| direction::check(repository, metadata)),
    ("purity", |repository, _| purity::check(repository)),
    ("machine", |repository, _| machine::check(repository)),
    ("length", |repository, _| length::check(repository)),
    ("reasons", |repository, metadata| reasons::check(repository, metadata)),
    ("links", |repository, _| links::check(repository)),
];

/// Runs the checks, prints what they find, and answers with the exit status: 0 for nothing, 1 for something.
///
/// # Errors
/// When the repository cannot be read, or a check is named that does not exist.
pub fn run(arguments: &CheckArguments) -> Result<ExitCode> {
    let known: Vec<_> = CHECKS.iter().map(|(name, _)| *name).collect();
    if let Some(unknown) = arguments.only.iter().find(|name| !known.contains(&name.as_str())) {
        anyhow::bail!("there is no check {unknown:?}\nHint: the checks are {}", known.join(", "));
    }
    let repository = Repository::open()?;
    let metadata = Metadata::read(&repository)?;
    let mut found = 0;
    for (name, check) in CHECKS {
        if !arguments.only.is_empty() && !arguments.only.iter().any(|only| only == name) {
            continue;
        }
        let mut findings = check(&repository, &metadata);
        findings.sort();
        for finding in &findings {
            println!("{finding}");
        }
        found += findings.len();
    }
    match found {
        0 => println!("{} files: nothing found", repository.files.len()),
        n => println!("{n} found"),
    }
    Ok(if found == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
