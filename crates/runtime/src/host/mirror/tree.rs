//! A mirror, as a mount sees it: each request is answered as of the boundary that there is.

use crate::host::tree::{VolumeTree, answer_read_only};
use gavel_client::tree::Answered;
use gavel_client::{Answer, Forget, Keep, Tree, TreeRequest};
use gavel_fs::FsError;
use gavel_fs::operation::Caller;
use gavel_types::{ObjectId, VolumeId};
use std::sync::{Arc, Weak};

/// The boundary of a mirror, wherever that is. Nothing can be changed there, and nothing may be kept.
pub struct MirrorTree {
    tree: Arc<VolumeTree>,
}

impl MirrorTree {
    /// The mirror that `tree` is a tree of.
    pub fn new(tree: Arc<VolumeTree>) -> MirrorTree {
        MirrorTree { tree }
    }
}

impl Tree for MirrorTree {
    fn attach(&self, _: Weak<dyn Forget>) {}

    fn volume(&self) -> VolumeId {
        self.tree.volume()
    }

    fn submit(&self, caller: Caller, request: TreeRequest, answered: Answered) {
        submit(&self.tree, caller, request, answered);
    }

    fn opened(&self, _: ObjectId) {}

    fn closed(&self, _: ObjectId) {}
}

/// Answers as of the boundary that there is.
pub(in crate::host) fn submit(tree: &VolumeTree, caller: Caller, request: TreeRequest, answered: Answered) {
    answer_read_only(tree, caller, request, answered, |request, answered| match tree.boundary() {
        Some(at) if tree.is_as_before() => tree.past(caller, at, request, not_kept(answered)),
        // It was promoted: what this mount has shown is not followed any more.
        _ => answered(Err(FsError::Stale.into())),
    });
}

/// The boundary may have moved a moment later.
fn not_kept(answered: Answered) -> Answered {
    Box::new(move |answer| answered(answer.map(|answer| Answer { keep: Keep::default(), ..answer })))
}
