//! Crates depend downwards only, and each foreign library has its one home.

use super::Finding;
use super::repository::{Dependency, Metadata, Package, Repository, room};

/// A crate, and which crates of ours it may know outside of tests.
struct Room {
    name: &'static str,
    may_know: &'static [&'static str],
    /// No I/O, clock, randomness or threads inside.
    pure: bool,
}

const EVERY_ROOM: &[&str] = &[
    "types", "wire", "quorum", "lease", "lock", "txn", "store", "fs", "history", "mirror", "backup", "server",
    "client", "node", "runtime", "mount", "sim", "api",
];

const ROOMS: &[Room] = &[
    Room { name: "types", may_know: &[], pure: true },
    Room { name: "wire", may_know: &["types"], pure: true },
    Room { name: "quorum", may_know: &["types", "wire"], pure: true },
    Room { name: "lease", may_know: &["types", "wire"], pure: true },
    Room { name: "lock", may_know: &["types", "wire"], pure: true },
    Room { name: "txn", may_know: &["types", "wire", "lease", "lock"], pure: true },
    Room { name: "store", may_know: &["types", "wire"], pure: true },
    Room { name: "fs", may_know: &["types", "wire"], pure: true },
    Room { name: "history", may_know: &["types", "wire"], pure: true },
    Room { name: "mirror", may_know: &["types", "wire"], pure: true },
    Room { name: "backup", may_know: &["types", "wire", "mirror"], pure: true },
    Room { name: "server", may_know: &["types", "wire", "quorum", "lease", "txn", "store"], pure: true },
    Room { name: "client", may_know: &["types", "wire", "lease", "txn", "fs"], pure: true },
    // A server and its own session, joined: what both worlds host.
    Room {
        name: "node",
        may_know: &["types", "wire", "quorum", "lease", "txn", "store", "fs", "server", "client"],
        pure: true,
    },
    // The library for programs: they bring it in, and nothing else of the house.
    Room { name: "api", may_know: &["types"], pure: false },
    Room {
        name: "runtime",
        may_know: &[
            "types", "wire", "quorum", "lease", "txn", "store", "fs", "history", "mirror", "server", "client", "node",
        ],
        pure: false,
    },
    Room { name: "mount", may_know: &["types", "wire", "fs", "client"], pure: false },
    Room {
        name: "sim",
        may_know: &["types", "wire", "quorum", "lease", "txn", "store", "fs", "server", "client", "node"],
        pure: false,
    },
    Room { name: "cli", may_know: EVERY_ROOM, pure: false },
    Room { name: "conformance", may_know: EVERY_ROOM, pure: false },
    Room { name: "fuzz", may_know: EVERY_ROOM, pure: false },
    Room { name: "xtask", may_know: &[], pure: false },
];

/// What pure rooms may not even test with: it would bring the world in.
const WORLDLY: &[&str] = &["runtime", "mount", "cli", "conformance", "fuzz", "xtask"];

/// A foreign library (and those whose names begin with it and a hyphen), and who may know it.
struct Home {
    library: &'static str,
    may_know: &'static [&'static str],
    may_test_with: &'static [&'static str],
}

const HOMES: &[Home] = &[
    Home { library: "tokio", may_know: &["runtime", "cli", "conformance", "xtask"], may_test_with: &["mount"] },
    // xtask: the passthrough that the benchmark compares with.
    Home { library: "fuser", may_know: &["mount", "xtask"], may_test_with: &[] },
    Home { library: "raft", may_know: &["quorum"], may_test_with: &[] },
    Home { library: "lsm-tree", may_know: &["store"], may_test_with: &[] },
];

/// Finds dependencies that point upwards or sideways, and libraries outside of their home.
pub(super) fn check(repository: &Repository, metadata: &Metadata) -> Vec<Finding> {
    metadata.packages.iter().flat_map(|package| check_package(repository, package)).collect()
}

