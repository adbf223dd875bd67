//! No file beyond 1,500 lines.

use super::Finding;
use super::repository::Repository;

/// Where a file stops being one thing (house style, rule 5).
const LINES_MAX: usize = 1_500;

/// What others wrote, and we only carry along.
const NOT_OURS: &str = "vendor/";
/// What people write; generated and golden files may be longer.
const WRITTEN: &[&str] = &[".rs", ".md", ".sh", ".toml"];

/// Finds files that are too long.
pub(super) fn check(repository: &Repository) -> Vec<Finding> {
    let ours = repository.files.iter().filter(|(path, _)| !path.starts_with(NOT_OURS));
    let written = ours.filter(|(path, _)| WRITTEN.iter().any(|ending| path.ends_with(ending)));
    let long = written.map(|(path, text)| (path, text.lines().count())).filter(|(_, lines)| *lines > LINES_MAX);
    long.map(|(path, lines)| {
        let what = format!("{lines} lines, {LINES_MAX} are the limit");
        Finding::new(path, LINES_MAX + 1, what, "everybody edits a file like that: cut it by subject")
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_too_many_is_found() {
        let (enough, too_many) = ("x\n".repeat(LINES_MAX), "x\n".repeat(LINES_MAX + 1));
        let repository = Repository::of(&[
            ("a.rs", &enough),
            ("b.rs", &too_many),
            ("c.golden", &too_many),
            ("vendor/d.rs", &too_many),
        ]);
        let found = check(&repository);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].path.as_str(), found[0].line), ("b.rs", 1_501));
    }
}
