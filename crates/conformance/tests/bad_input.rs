//! Garbage comes in: on the sockets of a node that runs, in the files of one that is stopped, in configurations.

use anyhow::{Context, Result, ensure};
use gavel_conformance::cluster::{Cluster, with_cluster};
use gavel_conformance::command::Ran;
use gavel_conformance::serving::Serving;
use gavel_conformance::{mounts, trees, wait};
use rustix::io::Errno;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// A stranger's connection is closed by then: a handshake has a few seconds.
const CLOSED_WITHIN: Duration = Duration::from_secs(45);

/// A value of a node's configuration.
fn configured(cluster: &Cluster, node: u64, key: &str) -> Result<String> {
    let text = std::fs::read_to_string(cluster.config(node))?;
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{key} = \"")));
    Ok(line.and_then(|line| line.strip_suffix('"')).with_context(|| format!("no {key} in {text}"))?.to_owned())
}

/// Things that nobody who means well sends.
fn garbage() -> Vec<(&'static str, Vec<u8>)> {
    let hello = |claims: u16, sent: usize| {
        let mut bytes = vec![0x16, 0x03, 0x01];
        bytes.extend(claims.to_be_bytes());
        bytes.extend(trees::noise(9, sent));
        bytes
    };
    vec![
        ("nothing", Vec::new()),
        ("one byte", vec![0x16]),
        ("zeros", vec![0; 1 << 20]),
        ("noise", trees::noise(1, 1 << 20)),
        ("text", b"GET / HTTP/1.1\r\nHost: gavel\r\n\r\n".to_vec()),
        ("a TLS record that is cut short", hello(512, 100)),
        ("a TLS record of noise", hello(512, 512)),
        ("a TLS record that claims too much", hello(u16::MAX, 1 << 20)),
        (
            "a TLS hello that claims 16 MiB",
            [&[0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff][..], &vec![0; 1 << 16]].concat(),
        ),
    ]
}

/// Sends bytes, ends its own side if told to, and waits until the other side closes. What it answers does not matter.
fn send_and_wait(address: &str, bytes: &[u8], end: bool) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(CLOSED_WITHIN))?;
    stream.set_write_timeout(Some(CLOSED_WITHIN))?;
    // It may have hung up already.
    let _ = stream.write_all(bytes);
    if end {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    match stream.take(1 << 20).read_to_end(&mut answer) {
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            anyhow::bail!("the connection is still open after {CLOSED_WITHIN:?}")
        }
        _ => Ok(()),
    }
}

#[test]
fn garbage_on_the_peer_port() -> Result<()> {
    with_cluster(3, |cluster| {
        let victim = cluster.leader()?;
        let before = cluster.pid(victim)?;
        let term = cluster.state(victim).context("the leader does not answer")?.status["node"]["term"].clone();
        let address = configured(cluster, victim, "listen")?;
        // Many that say nothing, held open all the time.
        let silent: Vec<TcpStream> = (0..200).filter_map(|_| TcpStream::connect(&address).ok()).collect();
        let senders: Vec<_> = garbage()
            .into_iter()
            .flat_map(|(what, bytes)| [(what, bytes.clone(), true), (what, bytes, false)])
            .map(|(what, bytes, end)| {
                let address = address.clone();
                std::thread::spawn(move || send_and_wait(&address, &bytes, end).context(what))
            })
            .collect();
        for number in 0..50 {
            let file = cluster.mount(1 + number % 3).join(format!("meanwhile {number}"));
            std::fs::write(&file, "x").with_context(|| file.display().to_string())?;
        }
        for sender in senders {
            sender.join().map_err(|_| anyhow::anyhow!("a sender panicked"))??;
        }
        drop(silent);
        let state = cluster.state(victim).context("the leader does not answer")?;
        ensure!(state.pid == Some(before), "the node has been started anew");
        ensure!(state.leads() && state.status["node"]["term"] == term, "garbage has cost the leader its place");
        cluster.settle()
    })
}

