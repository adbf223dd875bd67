//! Bytes of files.
//!
//! A write passes the kernel's pages by. The kernel drops those of its range *before* it sends the request; what a reader
//! makes it fetch again before the commit has the old bytes. So they are dropped once more behind the commit, before the writer
//! is answered, of files of which pages were ever kept.

use super::known::Pages;
use super::past::Node;
use super::replies;
use super::{Front, caller};
use fuser::{Errno, ReplyData, ReplyWrite, Request};
use gavel_client::tree::{Answer, TreeRequest};
use gavel_fs::Reply;
use gavel_types::ObjectId;

impl Front {
    pub(super) fn read_bytes(&self, req: &Request, node: &Node, offset: u64, len: u32, reply: ReplyData) {
        let (door, object) = (self.door.clone(), node.object());
        let request = node.request(TreeRequest::Read { object, offset, len });
        if let Node::Past(_) = node {
            return door.start(caller(req), request, len as usize, move |answered| replies::data(reply, answered));
        }
        door.known().hold(object);
        self.door.start(caller(req), request, len as usize, move |answered| {
            let read = answered.is_ok();
            replies::data(reply, answered);
            door.known().release(object);
            // A file that is open since before its pages were revoked: they are used once, and not kept.
            if read && door.known().pages(object) == Pages::Revoked {
                door.forgetter.drop_pages(object, offset, len.into(), Box::new(|| ()));
            }
        });
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
        if !direct {
            door.known().hold(object);
        }
        let syncing = self.door.clone();
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
                Some((offset, len)) if direct && agreed.caches() && door.known().pages(object) != Pages::Uncached => {
                    let then = Box::new(move || replies::written(reply, answered));
                    door.forgetter.drop_pages(object, offset, len, then);
                }
                _ => replies::written(reply, answered),
            }
            if !direct {
                door.known().release(object);
            }
        };
        self.door.start(caller, request, len, move |answered| match answered {
            // The kernel does not ask for it behind a direct write.
            Ok(written) if sync => {
                syncing.start(caller, TreeRequest::Sync { object }, 0, move |synced| answer(synced.map(|_| written)));
            }
            answered => answer(answered),
        });
    }
}
