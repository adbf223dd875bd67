//! What a mirror needs to talk to a node of another cluster, and what that node shows it.
//!
//! A mirror has no certificate of its source's cluster, and gets none: no node has the authority's key. It verifies the node's certificate as a node
//! would, and says inside of that connection what it may read and why ([`gavel_mirror::Greeting`]). The name of the protocol tells both kinds of
//! connections apart before anything else is said, so that nothing that nodes say to each other can be said by a guest.

use super::error::TrustError;
use super::node;
use gavel_types::ClusterId;
use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// The protocol of guests inside TLS.
pub const GUEST_ALPN: &[u8] = b"gavel-mirror/1";

/// Whom a guest believes. Cheap to clone.
#[derive(Clone)]
pub struct GuestTrust {
    cluster: ClusterId,
    client: Arc<ClientConfig>,
}

impl GuestTrust {
    /// Believes the authority whose certificates these are.
    ///
    /// # Errors
    /// They are no certificates of the authority of `cluster`, or none of them is valid at `now`; `origin` says in the error where they are from.
    pub fn new(pem: &str, origin: &Path, cluster: ClusterId, now: SystemTime) -> Result<GuestTrust, TrustError> {
        let file = node::parse_authority(pem.as_bytes(), origin, now)?;
        if file.cluster != cluster {
            return Err(TrustError::WrongCluster { path: origin.to_owned(), found: file.cluster, expected: cluster });
        }
        let garbage = |detail: String| TrustError::Garbage { path: origin.to_owned(), what: "certificate", detail };
        let mut roots = RootCertStore::empty();
        for certificate in file.certificates {
            roots.add(certificate.der).map_err(|error| garbage(error.to_string()))?;
        }
        let config = ClientConfig::builder_with_provider(node::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| TrustError::Make { what: "TLS configuration", detail: error.to_string() })?;
        let mut client = config.with_root_certificates(roots).with_no_client_auth();
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        client.alpn_protocols = vec![GUEST_ALPN.to_vec()];
        Ok(GuestTrust { cluster, client: Arc::new(client) })
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// For connections to its nodes. The verifier must be asked for the name of the node that is dialled.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        self.client.clone()
    }
}
