//! No path or registry of somebody's machine in the repository: it would work only there, and tell about it.

use super::Finding;
use super::repository::Repository;

/// Paths that mean something on one machine only. Taken apart, so that this file passes its own check.
const PLACES: &[&str] = &[
    concat!("/wo", "rk"),
    concat!("/ro", "ot"),
    concat!("/ho", "me"),
    concat!("/Use", "rs"),
    concat!("/tmp/ba", "sh"),
    concat!("/tmp/tar", "get"),
    concat!("/tmp/br", "ief"),
];

/// The one registry that everybody can reach.
const REGISTRY: &str = "https://github.com/rust-lang/crates.io-index";

/// Finds absolute paths of a machine, and registries other than crates.io.
pub(super) fn check(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in &repository.files {
        for (at, line) in text.lines().enumerate() {
            if let Some(place) = PLACES.iter().find(|place| mentions(line, place)) {
                let advice = "it exists on one machine only: take it from an argument, the environment or a temporary \
                    directory; in a document, show a path that anybody may have, such as /srv/gavel";
                findings.push(Finding::new(path, at + 1, format!("the absolute path {place}"), advice));
            }
            if let Some(registry) = foreign_registry(path, line) {
                let advice = "only crates.io is reachable for everybody: keep mirrors in your own cargo configuration, \
                    outside of the repository";
                findings.push(Finding::new(path, at + 1, format!("the registry {registry}"), advice));
            }
        }
    }
    findings
}

/// Whether the path stands in the line by itself: not as the middle of a longer path, not as the start of a longer name
/// (`/tmp/` names are stems: there any end will do).
fn mentions(line: &str, place: &str) -> bool {
    let in_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    line.match_indices(place).any(|(at, _)| {
        let starts = !line[..at].ends_with(|c| in_name(c) || matches!(c, '/' | '}' | '*' | '~'));
        let ends = place.starts_with("/tmp/") || !line[at + place.len()..].starts_with(in_name);
        starts && ends
    })
}

fn foreign_registry<'a>(path: &str, line: &'a str) -> Option<&'a str> {
    let line = line.trim();
    if path.ends_with("Cargo.lock") {
        let source = line.strip_prefix("source = \"")?.trim_end_matches('"');
        let registry = source.strip_prefix("registry+").or_else(|| source.strip_prefix("sparse+"))?;
        return (registry != REGISTRY).then_some(registry);
    }
    let configuration = path.ends_with(".toml") && path.contains(".cargo/");
    let replaces =
        line.starts_with("replace-with") || line.starts_with("[registries") || line.starts_with("registry =");
    (configuration && replaces).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> usize {
        check(&Repository::of(&[(path, text)])).len()
    }

    #[test]
    fn paths_of_a_machine_are_found() {
        for place in PLACES {
            assert_eq!(findings("a.rs", &format!("let p = \"{place}/x\";")), 1, "{place}");
            assert_eq!(findings("a.md", &format!("see {place}\n")), 1, "{place}");
        }
        assert_eq!(findings("a.sh", concat!("cd /wo", "rk/main")), 1);
        assert_eq!(findings("a.sh", concat!("ls /tmp/bas", "h_jobs.0/x")), 1);
    }

    #[test]
    fn longer_names_are_not_that_path() {
        for fine in ["/workspace/x", "crates/work/x", "dir/root", "/rootless", "{dir}/root", "https://docs.rs/home"] {
            assert_eq!(findings("a.rs", fine), 0, "{fine}");
        }
    }

    #[test]
    fn other_registries_are_found() {
        let lock = |registry: &str| format!("[[package]]\nsource = \"{registry}\"\n");
        assert_eq!(findings("Cargo.lock", &lock(&format!("registry+{REGISTRY}"))), 0);
        assert_eq!(findings("Cargo.lock", &lock("registry+https://mirror.example/index")), 1);
        assert_eq!(findings("Cargo.lock", &lock("sparse+https://mirror.example/index/")), 1);
        assert_eq!(findings(".cargo/config.toml", "[source.crates-io]\nreplace-with = \"mirror\"\n"), 1);
        assert_eq!(findings("notes.toml", "replace-with = \"x\"\n"), 0);
    }
}
