//! Making a cluster, and issuing certificates to its nodes.

use super::error::TrustError;
use super::files;
use super::identity::{Identity, dns_name};
use super::node::{NodeTrust, TrustPaths, TrustPem};
use gavel_types::{ClusterId, NodeId};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long an authority's certificate is valid: longer than the machines.
pub const AUTHORITY_VALIDITY: Duration = DAY.saturating_mul(30 * 365);
/// How long a node's certificate is valid. There is no automatic renewal yet, so it is long.
pub const NODE_VALIDITY: Duration = DAY.saturating_mul(10 * 365);
/// Certificates are valid from this long before they are made, so that a node whose clock is
/// somewhat behind the authority's can start.
pub const BACKDATE: Duration = DAY;

const _: () = assert!(NODE_VALIDITY.as_secs() < AUTHORITY_VALIDITY.as_secs());

/// The authority's certificate, in the directory of [`create_cluster`] and of every node.
pub const AUTHORITY_CERTIFICATE_FILE: &str = "authority.crt";
/// The authority's key. Only issuing needs it: no node does, and it should be kept offline.
pub const AUTHORITY_KEY_FILE: &str = "authority.key";

/// A cluster's certificate authority, able to issue.
pub struct Authority {
    cluster: ClusterId,
    certificate_pem: String,
    certificate_der: Vec<u8>,
    valid_until: SystemTime,
    key: KeyPair,
}

/// A node's freshly issued certificate and key, not yet stored.
pub struct Issued {
    cluster: ClusterId,
    node: NodeId,
    authority_pem: String,
    certificate_pem: String,
    key_pem: String,
}

/// What [`create_cluster`] made.
#[derive(Clone, Debug)]
pub struct Created {
    /// The new cluster.
    pub cluster: ClusterId,
    /// Each node's files, in the order asked for: `<dir>/node-<id>/`.
    pub nodes: Vec<(NodeId, TrustPaths)>,
}

/// Makes a cluster in `dir` (made if missing): an id, an authority, and a key and certificate per node.
///
/// Errors: [`TrustError::Exists`] if `dir` already holds an authority; that one is untouched.
pub fn create_cluster(dir: &Path, nodes: &[NodeId], now: SystemTime) -> Result<Created, TrustError> {
    let authority = Authority::create(now)?;
    authority.save(dir)?;
    let mut created = Created { cluster: authority.cluster, nodes: Vec::with_capacity(nodes.len()) };
    for &node in nodes {
        let paths = TrustPaths::in_dir(&dir.join(format!("node-{node}")));
        authority.issue(node, now)?.save(&paths)?;
        created.nodes.push((node, paths));
    }
    Ok(created)
}

