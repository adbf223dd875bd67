//! The page of `gavel console`, in a real browser; and who may not use it (docs/operations/console.md).

use anyhow::{Context, Result, bail, ensure};
use gavel_conformance::browser::Browser;
use gavel_conformance::cluster::{Cluster, with_cluster};
use gavel_conformance::{command, process, wait};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(90);
/// A name that would be a script, if anybody took it for markup.
const HOSTILE: &str = "@@2h<img src=x onerror=alert(1)>&\"'";
const FIRST: &str = "one\ntwo\nthree\n";
const SECOND: &str = "one\n2\nthree\nfour\n";

/// A running `gavel console`. Dropped, it is killed.
struct Console {
    child: Child,
    /// `127.0.0.1:PORT`
    host: String,
    key: String,
    url: String,
}

impl Console {
    fn start(cluster: &Cluster, path: &Path) -> Result<Console> {
        let mut line = cluster.gavel().command([OsStr::new("console"), OsStr::new("--print-url"), path.as_os_str()]);
        let mut child = line.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("gavel console")?;
        let mut output = BufReader::new(child.stdout.take().context("a pipe")?);
        let read = wait::within("gavel console prints its address", PATIENCE, move || {
            let mut url = String::new();
            output.read_line(&mut url).map(|_| url)
        });
        let url = read??.trim().to_owned();
        let rest = url.strip_prefix("http://").with_context(|| format!("not an address: {url:?}"))?;
        let (host, rest) = rest.split_once("/?key=").context("no key")?;
        let (key, _) = rest.split_once('#').context("no place")?;
        Ok(Console { host: host.into(), key: key.into(), url: url.clone(), child })
    }

