//! Why a link ended, a message or request failed, a transport did not start.

use super::frame::{FrameError, FrameKind};
use super::hello::Refusal;
use gavel_types::NodeId;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// Why a connection was not made, or ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The machine was not reached.
    #[error("cannot connect: {0}")]
    Dial(io::Error),
    /// A step took too long.
    #[error("no answer to {what} within {} ms", limit.as_millis())]
    Timeout {
        /// The step.
        what: &'static str,
        /// How long it was waited for.
        limit: Duration,
    },
    /// TLS could not be established: nearly always a certificate.
    #[error("TLS handshake failed: {source}{}", tls_hint(.source))]
    Tls {
        /// What the TLS library, or the socket below it, said.
        source: io::Error,
    },
    /// The other side's certificate carries no identity of this cluster.
    #[error("the certificate of the other side is not acceptable: {0}")]
    Certificate(String),
    /// The other side will not talk to us.
    #[error("refused by the other side: {0}")]
    Refused(Refusal),
    /// We will not talk to the other side; it has been told why.
    #[error("refused: {0}")]
    Refusing(Refusal),
    /// The connection broke.
    #[error("connection lost: {0}")]
    Io(io::Error),
    /// The other side closed the connection.
    #[error("closed by the other side")]
    Closed,
    /// The other side closed the connection within a frame.
    #[error("closed by the other side within a frame")]
    Truncated,
    /// The other side sent no frame.
    #[error("not a frame: {0}")]
    Frame(#[from] FrameError),
    /// The other side sent a frame that has no business here.
    #[error("a {0:?} frame was not expected here")]
    Unexpected(FrameKind),
    /// Nothing was heard for too long.
    #[error("nothing heard for {} ms", .0.as_millis())]
    Silent(Duration),
    /// A newer connection of the same peer took its place.
    #[error("replaced by a newer connection")]
    Replaced,
    /// It is a guest's, and goes on elsewhere.
    #[error("a guest's, handed over")]
    HandedOver,
    /// Too many handshakes were under way, and this was the oldest.
    #[error("given up in favour of newer handshakes")]
    Evicted,
    /// This transport is shutting down.
    #[error("shutting down")]
    Stopped,
}

impl LinkError {
    /// Whether trying again soon is pointless: it takes a person to change this.
    pub fn is_refusal(&self) -> bool {
        let certificate = |error: &io::Error| error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
        match self {
            LinkError::Refused(_) | LinkError::Refusing(_) | LinkError::Certificate(_) => true,
            LinkError::Tls { source: error } | LinkError::Io(error) => certificate(error),
            _ => false,
        }
    }
}

fn tls_hint(error: &io::Error) -> &'static str {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_)) => {
            " (are both nodes' certificates of this cluster's authority, for these node ids, and not expired?)"
        }
        _ => "",
    }
}

/// Why a message was not taken. A message that was taken may still be lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Not one of the peers.
    #[error("node {0} is not a peer of this node")]
    UnknownPeer(NodeId),
    /// Larger than any message may be.
    #[error("a message of {length} bytes is larger than the {max} bytes that one may have")]
    TooLarge {
        /// Its bytes.
        length: usize,
        /// Bytes allowed.
        max: usize,
    },
}

/// Why a bulk request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BulkError {
    /// Not one of the peers.
    #[error("node {0} is not a peer of this node")]
    UnknownPeer(NodeId),
    /// Larger than any request may be.
    #[error("a request of {length} bytes is larger than the {max} bytes that one may have")]
    TooLarge {
        /// Its bytes.
        length: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// The peer is not reachable; nothing was sent.
    #[error("node {peer} is not connected: {cause}")]
    NotConnected {
        /// The peer.
        peer: NodeId,
        /// What the last attempt ended with.
        cause: String,
    },
    /// The peer has too many requests of ours already; it did nothing.
    #[error("node {0} has too many requests under way")]
    Busy(NodeId),
    /// The peer answered that it failed.
    #[error("node {peer} answered: {text}")]
    Failed {
        /// The peer.
        peer: NodeId,
        /// Its words.
        text: String,
    },
    /// The deadline passed.
    #[error("node {peer} did not answer within {} ms", deadline.as_millis())]
    TimedOut {
        /// The peer.
        peer: NodeId,
        /// The deadline.
        deadline: Duration,
        /// Whether the request had been handed to a connection by then.
        sent: bool,
    },
    /// The connection ended before the answer came.
    #[error("the connection to node {0} ended before the answer came")]
    LinkLost(NodeId),
    /// The peer's answer is not one.
    #[error("node {0} sent an answer that cannot be read")]
    BadAnswer(NodeId),
}

impl BulkError {
    /// Whether it is certain that the peer did not execute the request, or that it said how it ended.
    /// If not, it may have been executed, or still be.
    pub fn outcome_known(&self) -> bool {
        match self {
            BulkError::TimedOut { sent, .. } => !sent,
            BulkError::LinkLost(_) | BulkError::BadAnswer(_) => false,
            _ => true,
        }
    }
}

/// Why a transport did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {address}: {source}\nHint: is another gavel running here, or is `listen` in the config not an address of this machine?"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// A listener that was given cannot be used.
    #[error("cannot use the listening socket: {0}")]
    Listener(io::Error),
    /// The limits make no sense.
    #[error("transport limits: {0}")]
    Limits(String),
    /// The list of peers makes no sense.
    #[error("peers: {0}")]
    Peers(String),
}
