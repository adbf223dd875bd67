//! Who gets in, who does not, and what those who do not can do.

use super::*;
use crate::net::hello::Reason;
use crate::trust::{TrustPaths, identity};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

/// Two connected nodes, and a third identity that their lists of peers have but nobody runs.
async fn two_nodes() -> (World, Node, Node) {
    let mut world = World::new(&[ONE, TWO, THREE]);
    world.addresses[2].address = "127.0.0.1:1".to_owned();
    let (one, two) = (world.start(ONE), world.start(TWO));
    until(|| one.state(TWO).log.connected && two.state(ONE).log.connected).await;
    (world, one, two)
}

/// Node 1 and node 2 still talk, on the connections that they had.
async fn unharmed(one: &Node, two: &mut Node) {
    one.transport.send(TWO, numbered(42, 128)).unwrap();
    assert_eq!(two.message().await, (ONE, numbered(42, 128)));
    assert_eq!(one.state(TWO).log.opened, 1);
    assert_eq!(two.state(ONE).log.opened, 1);
}

/// TLS to node 2 as node 3, with a greeting of our own making; gives the refusal.
async fn greet(world: &World, two: &Node, greeting: (FrameKind, Bytes)) -> Option<Refusal> {
    let mut connection = tls(world, two).await;
    connection.write_frame(greeting.0, &greeting.1).await.unwrap();
    read_to_end(&mut connection).await
}

