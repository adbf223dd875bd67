//! `readdir`: the names of a directory, a page at a time.
//!
//! A page never ends between two names with one cookie: what is asked for next is "behind this cookie", so the rest
//! of them would be lost. A page that such names fill is made longer.

use super::Answer;
use crate::operation::Listed;
use crate::tree::{Tree, damaged, is_removed};
use crate::{FsError, Reply, Stop};
use gavel_types::{Cookie, Key, KeyParts, KeyRange, ObjectId};
use gavel_wire::{Kind, Record, Version};

/// Most names in one answer (but for names that share a cookie).
pub const LISTING_NAMES_MAX: u32 = 4096;

pub(super) fn readdir(tree: &Tree<'_>, object: ObjectId, after: Cookie, limit: u32) -> Result<Answer, Stop> {
    let directory = tree.firm(object)?;
    if directory.kind != Kind::Directory {
        return Err(FsError::NotDirectory.into());
    }
    if is_removed(&directory) {
        return Answer::read(Reply::Listing { names: Vec::new(), parent: object, end: true });
    }
    let limit = limit.clamp(1, LISTING_NAMES_MAX) as usize;
    let all = KeyRange::dirents_after(tree.volume(), object, after);
    // One more than asked for shows whether the page may end.
    let mut ask = limit + 1;
    loop {
        let found = tree.unguarded().scan(&all, ask)?;
        let end = found.len() < ask;
        let mut names = found.iter().map(listed).collect::<Result<Vec<Listed>, Stop>>()?;
        match if end { Some(names.len()) } else { page_end(&names) } {
            Some(len) => {
                names.truncate(len);
                let seen = if end { all.end } else { KeyRange::one(&found[len].0).end };
                tree.depend_on(&KeyRange { start: all.start, end: seen })?;
                return Answer::read(Reply::Listing { names, parent: directory.parent, end });
            }
            None => ask *= 2,
        }
    }
}

/// How many of these names make a page, if more follow: up to the last change of cookies.
fn page_end(names: &[Listed]) -> Option<usize> {
    let last = names.last()?.cookie;
    names.iter().rposition(|name| name.cookie != last).map(|position| position + 1)
}

fn listed((key, version): &(Key, Version)) -> Result<Listed, Stop> {
    match (key.parts(), &version.record) {
        (KeyParts::Dirent { cookie, name }, Record::Dirent(dirent)) => {
            Ok(Listed { cookie, name: name.into(), object: dirent.object, kind: dirent.kind })
        }
        _ => Err(damaged(key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(cookies: &[u64]) -> Vec<Listed> {
        let listed = |cookie: &u64| Listed {
            cookie: Cookie(*cookie),
            name: Box::from(&b"x"[..]),
            object: ObjectId(20),
            kind: Kind::File,
        };
        cookies.iter().map(listed).collect()
    }

    #[test]
    fn a_page_never_ends_between_equal_cookies() {
        assert_eq!(page_end(&names(&[3, 4, 5])), Some(2));
        assert_eq!(page_end(&names(&[3, 4, 4])), Some(1));
        assert_eq!(page_end(&names(&[3, 3, 4])), Some(2));
        assert_eq!(page_end(&names(&[4, 4, 4])), None);
        assert_eq!(page_end(&names(&[])), None);
    }
}
