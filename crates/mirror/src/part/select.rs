//! What a selection means: which names below a directory are selected follows from where that directory stands.

use gavel_types::selection::{EXCLUDE_MAX, ONLY_MAX};
use gavel_types::{Key, KeyParts, Selection};
use gavel_wire::{Kind, Record};
use globset::{GlobBuilder, GlobMatcher};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

const _: () = assert!(ONLY_MAX <= u64::BITS as usize);
const _: () = assert!(EXCLUDE_MAX <= u64::BITS as usize);

/// A selection, ready to be asked. Pure: it looks at names, and opens nothing.
#[derive(Debug)]
pub struct Selector {
    selection: Selection,
    /// Paths of which only what is at or below one is selected, name by name; none: everything.
    only: Vec<Vec<Box<[u8]>>>,
    /// Patterns that match a name anywhere.
    anywhere: Vec<Pattern>,
    /// Patterns that match a path from the root, name by name.
    from_root: Vec<Vec<Pattern>>,
}

/// What one name must be like.
#[derive(Debug)]
struct Pattern {
    name: GlobMatcher,
    only_directories: bool,
}

/// A pattern that can't be understood.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{pattern:?} is no pattern: {cause}")]
pub struct BadPattern {
    /// The pattern.
    pub pattern: String,
    /// What is wrong with it.
    pub cause: String,
}

/// Where a directory stands that is selected, or on the way to what is: all that counts for what is below it. Two of the same standing have the same names of
/// those below them selected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Footing {
    /// It is at or below a path of `only`. If not, it is on the way to one.
    inside: bool,
    /// The paths of `only` that it is on the way to, by their place.
    ways: u64,
    /// The patterns from the root of which the first names have matched its path, by their place.
    matched: u64,
    /// So many names of these are behind; 0 if there are none.
    depth: u16,
}

impl Selector {
    /// Of a selection.
    ///
    /// # Errors
    /// [`BadPattern`].
    pub fn new(selection: Selection) -> Result<Selector, BadPattern> {
        let names = |path: &str| path.split('/').skip(1).map(|name| name.as_bytes().into()).collect();
        let only = selection.only().iter().map(|path| names(path)).collect();
        let (mut anywhere, mut from_root) = (Vec::new(), Vec::new());
        for text in selection.exclude() {
            let (inner, only_directories) = match text.strip_suffix('/') {
                Some(inner) => (inner, true),
                None => (&**text, false),
            };
            match inner.strip_prefix('/') {
                None => anywhere.push(Pattern::new(text, inner, only_directories)?),
                Some(path) => {
                    let last = path.split('/').count() - 1;
                    // Whatever leads on is a directory.
                    let names = path.split('/').enumerate();
                    let names = names.map(|(place, name)| Pattern::new(text, name, only_directories || place < last));
                    from_root.push(names.collect::<Result<_, _>>()?);
                }
            }
        }
        Ok(Selector { selection, only, anywhere, from_root })
    }

    /// What it was made of.
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// Where the root stands.
    pub fn root(&self) -> Footing {
        let (ways, matched) = (all(self.only.len()), all(self.from_root.len()));
        Footing { inside: self.only.is_empty(), ways, matched, depth: 0 }
    }

    /// Where what has a name in a directory stands; none if it is not selected. Of what is no directory, only that counts whether it is.
    pub fn child(&self, directory: Footing, name: &[u8], kind: Kind) -> Option<Footing> {
        let place = usize::from(directory.depth);
        let (mut inside, mut ways, mut matched) = (directory.inside, 0, 0);
        for way in bits(directory.ways) {
            let Some((own, rest)) = self.only.get(way).and_then(|path| path.get(place..)?.split_first()) else {
                continue;
            };
            if **own == *name {
                inside |= rest.is_empty();
                ways |= 1 << way;
            }
        }
        if inside {
            ways = 0;
        } else if ways == 0 || kind != Kind::Directory {
            return None;
        }
        if self.anywhere.iter().any(|pattern| pattern.matches(name, kind)) {
            return None;
        }
        for number in bits(directory.matched) {
            let rest = self.from_root.get(number).and_then(|path| path.get(place..)?.split_first());
            match rest.filter(|(first, _)| first.matches(name, kind)) {
                Some((_, [])) => return None,
                Some(_) => matched |= 1 << number,
                None => {}
            }
        }
        let depth = if ways == 0 && matched == 0 { 0 } else { directory.depth + 1 };
        Some(Footing { inside, ways, matched, depth })
    }

    /// May a name in a directory that stands so not be selected?
    pub fn may_hide(&self, directory: Footing) -> bool {
        !directory.inside || directory.matched != 0 || !self.anywhere.is_empty()
    }

    /// The names that a directory on the way to paths of `only` may show; none if it is no such directory.
    pub fn leading_on(&self, directory: Footing) -> Option<Vec<&[u8]>> {
        if directory.inside {
            return None;
        }
        let next = |way: usize| self.only.get(way).and_then(|path| path.get(usize::from(directory.depth)));
        let mut names: Vec<&[u8]> = bits(directory.ways).filter_map(next).map(|name| &**name).collect();
        names.sort_unstable();
        names.dedup();
        Some(names)
    }

