//! Questions of other nodes when all that this node has answered has landed: see "A whole volume as of now" in docs/protocols/write-behind.md.

use gavel_types::NodeId;

/// Questions that wait here, at most; who is passed over asks again.
const LANDINGS_MAX: usize = 1024;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// What was accepted before the question is being put into the session's line.
    Shipping(u64),
    /// It is in the line, up to this plan.
    Shipped(u64),
}

/// A question, and who asked it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Asked {
    by: NodeId,
    ticket: u64,
    stage: Stage,
}

/// All questions that wait for an answer.
#[derive(Debug, Default)]
pub(crate) struct Landings {
    asked: Vec<Asked>,
}

impl Landings {
    /// A question. True: what was accepted until now is to be shipped, as `id`; otherwise it has been asked already.
    pub(crate) fn begin(&mut self, id: u64, by: NodeId, ticket: u64) -> bool {
        let known = self.asked.iter().any(|asked| (asked.by, asked.ticket) == (by, ticket));
        let takes = !known && self.asked.len() < LANDINGS_MAX;
        if takes {
            self.asked.push(Asked { by, ticket, stage: Stage::Shipping(id) });
        }
        takes
    }

    /// What was to be shipped as `id` is in the session's line, up to the plan that `last` gives; none: there is nothing in it. Gives who is told so,
    /// and which question that answers.
    pub(crate) fn shipped(&mut self, id: u64, last: impl FnOnce() -> Option<u64>) -> Option<(NodeId, u64)> {
        let at = self.asked.iter().position(|asked| asked.stage == Stage::Shipping(id))?;
        match last() {
            Some(last) => self.asked[at].stage = Stage::Shipped(last),
            None => return Some(self.asked.swap_remove(at)).map(|asked| (asked.by, asked.ticket)),
        }
        None
    }

    /// Plans up to `last` have landed. Gives who is told so, and which questions that answers.
    pub(crate) fn landed(&mut self, last: u64) -> impl Iterator<Item = (NodeId, u64)> + use<'_> {
        let has_landed = move |asked: &mut Asked| matches!(asked.stage, Stage::Shipped(waits) if waits <= last);
        self.asked.extract_if(.., has_landed).map(|asked| (asked.by, asked.ticket))
    }

    /// The session has ended: nobody waits for it any more.
    pub(crate) fn lose(&mut self) {
        self.asked.clear();
    }
}
