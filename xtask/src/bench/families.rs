//! Which workloads there are. Those of one family share what they prepare, and run one after the other.

use anyhow::Result;

use super::turn::Turn;
use super::{build, bytes, failover, names, shared, syncs, tools, trees};

/// Workloads that share what they prepare.
pub(super) struct Family {
    pub(super) ids: &'static [&'static str],
    pub(super) about: &'static str,
    /// How many mounts of the tree they need.
    pub(super) mounts: usize,
    pub(super) run: fn(&Turn) -> Result<()>,
}

pub(super) const FAMILIES: &[Family] = &[
    Family {
        ids: &["create", "stat-warm", "list", "stat-cold", "rename", "unlink"],
        about: "10,000 empty files: made (1 and 4 threads), looked at, listed, renamed, removed",
        mounts: 1,
        run: names::run,
    },
    Family {
        ids: &["untar", "tar-warm", "grep", "tar-cold", "rm-rf"],
        about: "a source tree of 5,000 files and 50 MB",
        mounts: 1,
        run: trees::run,
    },
    Family {
        ids: &["open-read-close"],
        about: "a cached 4 KiB file, opened, read and closed",
        mounts: 1,
        run: bytes::open_read_close,
    },
    Family {
        ids: &["seq-write", "seq-read-warm", "seq-read-cold"],
        about: "1 GiB in calls of 1 MiB",
        mounts: 1,
        run: bytes::sequence,
    },
    Family {
        ids: &["rand-read-warm", "rand-write"],
        about: "4 KiB here and there in 256 MiB",
        mounts: 1,
        run: bytes::random,
    },
    Family { ids: &["fsync"], about: "append 4 KiB and fsync, 1 and 8 writers", mounts: 1, run: syncs::run },
    Family {
        ids: &["sqlite"],
        about: "1,000 small transactions, WAL and DELETE journals",
        mounts: 1,
        run: tools::sqlite,
    },
    Family { ids: &["git"], about: "a 20 MB repository: clone, status, commit, gc", mounts: 1, run: tools::git },
    Family { ids: &["build"], about: "cargo build of a small workspace", mounts: 1, run: build::run },
    Family {
        ids: &["visible"],
        about: "a change on one mount seen by a polling stat on another",
        mounts: 2,
        run: shared::visible,
    },
    Family {
        ids: &["ping-pong"],
        about: "alternate appends, creates and lock hand-overs from two mounts",
        mounts: 2,
        run: shared::ping_pong,
    },
    Family {
        ids: &["failover"],
        about: "a node killed or stopped under load: the longest stall, and what was acknowledged",
        mounts: 3,
        run: failover::run,
    },
];

/// Names the workloads on standard output.
pub(super) fn print_list() {
    for family in FAMILIES {
        let mounts = if family.mounts > 1 { format!(" ({} mounts)", family.mounts) } else { String::new() };
        println!("{}\n    {}{mounts}", family.ids.join(", "), family.about);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_workload_of_the_document_is_there_once() {
        let ids: Vec<_> = FAMILIES.iter().flat_map(|family| family.ids).collect();
        assert_eq!(ids.len(), ids.iter().collect::<BTreeSet<_>>().len());
        let document = include_str!("../../../docs/benchmarks.md");
        for id in ids {
            assert!(document.contains(&format!("`{id}`")), "{id} is not in docs/benchmarks.md");
        }
    }
}
