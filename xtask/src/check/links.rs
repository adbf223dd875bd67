//! Links in documents lead to files that exist.
//!
//! Understood: `[text](target)`, images, `[name]: target`. Not looked at: links to the web, anchors within a page (the
//! part after `#`), and whatever stands in code. Not understood: targets with brackets or spaces in them.

use std::collections::BTreeSet;

use super::Finding;
use super::repository::Repository;

/// Finds links to files or directories that are not in the repository.
pub(super) fn check(repository: &Repository) -> Vec<Finding> {
    let places = places(repository);
    let mut findings = Vec::new();
    for (path, text) in repository.below("", ".md") {
        for (line, target) in links(text) {
            let Some(resolved) = resolve(path, &target) else { continue };
            if !places.contains(resolved.as_str()) {
                let advice = format!("there is no {resolved} in the repository: correct the link or add the file");
                findings.push(Finding::new(path, line, format!("the link to {target} leads nowhere"), advice));
            }
        }
    }
    findings
}

/// Every file and every directory with a file somewhere below; the root is "".
fn places(repository: &Repository) -> BTreeSet<&str> {
    let mut places = BTreeSet::from([""]);
    for path in repository.files.keys() {
        places.insert(path);
        places.extend(path.match_indices('/').map(|(at, _)| &path[..at]));
    }
    places
}

/// The links of a document, with their lines.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut fenced = false;
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let start = line.trim_start();
        if start.starts_with("```") || start.starts_with("~~~") {
            fenced = !fenced;
            continue;
        }
        if fenced {
            continue;
        }
        let line = without_code(line);
        let inline = line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
        let reference = line.strip_prefix('[').and_then(|rest| rest.split_once("]: ")).map(|(_, target)| target);
        found.extend(inline.chain(reference).map(|target| (at + 1, target.trim().to_owned())));
    }
    found
}

/// The line with what stands between backticks blanked.
fn without_code(line: &str) -> String {
    line.split('`').enumerate().map(|(at, part)| if at % 2 == 0 { part } else { "" }).collect()
}

/// The path from the root that a link of `document` means, or `None` when it leads out of the repository.
fn resolve(document: &str, target: &str) -> Option<String> {
    let target = target.split('#').next().unwrap_or_default().trim_matches(['<', '>']);
    if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let mut parts: Vec<&str> = match target.strip_prefix('/') {
        Some(_) => Vec::new(),
        None => document.split('/').rev().skip(1).collect::<Vec<_>>().into_iter().rev().collect(),
    };
    for part in target.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(document: &str) -> Vec<String> {
        let repository =
            Repository::of(&[("docs/a.md", document), ("docs/formats/log.md", ""), ("crates/wire/src/lib.rs", "")]);
        check(&repository).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn broken_links_are_found_on_their_lines() {
        let found = findings("# A\n\nsee [b](b.md) and [log](formats/log.md#x)\n\n[c]: ../crates/nowhere\n");
        assert_eq!(found.len(), 2);
        assert!(found[0].starts_with("docs/a.md:3: the link to b.md leads nowhere"));
        assert!(found[1].starts_with("docs/a.md:5: the link to ../crates/nowhere leads nowhere"));
    }

    #[test]
    fn the_web_code_and_directories_are_fine() {
        let fine = "[w](https://example.org/x) [here](#top) `[x](y)` [wire](../crates/wire/) [root](..)\n\
            [rooted](/docs/formats/log.md)\n```\n[z](zz)\n```\n";
        assert_eq!(findings(fine), Vec::<String>::new());
    }
}
