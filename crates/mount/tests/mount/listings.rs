//! Directories: thousands of names, while they come and go.

use crate::fixture::Fixture;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

fn many_names_with_concurrent_deletes(readdirplus: bool) {
    let Some(fixture) = Fixture::with(|options| options.readdirplus = readdirplus) else { return };
    let name = |i: usize| format!("a name that is {i}");
    let dir = fixture.path("dir");
    fs::create_dir(&dir).expect("makes");
    for i in 0..5000 {
        fs::write(dir.join(name(i)), "").expect("writes");
    }
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for (count, entry) in fs::read_dir(&dir).expect("lists").enumerate() {
        let entry = entry.expect("reads");
        let text = entry.file_name().into_string().expect("text");
        *seen.entry(text).or_default() += 1;
        // Odd names go away while the listing is under way: those behind it are not met, those before it were.
        let odd = 2 * count + 1;
        if odd < 5000 {
            fs::remove_file(dir.join(name(odd))).expect("unlinks");
        }
    }
    for i in (0..5000).step_by(2) {
        assert_eq!(seen.get(&name(i)), Some(&1), "{}", name(i));
    }
    assert!(seen.values().all(|count| *count == 1), "a name was listed twice");
    assert_eq!(fs::read_dir(&dir).expect("lists").count(), 2500);
    assert_eq!(fs::metadata(&dir).expect("is there").size(), 2500, "a directory's size is the number of its names");
    fs::remove_dir_all(&dir).expect("removes");
    fixture.finish();
}

#[test]
fn names_that_stay_are_listed_once_while_others_go() {
    many_names_with_concurrent_deletes(false);
}

#[test]
fn names_that_stay_are_listed_once_with_attributes_too() {
    many_names_with_concurrent_deletes(true);
}

#[test]
fn listings_start_with_the_dots_and_can_be_rewound() {
    let Some(fixture) = Fixture::new() else { return };
    fs::create_dir_all(fixture.path("a/b")).expect("makes");
    let inode = |name: &str| fs::metadata(fixture.path(name)).expect("is there").ino();
    let open = fs::File::open(fixture.path("a")).expect("opens");
    let mut listing = rustix::fs::Dir::read_from(&open).expect("lists");
    for _ in 0..2 {
        let entries: Vec<_> = listing.by_ref().map(|entry| entry.expect("reads")).collect();
        let names: Vec<_> = entries.iter().map(|entry| entry.file_name().to_str().expect("text")).collect();
        assert_eq!(names, [".", "..", "b"]);
        let inodes: Vec<_> = entries.iter().map(rustix::fs::DirEntry::ino).collect();
        assert_eq!(inodes, [inode("a"), inode("."), inode("a/b")]);
        listing.rewind();
    }
    drop((listing, open));
    fixture.finish();
}
