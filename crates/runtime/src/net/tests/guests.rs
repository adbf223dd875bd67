//! Mirrors in other clusters: what they may begin, and that it is nothing else.

use super::*;
use crate::net::guest::visit;
use crate::trust::{GuestTrust, TrustPaths};
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn trust_in(world: &World) -> GuestTrust {
    let dir = tempfile::tempdir().unwrap();
    let paths = TrustPaths::in_dir(dir.path());
    world.authority.issue(THREE, SystemTime::now()).unwrap().save(&paths).unwrap();
    let pem = std::fs::read_to_string(&paths.authority).unwrap();
    GuestTrust::new(&pem, Path::new("a test"), world.cluster(), SystemTime::now()).unwrap()
}

async fn guest_event(node: &mut Node) -> Bytes {
    loop {
        if let Event::Guest(greeting) = node.event().await {
            return greeting;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_greets_and_is_let_in_or_refused() {
    let mut world = World::new(&[ONE, TWO]);
    let mut two = world.start(TWO);
    let (trust, address) = (trust_in(&world), two.address().to_string());
    let mut stream = visit(&trust, &world.limits, TWO, &address, b"let me in").await.unwrap();
    assert_eq!(guest_event(&mut two).await, b"let me in"[..]);
    stream.write_all(b"what is said").await.unwrap();
    let mut back = [0; 12];
    in_time(stream.read_exact(&mut back)).await.unwrap();
    assert_eq!(&back, b"what is said");
    let error = visit(&trust, &world.limits, TWO, &address, b"and me").await.unwrap_err();
    assert!(matches!(&error, LinkError::Refused(refusal) if refusal.text == "not you"), "{error}");
    assert_eq!(two.transport.door_state().half_open, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_talks_to_nobody_but_the_node_that_was_meant() {
    let mut world = World::new(&[ONE, TWO]);
    let two = world.start(TWO);
    let address = two.address().to_string();
    let error = visit(&trust_in(&world), &world.limits, ONE, &address, b"let me in").await.unwrap_err();
    assert!(matches!(error, LinkError::Tls { .. }), "{error}");
    let other = World::new(&[ONE, TWO]);
    let error = visit(&trust_in(&other), &world.limits, TWO, &address, b"let me in").await.unwrap_err();
    assert!(matches!(error, LinkError::Tls { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_greets_as_a_node_is_a_guest_still() {
    let mut world = World::new(&[ONE, TWO]);
    let mut two = world.start(TWO);
    let hello = world.local(ONE).hello(Purpose::Log).encode();
    let address = two.address().to_string();
    let error = visit(&trust_in(&world), &world.limits, TWO, &address, &hello).await.unwrap_err();
    assert!(matches!(&error, LinkError::Refused(_)), "{error}");
    assert_eq!(guest_event(&mut two).await, hello);
    assert!(!two.state(ONE).heard, "a guest was taken for a peer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_greeting_that_is_too_long_is_not_read() {
    let mut world = World::new(&[ONE, TWO]);
    let two = world.start(TWO);
    let address = two.address().to_string();
    let stream = TcpStream::connect(&address).await.unwrap();
    let name = crate::trust::identity::server_name(world.cluster(), TWO);
    let connector = tokio_rustls::TlsConnector::from(trust_in(&world).client_config());
    let mut stream = connector.connect(name, stream).await.unwrap();
    let len = (frame::GREETING_BYTES_MAX as u32 + 1).to_le_bytes();
    stream.write_all(&[&[frame::FRAME_MARK, FrameKind::Hello as u8, 0, 0][..], &len].concat()).await.unwrap();
    let mut rest = Vec::new();
    let _ = in_time(stream.read_to_end(&mut rest)).await;
    assert_eq!((rest.len(), two.transport.door_state().failed), (0, 1));
}
