//! Loading and checking a node's trust material, and the TLS configurations made of it.

use super::error::TrustError;
use super::files;
use super::guest::GUEST_ALPN;
use super::identity::{self, Identity};
use gavel_types::{ClusterId, NodeId};
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The protocol that nodes agree on inside TLS; other services of a node would use other names.
pub const ALPN: &[u8] = b"gavel-node/1";
/// Most certificates in one file: an authority, its successor, and room.
pub const CERTIFICATES_MAX: usize = 8;

/// Where a node's trust material is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustPaths {
    /// The authority's certificate; several while one authority succeeds another.
    pub authority: PathBuf,
    /// The node's certificate.
    pub certificate: PathBuf,
    /// The node's private key; only its owner may read it.
    pub key: PathBuf,
}

impl TrustPaths {
    /// The usual names in `dir`: `authority.crt`, `node.crt`, `node.key`.
    pub fn in_dir(dir: &Path) -> TrustPaths {
        TrustPaths {
            authority: dir.join(super::authority::AUTHORITY_CERTIFICATE_FILE),
            certificate: dir.join("node.crt"),
            key: dir.join("node.key"),
        }
    }
}

/// A node's checked trust material, ready for use. Cheap to clone.
#[derive(Clone)]
pub struct NodeTrust {
    cluster: ClusterId,
    node: NodeId,
    valid_until: SystemTime,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    guests: Arc<ServerConfig>,
}

impl NodeTrust {
    /// Loads and checks the files of `node` of `cluster`.
    ///
    /// Errors: a missing or unreadable file, one that is not what it should be, another cluster's or
    /// node's, expired or not yet valid (at `now`), a key that others may read or that does not
    /// match, a certificate that the authority did not issue.
    pub fn load(
        paths: &TrustPaths,
        cluster: ClusterId,
        node: NodeId,
        now: SystemTime,
    ) -> Result<NodeTrust, TrustError> {
        let pem = TrustPem {
            authority: &read(&paths.authority, "authority's certificate")?,
            certificate: &read(&paths.certificate, "node's certificate")?,
            key: &read_key(&paths.key)?,
        };
        NodeTrust::from_pem(&pem, paths, cluster, node, now)
    }

    /// The cluster that this node belongs to.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// When the node's certificate expires.
    pub fn valid_until(&self) -> SystemTime {
        self.valid_until
    }

    /// For connections that this node makes. The verifier must be asked for the name of
    /// the node that is dialled.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        self.client.clone()
    }

    /// For connections that others make to this node: nobody gets in without a certificate.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// For connections that mirrors in other clusters make to this node: they have no certificate, and say in another way who they are.
    pub fn guest_config(&self) -> Arc<ServerConfig> {
        self.guests.clone()
    }

    /// Checks and uses PEM text; `paths` only names things in errors.
    pub(super) fn from_pem(
        pem: &TrustPem<'_>,
        paths: &TrustPaths,
        cluster: ClusterId,
        node: NodeId,
        now: SystemTime,
    ) -> Result<NodeTrust, TrustError> {
        let authority = parse_authority(pem.authority, &paths.authority, now)?;
        if authority.cluster != cluster {
            return Err(TrustError::WrongCluster {
                path: paths.authority.clone(),
                found: authority.cluster,
                expected: cluster,
            });
        }
        let chain = certificates_in(pem.certificate, &paths.certificate)?;
        let valid_until = check_own(&chain[0], &paths.certificate, cluster, node, now)?;
        let provider = provider();
        let pair = pair(chain, pem.key, paths, &provider)?;
        let verifiers = Verifiers::new(authority, &paths.authority, &provider)?;
        verifiers.check(&pair.cert[0], paths, cluster, node, now)?;
        let unmade = |error: rustls::Error| TrustError::Make { what: "TLS configuration", detail: error.to_string() };
        let guests = Arc::new(guests(pair.clone(), provider.clone()).map_err(unmade)?);
        let (client, server) = verifiers.configs(pair, provider).map_err(unmade)?;
        Ok(NodeTrust { cluster, node, valid_until, client: Arc::new(client), server: Arc::new(server), guests })
    }
}

impl std::fmt::Debug for NodeTrust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeTrust").field("cluster", &self.cluster).field("node", &self.node).finish_non_exhaustive()
    }
}

pub(super) struct TrustPem<'a> {
    pub authority: &'a [u8],
    pub certificate: &'a [u8],
    pub key: &'a [u8],
}

