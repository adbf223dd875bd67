//! Bulk requests: answers, bounds, and how they fail.

use super::*;
use tokio::task::JoinSet;

async fn pair(change: impl FnOnce(&mut Limits)) -> (World, Node, Node) {
    let mut world = World::new(&[ONE, TWO]);
    change(&mut world.limits);
    let (one, two) = (world.start(ONE), world.start(TWO));
    one.connected().await;
    (world, one, two)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blobs_and_messages_travel_at_the_same_time() {
    let (_world, one, mut two) = pair(|_| {}).await;
    let mut requests = JoinSet::new();
    for number in 0..48 {
        let sender = one.transport.sender();
        requests.spawn(async move {
            let payload = numbered(number, 4 * 1024 * 1024);
            let answer = sender.bulk_request_within(TWO, ECHO, payload.clone(), PATIENCE).await.unwrap();
            assert!(answer == payload, "blob {number}");
        });
    }
    let mut slowest = Duration::ZERO;
    for number in 0..200 {
        let sent = Instant::now();
        one.transport.send(TWO, numbered(number, 128)).unwrap();
        assert_eq!(number_of(&two.message().await.1), number);
        slowest = slowest.max(sent.elapsed());
    }
    println!("slowest message among 384 MiB of blobs: {slowest:?}; blobs still under way: {}", requests.len());
    while let Some(ended) = in_time(requests.join_next()).await {
        ended.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_told_in_the_peers_words_and_harm_no_other_request() {
    let (_world, one, _two) = pair(|_| {}).await;
    let ask = |kind, payload| one.transport.bulk_request(TWO, kind, payload);
    let text = |text: &str| BulkError::Failed { peer: TWO, text: text.to_owned() };
    assert_eq!(ask(FAIL, Bytes::new()).await, Err(text("no such kind 1")));
    assert_eq!(ask(PANIC, Bytes::new()).await, Err(text("the request's handler failed; see this node's log")));
    let error = ask(HUGE, Bytes::new()).await.unwrap_err();
    assert!(error.to_string().contains("8388609 bytes"), "{error}");
    let largest = numbered(1, frame::BULK_BYTES_MAX);
    assert!(ask(ECHO, largest.clone()).await.unwrap() == largest);
    assert_eq!(ask(ECHO, Bytes::new()).await, Ok(Bytes::new()));
    let error = ask(ECHO, numbered(1, frame::BULK_BYTES_MAX + 1)).await.unwrap_err();
    assert!(matches!(error, BulkError::TooLarge { .. }) && error.outcome_known());
    let error = one.transport.bulk_request(THREE, ECHO, Bytes::new()).await.unwrap_err();
    assert_eq!(error, BulkError::UnknownPeer(THREE));
    assert_eq!(one.state(TWO).bulk.iter().map(|lane| lane.opened).sum::<u64>(), 2, "a connection was lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_says_whether_the_request_was_sent() {
    let (_world, one, two) = pair(|limits| limits.bulk_in_flight_max = 1).await;
    let deadline = Duration::from_millis(100);
    let sender = one.transport.sender();
    let holding = tokio::spawn({
        let sender = sender.clone();
        async move { sender.bulk_request_within(TWO, GATED, Bytes::new(), PATIENCE).await }
    });
    until(|| two.probe.serving.load(Ordering::SeqCst) == 1).await;
    let waiting = sender.bulk_request_within(TWO, ECHO, Bytes::new(), deadline).await.unwrap_err();
    assert_eq!(waiting, BulkError::TimedOut { peer: TWO, deadline, sent: false });
    assert!(waiting.outcome_known());
    two.probe.gate.add_permits(1);
    assert_eq!(in_time(holding).await.unwrap(), Ok(Bytes::new()));
    let sent = sender.bulk_request_within(TWO, GATED, Bytes::new(), deadline).await.unwrap_err();
    assert_eq!(sent, BulkError::TimedOut { peer: TWO, deadline, sent: true });
    assert!(!sent.outcome_known());
    assert_eq!(one.state(TWO).bulk_under_way, 0, "a request that was given up keeps its place");
    // The answer that comes late is nobody's; the next request gets its own.
    two.probe.gate.add_permits(1);
    let answer = loop {
        // Busy until the peer has noticed that the one that was given up is done.
        match sender.bulk_request(TWO, ECHO, numbered(7, 4)).await {
            Err(BulkError::Busy(TWO)) => tokio::task::yield_now().await,
            other => break other,
        }
    };
    assert_eq!(answer, Ok(numbered(7, 4)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_executes_few_at_a_time_and_the_others_wait() {
    let (_world, one, two) = pair(|limits| (limits.bulk_serving_max, limits.bulk_in_flight_max) = (3, 20)).await;
    let mut requests = JoinSet::new();
    for _ in 0..50 {
        let sender = one.transport.sender();
        requests.spawn(async move { sender.bulk_request_within(TWO, GATED, Bytes::new(), PATIENCE).await });
    }
    until(|| two.probe.serving.load(Ordering::SeqCst) == 3).await;
    two.probe.gate.add_permits(50);
    while let Some(ended) = in_time(requests.join_next()).await {
        assert_eq!(ended.unwrap(), Ok(Bytes::new()));
    }
    assert_eq!(two.probe.serving_peak.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_asks_without_bound_is_told_busy() {
    let (world, _one, two) = pair(|limits| (limits.bulk_serving_max, limits.bulk_in_flight_max) = (1, 4)).await;
    let mut greedy = world.dial(ONE, &two, TWO, Purpose::Bulk).await.unwrap();
    for id in 0..10 {
        greedy.write_frame(FrameKind::Request, &frame::envelope(id, GATED)).await.unwrap();
    }
    let mut busy = 0;
    while busy < 6 {
        let answer = in_time(greedy.read_frame()).await.unwrap();
        let (_, status, _) = frame::open_envelope(answer.payload).unwrap();
        assert_eq!(status, 2);
        busy += 1;
    }
    two.probe.gate.add_permits(4);
    for _ in 0..4 {
        let answer = in_time(greedy.read_frame()).await.unwrap();
        assert_eq!(frame::open_envelope(answer.payload).unwrap().1, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_under_way_fails_when_its_peer_goes_and_works_when_it_is_back() {
    let (world, one, two) = pair(|limits| limits.drain = Duration::from_millis(100)).await;
    let sender = one.transport.sender();
    let asking = tokio::spawn(async move { sender.bulk_request_within(TWO, GATED, Bytes::new(), PATIENCE).await });
    until(|| two.probe.serving.load(Ordering::SeqCst) == 1).await;
    let address = two.address();
    two.transport.shutdown().await;
    let error = in_time(asking).await.unwrap().unwrap_err();
    assert!(error == BulkError::LinkLost(TWO) && !error.outcome_known(), "{error}");
    // Each connection ends by itself; until the last has, a request may be handed to it and be lost with it.
    until(|| one.state(TWO).bulk.iter().all(|lane| !lane.connected)).await;
    let error = one.transport.bulk_request(TWO, ECHO, Bytes::new()).await.unwrap_err();
    assert!(matches!(error, BulkError::NotConnected { .. }) && error.outcome_known(), "{error}");
    let _two = world.start_on(TWO, Listen::Address(address), 2);
    one.connected().await;
    assert_eq!(one.transport.bulk_request(TWO, ECHO, numbered(3, 9)).await, Ok(numbered(3, 9)));
}
