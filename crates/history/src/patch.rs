//! The lines in which two texts differ, as `diff -u` and git print them.

use imara_diff::{Algorithm, Diff, Hunk, InternedInput};
use std::fmt::Write;
use std::ops::Range;

/// Files larger than this, in bytes, are not compared line by line.
pub const TEXT_BYTES_MAX: u64 = 1024 * 1024;
/// So many bytes at the start of a file are looked at to see whether it is text, as in git.
const LOOKED_AT: usize = 8000;

/// Lines that are printed before and behind those that differ.
const CONTEXT_LINES: u32 = 3;

/// How two contents differ.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Patch {
    /// Not at all.
    Same,
    /// At least one of them is no text: it has a NUL at the beginning, or is not UTF-8.
    Binary,
    /// In these lines.
    Text(String),
}

/// The lines in which `new` differs from `old`. The names are for the head; of what is not there, `/dev/null`.
pub fn patch(old: &[u8], new: &[u8], old_name: &str, new_name: &str) -> Patch {
    if old == new {
        return Patch::Same;
    }
    let (Some(old), Some(new)) = (text(old), text(new)) else { return Patch::Binary };
    let input = InternedInput::new(old, new);
    let mut diff = Diff::compute(Algorithm::Histogram, &input);
    diff.postprocess_lines(&input);
    let mut printed = format!("--- {old_name}\n+++ {new_name}\n");
    let sides = Sides { old: old.split_inclusive('\n').collect(), new: new.split_inclusive('\n').collect() };
    let mut group: Vec<Hunk> = Vec::new();
    for hunk in diff.hunks() {
        // Hunks whose contexts meet are printed as one.
        if group.last().is_some_and(|last| hunk.before.start > last.before.end + 2 * CONTEXT_LINES) {
            sides.print(&std::mem::take(&mut group), &mut printed);
        }
        group.push(hunk);
    }
    sides.print(&group, &mut printed);
    Patch::Text(printed)
}

/// The lines of both texts, with their ends.
struct Sides<'t> {
    old: Vec<&'t str>,
    new: Vec<&'t str>,
}

impl Sides<'_> {
    /// Prints hunks that stand close together, with the lines before, between and behind them.
    fn print(&self, group: &[Hunk], printed: &mut String) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { return };
        let context = first.before.start.min(CONTEXT_LINES);
        let behind = (self.old.len() as u32 - last.before.end).min(CONTEXT_LINES);
        let old = first.before.start - context..last.before.end + behind;
        let new = first.after.start - context..last.after.end + behind;
        let _ = writeln!(printed, "@@ -{} +{} @@", span(&old), span(&new));
        let mut at = old.start;
        for hunk in group {
            lines(' ', &self.old, at..hunk.before.start, printed);
            lines('-', &self.old, hunk.before.clone(), printed);
            lines('+', &self.new, hunk.after.clone(), printed);
            at = hunk.before.end;
        }
        lines(' ', &self.old, at..old.end, printed);
    }
}

/// First line and number of lines; a run of no lines is named by the line before it.
fn span(lines: &Range<u32>) -> String {
    match lines.len() {
        0 => format!("{},0", lines.start),
        1 => format!("{}", lines.start + 1),
        len => format!("{},{len}", lines.start + 1),
    }
}

fn lines(sign: char, all: &[&str], range: Range<u32>, printed: &mut String) {
    for line in &all[range.start as usize..range.end as usize] {
        let _ = write!(printed, "{sign}{line}");
        if !line.ends_with('\n') {
            printed.push_str("\n\\ No newline at end of file\n");
        }
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    let head = &bytes[..bytes.len().min(LOOKED_AT)];
    std::str::from_utf8(bytes).ok().filter(|_| !head.contains(&0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_differ_in_lines_and_others_in_a_word() {
        assert_eq!(patch(b"a\n", b"a\n", "x", "y"), Patch::Same);
        assert_eq!(patch(b"a\0\n", b"b\n", "x", "y"), Patch::Binary);
        assert_eq!(patch(b"a\xff\n", b"b\n", "x", "y"), Patch::Binary);
        let text = "--- x\n+++ y\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n";
        assert_eq!(patch(b"one\ntwo\nthree\n", b"one\n2\nthree\n", "x", "y"), Patch::Text(text.into()));
        let text = "--- /dev/null\n+++ y\n@@ -0,0 +1 @@\n+one\n";
        assert_eq!(patch(b"", b"one\n", "/dev/null", "y"), Patch::Text(text.into()));
    }

    #[test]
    fn a_line_without_an_end_is_told_from_one_with_one() {
        let Patch::Text(text) = patch(b"one", b"one\n", "x", "y") else { panic!("they differ") };
        assert!(text.contains("\\ No newline at end of file"), "{text}");
    }

    #[test]
    fn hunks_that_are_far_apart_are_printed_apart() {
        let lines = |changed: &[usize]| -> String {
            let line =
                |number| if changed.contains(&number) { format!("new {number}\n") } else { format!("{number}\n") };
            (0..30).map(line).collect()
        };
        let Patch::Text(text) = patch(lines(&[]).as_bytes(), lines(&[0, 6, 20]).as_bytes(), "x", "y") else { panic!() };
        let heads: Vec<&str> = text.lines().filter(|line| line.starts_with("@@")).collect();
        assert_eq!(heads, ["@@ -1,10 +1,10 @@", "@@ -18,7 +18,7 @@"], "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("-")).count(), 4);
    }
}