/// Sends bytes to the control socket, and gives what it answers until it closes.
fn ask(socket: &Path, bytes: &[u8], end: bool) -> Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(CLOSED_WITHIN))?;
    stream.set_write_timeout(Some(CLOSED_WITHIN))?;
    // It may have read as much as it wants.
    let _ = stream.write_all(bytes);
    if end {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        let open = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        ensure!(!open, "the connection is still open after {CLOSED_WITHIN:?}");
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn garbage_on_the_control_socket() -> Result<()> {
    with_cluster(1, |cluster| {
        let socket = PathBuf::from(configured(cluster, 1, "control_socket")?);
        let before = cluster.pid(1)?;
        let lines: [(&str, &[u8]); 7] = [
            ("no request", b"\n"),
            ("no JSON", b"hello\n"),
            ("an unknown request", b"{\"ask\":\"explode\"}\n"),
            ("an unknown field", b"{\"ask\":\"umount\",\"path\":\"/nowhere\",\"loudly\":true}\n"),
            ("an unknown field where none is known", b"{\"ask\":\"status\",\"loudly\":true}\n"),
            ("a field of another type", b"{\"ask\":\"mount\",\"path\":1,\"volume\":\"1\",\"options\":[]}\n"),
            ("deeply nested", &[b'['; 5_000]),
        ];
        for (what, line) in lines {
            let answer = ask(&socket, line, true).context(what)?;
            ensure!(answer.contains("\"error\""), "{what}: answered with {answer:?}");
        }
        for (what, bytes, end) in [
            ("noise", trees::noise(3, 1 << 20), true),
            ("too long a line", vec![b'a'; 1 << 20], false),
            ("a request that is cut short", b"{\"ask\":\"sta".to_vec(), true),
            ("silence", Vec::new(), true),
        ] {
            let answer = ask(&socket, &bytes, end).context(what)?;
            ensure!(!answer.contains("\"status\""), "{what}: answered with {answer:?}");
        }
        let mount = ask(
            &socket,
            b"{\"ask\":\"mount\",\"path\":\"/nowhere/at/all\",\"volume\":\"1\",\"options\":[\"fast\"]}\n",
            true,
        )?;
        ensure!(mount.contains("fast"), "an unknown option: {mount}");
        let mount =
            ask(&socket, b"{\"ask\":\"mount\",\"path\":\"/nowhere/at/all\",\"volume\":\"1\",\"options\":[]}\n", true)?;
        ensure!(mount.contains("/nowhere/at/all"), "a directory that is not there: {mount}");
        ensure!(cluster.pid(1)? == before, "the node has been started anew");
        std::fs::write(cluster.mount(1).join("still"), "there")?;
        Ok(())
    })
}

/// How a file is damaged.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// One bit of the byte there is turned over.
    Flip(u64),
    /// Cut off there.
    Cut(u64),
}

fn damage(path: &Path, damage: Damage) -> Result<()> {
    let mut bytes = std::fs::read(path)?;
    match damage {
        Damage::Flip(at) => *bytes.get_mut(at as usize).context("no such byte")? ^= 0x10,
        Damage::Cut(at) => bytes.truncate(at as usize),
    }
    std::fs::write(path, bytes)?;
    Ok(())
}

/// Places near the beginning, in the first records, in the middle and at the end.
fn damages(bytes: u64) -> Vec<Damage> {
    let flips = [9, 560, bytes / 2, bytes.saturating_sub(2)].into_iter().filter(|at| *at < bytes).map(Damage::Flip);
    let cuts = [0, bytes / 2, bytes.saturating_sub(1)].into_iter().filter(|at| *at < bytes).map(Damage::Cut);
    let mut all: Vec<Damage> = flips.chain(cuts).collect();
    all.dedup_by_key(|damage| format!("{damage:?}"));
    all
}

/// All files with something in them, below `dir`.
fn files(dir: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_dir() {
            found.extend(files(&entry.path())?);
        } else if meta.len() > 0 {
            found.push((entry.path(), meta.len()));
        }
    }
    found.sort();
    Ok(found)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        std::fs::remove_dir_all(to)?;
    }
    let script = format!("cp -a --sparse=always {} {}", from.display(), to.display());
    gavel_conformance::command::shell(Path::new("/"), &script, PATIENCE).map(drop)
}

