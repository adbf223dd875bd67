//! The tree's answers in the kernel's forms.
//!
//! Attributes that were to be forgotten while the reply was under way, the kernel throws away: of GETATTR, LOOKUP and SETATTR. Those of what
//! is made or linked it takes in any case; so who forgets them waits until it has (`known::arrivals`).

use super::keeping::{self, NO_TIME};
use super::known::{Known, Moment};
use super::past::Node;
use crate::attr::{bare_directory, file_attr, inode};
use crate::errno;
use fuser::{
    Errno, FileAttr, Generation, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyStatfs, ReplyWrite,
    ReplyXattr,
};
use gavel_client::tree::{Answer, Keep, Space};
use gavel_fs::Reply;
use gavel_types::ObjectId;
use gavel_types::limits::NAME_BYTES_MAX;
use gavel_wire::Attr;
use std::time::Duration;

/// Object ids are never reused, so one generation is enough.
pub(super) const GENERATION: Generation = Generation(0);

/// The unit in which `statfs` counts.
const STATFS_BLOCK_BYTES: u64 = 4096;
/// Room that the records of an empty file take, about: so many more files can be made in what is free.
const OBJECT_BYTES: u64 = 512;

/// What a request has come to.
pub(super) type Answered = Result<Answer, Errno>;

pub(super) fn unexpected(reply: &Reply) -> Errno {
    tracing::error!(?reply, "the tree gave an answer to another question");
    errno::NOT_AN_ANSWER
}

/// Does it say that there is no such name?
pub(super) fn names_nothing(answer: &Answer) -> bool {
    answer.attr.is_none() && !matches!(answer.reply, Reply::Attr(..))
}

/// The live object that the answer names, with its attributes for the kernel.
pub(super) fn found_live(answer: Answer) -> Result<(ObjectId, FileAttr), Errno> {
    found(answer).map(|(object, attr)| (object, file_attr(inode(object), &attr)))
}

/// The object that the answer names, with its attributes.
pub(super) fn found(answer: Answer) -> Result<(ObjectId, Attr), Errno> {
    let (object, attr) = match answer.reply {
        Reply::Object(object) | Reply::Created { object, .. } => (object, answer.attr),
        Reply::Attr(object, attr) => (object, answer.attr.or(Some(attr))),
        other => return Err(unexpected(&other)),
    };
    let attr = attr.ok_or_else(|| unexpected(&Reply::Object(object)))?;
    Ok((object, attr))
}

/// A name, or that there is none. `since` is from before the request.
pub(super) fn looked_up(known: &Known, since: Moment, reply: ReplyEntry, answered: Answered) {
    let keep = match answered {
        Ok(ref answer) if names_nothing(answer) => return absent_for(keeping::names(known, answer.keep), reply),
        Ok(ref answer) => answer.keep,
        Err(_) => Keep::default(),
    };
    match answered.and_then(found_live) {
        Ok((object, attr)) => {
            let undisturbed = known.looked_up(object, since);
            let attrs = if undisturbed { keeping::attrs(known, keep) } else { NO_TIME };
            reply.entry_with_ttls(&attrs, &keeping::names(known, keep), &attr, GENERATION);
        }
        Err(errno) => reply.error(errno),
    }
}

/// There is no such name: the kernel takes inode number 0 for "and for so long there is none".
pub(super) fn absent_for(names: Duration, reply: ReplyEntry) {
    if names == NO_TIME {
        return reply.error(errno::NO_SUCH_NAME);
    }
    reply.entry_with_ttls(&NO_TIME, &names, &bare_directory(inode(ObjectId(0))), GENERATION);
}

/// What may be kept of it.
pub(super) fn keep(answered: &Answered) -> Keep {
    answered.as_ref().map_or(Keep::default(), |answer| answer.keep)
}

/// A name that was made in `directory`. `since` is from before the request.
pub(super) fn made(known: &Known, directory: ObjectId, since: Moment, reply: ReplyEntry, answered: Answered) {
    let keep = keep(&answered);
    match answered.and_then(found_live) {
        Ok((object, attr)) => {
            let undisturbed = known.made(object, directory, since);
            let attrs = if undisturbed { keeping::attrs(known, keep) } else { NO_TIME };
            reply.entry_with_ttls(&attrs, &keeping::names(known, keep), &attr, GENERATION);
        }
        Err(errno) => reply.error(errno),
    }
}

