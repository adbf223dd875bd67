//! Clients: who dials everybody, and is dialled by nobody.

use super::*;
use crate::net::transport::CLIENTS_MAX;

const CLIENT: NodeId = NodeId(NodeId::CLIENTS_FROM.0 + 5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_heard_and_answered_by_nodes_that_were_not_told_of_it() {
    let mut world = World::new(&[ONE, TWO]);
    let (mut one, two) = (world.start(ONE), world.start(TWO));
    let client = world.start_on(CLIENT, Listen::Nowhere, 1);
    client.connected().await;
    client.transport.send(ONE, Bytes::from_static(b"hello")).unwrap();
    assert_eq!(one.message().await, (CLIENT, Bytes::from_static(b"hello")));
    let answer = client.transport.bulk_request(TWO, ECHO, Bytes::from_static(b"echo")).await;
    assert_eq!(answer, Ok(Bytes::from_static(b"echo")));
    assert_eq!(one.transport.send(CLIENT, Bytes::new()), Err(SendError::UnknownPeer(CLIENT)));
    assert!(two.transport.link_state().iter().all(|link| link.peer != CLIENT), "a client is among the peers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_dials_a_node_does_not_take_a_client_for_it() {
    let world = World::new(&[ONE]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let listening = async {
        let (stream, _) = listener.accept().await.unwrap();
        drop(socket::accept(&world.local(CLIENT), stream, |_| true).await);
    };
    let local = world.local(ONE);
    let dialled = socket::connect(&local, &world.limits, CLIENT, &address, Purpose::Log);
    let (dialled, ()) = tokio::join!(dialled, listening);
    let Err(error) = dialled else { panic!("a client's certificate was good for a node") };
    assert!(error.is_refusal(), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_clients_than_are_allowed_are_refused_until_one_goes() {
    let mut world = World::new(&[ONE]);
    let one = world.start(ONE);
    let client = |at: usize| NodeId(CLIENT.0 + at as u64);
    let mut open = Vec::new();
    for at in 0..CLIENTS_MAX {
        open.push(world.dial(client(at), &one, ONE, Purpose::Log).await.unwrap());
    }
    let refused = world.dial(client(CLIENTS_MAX), &one, ONE, Purpose::Log).await.map(drop).unwrap_err();
    assert!(refused.to_string().contains("takes no more clients"), "{refused}");
    open.pop();
    let start = Instant::now();
    while world.dial(client(CLIENTS_MAX), &one, ONE, Purpose::Log).await.is_err() {
        assert!(start.elapsed() < PATIENCE, "a client that has gone is not forgotten");
    }
}
