//! The tree's answers in the kernel's forms. Times to live are zero throughout: the kernel asks again each time.

use crate::attr::file_attr;
use crate::errno;
use fuser::{
    Errno, FileAttr, Generation, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyStatfs, ReplyWrite,
    ReplyXattr,
};
use gavel_client::tree::{Answer, Space};
use gavel_fs::Reply;
use gavel_types::ObjectId;
use gavel_types::limits::NAME_BYTES_MAX;
use std::time::Duration;

/// How long the kernel may keep entries and attributes: not at all.
pub(super) const NO_TIME: Duration = Duration::ZERO;
/// Object ids are never reused, so one generation is enough.
pub(super) const GENERATION: Generation = Generation(0);

/// The unit in which `statfs` counts.
const STATFS_BLOCK_BYTES: u64 = 4096;
/// Room that the records of an empty file take, about: so many more files can be made in what is free.
const OBJECT_BYTES: u64 = 512;

/// What a request has come to.
pub(super) type Answered = Result<Answer, Errno>;

fn unexpected(reply: &Reply) -> Errno {
    tracing::error!(?reply, "the tree gave an answer to another question");
    errno::NOT_AN_ANSWER
}

/// The object that the answer names, with its attributes.
pub(super) fn found(answer: Answer) -> Result<(ObjectId, FileAttr), Errno> {
    let (object, attr) = match answer.reply {
        Reply::Object(object) | Reply::Created { object, .. } => (object, answer.attr),
        Reply::Attr(object, attr) => (object, answer.attr.or(Some(attr))),
        other => return Err(unexpected(&other)),
    };
    let attr = attr.ok_or_else(|| unexpected(&Reply::Object(object)))?;
    Ok((object, file_attr(object, &attr)))
}

pub(super) fn entry(reply: ReplyEntry, answered: Answered) {
    match answered.and_then(found) {
        Ok((_, attr)) => reply.entry(&NO_TIME, &attr, GENERATION),
        Err(errno) => reply.error(errno),
    }
}

/// The attributes of `object`, which the request named: the answer need not.
pub(super) fn attr(object: ObjectId, reply: ReplyAttr, answered: Answered) {
    let attr = answered.and_then(|answer| match (answer.attr, &answer.reply) {
        (Some(attr), _) => Ok(attr),
        (None, Reply::Attr(_, attr)) => Ok(*attr),
        (None, other) => Err(unexpected(other)),
    });
    match attr {
        Ok(attr) => reply.attr(&NO_TIME, &file_attr(object, &attr)),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn empty(reply: ReplyEmpty, answered: Answered) {
    match answered {
        Ok(_) => reply.ok(),
        Err(errno) => reply.error(errno),
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
        Reply::Written { len, .. } => u32::try_from(len).map_err(|_| unexpected(&answer.reply)),
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
    match answered.and_then(bytes_in) {
        // At most XATTR_LIST_MAX, which is 64 KiB.
        Ok(bytes) if size == 0 => reply.size(bytes.len() as u32),
        Ok(bytes) if bytes.len() > size as usize => reply.error(errno::BUFFER_TOO_SMALL),
        Ok(bytes) => reply.data(&bytes),
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
