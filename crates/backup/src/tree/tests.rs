//! A tree against a map, whatever the steps are that lead to it.

use super::*;
use crate::folder::Folder;
use crate::head::{Counts, FolderHead, Protection};
use crate::memory::MemoryFolder;
use crate::name::Kind;
use crate::repository::Repository;
use proptest::prelude::*;
use std::collections::BTreeMap;

type Map = BTreeMap<RowKey, Box<[u8]>>;

fn repository() -> Repository<MemoryFolder> {
    let head = FolderHead { id: [0; 16], protection: Protection::None };
    Repository::begin(MemoryFolder::default(), &head, None).expect("a folder in memory takes everything")
}

fn key(number: u64) -> RowKey {
    row_key(&Key::xattr(VOLUME, ObjectId(16 + number / 8), format!("user.{number:020}").as_bytes()))
}

fn value(seed: u64, len: usize) -> Box<[u8]> {
    record_bytes(&Record::Xattr(vec![seed as u8; len].into()))
}

fn built(repository: &Repository<MemoryFolder>, rows: &Map) -> Option<Hash> {
    let mut builder = Builder::new(repository, false);
    rows.iter().try_for_each(|(key, record)| builder.row(key, record)).expect("rows are put");
    builder.finish().expect("a tree")
}

fn all(repository: &Repository<MemoryFolder>, root: Option<Hash>) -> Map {
    let rows = Rows::new(repository, root);
    let (mut found, mut from) = (Map::new(), Vec::new());
    loop {
        let page = rows.scan((&from, None), 100).expect("rows are read");
        let Some((last, _)) = page.last() else { return found };
        from = [&row_key(last)[..], &[0]].concat();
        found.extend(page.into_iter().map(|(key, record)| (row_key(&key), record_bytes(&record))));
    }
}

/// Rows, by numbers near each other; none: they end.
fn steps() -> impl Strategy<Value = Vec<Vec<(u64, Option<usize>)>>> {
    let one = (0u64..3000, prop::option::weighted(0.7, 1usize..3000));
    let few = prop::collection::vec(one.clone(), 0..20);
    let many = (0u64..2000, 1u64..1000, prop::option::weighted(0.6, 1usize..2000))
        .prop_map(|(first, count, len)| (first..first + count).map(|number| (number, len)).collect());
    prop::collection::vec(prop_oneof![2 => few, 1 => many], 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_same_rows_make_the_same_tree_in_whatever_steps_they_come(steps in steps()) {
        let repository = repository();
        let (mut map, mut tree) = (Map::new(), (None, Counts::default()));
        for (seed, step) in steps.into_iter().enumerate() {
            let step = step.into_iter().map(|(number, len)| (key(number), len.map(|len| value(seed as u64, len))));
            let changes: Changes = step.collect();
            for (key, new) in &changes {
                match new {
                    Some(new) => map.insert(key.clone(), new.clone()),
                    None => map.remove(key),
                };
            }
            tree = change(&repository, tree, changes, false).expect("rows are changed");
            prop_assert_eq!(tree.1.rows, map.len() as u64);
            prop_assert_eq!(tree.0, built(&repository, &map));
            prop_assert_eq!(&all(&repository, tree.0), &map);
        }
    }

    #[test]
    fn bytes_of_anybody_are_no_node_or_one(bytes in prop::collection::vec(any::<u8>(), 0..200), level in 0u8..3) {
        let bytes = [&[level][..], &bytes].concat();
        if let Ok(node) = Node::from_bytes(&bytes) {
            prop_assert!(node.level() == level && !node.first().is_empty());
        }
    }
}

#[test]
fn a_node_that_is_cut_off_anywhere_is_none_or_a_shorter_one() {
    let mut bytes = vec![0];
    (0..20).for_each(|number| node::put_row(&mut bytes, &key(number), &value(number, 9)));
    let row = (bytes.len() - 1) / 20;
    for len in 0..bytes.len() {
        let is_node = Node::from_bytes(&bytes[..len]).is_ok();
        assert_eq!(is_node, len > 1 && (len - 1).is_multiple_of(row), "{len} bytes");
    }
}

#[test]
fn one_row_of_many_changes_few_nodes() {
    let repository = repository();
    let map: Map = (0..20_000).map(|number| (key(number), value(number, 700))).collect();
    let root = built(&repository, &map);
    let nodes = || {
        let mut nodes = 0;
        let counted = repository.folder().list(Kind::Node, &mut |_, _| {
            nodes += 1;
            Ok(())
        });
        counted.expect("a folder in memory is read");
        nodes
    };
    let before = nodes();
    assert!(before > 100, "{before} nodes");
    repository.folder().settle().expect("settled");
    let changes = Changes::from([(key(7777), Some(value(0, 701)))]);
    let counts = Counts { rows: 20_000, ..Counts::default() };
    change(&repository, (root, counts), changes, false).expect("a row is changed");
    assert!(nodes() - before <= 4, "{} new nodes", nodes() - before);
}

#[test]
fn a_branch_with_one_node_is_no_root() {
    let repository = repository();
    let map: Map = (0..20).map(|number| (key(number), value(number, 9))).collect();
    let leaf = built(&repository, &map).expect("a leaf");
    let mut bytes = vec![1];
    node::put_node(&mut bytes, &key(0), &leaf);
    let branch = repository.store(Kind::Node, &bytes, false).expect("stored");
    let mut builder = Builder::new(&repository, false);
    builder.node(1, &key(0), branch).expect("put");
    assert_eq!(builder.finish().expect("a tree"), Some(leaf));
}
