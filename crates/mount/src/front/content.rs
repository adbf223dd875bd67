//! Bytes of files.
//!
//! A write passes the kernel's pages by. The kernel drops those of its range *before* it sends the request; what a reader
//! makes it fetch again before the commit has the old bytes. So they are dropped once more behind the commit, before the writer
//! is answered, of files of which pages were ever kept.
//!
//! Where the kernel opens files unasked, all bytes go through its pages, and stay there if the tree vouches for them (`known::passing`).

use super::known::{Pages, Passing};
use super::past::Node;
use super::replies;
use super::{Door, Front, caller};
use fuser::{Errno, ReplyData, ReplyWrite, Request};
use gavel_client::tree::{Answer, Keep, TreeRequest};
use gavel_fs::Reply;
use gavel_fs::operation::Caller;
use gavel_types::ObjectId;
use std::sync::Arc;

impl Front {
    pub(super) fn read_bytes(&self, req: &Request, node: &Node, offset: u64, len: u32, reply: ReplyData) {
        let (door, object) = (self.door.clone(), node.object());
        let request = node.request(TreeRequest::Read { object, offset, len });
        if let Node::Past(_) = node {
            return door.start(caller(req), request, len as usize, move |answered| replies::data(reply, answered));
        }
        door.known().hold(object);
        let passing = self.vouches().then(|| self.passes(object));
        self.door.start(caller(req), request, len as usize, move |answered| {
            let read = answered.is_ok();
            replies::data(reply, answered);
            door.known().release(object);
            match passing {
                Some(passing) => {
                    let is_lost = read && passing != Passing::Vouched;
                    door.has_passed(object, passing, is_lost.then_some((offset, len.into())));
                }
                // A file that is open since before its pages were revoked: they are used once, and not kept.
                None if read && door.known().pages(object) == Pages::Revoked => {
                    door.forgetter.drop_pages(object, offset, len.into(), Box::new(|| ()));
                }
                None => {}
            }
        });
    }

    /// Bytes of the file are about to pass through pages that the kernel keeps unasked.
    fn passes(&self, object: ObjectId) -> Passing {
        let known = self.door.known();
        if known.pages(object) != Pages::Kept {
            let since = known.moment();
            self.door.tree.keep_bytes(object, &mut || _ = known.open_cached(object, since));
        }
        known.begins_to_pass(object)
    }

    /// `direct`: the bytes come from a program, not from the kernel's pages. `sync`: it is answered when they are durable.
    #[allow(clippy::too_many_arguments, reason = "one of the kernel's calls, taken apart")]
    pub(super) fn write_bytes(
        &self,
        req: &Request,
        object: ObjectId,
        request: TreeRequest,
        len: usize,
        direct: bool,
        sync: bool,
        reply: ReplyWrite,
    ) {
        let (door, agreed, caller) = (self.door.clone(), self.agreed, caller(req));
        door.known().named(object);
        if let TreeRequest::Write { offset, .. } = request
            && direct
            && self.vouches()
        {
            return self.write_through_pages(req, object, request, (offset, len as u64), sync, reply);
        }
        let through_pages = !direct || !agreed.caches();
        if through_pages {
            door.known().begins_to_write(object);
        }
        let answer = move |answered: Result<Answer, Errno>| {
            let written = match &answered {
                Ok(answer) => match answer.reply {
                    Reply::Written { len, offset } => Some((offset, len)),
                    // Where they are, only the log knows.
                    Reply::Appended { .. } => Some((0, 0)),
                    _ => None,
                },
                Err(_) => None,
            };
            match written {
                // Only where writes hold no page: dropping one waits for whoever does.
                Some((offset, len)) if !through_pages && door.known().pages(object) != Pages::Uncached => {
                    let then = Box::new(move || replies::written(reply, answered));
                    door.forgetter.drop_pages(object, offset, len, then);
                }
                _ => replies::written(reply, answered),
            }
            if through_pages {
                door.known().has_written(object);
            }
        };
        self.door.write(caller, object, request, len, sync, answer);
    }

    /// As [`Front::write_bytes`], of a file that was opened unasked: the kernel has put the bytes into its pages.
    fn write_through_pages(
        &self,
        req: &Request,
        object: ObjectId,
        request: TreeRequest,
        range: (u64, u64),
        sync: bool,
        reply: ReplyWrite,
    ) {
        let door = self.door.clone();
        door.known().begins_to_write(object);
        let passing = self.passes(object);
        let answer = move |answered: Result<Answer, Errno>| {
            // Pages of a write that failed, the kernel gives up by itself. What was appended may have come to lie elsewhere than it believes.
            let is_lost = match &answered {
                Ok(Answer { reply: Reply::Appended { .. }, .. }) => true,
                Ok(_) => passing != Passing::Vouched,
                Err(_) => false,
            };
            replies::written(reply, answered);
            door.known().has_written(object);
            door.has_passed(object, passing, is_lost.then_some(range));
        };
        self.door.write(caller(req), object, request, range.1 as usize, sync, answer);
    }
}

impl Door {
    /// Starts a write. `sync`: `answer` is called when it is durable; the kernel does not ask for that behind a write.
    fn write(
        self: &Arc<Door>,
        caller: Caller,
        object: ObjectId,
        request: TreeRequest,
        len: usize,
        sync: bool,
        answer: impl FnOnce(Result<Answer, Errno>) + Send + 'static,
    ) {
        let door = self.clone();
        self.start(caller, request, len, move |answered| match answered {
            Ok(written) if sync => {
                door.start(caller, TreeRequest::Sync { object }, 0, move |synced| answer(synced.map(|_| written)));
            }
            answered => answer(answered),
        });
    }

    /// A request was answered; `lost`: where it has left bytes that may not stay in the kernel's pages.
    fn has_passed(self: &Arc<Door>, object: ObjectId, passing: Passing, lost: Option<(u64, u64)>) {
        let Some((offset, len)) = lost else { return self.known().has_passed(object, passing) };
        let door = self.clone();
        self.forgetter.drop_pages(object, offset, len, Box::new(move || door.known().has_passed(object, passing)));
    }

    /// Gives an answer that holds attributes of a live object, behind what must not be found in the kernel's pages any more.
    pub(super) fn answer_attributes(
        self: &Arc<Door>,
        object: ObjectId,
        answered: Result<Answer, Errno>,
        give: impl FnOnce(&Door, Result<Answer, Errno>) + Send + 'static,
    ) {
        let door = self.clone();
        self.known().behind_unvouched(object, move |waited| {
            // The time for which it may be kept began when it was found.
            let answered =
                if waited { answered.map(|answer| Answer { keep: Keep::default(), ..answer }) } else { answered };
            give(&door, answered);
        });
    }
}
