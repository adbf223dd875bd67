//! Fault by fault: what must be refused, and by what name.

use super::*;
use gavel_types::{ClusterId, NodeId};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn cluster_in(dir: &Path) -> Created {
    create_cluster(dir, &[NodeId(1), NodeId(2)], now()).unwrap()
}

fn load(created: &Created, index: usize) -> Result<NodeTrust, TrustError> {
    let (node, paths) = &created.nodes[index];
    NodeTrust::load(paths, created.cluster, *node, now())
}

#[test]
fn a_new_cluster_loads_on_every_node_and_hides_its_keys() {
    let dir = tempfile::tempdir().unwrap();
    let created = cluster_in(dir.path());
    for (index, (node, paths)) in created.nodes.iter().enumerate() {
        let trust = load(&created, index).unwrap();
        assert_eq!((trust.node(), trust.cluster()), (*node, created.cluster));
        assert_eq!(fs::metadata(&paths.key).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let authority_key = dir.path().join(authority::AUTHORITY_KEY_FILE);
    assert_eq!(fs::metadata(authority_key).unwrap().permissions().mode() & 0o777, 0o600);
    let drafts = fs::read_dir(dir.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("draft"));
    assert_eq!(drafts.count(), 0);
}

#[test]
fn an_authority_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    cluster_in(dir.path());
    let key = dir.path().join(authority::AUTHORITY_KEY_FILE);
    let before = fs::read(&key).unwrap();
    let error = create_cluster(dir.path(), &[NodeId(1)], now()).unwrap_err();
    assert!(matches!(error, TrustError::Exists { .. }), "{error}");
    assert_eq!(fs::read(&key).unwrap(), before);
}

#[test]
fn a_loaded_authority_renews_a_node() {
    let dir = tempfile::tempdir().unwrap();
    let created = cluster_in(dir.path());
    let later = now() + authority::NODE_VALIDITY + Duration::from_secs(1);
    let (node, old) = &created.nodes[0];
    let error = NodeTrust::load(old, created.cluster, *node, later).unwrap_err();
    assert!(matches!(&error, TrustError::Expired { path, .. } if *path == old.certificate), "{error}");
    let authority = Authority::load(dir.path(), later).unwrap();
    assert_eq!(authority.cluster(), created.cluster);
    let paths = TrustPaths::in_dir(&dir.path().join("renewed"));
    authority.issue(*node, later).unwrap().save(&paths).unwrap();
    NodeTrust::load(&paths, created.cluster, *node, later).unwrap();
}

#[test]
fn both_authorities_are_trusted_while_one_succeeds_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let created = cluster_in(dir.path());
    let successor = Authority::create_for(created.cluster, now()).unwrap();
    let paths = TrustPaths::in_dir(&dir.path().join("new"));
    successor.issue(NodeId(1), now()).unwrap().save(&paths).unwrap();
    let both = [fs::read(&created.nodes[0].1.authority).unwrap(), fs::read(&paths.authority).unwrap()].concat();
    for paths in [&created.nodes[0].1, &paths] {
        fs::write(&paths.authority, &both).unwrap();
        NodeTrust::load(paths, created.cluster, NodeId(1), now()).unwrap();
    }
}

#[test]
fn a_certificate_never_outlives_its_authority() {
    let authority = Authority::create(now()).unwrap();
    let late = now() + authority::AUTHORITY_VALIDITY - Duration::from_secs(3600);
    let trust = authority.issue(NodeId(1), late).unwrap().trust(late).unwrap();
    assert_eq!(trust.valid_until(), now() + authority::AUTHORITY_VALIDITY);
}

/// Breaks one thing in the files of node 1, and gives what loading them says.
fn refused(break_it: impl FnOnce(&Created, &TrustPaths)) -> TrustError {
    let dir = tempfile::tempdir().unwrap();
    let created = cluster_in(dir.path());
    load(&created, 0).unwrap();
    break_it(&created, &created.nodes[0].1);
    let error = load(&created, 0).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&dir.path().display().to_string()), "no path in: {text}");
    assert!(text.contains("Hint: "), "no hint in: {text}");
    error
}

fn other_cluster() -> (tempfile::TempDir, Created) {
    let dir = tempfile::tempdir().unwrap();
    let created = cluster_in(dir.path());
    (dir, created)
}

#[test]
fn missing_files_are_refused_by_name() {
    for pick in
        [|p: &TrustPaths| p.authority.clone(), |p: &TrustPaths| p.certificate.clone(), |p: &TrustPaths| p.key.clone()]
    {
        let error = refused(|_, paths| fs::remove_file(pick(paths)).unwrap());
        assert!(matches!(error, TrustError::Read { .. }), "{error}");
    }
}

