//! Which part of a volume a mirror or a backup has: some paths of it, without what patterns match. `docs/protocols/mirroring.md` has what that means.

use crate::limits::NAME_BYTES_MAX;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Most paths of a selection.
pub const ONLY_MAX: usize = 32;
/// Most patterns of a selection.
pub const EXCLUDE_MAX: usize = 64;
/// Longest path or pattern, in bytes.
pub const SELECTION_TEXT_BYTES_MAX: usize = 1024;
/// Longest selection: all its paths and patterns, in bytes.
pub const SELECTION_BYTES_MAX: usize = 8192;

/// Which part of a volume is meant. In canonical form: what says the same in the same words is equal.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    only: Box<[Box<str>]>,
    exclude: Box<[Box<str>]>,
}

/// A text that selects nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SelectionError {
    /// No path of a volume.
    #[error("{text:?} is no path of a volume: names with slashes between them, without . and ..")]
    NotAPath {
        /// The text.
        text: String,
    },
    /// No pattern.
    #[error("{text:?} is no pattern: {why}")]
    NotAPattern {
        /// The text.
        text: String,
        /// What is wrong.
        why: &'static str,
    },
    /// Too many of them, or too long.
    #[error(
        "too much is selected: {ONLY_MAX} paths and {EXCLUDE_MAX} patterns at most, each of {SELECTION_TEXT_BYTES_MAX} bytes, of {SELECTION_BYTES_MAX} together"
    )]
    TooMuch,
}

impl Selection {
    /// What lies at or below one of the paths `only` (no path: everything), without what one of the patterns `exclude` matches.
    ///
    /// # Errors
    /// [`SelectionError`].
    pub fn new<T: AsRef<str>>(only: &[T], exclude: &[T]) -> Result<Selection, SelectionError> {
        let only = only.iter().map(|text| path(text.as_ref())).collect::<Result<Vec<_>, _>>()?;
        let exclude = exclude.iter().map(|text| pattern(text.as_ref())).collect::<Result<Vec<_>, _>>()?;
        let selection = Selection { only: outermost(only), exclude: each_once(exclude) };
        if selection.is_bounded() { Ok(selection) } else { Err(SelectionError::TooMuch) }
    }

    /// Is it everything?
    pub fn is_all(&self) -> bool {
        self.only.is_empty() && self.exclude.is_empty()
    }

    /// The paths: what is at or below one of them. None: everything.
    pub fn only(&self) -> &[Box<str>] {
        &self.only
    }

    /// The patterns of what is left out.
    pub fn exclude(&self) -> &[Box<str>] {
        &self.exclude
    }

    /// Is it one that [`Selection::new`] makes? For what comes from elsewhere.
    pub fn is_sound(&self) -> bool {
        self.is_bounded() && Selection::new(&self.only, &self.exclude).as_ref() == Ok(self)
    }

    fn is_bounded(&self) -> bool {
        let texts = || self.only.iter().chain(&self.exclude);
        self.only.len() <= ONLY_MAX
            && self.exclude.len() <= EXCLUDE_MAX
            && texts().all(|text| text.len() <= SELECTION_TEXT_BYTES_MAX)
            && texts().map(|text| text.len()).sum::<usize>() <= SELECTION_BYTES_MAX
    }
}

/// In words, as they are given to a command.
impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_all() {
            return f.write_str("everything");
        }
        let only = self.only.iter().map(|path| format!("--only {path}"));
        let exclude = self.exclude.iter().map(|pattern| format!("--exclude {pattern}"));
        f.write_str(&only.chain(exclude).collect::<Vec<_>>().join(" "))
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && name.len() <= NAME_BYTES_MAX && !name.contains('\0')
}

/// A path as `/a/b`; that of the root is empty.
fn path(text: &str) -> Result<Box<str>, SelectionError> {
    let names: Vec<&str> = text.split('/').filter(|name| !name.is_empty()).collect();
    if text.is_empty() || !names.iter().all(|name| is_name(name)) {
        return Err(SelectionError::NotAPath { text: text.into() });
    }
    Ok(names.iter().map(|name| format!("/{name}")).collect::<String>().into())
}

