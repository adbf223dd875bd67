//! Every decoder that meets bytes of others (from a disk, a network, a file that a person wrote), under arbitrary bytes.
//!
//! Each module has a `run`, which gives one input to the decoders of a family, asserts what must hold of whatever they
//! accept, and says whether they accepted anything; and `seeds`, inputs that they do accept, to start from. The tests
//! run all of them on a few thousand mutated seeds with a stable compiler; `fuzz_targets` lets libFuzzer at them.
//! docs/testing.md says how.
//!
//! What this room is not: a judge of what decoded bytes mean. It refuses panics, memory without bound, and values that
//! do not survive being written and read again.
//!
//! - [`wire`]: log entries, messages, record versions, keys
//! - [`state`]: the replicated state, and what is sealed with the records
//! - [`quorum`]: messages of the replicated log, in a replica that has started
//! - [`net`]: frames, envelopes, greetings, refusals
//! - [`texts`]: configuration, requests on the control socket, certificates
//! - [`log`]: a directory of log segments
//! - [`backup`]: files of folders of backups
//! - [`blobs`]: a directory of blob segments and indexes
//! - [`journal`]: journals of transactions, replayed
//! - [`mirror`]: streams to mirrors
//! - [`acl`]: access control lists, as programs hand them in
//! - [`mutate`]: inputs made of seeds; [`parts`]: inputs of several byte strings; `seal`: checksums made good again

pub mod acl;
pub mod backup;
pub mod blobs;
pub mod journal;
pub mod log;
pub mod mirror;
pub mod mutate;
pub mod net;
pub mod parts;
pub mod quorum;
mod seal;
pub mod state;
pub mod texts;
pub mod wire;

/// A family of decoders.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name of its module and of its program.
    pub name: &'static str,
    /// Gives it an input; true if a decoder accepted it.
    ///
    /// # Panics
    /// If a decoder panics, or what it accepted breaks a rule: that is what we look for.
    pub run: fn(&[u8]) -> bool,
    /// Inputs that are accepted.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All families.
pub const TARGETS: [Target; 11] = [
    Target { name: "acl", run: acl::run, seeds: acl::seeds },
    Target { name: "backup", run: backup::run, seeds: backup::seeds },
    Target { name: "blobs", run: blobs::run, seeds: blobs::seeds },
    Target { name: "journal", run: journal::run, seeds: journal::seeds },
    Target { name: "log", run: log::run, seeds: log::seeds },
    Target { name: "mirror", run: mirror::run, seeds: mirror::seeds },
    Target { name: "net", run: net::run, seeds: net::seeds },
    Target { name: "quorum", run: quorum::run, seeds: quorum::seeds },
    Target { name: "state", run: state::run, seeds: state::seeds },
    Target { name: "texts", run: texts::run, seeds: texts::seeds },
    Target { name: "wire", run: wire::run, seeds: wire::seeds },
];
