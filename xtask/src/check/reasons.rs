//! Each dependency has its sentence of reason in `docs/decisions/dependencies.md`.

use std::collections::BTreeSet;

use super::Finding;
use super::repository::{Metadata, Repository};

const MANIFEST: &str = "Cargo.toml";
const REASONS: &str = "docs/decisions/dependencies.md";

/// Shorter than that is no reason.
const REASON_CHARS_MIN: usize = 20;

/// Finds dependencies without a reason, and reasons without a dependency.
///
/// A reason is a list item that begins with the name: ``- `name`: because ...``.
pub(super) fn check(repository: &Repository, metadata: &Metadata) -> Vec<Finding> {
    let text = repository.files.get(REASONS).map_or("", String::as_str);
    let given: Vec<_> = text.lines().enumerate().filter_map(|(at, line)| Some((at + 1, reason(line)?))).collect();
    let declared = declared(repository.files.get(MANIFEST).map_or("", String::as_str));
    let used: BTreeSet<_> =
        metadata.packages.iter().flat_map(|package| &package.dependencies).map(|d| d.name.as_str()).collect();

    let has_reason = |name: &str| given.iter().any(|(_, (given, why))| *given == name && why.len() >= REASON_CHARS_MIN);
    let missing = declared.iter().filter(|(_, name)| used.contains(name) && !has_reason(name)).map(|(line, name)| {
        let advice =
            format!("a dependency is a decision: say in one sentence why in {REASONS}, as \"- `{name}`: ...\"");
        Finding::new(MANIFEST, *line, format!("no reason is given for {name}"), advice)
    });
    let is_declared = |name: &str| declared.iter().any(|(_, declared)| *declared == name);
    let stale = given.iter().filter(|(_, (name, _))| !is_declared(name)).map(|(line, (name, _))| {
        let advice = format!("no such line in [workspace.dependencies] of {MANIFEST}: remove the sentence");
        Finding::new(REASONS, *line, format!("a reason for {name}, which is not there"), advice)
    });
    missing.chain(stale).collect()
}

/// The lines and names below `[workspace.dependencies]`, without our own crates.
fn declared(manifest: &str) -> Vec<(usize, &str)> {
    let mut inside = false;
    let mut names = Vec::new();
    for (at, line) in manifest.lines().enumerate() {
        if line.starts_with('[') {
            inside = line.trim() == "[workspace.dependencies]";
        } else if inside
            && let Some((name, _)) = line.split_once('=')
            && !name.starts_with(['#', ' '])
            && !name.starts_with("gavel-")
        {
            names.push((at + 1, name.trim()));
        }
    }
    names
}

fn reason(line: &str) -> Option<(&str, &str)> {
    let (name, why) = line.strip_prefix("- `")?.split_once('`')?;
    Some((name, why.trim_start_matches(':').trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::repository::{Dependency, Package};

    const ROOT: &str = "[workspace]\n[workspace.dependencies]\ngavel-types = { path = \"crates/types\" }\n\
        serde = \"1\"\nunused = \"1\"\nraft = { version = \"0.7\" }\n[profile.dev]\nopt-level = 1\n";

    fn findings(reasons: &str) -> Vec<String> {
        let repository = Repository::of(&[(MANIFEST, ROOT), (REASONS, reasons)]);
        let uses = |name: &str| Dependency { name: name.to_owned(), dev: false };
        let package = Package {
            room: "types".to_owned(),
            manifest: "crates/types/Cargo.toml".to_owned(),
            dependencies: vec![uses("serde"), uses("raft")],
        };
        check(&repository, &Metadata { packages: vec![package] }).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_missing_and_a_too_short_reason_are_found() {
        let found = findings("- `serde`: yes.\n");
        assert_eq!(found.len(), 2);
        assert!(found[0].starts_with("Cargo.toml:4: no reason is given for serde"));
        assert!(found[1].starts_with("Cargo.toml:6: no reason is given for raft"));
    }

    #[test]
    fn a_reason_for_what_is_gone_is_found() {
        let good = "- `serde`: derives the codecs of records.\n- `raft`: the consensus core, without I/O.\n";
        assert_eq!(findings(good), Vec::<String>::new());
        let found = findings(&format!("{good}- `bincode`: it was fast and is now gone.\n"));
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("docs/decisions/dependencies.md:3: a reason for bincode"));
    }
}