/// A pattern as `name`, `/a/b`, and each with a slash behind it.
fn pattern(text: &str) -> Result<Box<str>, SelectionError> {
    let bad = |why| Err(SelectionError::NotAPattern { text: text.into(), why });
    let directories = if text.ends_with('/') { "/" } else { "" };
    let inner = text.trim_end_matches('/');
    if inner.is_empty() {
        return bad("it names nothing");
    }
    if inner.starts_with('!') {
        return bad("nothing takes back what another one excludes (a name that begins with ! is [!]... or ?...)");
    }
    let names: Vec<&str> = inner.split('/').filter(|name| !name.is_empty()).collect();
    if names.iter().any(|name| name.contains("**")) {
        return bad("* stands for a part of one name; a pattern without a slash matches in all directories");
    }
    if names.iter().any(|name| *name == "." || *name == ".." || name.contains('\0')) {
        return bad("no name is called so");
    }
    let inner = match inner.contains('/') {
        true => names.iter().map(|name| format!("/{name}")).collect(),
        false => inner.to_owned(),
    };
    Ok(format!("{inner}{directories}").into())
}

fn each_once(mut texts: Vec<Box<str>>) -> Box<[Box<str>]> {
    texts.sort();
    texts.dedup();
    texts.into()
}

/// Without what lies below another one. With the root, that is no path: everything.
fn outermost(paths: Vec<Box<str>>) -> Box<[Box<str>]> {
    if paths.iter().any(|path| path.is_empty()) {
        return Box::default();
    }
    let all = each_once(paths);
    let is_below = |path: &str, other: &str| path.strip_prefix(other).is_some_and(|rest| rest.starts_with('/'));
    all.iter().filter(|path| !all.iter().any(|other| is_below(path, other))).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[Box<str>]) -> Vec<&str> {
        texts.iter().map(|text| &**text).collect()
    }

    #[test]
    fn what_says_the_same_is_equal() {
        let one = Selection::new(&["b/c/", "//a", "a/d", "b//c"], &["*.o", "*.o", "x/y", "/tmp/"]).unwrap();
        assert_eq!(texts(one.only()), ["/a", "/b/c"]);
        assert_eq!(texts(one.exclude()), ["*.o", "/tmp/", "/x/y"]);
        assert_eq!(Selection::new(&["/a", "/b/c"], &["/x/y", "*.o", "/tmp/"]), Ok(one.clone()));
        assert!(one.is_sound() && !one.is_all());
        assert_eq!(one.to_string(), "--only /a --only /b/c --exclude *.o --exclude /tmp/ --exclude /x/y");
        let all = Selection::new(&["a", "/"], &[]).unwrap();
        assert!(all.is_all() && all == Selection::default() && all.is_sound());
        assert_eq!(all.to_string(), "everything");
        assert_eq!(texts(Selection::new(&["ab", "a"], &[]).unwrap().only()), ["/a", "/ab"]);
    }

    #[test]
    fn what_selects_nothing_is_refused() {
        for only in ["", "a/../b", ".", "a\0b", &"n".repeat(256)] {
            let refused = Selection::new(&[only], &[]);
            assert_eq!(refused, Err(SelectionError::NotAPath { text: only.into() }));
        }
        for exclude in ["", "/", "//", "!a", "**/a", "a/**", "a/./b", "a\0"] {
            let refused = Selection::new(&[], &[exclude]);
            assert!(matches!(refused, Err(SelectionError::NotAPattern { .. })), "{exclude}: {refused:?}");
        }
        let many: Vec<String> = (0..=EXCLUDE_MAX).map(|number| format!("n{number}")).collect();
        assert_eq!(Selection::new(&[], &many), Err(SelectionError::TooMuch));
        assert!(Selection::new(&[], &many[1..]).is_ok());
        assert_eq!(Selection::new(&many[..ONLY_MAX + 1], &[]), Err(SelectionError::TooMuch));
        let long = "x".repeat(SELECTION_TEXT_BYTES_MAX + 1);
        assert_eq!(Selection::new(&[], &[long.as_str()]), Err(SelectionError::TooMuch));
        let longs: Vec<String> = (0..9).map(|number| format!("{number}{}", &long[2..])).collect();
        assert_eq!(Selection::new(&[], &longs), Err(SelectionError::TooMuch));
    }

    #[test]
    fn what_comes_from_elsewhere_is_looked_at() {
        let made = |only: &[&str], exclude: &[&str]| Selection {
            only: only.iter().map(|text| (*text).into()).collect(),
            exclude: exclude.iter().map(|text| (*text).into()).collect(),
        };
        assert!(made(&["/a"], &["b"]).is_sound());
        for unsound in [made(&["a"], &[]), made(&["/b", "/a"], &[]), made(&["/a", "/a/b"], &[]), made(&[], &["!a"])] {
            assert!(!unsound.is_sound(), "{unsound:?}");
        }
    }
}
