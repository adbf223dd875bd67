//! One file for each operation, and the one function that runs them.
//!
//! Each operation is a function of the tree (guarded reads) and its arguments. It answers with what to
//! write, if anything, and the reply.

mod copy_range;
mod create;
mod fallocate;
mod getattr;
mod link;
mod lookup;
mod make;
mod open;
mod read;
mod readdir;
mod rename;
mod rmdir;
mod seek;
mod setattr;
mod symlink;
mod unlink;
mod write;
mod xattr;

use crate::changes::Changes;
use crate::tree::Tree;
use crate::{Cx, Done, Operation, Reply, Stop};
use gavel_wire::{Guard, Plan, View};

pub use copy_range::{COPY_BYTES_MAX, COPY_EXTENTS_MAX, COPY_INLINE_BYTES_MAX};
pub use fallocate::RESERVE_HOLES_MAX;
pub use read::READ_BYTES_MAX;
pub use readdir::LISTING_NAMES_MAX;

/// What an operation comes to.
struct Answer {
    plan: Option<Plan>,
    reply: Reply,
}

impl Answer {
    /// Nothing is to be written.
    fn read(reply: Reply) -> Result<Answer, Stop> {
        Ok(Answer { plan: None, reply })
    }

    /// These changes are to be committed.
    fn write(changes: Changes, reply: Reply) -> Result<Answer, Stop> {
        Ok(Answer { plan: Some(changes.into_plan()), reply })
    }
}

/// Runs `operation` as of `view`.
///
/// The same view, context and operation always give the same result.
///
/// # Errors
/// [`Stop::Error`] for what the caller of the system call must see: as good as the view; [`Stop::NeedObjectId`] if the
/// operation would make an object and [`Cx::fresh`] is empty; [`Stop::View`] if the view could not be read.
pub fn run(view: &dyn View, cx: &Cx, operation: &Operation) -> Result<Done, Stop> {
    let (done, guards) = attempt(view, cx, operation);
    done.map(|(plan, reply)| Done { plan, guards, reply })
}

/// What an operation would write, if anything, and its reply.
pub type Attempted = (Option<Plan>, Reply);

/// As [`run`], but says what was read whatever comes of it: an error depends on what was read, too.
pub fn attempt(view: &dyn View, cx: &Cx, operation: &Operation) -> (Result<Attempted, Stop>, Vec<Guard>) {
    let tree = Tree::new(view, cx);
    let done = dispatch(&tree, operation);
    (done.map(|Answer { plan, reply }| (plan, reply)), tree.into_guards())
}

/// As [`attempt`], for a plan that is applied to a later state than the view's: an append goes behind what others have appended meanwhile, and collides with none of it.
pub fn attempt_to_ship(view: &dyn View, cx: &Cx, operation: &Operation) -> (Result<Attempted, Stop>, Vec<Guard>) {
    let Operation::Write { object, append: true, len, content, kill_suidgid, .. } = operation else {
        return attempt(view, cx, operation);
    };
    let tree = Tree::new(view, cx);
    let done = write::append(&tree, *object, *len, content, *kill_suidgid);
    (done.map(|Answer { plan, reply }| (plan, reply)), tree.into_guards())
}

fn dispatch(tree: &Tree<'_>, operation: &Operation) -> Result<Answer, Stop> {
    use Operation as Op;
    match operation {
        Op::Lookup { parent, name } => lookup::lookup(tree, *parent, name),
        Op::Getattr { object } => getattr::getattr(tree, *object),
        Op::Setattr { object, set } => setattr::setattr(tree, *object, set),
        Op::Mknod { parent, name, kind, mode, umask, rdev } => {
            make::mknod(tree, *parent, name, *kind, (*mode, *umask), *rdev)
        }
        Op::Create { parent, name, mode, umask, exclusive, truncate } => {
            create::create(tree, *parent, name, (*mode, *umask), *exclusive, *truncate)
        }
        Op::Mkdir { parent, name, mode, umask } => make::mkdir(tree, *parent, name, (*mode, *umask)),
        Op::Symlink { parent, name, target } => symlink::symlink(tree, *parent, name, target),
        Op::Readlink { object } => symlink::readlink(tree, *object),
        Op::Link { object, parent, name } => link::link(tree, *object, *parent, name),
        Op::Unlink { parent, name } => unlink::unlink(tree, *parent, name),
        Op::Rmdir { parent, name } => rmdir::rmdir(tree, *parent, name),
        Op::Rename { parent, name, new_parent, new_name, mode } => {
            rename::rename(tree, (*parent, name), (*new_parent, new_name), *mode)
        }
        Op::Open { object, truncate, kill_suidgid } => open::open(tree, *object, *truncate, *kill_suidgid),
        Op::Read { object, offset, len } => read::read(tree, *object, *offset, *len),
        Op::Write { object, offset, append, len, content, kill_suidgid } => {
            let at = if *append { write::At::End } else { write::At::Offset(*offset) };
            write::write(tree, *object, at, *len, content, *kill_suidgid)
        }
        Op::Fallocate { object, offset, len, how } => fallocate::fallocate(tree, *object, *offset, *len, *how),
        Op::Seek { object, offset, what } => seek::seek(tree, *object, *offset, *what),
        Op::CopyRange { from, from_offset, to, to_offset, len } => {
            copy_range::copy_range(tree, (*from, *from_offset), (*to, *to_offset), *len)
        }
        Op::Readdir { object, after, limit } => readdir::readdir(tree, *object, *after, *limit),
        Op::Getxattr { object, name } => xattr::getxattr(tree, *object, name),
        Op::Setxattr { object, name, value, mode } => xattr::setxattr(tree, *object, name, value, *mode),
        Op::Removexattr { object, name } => xattr::removexattr(tree, *object, name),
        Op::Listxattr { object } => xattr::listxattr(tree, *object),
    }
}
