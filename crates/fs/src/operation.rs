//! What can be asked for, and the answers.

use gavel_types::{BlobId, Cookie, ObjectId, Timestamp, VolumeId};
use gavel_wire::{Attr, Content, Guard, Kind, Plan};
use serde::{Deserialize, Serialize};

/// On whose behalf an operation runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Caller {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
}

/// What an operation runs in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cx {
    /// The volume.
    pub volume: VolumeId,
    /// On whose behalf.
    pub caller: Caller,
    /// An object id that nobody has used, for operations that make an object.
    pub fresh: Option<ObjectId>,
}

/// A time to set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SetTime {
    /// The commit's.
    Now,
    /// This.
    At(Timestamp),
}

/// What `setattr` is to change; what is `None` stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SetAttr {
    /// Permission bits (0o7777).
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length.
    pub size: Option<u64>,
    /// Time of access.
    pub atime: Option<SetTime>,
    /// Time of change of content.
    pub mtime: Option<SetTime>,
    /// Set-user-id and set-group-id go (as the kernel asks when an unprivileged write or truncate calls for it).
    pub kill_suidgid: bool,
}

/// How a name is made by `rename`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum RenameMode {
    /// What has the new name loses it.
    #[default]
    Replace,
    /// The new name must be free.
    NoReplace,
    /// The two names change places.
    Exchange,
}

/// How `fallocate` changes a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Allocate {
    /// Room for the range; holes in it become zeros. The file grows if the range reaches behind its end, unless `keep_size`.
    Reserve {
        /// The size stays.
        keep_size: bool,
    },
    /// The range becomes a hole; the size stays.
    PunchHole,
    /// The range reads as zeros and is allocated.
    ZeroRange {
        /// The size stays.
        keep_size: bool,
    },
}

/// What SEEK looks for. What is allocated but never written counts as a hole, as in ext4: who copies a file by its data
/// does not copy reserved room.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Seek {
    /// The next byte that was written.
    Data,
    /// The next byte that was not; the end of the file counts as one.
    Hole,
}

/// How `setxattr` treats what is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum XattrMode {
    /// Makes or replaces.
    #[default]
    Set,
    /// Must not be there.
    Create,
    /// Must be there.
    Replace,
}

/// What can be asked for. Names are single path components as the kernel gives them; of modes, the permission bits
/// (0o7777) count.
///
/// An object that is gone for good is [`FsError::Stale`](crate::FsError::Stale) where it is asked for by its id, and
/// [`FsError::NotFound`](crate::FsError::NotFound) where a name is looked for or made in it; so is a directory that was
/// removed but is still open.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)] // the fields are the arguments of the system calls of these names
pub enum Operation {
    /// Answers with [`Reply::Object`].
    Lookup { parent: ObjectId, name: Box<[u8]> },
    /// Answers with [`Reply::Attr`].
    Getattr { object: ObjectId },
    /// Answers with [`Reply::Object`].
    Setattr { object: ObjectId, set: SetAttr },
    /// Makes a file, FIFO, socket or device. `umask` is taken off `mode` unless the parent has a default ACL.
    /// Answers with [`Reply::Object`].
    Mknod { parent: ObjectId, name: Box<[u8]>, kind: Kind, mode: u16, umask: u16, rdev: u32 },
    /// Makes a regular file, or finds the one that is there unless `exclusive`; truncates what it finds if `truncate`.
    /// Answers with [`Reply::Created`]; with the error [`FsError::Stale`](crate::FsError::Stale) if the name has come to
    /// be a symlink or a device, which the kernel must look up and open itself.
    Create { parent: ObjectId, name: Box<[u8]>, mode: u16, umask: u16, exclusive: bool, truncate: bool },
    /// Answers with [`Reply::Object`].
    Mkdir { parent: ObjectId, name: Box<[u8]>, mode: u16, umask: u16 },
    /// Answers with [`Reply::Object`].
    Symlink { parent: ObjectId, name: Box<[u8]>, target: Box<[u8]> },
    /// Answers with [`Reply::Bytes`].
    Readlink { object: ObjectId },
    /// Answers with [`Reply::Object`].
    Link { object: ObjectId, parent: ObjectId, name: Box<[u8]> },
    /// Answers with [`Reply::Empty`].
    Unlink { parent: ObjectId, name: Box<[u8]> },
    /// Answers with [`Reply::Empty`].
    Rmdir { parent: ObjectId, name: Box<[u8]> },
    /// Answers with [`Reply::Empty`].
    Rename { parent: ObjectId, name: Box<[u8]>, new_parent: ObjectId, new_name: Box<[u8]>, mode: RenameMode },
    /// Checks that the object is there and is not a directory; truncates it if asked to. Answers with [`Reply::Object`].
    Open { object: ObjectId, truncate: bool, kill_suidgid: bool },
    /// Bytes from `offset` on, at most `len` and at most [`READ_BYTES_MAX`](crate::ops::READ_BYTES_MAX), as pieces.
    /// Answers with [`Reply::Data`], empty from the end of the file on.
    Read { object: ObjectId, offset: u64, len: u32 },
    /// Writes `len` bytes of `content` at `offset`, or at the end if `append`. Answers with [`Reply::Written`], or [`Reply::Appended`] if shipped
    /// ([`attempt_to_ship`](crate::attempt_to_ship)).
    ///
    /// Inline content has just `len` bytes, at most [`INLINE_BYTES_MAX`](gavel_types::limits::INLINE_BYTES_MAX); a
    /// run of a blob lies within it; `len` is at most [`WRITE_BYTES_MAX`](gavel_types::limits::WRITE_BYTES_MAX).
    Write { object: ObjectId, offset: u64, append: bool, len: u32, content: Content, kill_suidgid: bool },
    /// Answers with [`Reply::Empty`].
    Fallocate { object: ObjectId, offset: u64, len: u64, how: Allocate },
    /// Answers with [`Reply::Offset`].
    Seek { object: ObjectId, offset: u64, what: Seek },
    /// Shares the extents of one file with another: no bytes move. Answers with [`Reply::Written`]: fewer than `len`
    /// at the end of the source, and where there are too many extents for one operation.
    CopyRange { from: ObjectId, from_offset: u64, to: ObjectId, to_offset: u64, len: u64 },
    /// Names behind `after` in the order of cookies, `limit` of them at most (but at least one, and more where names
    /// share a cookie). Answers with [`Reply::Listing`].
    Readdir { object: ObjectId, after: Cookie, limit: u32 },
    /// Answers with [`Reply::Bytes`].
    Getxattr { object: ObjectId, name: Box<[u8]> },
    /// Answers with [`Reply::Empty`]. Of an access ACL the mode follows; `mode` does not matter for ACLs, as in the VFS.
    Setxattr { object: ObjectId, name: Box<[u8]>, value: Box<[u8]>, mode: XattrMode },
    /// Answers with [`Reply::Empty`].
    Removexattr { object: ObjectId, name: Box<[u8]> },
    /// Answers with [`Reply::Bytes`]. `trusted.*` is only listed for user 0.
    Listxattr { object: ObjectId },
}

