//! What can be wrong with trust material. Every variant names the file and what to do about it.

use gavel_types::{ClusterId, NodeId};
use std::io;
use std::path::PathBuf;

/// Why trust material could not be made, stored or accepted. Nothing is half done after one of these.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file could not be read.
    #[error(
        "{}: cannot read the {what}: {source}\nHint: `gavel init` makes this file; copy it from where it ran, or correct [trust] in the config",
        path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What it should have held.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("{}: cannot write the {what}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What it should have held.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// There already is a file, and replacing it could lose a key for ever.
    #[error(
        "{}: there already is a file where the {what} was to be written\nHint: choose another directory, or move the old file away",
        path.display()
    )]
    Exists {
        /// The file.
        path: PathBuf,
        /// What was to be written.
        what: &'static str,
    },
    /// Others than its owner may read a private key.
    #[error(
        "{path}: others may read this private key (mode {mode:03o})\nHint: chmod 600 {path}; if somebody may have read it, issue a new one",
        path = path.display()
    )]
    KeyExposed {
        /// The key's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file's contents are not what the file is for.
    #[error(
        "{}: this is not a {what}: {detail}\nHint: the file is damaged or another file was copied in its place; copy it again from where `gavel init` ran",
        path.display()
    )]
    Garbage {
        /// The file.
        path: PathBuf,
        /// What it should have held.
        what: &'static str,
        /// How it fails to be that.
        detail: String,
    },
    /// The certificate belongs to another cluster.
    #[error(
        "{}: belongs to cluster {found}, this node is configured for cluster {expected}\nHint: correct `cluster` in the config, or copy the files of the right cluster",
        path.display()
    )]
    WrongCluster {
        /// The certificate's file.
        path: PathBuf,
        /// The cluster that it names.
        found: ClusterId,
        /// The cluster in the configuration.
        expected: ClusterId,
    },
    /// The certificate belongs to another node.
    #[error(
        "{}: belongs to node {found}, this node is configured as node {expected}\nHint: every node has its own certificate and key; copy those of node {expected}",
        path.display()
    )]
    WrongNode {
        /// The certificate's file.
        path: PathBuf,
        /// The node that it names.
        found: NodeId,
        /// The node in the configuration.
        expected: NodeId,
    },
    /// The certificate is no longer valid.
    #[error("{}: the certificate expired on {at}\nHint: issue a new one for this node, or correct this machine's clock", path.display())]
    Expired {
        /// The certificate's file.
        path: PathBuf,
        /// The end of its validity.
        at: String,
    },
    /// The certificate is not valid yet: nearly always a clock that is wrong.
    #[error("{}: the certificate is valid only from {at}\nHint: correct this machine's clock", path.display())]
    NotYetValid {
        /// The certificate's file.
        path: PathBuf,
        /// The start of its validity.
        at: String,
    },
    /// Key and certificate are not a pair.
    #[error(
        "{}: this key does not belong to the certificate {}\nHint: the two files are made together; copy both again",
        key.display(), certificate.display()
    )]
    KeyMismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// The authority did not issue the certificate.
    #[error(
        "{}: not issued by the authority in {}: {detail}\nHint: copy both files again from where `gavel init` ran",
        certificate.display(), authority.display()
    )]
    NotIssuedHere {
        /// The certificate's file.
        certificate: PathBuf,
        /// The authority's file.
        authority: PathBuf,
        /// What the verifier said.
        detail: String,
    },
    /// A key or certificate could not be made.
    #[error("cannot make the {what}: {detail}")]
    Make {
        /// What was to be made.
        what: &'static str,
        /// The cause.
        detail: String,
    },
}
