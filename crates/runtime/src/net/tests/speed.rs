//! How fast the transport is. Not a test: `cargo test -p gavel-runtime --release -- --ignored --nocapture speed`.

use super::*;
use tokio::task::JoinSet;

/// User and system time of this process, both nodes included.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn speed_of_messages_and_blobs() {
    let mut world = World::new(&[ONE, TWO]);
    world.limits.send_queue_bytes = 1 << 30;
    let (mut one, mut two) = (world.start(ONE), world.start(TWO));
    one.connected().await;
    two.connected().await;

    let count = 1_000_000;
    let (start, cpu_before) = (Instant::now(), cpu());
    for number in 0..count {
        one.transport.send(TWO, numbered(number, 128)).unwrap();
    }
    for _ in 0..count {
        two.message().await;
    }
    let (took, spent) = (start.elapsed(), cpu() - cpu_before);
    println!(
        "128 B one way, batched: {:.0} messages/s, {:.2} us CPU each (both sides)",
        f64::from(count) / took.as_secs_f64(),
        spent.as_secs_f64() * 1e6 / f64::from(count)
    );

    let mut trips = Vec::new();
    let cpu_before = cpu();
    for number in 0..20_000 {
        let start = Instant::now();
        one.transport.send(TWO, numbered(number, 128)).unwrap();
        let (_, payload) = two.message().await;
        two.transport.send(ONE, payload).unwrap();
        one.message().await;
        trips.push(start.elapsed());
    }
    let spent = cpu() - cpu_before;
    trips.sort();
    println!(
        "128 B round trip: median {:?}, 99% {:?}, {:.1} us CPU each",
        trips[trips.len() / 2],
        trips[trips.len() * 99 / 100],
        spent.as_secs_f64() * 1e6 / trips.len() as f64
    );

    for (parallel, rounds) in [(1, 256), (8, 1024)] {
        let payload = Bytes::from(vec![7; 1024 * 1024]);
        let (start, cpu_before) = (Instant::now(), cpu());
        let mut requests = JoinSet::new();
        for _ in 0..parallel {
            let (sender, payload) = (one.transport.sender(), payload.clone());
            requests.spawn(async move {
                for _ in 0..rounds / parallel {
                    // A kind that answers with a few bytes: one way is measured.
                    sender.bulk_request(TWO, FAIL, payload.clone()).await.unwrap_err();
                }
            });
        }
        while let Some(ended) = requests.join_next().await {
            ended.unwrap();
        }
        let (took, spent) = (start.elapsed(), cpu() - cpu_before);
        println!(
            "1 MiB bulk, {parallel} at a time: {:.0} MiB/s, {:.2} ms each, {:.2} ms CPU each (both sides)",
            f64::from(rounds) / took.as_secs_f64(),
            took.as_secs_f64() * 1e3 / f64::from(rounds),
            spent.as_secs_f64() * 1e3 / f64::from(rounds)
        );
    }
}

/// Cuts the loopback device of a network namespace of its own, without a word to either side. Run as root:
/// `unshare -n sh -c 'ip link set lo up; GAVEL_CUT_LOOPBACK=1 TEST_BINARY --ignored --nocapture time_to'`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement that needs a network namespace of its own"]
async fn time_to_notice_and_mend_a_cut_link() {
    let devices = std::fs::read_to_string("/proc/net/dev").unwrap();
    let private = devices.lines().filter(|line| line.contains(':')).all(|line| line.trim_start().starts_with("lo:"));
    if std::env::var_os("GAVEL_CUT_LOOPBACK").is_none() || !private {
        println!("not run: see the comment above");
        return;
    }
    let mut world = World::new(&[ONE, TWO]);
    world.limits = Limits::default();
    let (one, mut two) = (world.start(ONE), world.start(TWO));
    one.connected().await;
    two.connected().await;
    for (round, cut_ms) in [100, 300, 700, 1_000, 1_300, 1_700, 2_500, 4_000, 8_000].into_iter().enumerate() {
        let opened = one.state(TWO).log.opened;
        traffic_control(&["replace", "dev", "lo", "root", "bfifo", "limit", "1"]);
        let cut = Instant::now();
        let mut noticed = None;
        while cut.elapsed() < Duration::from_millis(cut_ms) {
            if noticed.is_none() && !one.state(TWO).log.connected {
                noticed = Some(cut.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        traffic_control(&["del", "dev", "lo", "root"]);
        let healed = Instant::now();
        let mark = round as u32 + 1;
        let mended = loop {
            one.transport.send(TWO, numbered(mark, 128)).unwrap();
            let heard = tokio::time::timeout(Duration::from_millis(5), two.message()).await;
            if heard.is_ok_and(|(_, payload)| number_of(&payload) == mark) {
                break healed.elapsed();
            }
        };
        let again = one.state(TWO).log.opened - opened;
        println!(
            "cut for {cut_ms} ms: noticed after {noticed:?}, mended {mended:?} after healing, opened {again} times"
        );
        one.connected().await;
        two.connected().await;
    }
}

fn traffic_control(arguments: &[&str]) {
    let status = std::process::Command::new("tc").arg("qdisc").args(arguments).status().unwrap();
    assert!(status.success());
}
