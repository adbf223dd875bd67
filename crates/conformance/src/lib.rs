//! Tests that only a real kernel can decide: real mounts, real processes, real SIGKILL, real network namespaces.
//!
//! What it is: the harness below, and in `tests/` one file for each kind of trouble. They drive the `gavel` program as a
//! person would, and know no crate of Gavel but the library for programs: what they hold Gavel to is what its documents promise.
//! What it is not: the place to find out why. A fault that a simulation or a unit test can show belongs there.
//!
//! | file | what is done to the cluster |
//! |---|---|
//! | `tests/faults.rs` | nodes are killed, stopped, brought back; a disk is full |
//! | `tests/netcut.rs` | nodes are cut off from the others |
//! | `tests/conflicts.rs` | a node is cut off that has answered changes; others change the same files |
//! | `tests/bad_input.rs` | garbage comes in: on sockets, in files, in configurations |
//! | `tests/programs.rs` | programs that people use run on the mounts |
//! | `tests/client.rs` | a mount without a replica works beside it, and the node that it asks is killed |
//! | `tests/coherency.rs` | what one node and its kernel keep is changed through another |
//! | `tests/linear.rs` | the same; all that was answered on three mounts must have an order |
//! | `tests/locks.rs` | programs lock files, on all mounts, while they, nodes and leaders die |
//! | `tests/console.rs` | it is looked at, and files are brought back, in a browser; others try to use the page |
//! | `tests/behind.rs` | nodes die with changes that they have answered and not committed |
//! | `tests/history.rs` | two users change it on three mounts, and what they did is told |
//! | `tests/undo.rs` | trees are removed and brought back, beside others; states get names |
//! | `tests/past.rs` | it is changed, and every mount must show each state as it was; also a node that is cut off |
//! | `tests/model_past.rs` | it is changed at random, and pruned; nodes are killed and away; each state must be what a model says it was |
//! | `tests/pruning.rs` | states are pruned, and mounted, and named by schedule |
//! | `tests/keeping_less.rs` | directories keep less of their past than the rest |
//! | `tests/space.rs` | large files go, and their room comes back, also while a node is killed |
//! | `tests/volumes.rs` | volumes are made, cloned, destroyed and restored |
//! | `tests/transactions.rs` | many changes are made at once, or none, beside others and while what does them is killed |
//! | `tests/transactions_restart.rs` | the same, with directories of their own; nodes are killed, stopped, filled and damaged under them |
//! | `tests/transactions_users.rs` | users who are not root try to |
//! | `tests/large_transactions.rs` | they make many thousand files, beside others, and are killed in the midst of their commit |
//! | `tests/mirror.rs` | a second cluster follows a volume; streams are cut and damaged, its node is killed |
//! | `tests/follow.rs` | the same over the network, without a hand; peers and what carries it are killed |
//! | `tests/mirror_only.rs` | a part of a volume is mirrored and backed up; nothing else of it may be found there |
//! | `tests/failback.rs` | the source is lost, its mirror takes its place, and gives it back |
//! | `tests/backup.rs` | volumes are backed up into folders, which are damaged, pruned and restored |
//! | `tests/mirror_long.rs` | the same for long: the source is busy, the link is cut, nodes of both are killed |
//! | `tests/transactions_programs.rs` | what people build and install with runs in transactions, and is killed in them |
//! | `tests/transactions_agents.rs` | many agents change one source tree, each change checked in a transaction |
//! | `tests/library.rs` | the same, by programs that use the library |
//! | `tests/posix.rs` | pjdfstest and fsx run on a mount |
//!
//! Invariants:
//! 1. One cluster at a time on a machine ([`turn`]): tests wait for each other, in whatever process they run.
//! 2. Nothing stays behind: processes, mounts, namespaces and files go when a test ends, also by a panic; what a killed
//!    test leaves, the next one removes.
//! 3. Tests wait for conditions, each with a deadline ([`wait`]); a pause is never what makes a test right.
//! 4. What needs root, FUSE or a program that is not there is skipped, and says so.
//!
//! The program under test is the one that `GAVEL_BIN` names, or else the one that was built beside the tests
//! ([`command::Gavel::find`]). With `GAVEL_CONFORMANCE_LOGS=DIR`, the logs of the nodes of a failed test are copied there.

pub mod browser;
pub mod busy;
pub mod client;
pub mod cluster;
pub mod command;
pub mod dice;
pub mod history;
pub mod journal;
pub mod locker;
pub mod machine;
pub mod mapping;
pub mod mounts;
pub mod netns;
pub mod pasts;
pub mod place;
pub mod process;
pub mod scene;
pub mod serving;
pub mod trees;
pub mod turn;
pub mod two;
pub mod txn;
pub mod verify;
pub mod wait;
pub mod wired;