/// The attributes of `node`, which the request named: the answer need not.
pub(super) fn attr(known: &Known, node: &Node, reply: ReplyAttr, answered: Answered) {
    let keep = keep(&answered);
    let time = match node {
        Node::Live(object) if known.is_unvouched(*object) => NO_TIME,
        Node::Live(_) => keeping::attrs(known, keep),
        Node::Past(_) => keeping::past(keep.attrs_ns),
    };
    let attr = answered.and_then(|answer| match (answer.attr, &answer.reply) {
        (Some(attr), _) => Ok(attr),
        (None, Reply::Attr(_, attr)) => Ok(*attr),
        (None, other) => Err(unexpected(other)),
    });
    match attr {
        Ok(attr) => reply.attr(&time, &file_attr(node.ino(), &attr)),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn empty(reply: ReplyEmpty, answered: Answered) {
    match answered {
        Ok(_) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

/// As [`empty`], for what takes a name of the past away. The kernel was shown it; the tree has no such name.
pub(super) fn removed(names_past: bool, reply: ReplyEmpty, answered: Answered) {
    match answered {
        Err(errno::NO_SUCH_NAME) if names_past => reply.error(errno::READ_ONLY),
        answered => empty(reply, answered),
    }
}

pub(super) fn bytes(reply: ReplyData, answered: Answered) {
    match answered.and_then(bytes_in) {
        Ok(bytes) => reply.data(&bytes),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn data(reply: ReplyData, answered: Answered) {
    match answered {
        Ok(answer) => reply.data(&answer.data),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn written(reply: ReplyWrite, answered: Answered) {
    let len = answered.and_then(|answer| match answer.reply {
        Reply::Written { len, .. } | Reply::Appended { len } => {
            u32::try_from(len).map_err(|_| unexpected(&answer.reply))
        }
        other => Err(unexpected(&other)),
    });
    match len {
        Ok(len) => reply.written(len),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn offset(reply: ReplyLseek, answered: Answered) {
    let offset = answered.and_then(|answer| match answer.reply {
        Reply::Offset(offset) => i64::try_from(offset).map_err(|_| unexpected(&answer.reply)),
        other => Err(unexpected(&other)),
    });
    match offset {
        Ok(offset) => reply.offset(offset),
        Err(errno) => reply.error(errno),
    }
}

/// An attribute's value or the list of names. A buffer of no bytes asks for the length.
pub(super) fn xattr(size: u32, reply: ReplyXattr, answered: Answered) {
    let value = answered.and_then(bytes_in);
    xattr_value(size, reply, value.as_deref().map_err(|errno| *errno));
}

/// An attribute's value, wherever it is from.
pub(super) fn xattr_value(size: u32, reply: ReplyXattr, value: Result<&[u8], Errno>) {
    match value {
        // At most XATTR_LIST_MAX, which is 64 KiB.
        Ok(bytes) if size == 0 => reply.size(bytes.len() as u32),
        Ok(bytes) if bytes.len() > size as usize => reply.error(errno::BUFFER_TOO_SMALL),
        Ok(bytes) => reply.data(bytes),
        Err(errno) => reply.error(errno),
    }
}

fn bytes_in(answer: Answer) -> Result<Box<[u8]>, Errno> {
    match answer.reply {
        Reply::Bytes(bytes) => Ok(bytes),
        other => Err(unexpected(&other)),
    }
}

pub(super) fn statfs(reply: ReplyStatfs, answered: Answered) {
    match answered.and_then(|answer| answer.space.ok_or_else(|| unexpected(&answer.reply))) {
        Ok(Space { bytes_total, bytes_free, objects }) => {
            let free = bytes_free / STATFS_BLOCK_BYTES;
            let files_free = bytes_free / OBJECT_BYTES;
            reply.statfs(
                bytes_total / STATFS_BLOCK_BYTES,
                free,
                free,
                objects.saturating_add(files_free),
                files_free,
                STATFS_BLOCK_BYTES as u32,
                NAME_BYTES_MAX as u32,
                STATFS_BLOCK_BYTES as u32,
            );
        }
        Err(errno) => reply.error(errno),
    }
}