/// Files with known content, some kept in records, some in blobs.
fn known() -> Vec<(String, Vec<u8>)> {
    let sizes = [0, 100, 4_000, 16_384, 16_385, 100_000, 700_000];
    (0..28u64).map(|number| (format!("known {number}"), trees::noise(number, sizes[number as usize % 7]))).collect()
}

/// So many files of 16 kB are more log than is applied between two flushes, and more than a log segment holds.
const FILLING_FILES: u64 = 1_300;

fn filling_file(number: u64) -> (String, Vec<u8>) {
    (format!("filling {number}"), trees::noise(number, 16_000))
}

/// Looks at what a node with damaged files serves: what is there must be right. What is not must be an I/O error; a
/// file that was acknowledged and is simply gone is wrong data, too.
fn judge(mount: &Path, strict: bool, filling: u64) -> Result<()> {
    for (name, expected) in known().into_iter().chain((0..filling).map(filling_file)) {
        match std::fs::read(mount.join(&name)) {
            Ok(found) => ensure!(found == expected, "{name} has other bytes than were written"),
            Err(error) => {
                let io_error = Errno::from_io_error(&error) == Some(Errno::IO);
                ensure!(io_error && !strict, "{name} cannot be read: {error}");
            }
        }
    }
    Ok(())
}

/// Starts a node on damaged files. What it did: `served` or the status of its exit.
fn try_damaged(cluster: &Cluster, file: &Path, how: Damage) -> Result<String> {
    // Of a file without a byte nothing can be said but that something lacks in its directory.
    let named = if matches!(how, Damage::Cut(0)) { file.parent() } else { file.file_name().map(Path::new) };
    let name = named.context("a file without a name")?.to_string_lossy();
    let mut serving = Serving::start(cluster.gavel(), &cluster.config(1), None)?;
    let mut ended = serving.up_or_ended(PATIENCE)?;
    if ended.is_none() {
        wait::until("it mounts or ends", PATIENCE, || {
            ended = serving.ended();
            ended.is_some() || !mounts::under(&cluster.mount(1)).is_empty()
        })?;
    }
    if ended.is_none() {
        let mount = cluster.mount(1);
        // Only a table can lose some of them and keep the others.
        let filling = if file.starts_with("records/tables") { FILLING_FILES } else { 0 };
        let judged = wait::within("reading through a damaged node", PATIENCE, move || judge(&mount, false, filling))?;
        ended = serving.ended();
        if ended.is_none() {
            judged?;
            serving.end()?;
            return Ok("served".into());
        }
    }
    let Ran { code, stderr, .. } = ended.context("it has ended")?;
    ensure!(!stderr.contains("panicked"), "it panicked:\n{stderr}");
    ensure!(matches!(code, Some(1 | 3)), "it ended with {code:?}:\n{stderr}");
    ensure!(stderr.contains(&*name), "it ended without naming {name}:\n{stderr}");
    Ok(format!("refused with status {}", code.unwrap_or_default()))
}

/// A node that is alone: nobody can help it with what it has lost, so it must not lose anything unnoticed.
#[test]
fn damaged_files_are_never_served() -> Result<()> {
    with_cluster(1, |cluster| {
        for (name, bytes) in known() {
            std::fs::write(cluster.mount(1).join(name), bytes)?;
        }
        let (data, pristine) = (cluster.home(1).join("data"), cluster.scratch().join("pristine"));
        let tables = data.join("records/tables");
        for (name, bytes) in (0..FILLING_FILES).map(filling_file) {
            std::fs::write(cluster.mount(1).join(name), bytes)?;
        }
        wait::until("records are flushed", PATIENCE, || files(&tables).is_ok_and(|found| !found.is_empty()))?;
        cluster.halt()?;
        copy(&data, &pristine)?;
        let mut failures = Vec::new();
        for (file, bytes) in files(&pristine)? {
            for how in damages(bytes) {
                let file = file.strip_prefix(&pristine)?;
                copy(&pristine, &data)?;
                damage(&data.join(file), how)?;
                match try_damaged(cluster, file, how) {
                    Ok(what) => println!("{} {how:?}: {what}", file.display()),
                    Err(error) => failures.push(format!("{} of {bytes} bytes, {how:?}: {error:#}", file.display())),
                }
                mounts::take_off(&cluster.mount(1));
            }
        }
        copy(&pristine, &data)?;
        cluster.start()?;
        judge(&cluster.mount(1), true, FILLING_FILES).context("undamaged")?;
        ensure!(failures.is_empty(), "{} cases:\n{}", failures.len(), failures.join("\n"));
        Ok(())
    })
}

