//! Questions about the past, as the commands `history`, `log` and `diff` ask them.

use crate::output::hinted;
use crate::target::{ASK_HINT, Target};
use gavel_history::transaction::What;
use gavel_runtime::host::control::{Reply, Request};
use gavel_runtime::host::history::{Line, Question, ask_many};
use nix::unistd::{Uid, User};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::time::Duration;

/// How long the next line of an answer may take: a log may look at many transactions before it finds one of a directory.
const PATIENCE: Duration = Duration::from_secs(600);
/// Most names of users that are remembered.
const USERS_MAX: usize = 4096;

/// Asks, and hands each line of the answer to `each`. With `for_ever`, the answer ends with the daemon.
///
/// # Errors
/// What the daemon said, or why it could not be asked; what `each` said.
pub fn ask(
    target: &Target,
    question: Question,
    for_ever: bool,
    mut each: impl FnMut(Line) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let request = Request::Past { volume: target.volume, question };
    let mut failed = None;
    let patience = (!for_ever).then_some(PATIENCE);
    let asked = ask_many(&target.socket, &request, patience, |reply| {
        let handled = match reply {
            Reply::Line(line) => each(*line),
            Reply::Error(error) => Err(anyhow::anyhow!("{error}")),
            _ => Err(anyhow::anyhow!("the daemon answered something else than it was asked")),
        };
        match handled {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    });
    match (failed, asked) {
        (Some(error), _) => Err(error),
        (None, Ok(())) => Ok(()),
        (None, Err(error)) => Err(hinted(error.to_string(), ASK_HINT)),
    }
}

/// Names of users, as far as this machine knows them.
#[derive(Default)]
pub struct Users(BTreeMap<u32, String>);

impl Users {
    /// What a user is called; the number if nobody knows.
    pub fn name(&mut self, uid: u32) -> String {
        if let Some(name) = self.0.get(&uid) {
            return name.clone();
        }
        let name = User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
        if self.0.len() < USERS_MAX {
            self.0.insert(uid, name.clone());
        }
        name
    }
}

/// One value on one line, at once: whoever follows is not to wait until a buffer is full.
///
/// # Errors
/// If it can't be encoded.
pub fn print_json_line(value: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(value)?);
    Ok(std::io::stdout().flush()?)
}

/// Things done that people are shown, if they don't ask for all.
const DONE_SHOWN: usize = 5;

/// What was done, in words: the first of it.
pub fn words(changes: &[What]) -> String {
    let mut words: Vec<String> = changes.iter().take(DONE_SHOWN).map(What::words).collect();
    let rest = changes.iter().skip(DONE_SHOWN);
    let left: u64 = rest.map(|what| if let What::More { count } = what { *count } else { 1 }).sum();
    words.extend((left > 0).then(|| format!("and {left} more")));
    words.join(", ")
}