#[test]
fn garbage_is_refused() {
    for pick in
        [|p: &TrustPaths| p.authority.clone(), |p: &TrustPaths| p.certificate.clone(), |p: &TrustPaths| p.key.clone()]
    {
        for bytes in
            [&b""[..], b"\xff\xfe\x00garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
        {
            let error = refused(|_, paths| fs::write(pick(paths), bytes).unwrap());
            assert!(matches!(error, TrustError::Garbage { .. }), "{error}");
        }
    }
}

#[test]
fn a_truncated_certificate_is_refused() {
    let error = refused(|_, paths| {
        let bytes = fs::read(&paths.certificate).unwrap();
        fs::write(&paths.certificate, &bytes[..bytes.len() / 2]).unwrap();
    });
    assert!(matches!(error, TrustError::Garbage { .. }), "{error}");
}

#[test]
fn any_flipped_bit_of_a_certificate_is_refused() {
    let authority = Authority::create(now()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let paths = TrustPaths::in_dir(dir.path());
    authority.issue(NodeId(1), now()).unwrap().save(&paths).unwrap();
    let pem = fs::read(&paths.certificate).unwrap();
    let end = pem.iter().rposition(|&byte| byte == b'=').unwrap_or(pem.len() - 30).min(pem.len() - 30);
    for position in (28..end).step_by(7) {
        let mut broken = pem.clone();
        broken[position] = if broken[position] == b'A' { b'B' } else { b'A' };
        if broken[position] == pem[position] || pem[position] == b'\n' {
            continue;
        }
        fs::write(&paths.certificate, &broken).unwrap();
        assert!(NodeTrust::load(&paths, authority.cluster(), NodeId(1), now()).is_err(), "position {position}");
    }
}

#[test]
fn anothers_certificate_is_refused() {
    let error = refused(|created, paths| {
        fs::copy(&created.nodes[1].1.certificate, &paths.certificate).unwrap();
        fs::copy(&created.nodes[1].1.key, &paths.key).unwrap();
    });
    assert!(matches!(error, TrustError::WrongNode { found: NodeId(2), expected: NodeId(1), .. }), "{error}");
}

#[test]
fn another_clusters_files_are_refused() {
    let (_dir, other) = other_cluster();
    let error = refused(|_, paths| {
        fs::copy(&other.nodes[0].1.authority, &paths.authority).unwrap();
    });
    assert!(matches!(error, TrustError::WrongCluster { found, .. } if found == other.cluster), "{error}");
    let error = refused(|_, paths| {
        fs::copy(&other.nodes[0].1.certificate, &paths.certificate).unwrap();
    });
    assert!(matches!(error, TrustError::WrongCluster { .. }), "{error}");
}

#[test]
fn a_certificate_of_an_impostor_with_the_right_names_is_refused() {
    let error = refused(|created, paths| {
        let impostor = Authority::create_for(created.cluster, now()).unwrap();
        fs::remove_file(&paths.certificate).unwrap();
        fs::remove_file(&paths.key).unwrap();
        let elsewhere = TrustPaths { authority: paths.key.with_file_name("unused.crt"), ..paths.clone() };
        impostor.issue(NodeId(1), now()).unwrap().save(&elsewhere).unwrap();
    });
    assert!(matches!(error, TrustError::NotIssuedHere { .. }), "{error}");
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let error = refused(|created, paths| {
        fs::copy(&created.nodes[1].1.key, &paths.key).unwrap();
    });
    assert!(matches!(error, TrustError::KeyMismatch { .. }), "{error}");
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    let error = refused(|_, paths| fs::set_permissions(&paths.key, fs::Permissions::from_mode(0o640)).unwrap());
    assert!(matches!(error, TrustError::KeyExposed { mode: 0o640, .. }), "{error}");
}

#[test]
fn a_clock_before_the_certificate_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let created = cluster_in(dir.path());
    let (node, paths) = &created.nodes[0];
    let error = NodeTrust::load(paths, created.cluster, *node, SystemTime::UNIX_EPOCH).unwrap_err();
    assert!(matches!(error, TrustError::NotYetValid { .. }), "{error}");
}

#[test]
fn a_client_loads_its_certificate_and_no_node_does() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(now()).unwrap();
    let paths = TrustPaths::in_dir(dir.path());
    let client = NodeId(NodeId::CLIENTS_FROM.0 + 1);
    authority.issue(client, now()).unwrap().save(&paths).unwrap();
    let trust = NodeTrust::load(&paths, authority.cluster(), client, now()).unwrap();
    assert_eq!(trust.node(), client);
    let error = NodeTrust::load(&paths, authority.cluster(), NodeId(1), now()).unwrap_err();
    assert!(matches!(error, TrustError::WrongNode { .. }), "{error}");
}

#[test]
fn identities_are_read_in_one_spelling_only() {
    let cluster = ClusterId([0xab; 16]);
    let client = NodeId::CLIENTS_FROM;
    let identities = [
        Identity::Authority { cluster },
        Identity::Node { cluster, node: NodeId(7) },
        Identity::Client { cluster, node: client },
    ];
    for identity in identities {
        assert_eq!(Identity::parse(&identity.to_string()), Some(identity));
    }
    let hex = cluster.to_string();
    for text in [
        "".to_owned(),
        "gavel://".to_owned(),
        format!("gavel://{hex}"),
        format!("gavel://{hex}/node/"),
        format!("gavel://{hex}/node/+7"),
        format!("gavel://{hex}/node/07"),
        format!("gavel://{hex}/node/7/"),
        format!("gavel://{}/node/7", hex.to_uppercase()),
        format!("https://{hex}/node/7"),
        format!("gavel://{hex}/node/99999999999999999999"),
        // Role and number must fit.
        format!("gavel://{hex}/node/{client}"),
        format!("gavel://{hex}/client/7"),
    ] {
        assert_eq!(Identity::parse(&text), None, "{text}");
    }
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_are_no_certificate_and_no_panic(bytes: Vec<u8>, text: String) {
        proptest::prop_assert!(Identity::of_certificate(&bytes).is_err());
        proptest::prop_assert!(Identity::parse(&text).is_none());
    }
}