    /// Sends lines of a request, and a body; gives the status and the body of the answer.
    fn send(&self, first: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<(u16, Vec<u8>)> {
        let mut stream = TcpStream::connect(&self.host)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut request = format!("{first} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{request}\r\n").as_bytes())?;
        // A server that refuses a body need not read all of it.
        let _ = stream.write_all(body);
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer)
            && answer.is_empty()
        {
            return Err(error.into());
        }
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").context("no end of the headers")?;
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
        Ok((status, answer.split_off(end + 4)))
    }

    fn get(&self, path: &str) -> Result<Value> {
        let headers = [("Host", &*self.host), ("x-gavel-key", &self.key)];
        let (status, body) = self.send(&format!("GET {path}"), &headers, b"")?;
        ensure!(status == 200, "{path}: {status} {}", String::from_utf8_lossy(&body));
        Ok(serde_json::from_slice(&body)?)
    }

    fn end(mut self) -> Result<()> {
        process::signal(self.child.id(), rustix::process::Signal::TERM)?;
        let ended = wait::for_some("gavel console ends", PATIENCE, || self.child.try_wait().ok().flatten())?;
        ensure!(ended.code() == Some(0), "gavel console ended with {ended}");
        Ok(())
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What was done through this mount is committed: what follows is another transaction.
fn settle(mount: &Path) -> Result<()> {
    Ok(File::open(mount)?.sync_all()?)
}

/// A report that was written, named a good state, rewritten and removed; and names that are hard to show.
fn prepare(cluster: &Cluster) -> Result<()> {
    let mount = cluster.mount(1);
    let dir = mount.join("dir");
    std::fs::create_dir(&dir)?;
    std::fs::write(dir.join("report"), FIRST)?;
    std::fs::write(dir.join(HOSTILE), "harmless")?;
    std::fs::write(dir.join(OsStr::from_bytes(b"\xff\xfe")), "bytes")?;
    settle(&mount)?;
    cluster.gavel().run([OsStr::new("snapshot"), "create".as_ref(), mount.as_ref(), "good".as_ref()])?.ok()?;
    std::fs::write(dir.join("report"), SECOND)?;
    settle(&mount)?;
    std::fs::remove_file(dir.join("report"))?;
    settle(&mount)
}

/// Waits until the page shows an address.
fn shown(browser: &mut Browser, hash: &str) -> Result<()> {
    let held = format!("document.getElementById('main')?.dataset.shown === {}", json!(hash));
    browser.until(&format!("{hash} is shown"), &held)
}

fn go(browser: &mut Browser, hash: &str) -> Result<()> {
    browser.value(&format!("location.hash = {}; 0", json!(hash)))?;
    shown(browser, hash)
}

fn text(browser: &mut Browser, selector: &str) -> Result<String> {
    let found = browser.value(&format!("document.querySelector({})?.textContent ?? '(none)'", json!(selector)))?;
    Ok(found.as_str().unwrap_or_default().to_owned())
}

fn click(browser: &mut Browser, selector: &str) -> Result<()> {
    browser.value(&format!("document.querySelector({}).click()", json!(selector))).map(drop)
}

fn everywhere(cluster: &Cluster, content: Option<&str>) -> Result<()> {
    for mount in cluster.all_mounts() {
        let found = std::fs::read_to_string(mount.join("dir/report")).ok();
        ensure!(found.as_deref() == content, "{}: {found:?} and not {content:?}", mount.display());
    }
    Ok(())
}

#[test]
fn the_past_is_seen_compared_and_brought_back_in_a_browser() -> Result<()> {
    with_cluster(3, |cluster| {
        let Some(mut browser) = Browser::start()? else { return Ok(()) };
        prepare(cluster)?;
        let console = Console::start(cluster, &cluster.mount(2).join("dir"))?;
        browser.open(&console.url)?;
        shown(&mut browser, "#/dir")?;
        ensure!(browser.value("location.search")? == "", "the key is out of sight");
        names_of_then_and_now(&mut browser)?;
        versions_side_by_side(&mut browser)?;
        restored_and_taken_back(cluster, &mut browser)?;
        moved_through_time(&mut browser)?;
        lines_compared(&mut browser)?;
        let complaints = browser.complaints();
        ensure!(complaints.is_empty(), "the browser complains: {complaints:#?}");
        console.end()
    })
}

fn names_of_then_and_now(browser: &mut Browser) -> Result<()> {
    let now = text(browser, "main table")?;
    ensure!(!now.contains("report") && now.contains(HOSTILE), "what is there now: {now}");
    click(browser, "#since")?;
    browser.until("what was removed is listed", "document.querySelector('tr.gone')?.innerText.includes('report')")?;
    go(browser, "#/dir@@good")?;
    let then = browser.value("[...document.querySelectorAll('td.name')].map((cell) => cell.innerText).sort()")?;
    ensure!(then.as_array().is_some_and(|names| names.len() == 3), "names as of then: {then}");
    let gone = text(browser, "tr.gone")?;
    ensure!(gone.contains("report") && gone.contains("gone now"), "what is gone is marked: {gone}");
    ensure!(browser.value("document.querySelectorAll('tr.same').length")? == 2, "and nothing else is");
    // Names that no text can hold, or that hold what means something elsewhere, lead to their files.
    for (name, content) in [("%FF%FE", "bytes"), (&*encoded(browser, HOSTILE)?, "harmless")] {
        let hash = format!("#/dir/{name}@@good");
        click(browser, &format!("a[href=\"{hash}\"]"))?;
        shown(browser, &hash)?;
        ensure!(text(browser, "#content")? == content, "{hash}: {}", text(browser, "main")?);
        go(browser, "#/dir@@good")?;
    }
    Ok(())
}

fn encoded(browser: &mut Browser, name: &str) -> Result<String> {
    let found = browser.value(&format!("encodeURIComponent({})", json!(name)))?;
    Ok(found.as_str().unwrap_or_default().to_owned())
}

fn versions_side_by_side(browser: &mut Browser) -> Result<()> {
    go(browser, "#/dir/report@@good")?;
    ensure!(text(browser, "#content")? == FIRST, "the content of then: {:?}", text(browser, "#content")?);
    let rows = browser.value("document.querySelectorAll('#versions tbody tr').length")?;
    ensure!(rows.as_u64().is_some_and(|rows| rows >= 3), "made, changed, removed: {}", text(browser, "#versions")?);
    ensure!(text(browser, "#versions tr.gone")?.contains("removed"), "{}", text(browser, "#versions")?);
    ensure!(
        browser.value("document.querySelectorAll('#versions input:checked').length")? == 2,
        "the last two are chosen"
    );
    for (side, content) in [("older", FIRST), ("newer", SECOND)] {
        let row = format!(
            "[...document.querySelectorAll('#versions tr')].find((row) => row.innerText.includes('{} B'))",
            content.len()
        );
        browser.value(&format!("{row}.querySelector('input[name={side}]').checked = true"))?;
    }
    click(browser, "#versions button[type=submit]")?;
    browser.until("they are compared", "document.querySelector('#comparison .diff') !== null")?;
    let lines = browser.value(
        "[...document.querySelectorAll('.diff tr')].map((row) => row.className[0] + row.querySelector('.line').innerText)",
    )?;
    ensure!(lines == json!(["kone", "rtwo", "a2", "kthree", "afour"]), "the comparison: {lines}");
    Ok(())
}

/// Confirms what the page asks; it must ask for this path.
fn confirm(browser: &mut Browser) -> Result<()> {
    browser.until("the page asks", "document.getElementById('ask').open")?;
    ensure!(text(browser, "#ask-title")?.contains("dir/report"), "{}", text(browser, "#ask")?);
    click(browser, "#ask-yes")?;
    browser.until("it is done", "/made|error|is what it was/.test(document.getElementById('notice').innerText)")
}

fn restored_and_taken_back(cluster: &Cluster, browser: &mut Browser) -> Result<()> {
    // Cancelled with the keyboard, nothing happens.
    click(browser, "#restore")?;
    browser.until("the page asks", "document.getElementById('ask').open")?;
    browser.press("Escape", 27)?;
    browser.until("it asks no more", "!document.getElementById('ask').open")?;
    everywhere(cluster, None)?;
    click(browser, "#restore")?;
    confirm(browser)?;
    everywhere(cluster, Some(FIRST)).with_context(|| text(browser, "#notice").unwrap_or_default())?;
    shown(browser, "#/dir/report")?;
    ensure!(text(browser, "#notice code")?.contains("gavel undo --at 0x"), "{}", text(browser, "#notice")?);
    click(browser, "#notice button:not(.quiet)")?;
    browser.until("the page asks", "document.getElementById('ask').open")?;
    browser.value("document.getElementById('notice').replaceChildren()")?;
    confirm(browser)?;
    everywhere(cluster, None).with_context(|| text(browser, "#notice").unwrap_or_default())
}

fn moved_through_time(browser: &mut Browser) -> Result<()> {
    go(browser, "#/")?;
    browser.value("document.getElementById('slider').focus()")?;
    browser.press("Home", 36)?;
    browser.until("the beginning is shown", "/^#\\/@@/.test(document.getElementById('main').dataset.shown ?? '')")?;
    let first = text(browser, "main")?;
    ensure!(first.contains("Nothing is here") && first.contains("As of"), "the beginning: {first}");
    ensure!(browser.value("document.activeElement.id")? == "slider", "the slider keeps the focus");
    browser.press("End", 35)?;
    shown(browser, "#/")?;
    ensure!(text(browser, "main table")?.contains("dir"), "the present");
    ensure!(browser.value("document.querySelectorAll('#marks option').length")? == 1, "the snapshot is marked");
    for (at, phrase) in [("no state", "neither a transaction"), ("nosuch", "no snapshot"), ("2199-01-01", "future")] {
        browser.value(&format!("document.getElementById('at').value = {}; 0", json!(at)))?;
        click(browser, "#time button[type=submit]")?;
        browser.until(at, &format!("document.querySelector('main .error')?.innerText.includes({})", json!(phrase)))?;
    }
    // An age that is longer than the volume is old.
    go(browser, "#/dir@@9w")?;
    ensure!(text(browser, "main .error")?.contains("made later"), "{}", text(browser, "main")?);
    for place in ["#/dir/report@@good", "#/dir@@good"] {
        go(browser, place)?;
        browser.width(360)?;
        let wide = browser.value("document.documentElement.scrollWidth")?;
        ensure!(wide.as_u64().is_some_and(|wide| wide <= 360), "{place} is {wide} pixels wide");
    }
    // What is refused on purpose is an error of the network's for the browser.
    let errors = browser.complaints();
    let refused = |error: &String| error.contains("status of 422");
    ensure!(errors.iter().all(refused), "the browser complains: {errors:#?}");
    Ok(())
}

/// The comparison of lines against the definition: what it says makes one text of the other, and keeps as many lines as can be kept.
fn lines_compared(browser: &mut Browser) -> Result<()> {
    let script = r#"(async () => {
        const { compare, lines, shortened, LINES_MAX } = await import('/page/diff.js');
        let seed = 7;
        // xorshift32 (Marsaglia 2003).
        const dice = (n) => {
            for (const by of [13, -17, 5]) seed = (seed ^ (by > 0 ? seed << by : seed >>> -by)) >>> 0;
            return Math.floor((seed / 2 ** 32) * n);
        };
        const longest = (a, b) => a.length === 0 || b.length === 0 ? 0
            : a[0] === b[0] ? 1 + longest(a.slice(1), b.slice(1)) : Math.max(longest(a.slice(1), b), longest(a, b.slice(1)));
        for (let round = 0; round < 2000; round += 1) {
            const some = () => Array.from({ length: dice(8) }, () => 'abc'[dice(3)] + '\n').join('') + 'xy'.slice(0, dice(3));
            const [a, b] = [some(), some()];
            if (lines(a).join('') !== a) return `lines of ${JSON.stringify(a)}`;
            const steps = compare(lines(a), lines(b));
            const side = (sign) => steps.filter((step) => step.sign !== sign).map((step) => step.line).join('');
            if (side('+') !== a || side('-') !== b) return `${JSON.stringify([a, b])}: ${JSON.stringify(steps)}`;
            const kept = steps.filter((step) => step.sign === ' ').length;
            if (kept !== longest(lines(a), lines(b))) return `not the longest: ${JSON.stringify([a, b])}`;
            const numbers = steps.filter((step) => step.before !== null).map((step) => step.before);
            if (numbers.some((number, n) => number !== n + 1)) return `numbers ${numbers}`;
            const count = shortened(steps, 1).reduce((sum, step) => sum + (step.left ?? 1), 0);
            if (kept < steps.length && count !== steps.length) return `shortened ${count} of ${steps.length}`;
        }
        const many = (letter, n) => Array.from({ length: n }, (_, i) => `${letter}${i}\n`);
        if (compare(many('a', LINES_MAX + 1), many('b', 1)) !== null) return 'too many lines were compared';
        if (compare(many('a', LINES_MAX), many('b', LINES_MAX))?.length !== 2 * LINES_MAX) return 'not so many';
        const grown = compare(many('a', 3 * LINES_MAX), [...many('a', 3 * LINES_MAX), 'new\n']);
        return grown?.filter((step) => step.sign === '+').length === 1 ? 'good' : 'a line at the end';
    })()"#;
    match browser.value(script)?.as_str() {
        Some("good") => Ok(()),
        other => bail!("lines are compared wrongly: {other:?}"),
    }
}

