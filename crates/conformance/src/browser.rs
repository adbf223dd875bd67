//! A headless Chromium, driven over the DevTools protocol as a person would: pages are opened, clicked and looked at.
//!
//! The protocol goes over two pipes (`--remote-debugging-pipe`: file descriptors 3 and 4, messages that end with a zero byte). So no port is open that others could
//! use, and no library is needed.

use crate::{machine, wait};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long the browser may take to start, or to answer, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// The variable that names a Chromium, if it is not in PATH.
const VARIABLE: &str = "GAVEL_TEST_CHROMIUM";
/// Standard input and output become what the browser speaks over.
const START: &str = "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1";

/// A browser with one page. Dropped, it is killed.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    orders: ChildStdin,
    answers: Receiver<Value>,
    session: Option<String>,
    last: u64,
    complaints: Vec<String>,
    // Dropped last: the browser writes there.
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts one, if there is one on this machine; says so if not.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start() -> Result<Option<Browser>> {
        let Some(program) = machine::program("chromium", VARIABLE) else { return Ok(None) };
        let profile = tempfile::tempdir().context("a directory for the browser")?;
        let mut command = Command::new("sh");
        command.args(["-c", START]).arg(program).arg(format!("--user-data-dir={}", profile.path().display()));
        // Its sandbox does not work for root, and what it is shown here is our own page.
        command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
        command.args(["--no-first-run", "--disable-background-networking", "--remote-debugging-pipe", "about:blank"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting chromium")?;
        let orders = child.stdin.take().context("a pipe")?;
        let mut output = BufReader::new(child.stdout.take().context("a pipe")?);
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            let mut message = Vec::new();
            // Ends with the browser, or with the test.
            while output.read_until(0, &mut message).is_ok_and(|read| read > 0) {
                let text = message.strip_suffix(&[0]).unwrap_or(&message);
                if serde_json::from_slice(text).is_ok_and(|value: Value| sender.send(value).is_err()) {
                    return;
                }
                message.clear();
            }
        });
        let mut browser =
            Browser { child, orders, answers, session: None, last: 0, complaints: Vec::new(), _profile: profile };
        let page = browser.ask("Target.createTarget", json!({ "url": "about:blank" }))?;
        let attached =
            browser.ask("Target.attachToTarget", json!({ "targetId": page["targetId"], "flatten": true }))?;
        browser.session = Some(attached["sessionId"].as_str().context("a session with the page")?.to_owned());
        for what in ["Page.enable", "Runtime.enable", "Log.enable"] {
            browser.ask(what, json!({}))?;
        }
        Ok(Some(browser))
    }

    /// Asks something of the protocol, and waits for the answer.
    ///
    /// # Errors
    /// What the browser says; that it does not answer.
    pub fn ask(&mut self, method: &str, parameters: Value) -> Result<Value> {
        self.last += 1;
        let mut message = json!({ "id": self.last, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        let mut bytes = serde_json::to_vec(&message)?;
        bytes.push(0);
        self.orders.write_all(&bytes).with_context(|| format!("{method}: the browser has ended"))?;
        let end = Instant::now() + PATIENCE;
        loop {
            let mut told = match self.answers.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(told) => told,
                Err(RecvTimeoutError::Timeout) => bail!("{method}: no answer of the browser"),
                Err(RecvTimeoutError::Disconnected) => bail!("{method}: the browser has ended"),
            };
            self.listen(&told);
            if told["id"] == self.last {
                ensure!(told["error"].is_null(), "{method}: {}", told["error"]);
                return Ok(told["result"].take());
            }
        }
    }

    fn listen(&mut self, event: &Value) {
        let said = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => &event["params"]["exceptionDetails"],
            Some("Log.entryAdded") if event["params"]["entry"]["level"] == "error" => &event["params"]["entry"],
            Some("Page.javascriptDialogOpening") => &event["params"],
            _ => return,
        };
        self.complaints.push(said.to_string());
    }

    /// What the browser complained about since this was asked last: exceptions, errors, what the page's own policy forbids, dialogs.
    pub fn complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.complaints)
    }

    /// Opens a page.
    ///
    /// # Errors
    /// If it can't be opened.
    pub fn open(&mut self, address: &str) -> Result<()> {
        let opened = self.ask("Page.navigate", json!({ "url": address }))?;
        ensure!(opened["errorText"].is_null(), "{address}: {}", opened["errorText"]);
        Ok(())
    }

    /// The value of an expression in the page, which may be a promise.
    ///
    /// # Errors
    /// What was thrown.
    pub fn value(&mut self, expression: &str) -> Result<Value> {
        let parameters =
            json!({ "expression": expression, "awaitPromise": true, "returnByValue": true, "userGesture": true });
        let mut told = self.ask("Runtime.evaluate", parameters)?;
        let thrown = &told["exceptionDetails"];
        ensure!(thrown.is_null(), "{expression}: {}", thrown["exception"]["description"]);
        Ok(told["result"]["value"].take())
    }

    /// Waits until an expression in the page is true.
    ///
    /// # Errors
    /// If it does not become so; with what the page shows then.
    pub fn until(&mut self, what: &str, expression: &str) -> Result<()> {
        // While a page changes there may be nothing to ask.
        let held = wait::until(what, PATIENCE, || self.value(expression).is_ok_and(|value| value == true));
        if let Err(error) = held {
            let shown = self.value("location.href + '\\n' + document.body.innerText").unwrap_or_default();
            let complaints = self.complaints();
            return Err(error.context(format!("{}\n{complaints:?}", shown.as_str().unwrap_or_default())));
        }
        Ok(())
    }

    /// Presses a key, such as `Enter` or `Home`, on whatever has the focus.
    ///
    /// # Errors
    /// If the browser does not take it.
    pub fn press(&mut self, key: &str, code: u32) -> Result<()> {
        for kind in ["rawKeyDown", "keyUp"] {
            let parameters = json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code });
            self.ask("Input.dispatchKeyEvent", parameters)?;
        }
        Ok(())
    }

    /// Makes the page so wide, in CSS pixels.
    ///
    /// # Errors
    /// If the browser does not do it.
    pub fn width(&mut self, pixels: u32) -> Result<()> {
        let parameters = json!({ "width": pixels, "height": 800, "deviceScaleFactor": 1, "mobile": false });
        self.ask("Emulation.setDeviceMetricsOverride", parameters).map(drop)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