async fn tls(world: &World, two: &Node) -> Dialled {
    let stream = TcpStream::connect(two.address()).await.unwrap();
    let connector = TlsConnector::from(world.trust(THREE).client_config());
    let name = identity::server_name(world.cluster(), TWO);
    Connection::new(connector.connect(name, stream).await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn greetings_that_do_not_fit_are_refused_with_the_reason() {
    let (world, one, mut two) = two_nodes().await;
    let good = Hello { purpose: Purpose::Log, cluster: world.cluster(), node: THREE, incarnation: 1 };
    let hello = |payload: Bytes| (FrameKind::Hello, payload);
    let cases = [
        ("another node than certified", hello(Hello { node: ONE, ..good }.encode()), Reason::Node),
        ("another cluster", hello(Hello { cluster: ClusterId([9; 16]), ..good }.encode()), Reason::Cluster),
        ("another version", hello(good.encode_as(2)), Reason::Version),
        ("a greeting cut short", hello(good.encode().slice(..20)), Reason::Malformed),
        ("no greeting at all", hello(Bytes::new()), Reason::Malformed),
        ("a message before any greeting", (FrameKind::Message, Bytes::from_static(b"hi")), Reason::Malformed),
        ("a welcome for a greeting", (FrameKind::Welcome, good.encode()), Reason::Malformed),
    ];
    for (index, (what, greeting, reason)) in cases.into_iter().enumerate() {
        let refusal = greet(&world, &two, greeting).await.unwrap_or_else(|| panic!("{what}: not refused"));
        assert_eq!(refusal.reason, reason, "{what}: {refusal}");
        until(|| two.transport.door_state().refused == index as u64 + 1).await;
        assert!(two.transport.door_state().last_error.unwrap().contains(&refusal.text), "{what}");
    }
    unharmed(&one, &mut two).await;
    assert_eq!(two.transport.door_state().half_open, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_the_cluster_that_is_no_peer_is_refused() {
    let (world, one, mut two) = two_nodes().await;
    let error = world.dial(NodeId(9), &two, TWO, Purpose::Log).await.err().unwrap();
    assert!(matches!(&error, LinkError::Refused(refusal) if refusal.reason == Reason::UnknownNode), "{error}");
    assert!(error.is_refusal());
    unharmed(&one, &mut two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dialling_reaches_nobody_but_the_node_that_was_meant() {
    let (world, _one, two) = two_nodes().await;
    let error = world.dial(ONE, &two, THREE, Purpose::Log).await.err().unwrap();
    assert!(matches!(error, LinkError::Tls { .. }) && error.is_refusal(), "{error}");
    let other = World::new(&[ONE, TWO]);
    let error = other.dial(ONE, &two, TWO, Purpose::Log).await.err().unwrap();
    assert!(matches!(error, LinkError::Tls { .. }) && error.is_refusal(), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_welcome_of_another_cluster_is_refused_by_the_dialler() {
    let world = World::new(&[ONE, TWO]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let local = world.local(TWO);
    let answering = async {
        let (stream, _) = listener.accept().await.unwrap();
        let Caller::Peer(mut connection, _) = socket::accept(&local, stream, |_| true).await.unwrap() else {
            panic!("a guest")
        };
        let lie = Hello { cluster: ClusterId([1; 16]), ..local.hello(Purpose::Log) };
        connection.write_frame(FrameKind::Welcome, &lie.encode()).await.unwrap();
        let last = connection.read_frame().await.unwrap();
        assert_eq!(last.kind, FrameKind::Refused);
        Refusal::decode(&last.payload).reason
    };
    let one = world.local(ONE);
    let dialling = socket::connect(&one, &world.limits, TWO, &address, Purpose::Log);
    let (reason, dialled) = in_time(async { tokio::join!(answering, dialling) }).await;
    assert_eq!(reason, Reason::Cluster);
    assert!(matches!(dialled, Err(LinkError::Refusing(refusal)) if refusal.reason == Reason::Cluster));
}

/// A client that believes in the cluster's authority and shows `own`, or nothing, as its certificate.
fn stranger(world: &World, own: Option<&Authority>) -> TlsConnector {
    let dir = tempfile::tempdir().unwrap();
    let paths = TrustPaths::in_dir(dir.path());
    world.authority.issue(THREE, SystemTime::now()).unwrap().save(&paths).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&paths.authority).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let paths = TrustPaths::in_dir(&dir.path().join("own"));
            authority.issue(ONE, SystemTime::now()).unwrap().save(&paths).unwrap();
            let chain = vec![CertificateDer::from_pem_file(&paths.certificate).unwrap()];
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&paths.key).unwrap()).unwrap()
        }
    };
    config.alpn_protocols = vec![crate::trust::node::ALPN.to_vec()];
    TlsConnector::from(Arc::new(config))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_certificate_of_this_authority_nobody_hears_anything() {
    let (world, one, mut two) = two_nodes().await;
    let impostor = Authority::create_for(world.cluster(), SystemTime::now()).unwrap();
    let cases = [(None, "no certificates"), (Some(&impostor), "invalid peer certificate")];
    for (index, (own, said)) in cases.into_iter().enumerate() {
        let stream = TcpStream::connect(two.address()).await.unwrap();
        let name = identity::server_name(world.cluster(), TWO);
        let mut heard = Vec::new();
        // With TLS 1.3 the client may believe for a moment that it is connected.
        if let Ok(stream) = stranger(&world, own).connect(name, stream).await {
            let mut connection = Connection::new(stream);
            let hello = Hello { purpose: Purpose::Log, cluster: world.cluster(), node: ONE, incarnation: 1 };
            let _ = connection.write_frame(FrameKind::Hello, &hello.encode()).await;
            let _ = in_time(connection.stream.read_to_end(&mut heard)).await;
        }
        assert_eq!(heard, b"");
        until(|| two.transport.door_state().failed == index as u64 + 1).await;
        let error = two.transport.door_state().last_error.unwrap();
        assert!(error.contains(said), "{error}");
    }
    unharmed(&one, &mut two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_before_tls_is_closed_and_harms_nobody() {
    let (_world, one, mut two) = two_nodes().await;
    let garbage: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: gavel\r\n\r\n",
        &[0xFF; 70_000],
        &[0; 1_000],
        // A TLS record that announces more than a record may have; a handshake message that never ends.
        &[0x16, 3, 1, 0xFF, 0xFF, 1, 2, 3],
        &[0x16, 3, 1, 0, 4, 1, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0],
        &[frame::FRAME_MARK, 4, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3],
    ];
    for (index, bytes) in garbage.into_iter().enumerate() {
        let mut stream = TcpStream::connect(two.address()).await.unwrap();
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut heard = Vec::new();
        let _ = in_time(stream.read_to_end(&mut heard)).await;
        assert!(heard.len() < 100, "{} bytes were told to a stranger", heard.len());
        until(|| two.transport.door_state().failed == index as u64 + 1).await;
    }
    unharmed(&one, &mut two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_after_tls_is_closed_and_harms_nobody() {
    let (world, one, mut two) = two_nodes().await;
    let frame = |kind: FrameKind, payload: &[u8]| [&frame::header(kind, payload.len())[..], payload].concat();
    let cases: Vec<(&str, Purpose, Vec<u8>)> = vec![
        ("a wrong mark", Purpose::Log, vec![0; 100]),
        ("an unknown kind", Purpose::Log, vec![frame::FRAME_MARK, 77, 0, 0, 0, 0, 0, 0]),
        ("unknown flags", Purpose::Log, vec![frame::FRAME_MARK, 4, 1, 0, 0, 0, 0, 0]),
        ("an oversized message", Purpose::Log, vec![frame::FRAME_MARK, 4, 0, 0, 1, 0, 0, 1]),
        ("an oversized request", Purpose::Bulk, vec![frame::FRAME_MARK, 5, 0, 0, 10, 0, 0x80, 0]),
        ("a message on a bulk connection", Purpose::Bulk, frame(FrameKind::Message, b"hi")),
        ("a request on a log connection", Purpose::Log, frame(FrameKind::Request, &frame::envelope(1, ECHO))),
        ("a request without an envelope", Purpose::Bulk, frame(FrameKind::Request, b"short")),
        ("a response that nobody asked for", Purpose::Bulk, frame(FrameKind::Response, &frame::envelope(1, 0))),
        ("a second greeting", Purpose::Log, frame(FrameKind::Hello, &[0; 40])),
        ("a pong without a ping", Purpose::Log, frame(FrameKind::Pong, &[0; 8])),
    ];
    for (what, purpose, bytes) in cases {
        let mut connection = world.dial(THREE, &two, TWO, purpose).await.unwrap();
        let _ = connection.stream.write_all(&bytes).await;
        let _ = connection.stream.flush().await;
        read_to_end(&mut connection).await;
        println!("{what}: closed");
    }
    // Cut within a frame: the part that came is not delivered.
    let mut connection = world.dial(THREE, &two, TWO, Purpose::Log).await.unwrap();
    let whole = frame(FrameKind::Message, b"never whole");
    connection.stream.write_all(&whole[..whole.len() - 1]).await.unwrap();
    connection.stream.shutdown().await.unwrap();
    read_to_end(&mut connection).await;
    unharmed(&one, &mut two).await;
    until(|| !two.state(THREE).heard && two.state(THREE).bulk_inbound == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_silent_strangers_is_bounded_and_keeps_no_peer_out() {
    let mut world = World::new(&[ONE, TWO]);
    world.limits.half_open_max = 16;
    world.limits.handshake_timeout = Duration::from_secs(3);
    let mut two = world.start(TWO);
    let mut silent = Vec::new();
    for _ in 0..400 {
        silent.push(TcpStream::connect(two.address()).await.unwrap());
    }
    until(|| two.transport.door_state().accepted >= 400).await;
    let door = two.transport.door_state();
    assert!(door.half_open_peak <= 16 && door.evicted >= 384, "{door:?}");
    let mut oldest = silent.swap_remove(0);
    assert!(matches!(in_time(oldest.read(&mut [0; 1])).await, Ok(0) | Err(_)));
    let one = world.start(ONE);
    one.transport.send(TWO, numbered(5, 128)).unwrap();
    assert_eq!(two.message().await.1, numbered(5, 128));
    // Those that are left are given up too.
    until(|| two.transport.door_state().half_open == 0).await;
    assert!(two.transport.door_state().last_error.unwrap().contains("no answer to the handshake within 3000 ms"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_in_use_and_absurd_peers_are_named() {
    let mut world = World::new(&[ONE, TWO]);
    let two = world.start(TWO);
    let start = |peers: Vec<PeerAddress>, limits: Limits| {
        let listen = Listen::Address(two.address());
        let config = TransportConfig { trust: world.trust(ONE), incarnation: 1, listen, peers, limits };
        Transport::start(config, two.probe.clone()).err().unwrap().to_string()
    };
    let text = start(vec![], Limits::default());
    assert!(text.contains("cannot listen on 127.0.0.1") && text.contains("Hint: "), "{text}");
    let twice = vec![world.addresses[1].clone(), world.addresses[1].clone()];
    assert_eq!(start(twice, Limits::default()), "peers: node 2 is listed twice, or is 0");
    let limits = Limits { half_open_max: 0, ..Limits::default() };
    assert_eq!(start(vec![], limits), "transport limits: half_open_max must be at least 1");
}