impl Authority {
    /// Makes the authority of a new cluster, with a random id.
    pub fn create(now: SystemTime) -> Result<Authority, TrustError> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| make("cluster's id", error))?;
        Authority::create_for(ClusterId(id), now)
    }

    /// Makes an authority for `cluster`: the first, or one that is to succeed another.
    pub fn create_for(cluster: ClusterId, now: SystemTime) -> Result<Authority, TrustError> {
        let key = KeyPair::generate().map_err(|error| make("authority's key", error))?;
        let mut params = authority_params(cluster)?;
        let valid_until = now + AUTHORITY_VALIDITY;
        set_validity(&mut params, now, valid_until);
        let certificate = params.self_signed(&key).map_err(|error| make("authority's certificate", error))?;
        Ok(Authority {
            cluster,
            certificate_pem: certificate.pem(),
            certificate_der: certificate.der().to_vec(),
            valid_until,
            key,
        })
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The BLAKE3 hash of the authority's certificate: what a person or a join token can compare.
    pub fn fingerprint(&self) -> [u8; 32] {
        gavel_types::BlobId::of(&self.certificate_der).0
    }

    /// Issues a key and a certificate for `node`, which may be a client's id: also the way to renew one.
    pub fn issue(&self, node: NodeId, now: SystemTime) -> Result<Issued, TrustError> {
        if node == NodeId(0) {
            return Err(make("node's certificate", "0 is not a node id"));
        }
        self.issue_until(node, now, (now + NODE_VALIDITY).min(self.valid_until))
    }

    pub(super) fn issue_until(&self, node: NodeId, now: SystemTime, until: SystemTime) -> Result<Issued, TrustError> {
        let key = KeyPair::generate().map_err(|error| make("node's key", error))?;
        let issuer = Issuer::new(authority_params(self.cluster)?, &self.key);
        let mut params = node_params(self.cluster, node)?;
        set_validity(&mut params, now, until);
        let certificate = params.signed_by(&key, &issuer).map_err(|error| make("node's certificate", error))?;
        Ok(Issued {
            cluster: self.cluster,
            node,
            authority_pem: self.certificate_pem.clone(),
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// Stores the authority in `dir` (made if missing) as [`AUTHORITY_CERTIFICATE_FILE`] and [`AUTHORITY_KEY_FILE`].
    ///
    /// Errors: [`TrustError::Exists`] if there is one.
    pub fn save(&self, dir: &Path) -> Result<(), TrustError> {
        make_dir(dir)?;
        let key = self.key.serialize_pem();
        write(dir.join(AUTHORITY_KEY_FILE), "authority's key", &key, files::SECRET_MODE)?;
        write(
            dir.join(AUTHORITY_CERTIFICATE_FILE),
            "authority's certificate",
            &self.certificate_pem,
            files::PUBLIC_MODE,
        )
    }

    /// Loads what [`Authority::save`] stored, to issue more.
    pub fn load(dir: &Path, now: SystemTime) -> Result<Authority, TrustError> {
        let (certificate_path, key_path) = (dir.join(AUTHORITY_CERTIFICATE_FILE), dir.join(AUTHORITY_KEY_FILE));
        let file = super::node::read_authority(&certificate_path, now)?;
        let key_pem = super::node::read_key(&key_path)?;
        let garbage = |detail: String| TrustError::Garbage { path: key_path.clone(), what: "private key", detail };
        let key = KeyPair::from_pem(&String::from_utf8_lossy(&key_pem)).map_err(|error| garbage(error.to_string()))?;
        let public = rcgen::PublicKeyData::subject_public_key_info(&key);
        let Some(own) = file.certificates.into_iter().find(|one| one.public_key == public) else {
            return Err(TrustError::KeyMismatch { key: key_path, certificate: certificate_path });
        };
        Ok(Authority {
            cluster: file.cluster,
            certificate_pem: file.pem,
            certificate_der: own.der.to_vec(),
            valid_until: own.valid_until,
            key,
        })
    }
}

impl Issued {
    /// Stores the node's files, none of which may exist.
    pub fn save(&self, paths: &TrustPaths) -> Result<(), TrustError> {
        for path in [&paths.authority, &paths.certificate, &paths.key] {
            if let Some(parent) = path.parent() {
                make_dir(parent)?;
            }
        }
        write(paths.key.clone(), "node's key", &self.key_pem, files::SECRET_MODE)?;
        write(paths.certificate.clone(), "node's certificate", &self.certificate_pem, files::PUBLIC_MODE)?;
        write(paths.authority.clone(), "authority's certificate", &self.authority_pem, files::PUBLIC_MODE)
    }

    /// Uses the certificate without storing it.
    pub fn trust(&self, now: SystemTime) -> Result<NodeTrust, TrustError> {
        let pem = TrustPem {
            authority: self.authority_pem.as_bytes(),
            certificate: self.certificate_pem.as_bytes(),
            key: self.key_pem.as_bytes(),
        };
        NodeTrust::from_pem(&pem, &TrustPaths::in_dir(Path::new("(not stored)")), self.cluster, self.node, now)
    }
}

/// What an authority's certificate says, and with it the issuer of what it signs. Both must say the
/// same for ever, or what a loaded authority issues has another issuer than the certificate's subject.
fn authority_params(cluster: ClusterId) -> Result<CertificateParams, TrustError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("gavel cluster {cluster}"));
    params.subject_alt_names = vec![uri(Identity::Authority { cluster })?];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn node_params(cluster: ClusterId, node: NodeId) -> Result<CertificateParams, TrustError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("gavel node {node}"));
    let dns = dns_name(cluster, node).try_into().map_err(|error| make("node's certificate", error))?;
    params.subject_alt_names = vec![uri(Identity::of(cluster, node))?, SanType::DnsName(dns)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match node.is_client() {
        true => vec![ExtendedKeyUsagePurpose::ClientAuth],
        false => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
    };
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn uri(identity: Identity) -> Result<SanType, TrustError> {
    let text = identity.to_string().try_into().map_err(|error| make("identity", error))?;
    Ok(SanType::URI(text))
}

fn set_validity(params: &mut CertificateParams, now: SystemTime, until: SystemTime) {
    let since_epoch = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default();
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + since_epoch(now).saturating_sub(BACKDATE);
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since_epoch(until);
}

fn make(what: &'static str, cause: impl ToString) -> TrustError {
    TrustError::Make { what, detail: cause.to_string() }
}

fn make_dir(dir: &Path) -> Result<(), TrustError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| TrustError::Write {
        path: dir.to_owned(),
        what: "directory",
        source,
    })
}

fn write(path: PathBuf, what: &'static str, text: &str, mode: u32) -> Result<(), TrustError> {
    files::write_new(&path, text.as_bytes(), mode).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => TrustError::Exists { path, what },
        _ => TrustError::Write { path, what, source },
    })
}