/// A node among others: what its blobs have lost comes from the others, without anybody noticing.
#[test]
fn damaged_blobs_are_fetched_from_the_others() -> Result<()> {
    with_cluster(3, |cluster| {
        for (name, bytes) in known() {
            std::fs::write(cluster.mount(1).join(name), bytes)?;
        }
        cluster.settle()?;
        let blobs =
            || Some(cluster.states().ok()?.iter().map(|state| state.status["blobs"].as_u64()).collect::<Vec<_>>());
        wait::until("all have all blobs", PATIENCE, || {
            blobs().is_some_and(|all| all.iter().all(|count| *count == all[0]))
        })?;
        for case in 0..3 {
            cluster.halt()?;
            let (segment, bytes) = files(&cluster.home(1).join("data/blobs"))?
                .into_iter()
                .find(|(path, _)| path.extension().is_some_and(|end| end == "blob"))
                .context("no blobs")?;
            match case {
                0 => (1..10).try_for_each(|tenth| damage(&segment, Damage::Flip(bytes / 10 * tenth)))?,
                1 => damage(&segment, Damage::Cut(bytes / 2))?,
                _ => damage(&segment, Damage::Cut(0))?,
            }
            cluster.start()?;
            judge(&cluster.mount(1), true, 0).with_context(|| format!("case {case}"))?;
        }
        Ok(())
    })
}

/// CRC-64/NVME, bit by bit: a header of another version must be whole otherwise (docs/formats/log.md).
fn checksum(bytes: &[u8]) -> u64 {
    let mut sum = u64::MAX;
    for byte in bytes {
        sum ^= u64::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ 0x9a6c_9329_ac4b_c9b5 } else { sum >> 1 };
        }
    }
    !sum
}

/// Gives a segment's header another version, and the checksum that it needs then.
fn change_version(segment: &Path) -> Result<()> {
    let mut bytes = std::fs::read(segment)?;
    let stored = bytes.get(504..512).context("no whole header")?.to_vec();
    ensure!(
        stored == checksum(&bytes[..504]).to_le_bytes(),
        "this test knows another checksum than {}",
        segment.display()
    );
    bytes[8..12].copy_from_slice(&99u32.to_le_bytes());
    let sum = checksum(&bytes[..504]);
    bytes[504..512].copy_from_slice(&sum.to_le_bytes());
    std::fs::write(segment, bytes)?;
    Ok(())
}

/// Runs `gavel serve`, which must end by itself. (Asking it how it is would reach whoever has the same control socket.)
fn serve(cluster: &Cluster, config: &Path) -> Result<Ran> {
    let mut serving = Serving::start(cluster.gavel(), config, None)?;
    let ended = wait::for_some("it ends by itself", PATIENCE, || serving.ended());
    ended.with_context(|| format!("it serves with {}:\n{}", config.display(), serving.said()))
}

