//! Ids for the objects that are made anew.

use crate::host::node::{Input, NodeHandle, WaitError};
use gavel_fs::revert::STEP_OBJECTS_MAX;
use gavel_types::ObjectId;
use std::collections::VecDeque;
use tokio::sync::oneshot;

/// Ids that are fetched at first; if they do not do, as many as one plan takes.
const FIRST_IDS: usize = 64;
/// Ids that are had or on their way while plans are made ahead: the log hands them out, behind the commits before.
const AHEAD_IDS: usize = 2 * STEP_OBJECTS_MAX;

type Answer = Result<ObjectId, WaitError>;

/// Object ids that nobody has used.
#[derive(Default)]
pub(super) struct Ids {
    had: Vec<ObjectId>,
    coming: VecDeque<oneshot::Receiver<Answer>>,
    asked: bool,
}

impl Ids {
    pub(super) fn had(&self) -> &[ObjectId] {
        &self.had
    }

    /// The first ones are used.
    pub(super) fn take(&mut self, taken: usize) {
        self.had.drain(..taken);
    }

    /// Asks for what may be needed, and does not wait for it.
    pub(super) fn ask_ahead(&mut self, node: &NodeHandle) {
        self.ask(node, AHEAD_IDS);
    }

    fn ask(&mut self, node: &NodeHandle, wanted: usize) {
        self.asked = true;
        for _ in self.had.len() + self.coming.len()..wanted {
            let (reply, id) = oneshot::channel();
            node.inbox.push(Input::ObjectId(reply));
            self.coming.push_back(id);
        }
    }

    /// Waits for more of them.
    ///
    /// # Errors
    /// Why none came, in words.
    pub(super) async fn more(&mut self, node: &NodeHandle) -> Result<(), String> {
        self.ask(node, if self.asked { STEP_OBJECTS_MAX } else { FIRST_IDS });
        while let Some(id) = self.coming.pop_front() {
            self.had.push(answered(id).await?);
        }
        Ok(())
    }
}

async fn answered(answer: oneshot::Receiver<Answer>) -> Result<ObjectId, String> {
    match tokio::time::timeout(super::PATIENCE, answer).await {
        Ok(Ok(Ok(answer))) => Ok(answer),
        Ok(Ok(Err(error))) => Err(error.to_string()),
        Ok(Err(_)) => Err("the node is shutting down".into()),
        Err(_) => Err("no quorum answered in time".into()),
    }
}