    /// Is a record of an object shown? Of a directory, where it stands says so: of its names, those that are selected; of the extended attributes of one on
    /// the way, those that say who may go through it.
    pub fn shows(&self, directory: Option<Footing>, key: &Key, record: &Record) -> bool {
        let Some(directory) = directory else { return true };
        match (key.parts(), record) {
            (KeyParts::Dirent { name, .. }, Record::Dirent(dirent)) => {
                self.child(directory, name, dirent.kind).is_some()
            }
            (KeyParts::Xattr { name }, _) => directory.inside || name.starts_with(b"system."),
            _ => true,
        }
    }
}

impl Pattern {
    fn new(pattern: &str, name: &str, only_directories: bool) -> Result<Pattern, BadPattern> {
        // Other programs' patterns give braces no meaning, and so do these.
        let plain = name.replace('{', "[{]").replace('}', "[}]");
        let glob = GlobBuilder::new(&plain).literal_separator(true).backslash_escape(true).build();
        let bad = |error: globset::Error| BadPattern { pattern: pattern.into(), cause: error.kind().to_string() };
        Ok(Pattern { name: glob.map_err(bad)?.compile_matcher(), only_directories })
    }

    fn matches(&self, name: &[u8], kind: Kind) -> bool {
        (!self.only_directories || kind == Kind::Directory) && self.name.is_match(OsStr::from_bytes(name))
    }
}

/// The first so many bits.
fn all(count: usize) -> u64 {
    if count == 0 { 0 } else { u64::MAX >> (u64::BITS as usize - count) }
}

/// The places of the bits that are set.
fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let place = set.trailing_zeros();
        set &= set.wrapping_sub(1);
        (place < u64::BITS).then_some(place as usize)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(only: &[&str], exclude: &[&str]) -> Selector {
        Selector::new(Selection::new(only, exclude).unwrap()).unwrap()
    }

    /// Of a path whose last name is that of something of this kind.
    fn footing(selector: &Selector, path: &str, kind: Kind) -> Option<Footing> {
        let names: Vec<&str> = path.split('/').collect();
        let mut here = selector.root();
        for (place, name) in names.iter().enumerate() {
            let kind = if place + 1 < names.len() { Kind::Directory } else { kind };
            here = selector.child(here, name.as_bytes(), kind)?;
        }
        Some(here)
    }

    fn shows(selector: &Selector, path: &str, kind: Kind) -> bool {
        footing(selector, path, kind).is_some()
    }

    #[test]
    fn only_shows_the_way_and_what_is_below() {
        let selector = selector(&["a/b", "a/c/d", "x"], &[]);
        for path in ["a", "a/b", "a/b/e", "a/c", "a/c/d", "a/c/d/e/f", "x", "x/y"] {
            assert!(shows(&selector, path, Kind::Directory), "{path}");
        }
        for path in ["b", "a/d", "a/c/e", "a/bb", "xx"] {
            assert!(!shows(&selector, path, Kind::Directory), "{path}");
        }
        assert!(!shows(&selector, "a", Kind::File) && !shows(&selector, "a/c", Kind::Symlink), "no way leads on");
        assert!(shows(&selector, "x", Kind::File) && shows(&selector, "a/b", Kind::File));
        let names = |path| selector.leading_on(footing(&selector, path, Kind::Directory).unwrap());
        assert_eq!(selector.leading_on(selector.root()), Some(vec![&b"a"[..], b"x"]));
        assert_eq!((names("a"), names("a/b")), (Some(vec![&b"b"[..], b"c"]), None));
    }

    #[test]
    fn patterns_hide_names_anywhere_or_paths_from_the_root() {
        let selector = selector(&[], &["*.o", "cache/", "/a/*/tmp", "/top", "[!a-y]?", "we{ir}d", "b\\*"]);
        let hidden = [
            "x.o",
            "q/x.o",
            "x.o/y",
            "cache",
            "d/cache/f",
            "a/b/tmp",
            "a/b/tmp/c",
            "top",
            "top/x",
            "zz",
            "we{ir}d",
            "b*",
        ];
        for path in hidden {
            assert!(!shows(&selector, path, Kind::Directory), "{path}");
        }
        let shown = ["x.c", "a/tmp", "b/b/tmp", "a/b/c/tmp", "d/top", "ab", "zzz", "weird", "wei", "bb", "a/b"];
        for path in shown {
            assert!(shows(&selector, path, Kind::Directory), "{path}");
        }
        assert!(shows(&selector, "cache", Kind::File) && !shows(&selector, "x.o", Kind::File));
        assert!(selector.child(selector.root(), b"\xff\n", Kind::File).is_none(), "any bytes are a name");
        let bad = Selector::new(Selection::new(&[], &["a[b"]).unwrap()).unwrap_err();
        assert_eq!(bad.pattern, "a[b");
    }

    #[test]
    fn what_stands_alike_is_told() {
        let selector = selector(&["a", "b/c"], &["/a/x/y"]);
        let stands = |path| footing(&selector, path, Kind::Directory).unwrap();
        assert_eq!(stands("a/q"), stands("a/r/s"), "nothing can be hidden below either");
        assert_eq!(stands("a/q"), stands("b/c"));
        assert_ne!(stands("a/x"), stands("a/q"), "y is hidden in the one");
        assert_ne!(stands("a"), stands("a/q"));
        assert_ne!(stands("b"), stands("a"));
        assert!(
            !selector.may_hide(stands("a/q")) && selector.may_hide(stands("a/x")) && selector.may_hide(stands("b"))
        );
    }
}