#[test]
fn whoever_has_no_key_or_comes_from_elsewhere_is_refused() -> Result<()> {
    with_cluster(3, |cluster| {
        prepare(cluster)?;
        let console = Console::start(cluster, &cluster.mount(1))?;
        let (host, key) = (&*console.host, &*console.key);
        let origin = format!("http://{host}");
        let wrong = "0".repeat(key.len());
        let restore = json!({ "path": "dir/report", "at": "good", "dry_run": false }).to_string();
        let json = ("Content-Type", "application/json");
        let refused: &[(&str, &[(&str, &str)])] = &[
            ("GET /api/about", &[("Host", host)]),
            ("GET /api/about", &[("Host", host), ("x-gavel-key", &wrong)]),
            ("GET /api/text?path=dir/report&at=good", &[("Host", host), ("Cookie", &console.url)]),
            ("GET /api/browse?path=", &[("Host", host), ("x-gavel-key", &key[1..])]),
            ("GET /api/about", &[("Host", "evil.example"), ("x-gavel-key", key)]),
            ("GET /", &[("Host", "evil.example")]),
            ("GET /page/main.js", &[("Host", &host.replace("127.0.0.1", "gavel.example"))]),
            ("GET /api/about", &[("Host", host), ("x-gavel-key", key), ("Origin", "http://evil.example")]),
            ("POST /api/restore", &[("Host", host), json, ("Origin", &origin)]),
            ("POST /api/restore", &[("Host", host), json, ("Origin", &origin), ("x-gavel-key", &wrong)]),
            ("POST /api/restore", &[("Host", host), json, ("x-gavel-key", key)]),
            ("POST /api/restore", &[("Host", host), json, ("Origin", "http://evil.example"), ("x-gavel-key", key)]),
            ("POST /api/restore", &[("Host", host), json, ("Origin", "null"), ("x-gavel-key", key)]),
            ("POST /api/restore", &[("Host", "evil.example"), json, ("Origin", &origin), ("x-gavel-key", key)]),
        ];
        for (first, headers) in refused {
            let (status, body) = console.send(first, headers, restore.as_bytes())?;
            ensure!(status == 403, "{first} {headers:?}: {status} {}", String::from_utf8_lossy(&body));
        }
        let (status, _) = console.send(&format!("GET /?key={wrong}"), &[("Host", host)], b"")?;
        ensure!(status == 403, "the page with a wrong key: {status}");
        everywhere(cluster, None).context("nothing was done")?;
        let good = [("Host", host), json, ("Origin", &*origin), ("x-gavel-key", key)];
        let (status, _) = console.send("POST /api/restore", &good, &vec![b' '; 100_000])?;
        ensure!(status == 413, "a long body: {status}");
        let (status, body) = console.send("POST /api/restore", &good, restore.as_bytes())?;
        ensure!(status == 200, "{status} {}", String::from_utf8_lossy(&body));
        everywhere(cluster, Some(FIRST)).context("with key and origin it is done")?;
        saved(cluster, &console)?;
        console.end()?;
        cluster.gavel().run(["console", "/"])?.refused(&["not in a mount of Gavel"])?;
        let mount = cluster.mount(1);
        for address in ["0.0.0.0:0", "192.0.2.1:80", "[::]:0"] {
            let words = [OsStr::new("console"), "--listen".as_ref(), address.as_ref(), mount.as_ref()];
            cluster.gavel().run(words)?.refused(&["loopback addresses alone", "ssh -L"])?;
        }
        Ok(())
    })
}

/// A file of several pieces is saved as it was.
fn saved(cluster: &Cluster, console: &Console) -> Result<()> {
    let mount = cluster.mount(1);
    let bytes: Vec<u8> = (0..2_500_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(mount.join("large"), &bytes)?;
    settle(&mount)?;
    let at = console.get("/api/browse?path=large")?["at"].as_str().context("a state")?.to_owned();
    ensure!(console.get("/api/text?path=large")?["text"].is_null(), "it is no text");
    command::shell(&mount, "echo other > large", PATIENCE)?;
    settle(&mount)?;
    let origin = format!("http://{}", console.host);
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    let headers = [("Host", &*console.host), form, ("Origin", &*origin)];
    let (status, body) = console.send("POST /download", &headers, format!("key=0&path=large&at={at}").as_bytes())?;
    ensure!(status == 403, "a wrong key: {status} {}", String::from_utf8_lossy(&body));
    let wanted = format!("key={}&path=large&at={at}", console.key);
    let (status, body) = console.send("POST /download", &headers, wanted.as_bytes())?;
    ensure!(status == 200 && body == bytes, "status {status}, {} bytes, equal: {}", body.len(), body == bytes);
    Ok(())
}