#[test]
fn data_of_another_version_cluster_or_node_is_refused() -> Result<()> {
    with_cluster(3, |cluster| {
        std::fs::write(cluster.mount(1).join("known"), "known")?;
        let second = serve(cluster, &cluster.config(1)).context("a second daemon on the same data")?;
        second.refused(&["data/log", "another process"])?;
        cluster.halt()?;
        for (dir, segment) in [("log", "0000000000000001.log"), ("blobs", "0000000000000001.blob")] {
            let (data, kept) = (cluster.home(1).join("data"), cluster.scratch().join("kept"));
            copy(&data, &kept)?;
            change_version(&data.join(dir).join(segment))?;
            serve(cluster, &cluster.config(1))?.refused(&[segment, "format 99"])?;
            copy(&kept, &data)?;
        }
        // Another node's data: the configuration of node 1, with the directory of node 2.
        let text = std::fs::read_to_string(cluster.config(1))?;
        let swapped = cluster.home(1).join("swapped.toml");
        let other = cluster.home(2).join("data");
        let here = format!("data_dir = \"{}\"", cluster.home(1).join("data").display());
        std::fs::write(&swapped, text.replace(&here, &format!("data_dir = \"{}\"", other.display())))?;
        serve(cluster, &swapped)?.refused(&["node 2", "node 1"])?;
        // Another cluster's data.
        let strangers = cluster.scratch().join("strangers");
        let mut init = cluster.gavel().command(["init", "--node", "n1=127.0.0.1:7999", "--dir"]);
        init.arg(&strangers);
        gavel_conformance::command::run(init, PATIENCE)?.ok()?;
        let config = strangers.join("node/1/gavel.toml");
        let text = std::fs::read_to_string(&config)?;
        let own = format!("data_dir = \"{}\"", strangers.join("node/1/data").display());
        ensure!(text.contains(&own), "{text}");
        let theirs = format!("data_dir = \"{}\"", cluster.home(1).join("data").display());
        std::fs::write(&config, text.replace(&own, &theirs))?;
        serve(cluster, &config)?.refused(&["cluster"])?;
        cluster.start()?;
        ensure!(std::fs::read(cluster.mount(1).join("known"))? == b"known", "the data has changed");
        Ok(())
    })
}

#[test]
fn absurd_configurations_are_refused() -> Result<()> {
    with_cluster(1, |cluster| {
        cluster.halt()?;
        let text = std::fs::read_to_string(cluster.config(1))?;
        let config = cluster.home(1).join("absurd.toml");
        let socket = configured(cluster, 1, "control_socket")?;
        let listen = configured(cluster, 1, "listen")?;
        let cases = [
            ("node = 1", "node = 0", &["node = 0", "Hint"][..]),
            ("node = 1", "node = -1", &["node"]),
            ("node = 1", "node = 7", &["node = 7", "peers"]),
            ("[tuning]", "[tuning]\nterm_ms = 1", &["tuning.term_ms = 1", "1000"]),
            ("[tuning]", "[tuning]\nheartbeat_ms = 99999999999999999999999", &["heartbeat_ms"]),
            ("[tuning]", "[tuning]\nlease_ms = 5", &["lease_ms"]),
            ("cluster = \"", "cluster = \"zz", &["cluster", "32 hexadecimal digits"]),
            (&socket, "/dev/null/socket", &["control_socket", "/dev/null"]),
            (&listen, "203.0.113.1:7400", &["203.0.113.1:7400"]),
            ("authority.crt", "no-such.crt", &["no-such.crt"]),
            ("authority.crt", "gavel.toml", &["gavel.toml"]),
        ];
        for (old, new, phrases) in cases {
            ensure!(text.contains(old), "{old} is not in {text}");
            std::fs::write(&config, text.replacen(old, new, usize::MAX))?;
            serve(cluster, &config)?.refused(phrases).with_context(|| format!("{new:?} for {old:?}"))?;
        }
        for (bytes, phrases) in
            [(Vec::new(), &["absurd.toml", "Hint"]), (trees::noise(5, 4_000), &["absurd.toml", "UTF-8"])]
        {
            std::fs::write(&config, bytes)?;
            serve(cluster, &config)?.refused(phrases)?;
        }
        std::fs::remove_file(&config)?;
        serve(cluster, &config)?.refused(&["absurd.toml", "gavel init"])?;
        let wrong = cluster.gavel().run(["no-such-command"])?;
        ensure!(wrong.code == Some(2), "an unknown command: status {:?}", wrong.code);
        cluster.start()
    })
}