/// An authority's file: every certificate in it that is valid now, all of one cluster.
pub(super) struct AuthorityFile {
    pub cluster: ClusterId,
    pub pem: String,
    pub certificates: Vec<AuthorityCertificate>,
}

pub(super) struct AuthorityCertificate {
    pub der: CertificateDer<'static>,
    pub valid_until: SystemTime,
    pub public_key: Vec<u8>,
}

pub(super) fn read_authority(path: &Path, now: SystemTime) -> Result<AuthorityFile, TrustError> {
    parse_authority(&read(path, "authority's certificate")?, path, now)
}

pub(super) fn read_key(path: &Path) -> Result<Vec<u8>, TrustError> {
    let what = "private key";
    let failed = |source| TrustError::Read { path: path.to_owned(), what, source };
    let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(TrustError::KeyExposed { path: path.to_owned(), mode });
    }
    read(path, what)
}

fn read(path: &Path, what: &'static str) -> Result<Vec<u8>, TrustError> {
    files::read_small(path).map_err(|source| TrustError::Read { path: path.to_owned(), what, source })
}

fn garbage(path: &Path, detail: impl ToString) -> TrustError {
    TrustError::Garbage { path: path.to_owned(), what: "certificate in PEM form", detail: detail.to_string() }
}

/// At least one and at most [`CERTIFICATES_MAX`] certificates.
fn certificates_in(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let found = CertificateDer::pem_slice_iter(pem)
        .take(CERTIFICATES_MAX + 1)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| garbage(path, error))?;
    match found.len() {
        0 => Err(garbage(path, "there is no certificate in it")),
        1..=CERTIFICATES_MAX => Ok(found),
        _ => Err(garbage(path, format!("there are more than {CERTIFICATES_MAX} certificates in it"))),
    }
}

pub(super) fn parse_authority(pem: &[u8], path: &Path, now: SystemTime) -> Result<AuthorityFile, TrustError> {
    let mut file: Option<AuthorityFile> = None;
    let mut invalid = None;
    for der in certificates_in(pem, path)? {
        let parsed = parse(&der, path)?;
        let Ok(Identity::Authority { cluster }) = Identity::of_parsed(&parsed) else {
            return Err(garbage(path, "it is not the certificate of a cluster's authority"));
        };
        if let Some(first) = &file
            && first.cluster != cluster
        {
            return Err(TrustError::WrongCluster { path: path.to_owned(), found: cluster, expected: first.cluster });
        }
        let file = file.get_or_insert_with(|| AuthorityFile {
            cluster,
            pem: String::from_utf8_lossy(pem).into_owned(),
            certificates: Vec::new(),
        });
        let public_key = parsed.public_key().raw.to_vec();
        match check_dates(&parsed, path, now) {
            Ok(valid_until) => file.certificates.push(AuthorityCertificate { der, valid_until, public_key }),
            Err(error) => invalid = Some(error),
        }
    }
    // A retired authority next to a valid one is normal; no valid one is not.
    match (file, invalid) {
        (Some(file), _) if !file.certificates.is_empty() => Ok(file),
        (_, Some(error)) => Err(error),
        _ => Err(garbage(path, "there is no certificate in it")),
    }
}

fn parse<'a>(der: &'a [u8], path: &Path) -> Result<x509_parser::certificate::X509Certificate<'a>, TrustError> {
    match x509_parser::parse_x509_certificate(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(garbage(path, "bytes follow the certificate")),
        Err(error) => Err(garbage(path, error)),
    }
}

/// Gives the end of the validity if `now` is within it.
fn check_dates(
    certificate: &x509_parser::certificate::X509Certificate<'_>,
    path: &Path,
    now: SystemTime,
) -> Result<SystemTime, TrustError> {
    let seconds = |at: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(at).unwrap_or(0));
    let validity = certificate.validity();
    if now < seconds(validity.not_before.timestamp()) {
        return Err(TrustError::NotYetValid { path: path.to_owned(), at: validity.not_before.to_string() });
    }
    let until = seconds(validity.not_after.timestamp());
    if until < now {
        return Err(TrustError::Expired { path: path.to_owned(), at: validity.not_after.to_string() });
    }
    Ok(until)
}

