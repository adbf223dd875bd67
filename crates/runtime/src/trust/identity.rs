//! Who a certificate speaks for.
//!
//! A node's certificate carries two subject alternative names, both made from the same pair:
//!
//! - the URI `gavel://<cluster>/node/<id>`, which is what Gavel reads;
//! - the DNS name `node-<id>.<cluster>.gavel`, so that the dialling side's ordinary verifier already
//!   refuses every node but the one that it meant to reach. The name is never looked up anywhere.
//!
//! A client's certificate carries the URI `gavel://<cluster>/client/<id>` and the DNS name `client-<id>.<cluster>.gavel`, and is good
//! only for connections that it makes itself.
//!
//! The authority's own certificate carries the URI `gavel://<cluster>/authority`.

use gavel_types::{ClusterId, NodeId};
use rustls_pki_types::ServerName;
use std::fmt;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

/// Whom a certificate of this cluster speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The authority of a cluster.
    Authority {
        /// Its cluster.
        cluster: ClusterId,
    },
    /// One node of a cluster.
    Node {
        /// Its cluster.
        cluster: ClusterId,
        /// The node.
        node: NodeId,
    },
    /// A client of a cluster: it has no vote and no replica. Its id is [`NodeId::is_client`], and a node's is not.
    Client {
        /// Its cluster.
        cluster: ClusterId,
        /// The client.
        node: NodeId,
    },
}

impl Identity {
    /// The cluster that the identity belongs to.
    pub fn cluster(&self) -> ClusterId {
        match self {
            Identity::Authority { cluster } | Identity::Node { cluster, .. } | Identity::Client { cluster, .. } => {
                *cluster
            }
        }
    }

    /// The node or client `node` of a cluster.
    pub fn of(cluster: ClusterId, node: NodeId) -> Identity {
        match node.is_client() {
            true => Identity::Client { cluster, node },
            false => Identity::Node { cluster, node },
        }
    }

    /// Reads the identity of a DER certificate. It proves nothing: the chain must be verified apart.
    ///
    /// Errors: a sentence that says why the certificate carries no identity of Gavel's.
    pub fn of_certificate(der: &[u8]) -> Result<Identity, String> {
        let (rest, certificate) =
            x509_parser::parse_x509_certificate(der).map_err(|error| format!("not a certificate: {error}"))?;
        if !rest.is_empty() {
            return Err("bytes follow the certificate".to_owned());
        }
        Identity::of_parsed(&certificate)
    }

    pub(crate) fn of_parsed(certificate: &X509Certificate<'_>) -> Result<Identity, String> {
        let names = certificate
            .subject_alternative_name()
            .map_err(|error| format!("its subject alternative names cannot be read: {error}"))?
            .ok_or("it has no subject alternative names")?;
        let mut uris = names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        match (uris.next(), uris.next()) {
            (Some(uri), None) => {
                Identity::parse(uri).ok_or_else(|| format!("its URI {uri:?} names no node of Gavel's"))
            }
            (None, _) => Err("it has no URI that names a node".to_owned()),
            (Some(_), Some(_)) => Err("it has more than one URI".to_owned()),
        }
    }

    /// The inverse of `Display`: accepts exactly what that writes, no other spelling.
    pub fn parse(uri: &str) -> Option<Identity> {
        let (cluster, who) = uri.strip_prefix("gavel://")?.split_once('/')?;
        let cluster = cluster.parse().ok()?;
        let id = who.strip_prefix("node/").or(who.strip_prefix("client/"));
        let identity = match id {
            // Which of the two it is follows from the id.
            Some(id) => Identity::of(cluster, NodeId(id.parse().ok()?)),
            None => Identity::Authority { cluster },
        };
        (identity.to_string() == uri).then_some(identity)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Authority { cluster } => write!(f, "gavel://{cluster}/authority"),
            Identity::Node { cluster, node } => write!(f, "gavel://{cluster}/node/{node}"),
            Identity::Client { cluster, node } => write!(f, "gavel://{cluster}/client/{node}"),
        }
    }
}

/// The DNS name in a node's certificate.
pub(crate) fn dns_name(cluster: ClusterId, node: NodeId) -> String {
    let role = if node.is_client() { "client" } else { "node" };
    format!("{role}-{node}.{cluster}.gavel")
}

/// What a node that dials `node` asks the verifier to find in the certificate.
pub(crate) fn server_name(cluster: ClusterId, node: NodeId) -> ServerName<'static> {
    ServerName::try_from(dns_name(cluster, node))
        .expect("decimal and hexadecimal digits make labels of at most 32 bytes")
}
