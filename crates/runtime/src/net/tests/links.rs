//! Log links: order, loss, return.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_all_sizes_arrive_whole_and_in_order_both_ways() {
    let mut world = World::new(&[ONE, TWO]);
    world.limits.send_queue_bytes = 256 * 1024 * 1024;
    let (mut one, mut two) = (world.start(ONE), world.start(TWO));
    let sizes = [0, 4, 128, 16 * 1024, 16 * 1024 + 1, 100_000, 64 * 1024, 300_000, 5];
    for number in 0..3_000 {
        let size = sizes[number as usize % sizes.len()];
        one.transport.send(TWO, numbered(number, size)).unwrap();
        two.transport.send(ONE, numbered(number, size)).unwrap();
    }
    let largest = numbered(3_000, frame::MESSAGE_BYTES_MAX);
    one.transport.send(TWO, largest.clone()).unwrap();
    for number in 0..3_000 {
        let size = sizes[number as usize % sizes.len()];
        assert!(two.message().await == (ONE, numbered(number, size)), "message {number}");
        assert!(one.message().await == (TWO, numbered(number, size)), "message {number}");
    }
    assert!(two.message().await == (ONE, largest));
    let state = one.state(TWO);
    assert!(state.log.connected && state.heard);
    assert_eq!((state.dropped_frames, state.queued_bytes, state.log.opened), (0, 0, 1));
    assert!(state.log.traffic.frames_out > 3_000 && state.inbound.bytes_in > 3_000 * 128);
    until(|| one.state(TWO).log.round_trip_us.is_some()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_message_is_refused_to_the_caller() {
    let mut world = World::new(&[ONE, TWO]);
    let one = world.start(ONE);
    assert_eq!(one.transport.send(THREE, Bytes::new()), Err(SendError::UnknownPeer(THREE)));
    assert_eq!(one.transport.send(ONE, Bytes::new()), Err(SendError::UnknownPeer(ONE)));
    let length = frame::MESSAGE_BYTES_MAX + 1;
    let error = SendError::TooLarge { length, max: frame::MESSAGE_BYTES_MAX };
    assert_eq!(one.transport.send(TWO, Bytes::from(vec![0; length])), Err(error));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_goes_away_and_returns_is_connected_again() {
    let mut world = World::new(&[ONE, TWO]);
    let mut one = world.start(ONE);
    let mut two = world.start(TWO);
    one.link(LinkChange::Up { incarnation: 1 }).await;
    one.transport.send(TWO, numbered(1, 128)).unwrap();
    assert_eq!(number_of(&two.message().await.1), 1);
    let address = two.address();
    two.transport.shutdown().await;
    one.link(LinkChange::Down).await;
    until(|| one.state(TWO).log.last_error.as_ref().is_some_and(|error| error.contains("cannot connect"))).await;
    assert!(!one.state(TWO).log.connected);
    let returned = Instant::now();
    let mut two = world.start_on(TWO, Listen::Address(address), 2);
    one.link(LinkChange::Up { incarnation: 2 }).await;
    println!("connected again after {:?}", returned.elapsed());
    one.transport.send(TWO, numbered(2, 128)).unwrap();
    assert_eq!(number_of(&two.message().await.1), 2);
    let log = one.state(TWO).log;
    assert_eq!((log.opened, log.incarnation), (2, Some(2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_delivers_what_was_queued_and_leaves_nothing_running() {
    let mut world = World::new(&[ONE, TWO]);
    let (one, mut two) = (world.start(ONE), world.start(TWO));
    one.connected().await;
    two.connected().await;
    for number in 0..1_000 {
        one.transport.send(TWO, numbered(number, 2_000)).unwrap();
    }
    let (address, probe) = (one.address(), Arc::downgrade(&one.probe));
    let sender = one.transport.sender();
    in_time(one.transport.shutdown()).await;
    drop(one.probe);
    assert_eq!(probe.strong_count(), 0, "a task still holds the handler");
    for number in 0..1_000 {
        assert_eq!(number_of(&two.message().await.1), number);
    }
    assert!(TcpStream::connect(address).await.is_err(), "still listening");
    let error = sender.bulk_request(TWO, ECHO, Bytes::new()).await.unwrap_err();
    assert!(matches!(error, BulkError::NotConnected { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_does_not_read_costs_no_more_than_the_queue() {
    let mut world = World::new(&[ONE, TWO]);
    world.limits.send_queue_bytes = 17 * 1024 * 1024;
    let listener = world.take_listener(TWO);
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let one = world.start(ONE);
    let mut held = Vec::new();
    while held.len() < 3 {
        held.push(world.answer(TWO, &listener).await);
    }
    one.connected().await;
    let payload = Bytes::from(vec![7; 64 * 1024]);
    for _ in 0..4_096 {
        one.transport.send(TWO, payload.clone()).unwrap();
        assert!(one.state(TWO).queued_bytes <= world.limits.send_queue_bytes);
    }
    until(|| one.state(TWO).dropped_frames > 3_000).await;
    assert!(one.state(TWO).log.connected);
    // What is read after all is the oldest that left and then the newest that waited: in order, with a gap.
    assert!(one.state(TWO).dropped_bytes >= 3_000 * 64 * 1024);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_log_connection_of_a_peer_ends_the_first() {
    let mut world = World::new(&[ONE, TWO]);
    let mut two = world.start(TWO);
    let mut first = world.dial(ONE, &two, TWO, Purpose::Log).await.unwrap();
    first.write_frame(FrameKind::Message, b"old!").await.unwrap();
    assert_eq!(two.message().await.1, &b"old!"[..]);
    let mut second = world.dial(ONE, &two, TWO, Purpose::Log).await.unwrap();
    assert_eq!(read_to_end(&mut first).await, None);
    second.write_frame(FrameKind::Message, b"new!").await.unwrap();
    assert_eq!(two.message().await.1, &b"new!"[..]);
    assert_eq!(two.transport.door_state().opened, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_connections_of_a_peer_are_bounded() {
    let mut world = World::new(&[ONE, TWO]);
    let two = world.start(TWO);
    let mut held = Vec::new();
    for _ in 0..3 * super::limits::BULK_INBOUND_MAX {
        held.push(world.dial(ONE, &two, TWO, Purpose::Bulk).await.unwrap());
    }
    assert_eq!(two.state(ONE).bulk_inbound, super::limits::BULK_INBOUND_MAX);
    assert_eq!(read_to_end(&mut held[0]).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_without_messages_stays_open() {
    let mut world = World::new(&[ONE, TWO]);
    world.limits.ping_interval = Duration::from_millis(50);
    world.limits.unacknowledged_max = Duration::from_millis(1_000);
    world.limits.silence_max = Duration::from_millis(1_000);
    let (one, two) = (world.start(ONE), world.start(TWO));
    one.connected().await;
    two.connected().await;
    // Pings are at least 50 ms apart, so this is longer than the silence that would end it.
    until(|| one.state(TWO).log.traffic.frames_in >= 22 && one.state(TWO).bulk[0].traffic.frames_in >= 22).await;
    assert_eq!((one.state(TWO).log.opened, one.state(TWO).bulk[0].opened), (1, 1));
}

/// Forwards TCP to `to` until told to swallow everything without a word, as a cut link does.
async fn proxy(listener: TcpListener, to: SocketAddr, cut: watch::Receiver<bool>) {
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut cut = cut.clone();
        tokio::spawn(async move {
            // A connection that was made while the link was cut leads nowhere, for ever.
            if *cut.borrow_and_update() {
                let _ = near.read(&mut [0; 1]).await;
                std::future::pending::<()>().await;
            }
            let mut far = TcpStream::connect(to).await.unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                () = dial::stopped(&mut cut) => std::future::pending().await,
            }
            let _ = near.shutdown().await;
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_cut_without_a_word_is_noticed_and_dialled_anew() {
    let mut world = World::new(&[ONE, TWO]);
    world.limits.ping_interval = Duration::from_millis(50);
    world.limits.unacknowledged_max = Duration::from_millis(200);
    world.limits.silence_max = Duration::from_millis(800);
    world.limits.handshake_timeout = Duration::from_millis(800);
    let mut two = world.start(TWO);
    let between = TcpListener::bind("127.0.0.1:0").unwrap();
    world.addresses[1].address = between.local_addr().unwrap().to_string();
    let cut = watch::Sender::new(false);
    tokio::spawn(proxy(between, two.address(), cut.subscribe()));
    let mut one = world.start(ONE);
    one.link(LinkChange::Up { incarnation: 1 }).await;
    cut.send_replace(true);
    one.link(LinkChange::Down).await;
    let error = one.state(TWO).log.last_error;
    until(|| one.state(TWO).log.last_error.is_some_and(|error| error.contains("nothing heard for 8"))).await;
    println!("noticed: {error:?}");
    cut.send_replace(false);
    let healed = Instant::now();
    one.link(LinkChange::Up { incarnation: 1 }).await;
    println!("connected again after {:?}", healed.elapsed());
    one.transport.send(TWO, numbered(9, 128)).unwrap();
    while number_of(&two.message().await.1) != 9 {}
}
