//! The kernel's side: FUSE requests in, errno out.
//!
//! A mount turns each request of the kernel into a [`TreeRequest`](gavel_client::tree::TreeRequest), hands it to a
//! [`Tree`](gavel_client::tree::Tree) with a callback that owns the reply, and returns its thread to the kernel at
//! once. It keeps no state of names or handles (only counts of what is open and of inodes that the kernel may have): an inode number is an object id, a directory offset is a
//! cookie, and a file handle says nothing. (Inodes of past states are the exception: what each of them is, is kept as long as the kernel has it.) `docs/protocols/mount.md` has the tables.
//!
//! What this room is not: it decides nothing about files (that is `gavel-fs`), nothing about commits, and it caches
//! nothing (the kernel does). It is the only home of FUSE, and the only maker of errno.
//!
//! - [`mounted`]: a mount from beginning to end, and what can go wrong with it
//! - [`table`]: the mounts of this machine: which are ours, which are dead, and how they go away
//! - [`reaper`]: the end of a daemon that was killed and cannot die
//! - `device`: how a filesystem gets attached to a directory, as root or through `fusermount3`
//! - `init`: what is agreed on with the kernel, and what follows for opened files
//! - `front`: the requests, by subject (names, files, listings, attributes, past states)
//! - `attr`: attributes and times, from ours to the kernel's and back
//! - `gate`: how many requests may be under way
//! - [`errno`]: every errno, and why it is that one
//!
//! Invariants:
//! 1. No thread that reads the kernel's requests ever waits for anything but the kernel.
//! 2. Every request is answered exactly once, also when the tree loses it: a reply that is dropped says EIO.
//! 3. Each open that the kernel was told of is [opened](gavel_client::tree::Tree::opened) once more than
//!    [closed](gavel_client::tree::Tree::closed), until its release or the end of
//!    the connection. Where the kernel opens files unasked, that is so of each object that it has.
//! 4. The kernel keeps a name, an attribute or (but for mappings) a page only as the tree's answer allows, and has forgotten it when
//!    the tree is told so.

mod attr;
mod device;
pub mod errno;
mod front;
mod gate;
mod init;
pub mod mounted;
pub mod reaper;
pub mod table;

pub use mounted::{CONTROL_XATTR, MountError, MountOptions, Mounted};
pub use table::{UnmountError, Unmounted};