fn check_package(repository: &Repository, package: &Package) -> Vec<Finding> {
    let Some(known) = ROOMS.iter().find(|known| known.name == package.room) else {
        let what = format!("the crate {} has no place in the order of rooms", package.room);
        let advice = "nobody can tell what it may depend on: add it to ROOMS in xtask/src/check/direction.rs";
        return vec![Finding::new(&package.manifest, 1, what, advice)];
    };
    let wrong = |dependency: &Dependency| {
        let reason = wrong_room(known, dependency).or_else(|| wrong_library(known, dependency))?;
        let line = repository.line_where(&package.manifest, |line| {
            line.trim_start().strip_prefix(&dependency.name).is_some_and(|rest| rest.starts_with([' ', '.', '=']))
        });
        let what = format!("{} depends on {}", package.room, dependency.name);
        Some(Finding::new(&package.manifest, line, what, reason))
    };
    package.dependencies.iter().filter_map(wrong).collect()
}

fn wrong_room(known: &Room, dependency: &Dependency) -> Option<String> {
    let target = room(&dependency.name);
    let ours = dependency.name.starts_with("gavel-") || ROOMS.iter().any(|room| room.name == dependency.name);
    if !ours {
        return None;
    }
    if dependency.dev {
        let worldly = known.pure && WORLDLY.contains(&target);
        return worldly.then(|| {
            "a pure room that needs the world for its tests is not pure: move the test up to conformance".to_owned()
        });
    }
    (!known.may_know.contains(&target)).then(|| match known.may_know {
        [] => "it may know no other room: move what is shared down, or what needs it up".to_owned(),
        may => format!("rooms know only what lies below them, here {}: move what is shared down", may.join(", ")),
    })
}

fn wrong_library(known: &Room, dependency: &Dependency) -> Option<String> {
    let name = dependency.name.as_str();
    let home = HOMES
        .iter()
        .find(|home| name.strip_prefix(home.library).is_some_and(|rest| rest.is_empty() || rest.starts_with('-')))?;
    let welcome = home.may_know.contains(&known.name) || dependency.dev && home.may_test_with.contains(&known.name);
    (!welcome).then(|| {
        format!("only {} may know it: ask for what you need behind that room's own types", home.may_know.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(room: &str, name: &str, dev: bool) -> Vec<String> {
        let manifest = format!("crates/{room}/Cargo.toml");
        let text = format!("[package]\nname = \"gavel-{room}\"\n\n[dependencies]\n{name} = {{ workspace = true }}\n");
        let repository = Repository::of(&[(&manifest, &text)]);
        let package =
            Package { room: room.to_owned(), manifest, dependencies: vec![Dependency { name: name.to_owned(), dev }] };
        check(&repository, &Metadata { packages: vec![package] }).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_upward_dependency_is_found_on_its_line() {
        let found = findings("txn", "gavel-store", false);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("crates/txn/Cargo.toml:5: txn depends on gavel-store (rooms know only"));
    }

    #[test]
    fn pure_rooms_may_test_with_each_other_and_not_with_the_world() {
        assert_eq!(findings("fs", "gavel-store", true), Vec::<String>::new());
        assert_eq!(findings("fs", "gavel-runtime", true).len(), 1);
        assert_eq!(findings("server", "gavel-mount", true).len(), 1);
    }

    #[test]
    fn libraries_stay_at_home() {
        for (room, library, dev, wrong) in [
            ("server", "tokio", false, true),
            ("client", "tokio-rustls", false, true),
            ("mount", "tokio", false, true),
            ("mount", "tokio", true, false),
            ("store", "tokio", true, true),
            ("runtime", "tokio-rustls", false, false),
            ("cli", "fuser", false, true),
            ("server", "raft", false, true),
            ("quorum", "raft", false, false),
            ("server", "raft-proto", false, true),
            ("runtime", "lsm-tree", false, true),
            ("store", "lsm-tree", false, false),
            ("store", "tokiox", false, false),
        ] {
            assert_eq!(findings(room, library, dev).len(), usize::from(wrong), "{room} -> {library}, dev: {dev}");
        }
    }

    #[test]
    fn nobody_depends_on_the_top_and_newcomers_must_be_placed() {
        assert_eq!(findings("runtime", "xtask", false).len(), 1);
        assert_eq!(findings("sim", "gavel-cli", false).len(), 1);
        assert!(findings("helpers", "serde", false)[0].contains("no place in the order"));
    }

    #[test]
    fn no_room_knows_one_that_knows_it() {
        for room in ROOMS {
            for known in room.may_know {
                let other = ROOMS.iter().find(|r| r.name == *known).expect("each known room is a room");
                assert!(!other.may_know.contains(&room.name), "{} <-> {known}", room.name);
            }
        }
    }
}