fn check_own(
    der: &[u8],
    path: &Path,
    cluster: ClusterId,
    node: NodeId,
    now: SystemTime,
) -> Result<SystemTime, TrustError> {
    let parsed = parse(der, path)?;
    let identity = Identity::of_parsed(&parsed).map_err(|detail| garbage(path, detail))?;
    if identity.cluster() != cluster {
        return Err(TrustError::WrongCluster { path: path.to_owned(), found: identity.cluster(), expected: cluster });
    }
    match identity {
        Identity::Authority { .. } => Err(garbage(path, "it is the authority's certificate, not a node's")),
        Identity::Node { node: found, .. } | Identity::Client { node: found, .. } if found != node => {
            Err(TrustError::WrongNode { path: path.to_owned(), found, expected: node })
        }
        Identity::Node { .. } | Identity::Client { .. } => check_dates(&parsed, path, now),
    }
}

/// The provider is always named: a process-wide default could be set by anybody, to anything.
/// AES-128 goes first: it is as far out of reach as AES-256 and costs a tenth less.
pub(super) fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

fn pair(
    chain: Vec<CertificateDer<'static>>,
    key: &[u8],
    paths: &TrustPaths,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TrustError> {
    let garbage =
        |detail: String| TrustError::Garbage { path: paths.key.clone(), what: "private key in PEM form", detail };
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| garbage(error.to_string()))?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            TrustError::KeyMismatch { key: paths.key.clone(), certificate: paths.certificate.clone() }
        }
        other => garbage(other.to_string()),
    })
}

/// For guests: as for nodes, but that nobody is asked for a certificate.
fn guests(pair: CertifiedKey, provider: Arc<CryptoProvider>) -> Result<ServerConfig, rustls::Error> {
    let mut guests = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(pair)));
    guests.session_storage = Arc::new(NoServerSessionStorage {});
    guests.send_tls13_tickets = 0;
    guests.max_early_data_size = 0;
    guests.alpn_protocols = vec![GUEST_ALPN.to_vec()];
    Ok(guests)
}

struct Verifiers {
    server: Arc<WebPkiServerVerifier>,
    client: Arc<dyn ClientCertVerifier>,
}

impl Verifiers {
    fn new(authority: AuthorityFile, path: &Path, provider: &Arc<CryptoProvider>) -> Result<Verifiers, TrustError> {
        let mut roots = RootCertStore::empty();
        for certificate in authority.certificates {
            roots.add(certificate.der).map_err(|error| garbage(path, error))?;
        }
        let roots = Arc::new(roots);
        Ok(Verifiers {
            server: WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
                .build()
                .map_err(|error| garbage(path, error))?,
            client: WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
                .build()
                .map_err(|error| garbage(path, error))?,
        })
    }

    /// Does to our own certificate what our peers will do: better to hear it at the start, with a file's name.
    fn check(
        &self,
        own: &CertificateDer<'_>,
        paths: &TrustPaths,
        cluster: ClusterId,
        node: NodeId,
        now: SystemTime,
    ) -> Result<(), TrustError> {
        let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        let name = identity::server_name(cluster, node);
        // Nobody dials a client.
        let as_server = match node.is_client() {
            true => Ok(()),
            false => self.server.verify_server_cert(own, &[], &name, &[], now).map(|_| ()),
        };
        let as_client = self.client.verify_client_cert(own, &[], now).map(|_| ());
        as_server.and(as_client).map_err(|error| TrustError::NotIssuedHere {
            certificate: paths.certificate.clone(),
            authority: paths.authority.clone(),
            detail: error.to_string(),
        })
    }

    fn configs(
        self,
        pair: CertifiedKey,
        provider: Arc<CryptoProvider>,
    ) -> Result<(ClientConfig, ServerConfig), rustls::Error> {
        let resolver = Arc::new(rustls::sign::SingleCertAndKey::from(pair));
        let versions = &[&rustls::version::TLS13];
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)?
            .with_webpki_verifier(self.server)
            .with_client_cert_resolver(resolver.clone());
        // No resumption, no early data: every connection proves both certificates anew, and nothing can be replayed.
        client.resumption = Resumption::disabled();
        // The name would tell an eavesdropper the cluster's id and whom we mean to reach.
        client.enable_sni = false;
        client.alpn_protocols = vec![ALPN.to_vec()];
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(self.client)
            .with_cert_resolver(resolver);
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.max_early_data_size = 0;
        server.alpn_protocols = vec![ALPN.to_vec()];
        Ok((client, server))
    }
}