/// A piece of a read's answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    /// These bytes.
    Bytes(Box<[u8]>),
    /// `len` bytes of a blob, from `offset` on.
    Blob {
        /// The blob.
        id: BlobId,
        /// Its whole length.
        blob_len: u32,
        /// First byte.
        offset: u32,
        /// Number of bytes.
        len: u32,
    },
    /// This many zeros.
    Zeros(u64),
}

/// A name that `readdir` found, with the object's attributes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Where listing goes on behind it.
    pub cookie: Cookie,
    /// The name.
    pub name: Box<[u8]>,
    /// The object.
    pub object: ObjectId,
    /// Its kind.
    pub kind: Kind,
}

/// An answer. Attributes are not part of it: the caller reads them from the view behind the commit
/// (or from the same view, if there is no plan).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// Done; there is nothing to say.
    Empty,
    /// The operation is too large for one plan, and this plan is a part of it, of which the file shows nothing that could
    /// not have been asked for: once it is committed, the operation is to be run again.
    Partly,
    /// This object (found, made or linked), with attributes as of this view for operations without a plan.
    Object(ObjectId),
    /// These attributes.
    Attr(ObjectId, Attr),
    /// A created or found file; `created` says which.
    Created {
        /// The file.
        object: ObjectId,
        /// Whether it is new.
        created: bool,
    },
    /// Pieces of a file, in order.
    Data(Vec<Piece>),
    /// Bytes: a symlink's target, an attribute's value, a list of attribute names each with a NUL behind it.
    Bytes(Box<[u8]>),
    /// How many bytes were written or copied; and where the write began.
    Written {
        /// Number of bytes.
        len: u64,
        /// Offset of the first one.
        offset: u64,
    },
    /// So many bytes were written behind the end that the file had when that was applied.
    Appended {
        /// Number of bytes.
        len: u64,
    },
    /// An offset.
    Offset(u64),
    /// Names, in the order of cookies; `end` if nothing follows. `parent` is what `..` names.
    Listing {
        /// The names.
        names: Vec<Listed>,
        /// What `..` names; the directory itself if it is a root or was removed.
        parent: ObjectId,
        /// Nothing follows.
        end: bool,
    },
}

/// The result of an operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Done {
    /// What to write; none if nothing: then the reply is good as soon as the view is known to be current.
    pub plan: Option<Plan>,
    /// What was read.
    pub guards: Vec<Guard>,
    /// The answer, once the plan is committed.
    pub reply: Reply,
}
