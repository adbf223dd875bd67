//! Random operations, one by one and in batches; then every answer is checked against the states themselves.

use crate::world::*;
use gavel_fs::Operation;
use gavel_fs::operation::RenameMode;
use gavel_history::diff::{Difference, End, Way, diff};
use gavel_history::log::{feed, log};
use gavel_history::{HistoryError, LogLine, Scope, Sign, find, history};
use gavel_types::{KeyParts, ObjectId, Tid};
use gavel_wire::{Kind, Past};
use std::collections::{BTreeMap, BTreeSet};

struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        // xorshift64*, Vigna 2016.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, most: usize) -> usize {
        (self.next() % most as u64) as usize
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn operation(dice: &mut Dice, tree: &Tree) -> Operation {
    let all: Vec<&Look> = tree.values().collect();
    let directories: Vec<ObjectId> = of_kind(&all, Kind::Directory);
    let files: Vec<ObjectId> = of_kind(&all, Kind::File);
    let (parent, other) = (*dice.pick(&directories), *dice.pick(&directories));
    let (name, other_name) = (*dice.pick(&NAMES), *dice.pick(&NAMES));
    let object = dice.pick(&all).object;
    let file = if files.is_empty() { None } else { Some(*dice.pick(&files)) };
    match (dice.below(20), file) {
        (0..3, _) => create(parent, name),
        (3..6, _) => mkdir(parent, name),
        (6, _) => symlink(parent, name, other_name),
        (7..9, _) => unlink(parent, name),
        (9, _) => rmdir(parent, name),
        (10..13, _) => rename(parent, name, other, other_name),
        (13, _) => rename_as(RenameMode::Exchange, parent, name, other, other_name),
        (14, Some(file)) => link(file, parent, name),
        (15..17, Some(file)) => write(file, dice.next() % 20, &vec![dice.next() as u8; 1 + dice.below(20)]),
        (17, Some(file)) => truncate(file, dice.next() % 30),
        (18, _) => setxattr(object, &format!("user.{name}"), other_name),
        (_, _) => chmod(object, 0o600 + dice.below(3) as u16),
    }
}

fn of_kind(all: &[&Look], kind: Kind) -> Vec<ObjectId> {
    all.iter().filter(|look| look.attr.firm.kind == kind).map(|look| look.object).collect()
}

/// All states that a random run went through.
struct Run {
    world: World,
    /// The tree behind each transaction, the first before any.
    states: Vec<(Tid, Tree)>,
    /// States between two stages of a transaction: nothing of it is seen there.
    between: Vec<Tid>,
}

impl Run {
    fn random(seed: u64, steps: usize) -> Run {
        let mut dice = Dice(seed * 2 + 1);
        let (mut world, mut between) = (World::new(), Vec::new());
        let mut states = vec![(world.tid(), tree(&world.past(), ROOT, world.tid()))];
        for _ in 0..steps {
            let last = &states.last().unwrap().1;
            let many = if dice.below(3) == 0 { 1 + dice.below(12) as u64 } else { 1 };
            let mut known = last.clone();
            let operations: Vec<Operation> = (0..many)
                .map(|number| {
                    let operation = operation(&mut dice, &known);
                    // Something is done with what the batch may have made, too, if it is of that kind.
                    let mut look = last[&b""[..]].clone();
                    look.object = ObjectId(world.fresh.0 + number);
                    look.attr.firm.kind = *dice.pick(&[Kind::Directory, Kind::Directory, Kind::File]);
                    (0..3).for_each(|i| drop(known.insert(format!("made {number} {i}").into_bytes(), look.clone())));
                    operation
                })
                .collect();
            let before = world.tid();
            world.uid = dice.below(3) as u32;
            match dice.below(2) {
                0 if many > 1 => between.extend(world.batch_in_parts(&operations)),
                _ => drop(world.batch(&operations)),
            }
            if world.tid() != before {
                states.push((world.tid(), tree(&world.past(), ROOT, world.tid())));
            }
        }
        Run { world, states, between }
    }

    fn at(&self, tid: Tid) -> &Tree {
        &self.states.iter().rev().find(|(state, _)| *state <= tid).unwrap().1
    }
}

/// The tree that differences make of an old one: what is not told of is what it was, under the name that its directory has now.
fn applied(old: &Tree, new: &Tree, differences: &[Difference]) -> Tree {
    let renamed: BTreeMap<&[u8], &[u8]> =
        differences.iter().filter_map(|difference| Some((difference.from.as_deref()?, &difference.path[..]))).collect();
    let removed: BTreeSet<&[u8]> =
        differences.iter().filter(|found| found.sign == Sign::Removed).map(|found| &found.path[..]).collect();
    let mut all = BTreeMap::new();
    for (path, look) in old.iter().filter(|(path, _)| !removed.contains(&path[..])) {
        let ends = (0..=path.len()).rev().filter(|end| *end == path.len() || path[*end] == b'/');
        let moved = ends.filter_map(|end| Some((end, renamed.get(&path[..end])?))).next();
        match moved {
            Some((end, to)) => drop(all.insert([to, &path[end..]].concat(), (look.clone(), true))),
            // What was moved there has replaced it.
            None => drop(all.entry(path.clone()).or_insert((look.clone(), false))),
        }
    }
    let mut all: Tree = all.into_iter().map(|(path, (look, _))| (path, look)).collect();
    for found in differences.iter().filter(|found| found.sign != Sign::Removed) {
        if found.sign != Sign::Renamed || !found.aspects.is_empty() {
            let look = new.get(&found.path).unwrap_or_else(|| panic!("{found:?} is not there: {}", brief(differences)));
            all.insert(found.path.clone(), look.clone());
        }
    }
    all
}

/// Differences, one on a line.
fn brief(differences: &[Difference]) -> String {
    let line = |found: &Difference| {
        let from = found.from.as_ref().map(|from| format!("{} -> ", from.escape_ascii())).unwrap_or_default();
        let (sign, path) = (found.sign.as_char(), found.path.escape_ascii());
        format!("\n{sign} {from}{path} {:?} ({:?} {:?})", found.aspects, found.old, found.new)
    };
    differences.iter().map(line).collect()
}

/// What a tree looks like, as far as differences are told, one path on a line.
fn told(tree: &Tree) -> String {
    tree.iter().map(|(path, look)| format!("\n{} {:?}", path.escape_ascii(), look.told())).collect()
}

fn assert_told(made: &Tree, new: &Tree, about: impl FnOnce() -> String) {
    for path in made.keys().chain(new.keys()) {
        let (one, other) = (made.get(path).map(Look::told), new.get(path).map(Look::told));
        assert!(one == other, "{}: {one:?} and not {other:?}: {}", path.escape_ascii(), about());
    }
}

fn check_diff(run: &Run, a: Tid, b: Tid) {
    let past = run.world.past();
    let (old, new) = (run.at(a), run.at(b));
    let mut ways = Vec::new();
    for way in [Way::Index, Way::Trees, Way::Quicker] {
        let end = |tid| End { tid, path: Vec::new() };
        let found = diff(&past, V, &end(a), &end(b), way).unwrap();
        let made = applied(old, new, &found);
        assert_told(&made, new, || format!("{way:?} from {a} to {b}: {}{}", brief(&found), told(old)));
        ways.push(found);
    }
    assert_eq!(brief(&ways[0]), brief(&ways[1]), "both ways find the same, from {a} to {b}");
}

/// The differences of a directory, by its path, against those of the whole.
fn check_diff_below(run: &Run, a: Tid, b: Tid, path: &[u8]) {
    let past = run.world.past();
    let below = |tree: &Tree| -> Tree {
        let own = tree
            .iter()
            .filter(|(other, _)| other.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest[0] == b'/'));
        own.map(|(path, look)| (path.clone(), look.clone())).collect()
    };
    let (old, new) = (below(run.at(a)), below(run.at(b)));
    for way in [Way::Index, Way::Trees] {
        let end = |tid| End { tid, path: path.to_vec() };
        match diff(&past, V, &end(a), &end(b), way) {
            Ok(found) => {
                let made = applied(&old, &new, &found);
                let about = || format!("{way:?} of {} from {a} to {b}: {}", path.escape_ascii(), brief(&found));
                assert_told(&made, &new, about);
            }
            Err(HistoryError::NotSo { .. }) => assert!(old.is_empty() && new.is_empty()),
            Err(error) => panic!("{error}"),
        }
    }
}

/// The transactions that changed a path, found by looking at all states: from what had it last, back to the making of each object that had it.
fn model_history(run: &Run, path: &[u8], at: Tid) -> BTreeSet<Tid> {
    let past = run.world.past();
    let had = find(&past, V, path, at).unwrap();
    let (parent, name) = had.place.unwrap();
    let states: Vec<&(Tid, Tree)> = run.states.iter().filter(|(tid, _)| *tid <= at).collect();
    let naming = |tree: &Tree| {
        // The directory may be anywhere, but it is the same one.
        let directory = tree.iter().find(|(_, look)| look.object == parent)?.0;
        Some(tree.get(&gavel_history::text::joined(directory, &name))?.object)
    };
    let mut tids = BTreeSet::new();
    let objects: BTreeSet<ObjectId> = states.iter().filter_map(|(_, tree)| naming(tree)).collect();
    for object in objects {
        let last = states.iter().rposition(|(_, tree)| naming(tree) == Some(object)).unwrap();
        // The transaction that took the name away is the last one.
        let end = states.get(last + 1).map_or(at, |(tid, _)| *tid);
        for row in past.changes(Tid::ZERO, end) {
            let row = row.unwrap();
            let own = row.key.object() == object && !matches!(row.key.parts(), KeyParts::Dirent { .. });
            let named = states.iter().any(|(_, tree)| tree.values().any(|look| look.object == object));
            if named && (own || row.key.object() == object) {
                // What was staged is told of by its commit: the next state.
                let commit = run.states.iter().find(|(tid, _)| *tid >= row.tid).unwrap().0;
                tids.insert(commit);
            }
        }
    }
    tids
}

fn check_history(run: &Run, path: &[u8], at: Tid) {
    let past = run.world.past();
    let told = history(&past, V, path, at, 10_000).unwrap();
    let tids: Vec<String> = told.lines.iter().map(|line| line.tid.clone()).collect();
    let mut wanted: Vec<String> = model_history(run, path, at).iter().rev().map(Tid::to_string).collect();
    wanted.dedup();
    let mut deduped = tids.clone();
    deduped.dedup();
    assert_eq!(deduped, wanted, "{} as of {at}: {:#?}", path.escape_ascii(), told.lines);
    for line in &told.lines {
        assert!(!line.changes.is_empty(), "{line:?}");
        assert!(!line.path.contains('<'), "a path is not known: {line:?}");
        let behind = run.states.iter().position(|(tid, _)| tid.to_string() == line.tid);
        if let Some(behind @ 1..) = behind {
            let has = |tree: &Tree| tree.values().any(|look| look.object.0 == line.object);
            let made = has(&run.states[behind].1) && !has(&run.states[behind - 1].1);
            let told = line.changes.contains(&gavel_history::transaction::What::Created);
            assert_eq!(told, made, "{line:#?}");
            assert!(!made || line.node.is_some(), "somebody has made it: {line:#?}");
        }
    }
    // A shorter answer is the beginning of the longer one.
    for limit in [1, 2, 5] {
        let part = history(&past, V, path, at, limit).unwrap();
        assert_eq!(part.lines[..], told.lines[..limit.min(told.lines.len())]);
        assert_eq!(part.more, told.lines.len() > limit);
    }
}

fn check_log(run: &Run) {
    let past = run.world.past();
    let now = run.world.tid();
    let whole = log(&past, V, Scope::Volume, (Tid::ZERO, now), 10_000).unwrap();
    let tids: Vec<String> = whole.lines.iter().map(|line| line.tid.clone()).collect();
    let wanted: Vec<String> = run.states[1..].iter().rev().map(|(tid, _)| tid.to_string()).collect();
    assert_eq!(tids, wanted, "every transaction is told of once, newest first");
    // In pieces, and forwards, it is the same.
    let (mut pieces, mut upto) = (Vec::new(), Some(now));
    while let Some(next) = upto {
        let page = log(&past, V, Scope::Volume, (Tid::ZERO, next), 3).unwrap();
        pieces.extend(page.lines);
        upto = page.next;
    }
    assert_same(&pieces, &whole.lines);
    let (mut fed, mut after) = (Vec::new(), Tid::ZERO);
    while after < now {
        let (lines, reached) = feed(&past, V, Scope::Volume, (after, now), 3).unwrap();
        assert!(reached > after);
        fed.extend(lines);
        after = reached;
    }
    fed.reverse();
    assert_same(&fed, &whole.lines);
    for (line, states) in whole.lines.iter().rev().zip(run.states.windows(2)) {
        check_line(line, &states[0].1, &states[1].1);
    }
}

/// The log of a directory has the lines of the whole log that tell of something in it, wherever it was then.
fn check_log_below(run: &Run, top: ObjectId) {
    let past = run.world.past();
    let within = (Tid::ZERO, run.world.tid());
    let whole = log(&past, V, Scope::Volume, within, 10_000).unwrap();
    let below = log(&past, V, Scope::Directory(top), within, 10_000).unwrap();
    let path_of = |tree: &Tree| Some(tree.iter().find(|(_, look)| look.object == top)?.0.clone());
    let is_below = |tree: &Tree, path: &[u8]| {
        path_of(tree).is_some_and(|top| path.strip_prefix(&top[..]).is_some_and(|rest| rest.first() == Some(&b'/')))
    };
    let mut wanted = Vec::new();
    for (line, states) in whole.lines.iter().rev().zip(run.states.windows(2)) {
        let (old, new) = (&states[0].1, &states[1].1);
        let told = line.changes.iter().any(|change| {
            let path = change.path.as_bytes();
            change.object == top.0
                || match change.sign {
                    Sign::Added => is_below(new, path),
                    Sign::Removed => is_below(old, path),
                    Sign::Renamed => is_below(new, path) || is_below(old, change.from.as_ref().unwrap().as_bytes()),
                    Sign::NotKept => panic!("a log tells of nothing that is not kept"),
                    Sign::Modified => {
                        new.iter().any(|(path, look)| look.object.0 == change.object && is_below(new, path))
                    }
                }
        });
        wanted.extend(told.then_some(&line.tid));
    }
    wanted.reverse();
    assert_eq!(below.lines.iter().map(|line| &line.tid).collect::<Vec<_>>(), wanted, "below object {top}");
}

fn assert_same(some: &[LogLine], others: &[LogLine]) {
    some.iter().zip(others).for_each(|(one, other)| assert_eq!(one, other));
    assert_eq!(some.len(), others.len());
}

/// What a line of the log says has come and gone is what has.
fn check_line(line: &LogLine, old: &Tree, new: &Tree) {
    let path = |path: &str| path.as_bytes().to_vec();
    for change in &line.changes {
        let is = new.get(&path(&change.path)).map(|look| look.object.0);
        match change.sign {
            Sign::Removed => assert_eq!(old[&path(&change.path)].object.0, change.object, "{line:#?}"),
            Sign::NotKept => panic!("a log tells of nothing that is not kept"),
            Sign::Added | Sign::Modified => assert_eq!(is, Some(change.object), "{line:#?}"),
            Sign::Renamed => {
                assert_eq!(is, Some(change.object), "{line:#?}");
                assert_eq!(old[&path(change.from.as_ref().unwrap())].object.0, change.object, "{line:#?}");
            }
        }
    }
    let objects = |tree: &Tree| -> BTreeMap<ObjectId, usize> {
        tree.values().fold(BTreeMap::new(), |mut all, look| {
            *all.entry(look.object).or_default() += 1;
            all
        })
    };
    let (before, after) = (objects(old), objects(new));
    for object in before.keys().chain(after.keys()) {
        let told = line.changes.iter().filter(|change| change.object == object.0);
        let net: i64 = told
            .map(|change| match change.sign {
                Sign::Added => 1,
                Sign::Removed => -1,
                _ => 0,
            })
            .sum();
        let is = |counts: &BTreeMap<ObjectId, usize>| counts.get(object).copied().unwrap_or(0) as i64;
        // What was replaced is told of by what replaced it.
        let replaced = line.changes.iter().flat_map(|change| &change.changes);
        let replaced =
            replaced.filter(|what| **what == gavel_history::transaction::What::Replaced { object: object.0 });
        assert_eq!(net - replaced.count() as i64, is(&after) - is(&before), "object {object}: {line:#?}");
    }
    // Whatever looks otherwise is told of.
    for (path, look) in new {
        let was = old.values().find(|was| was.object == look.object);
        if was.is_some_and(|was| was.told() != look.told()) {
            assert!(
                line.changes.iter().any(|change| change.object == look.object.0),
                "{}: {line:#?}",
                path.escape_ascii()
            );
        }
    }
}

/// [`gavel_history`] relies on it (invariant 3).
fn check_that_attributes_change_with_everything(run: &Run) {
    let past = run.world.past();
    let mut with_attr = BTreeSet::new();
    let mut all = BTreeSet::new();
    for row in past.touched(Tid::ZERO, run.world.tid()) {
        let row = row.unwrap();
        if row.key.object() != ObjectId::VOLUME {
            // Names of a directory that no name leads to yet are the exception.
            let staged = run.between.contains(&row.tid) && matches!(row.key.parts(), KeyParts::Dirent { .. });
            all.extend(Some((row.tid, row.key.object())).filter(|_| !staged));
            if row.key.parts() == KeyParts::Attr {
                with_attr.insert((row.tid, row.key.object()));
            }
        }
    }
    assert_eq!(all, with_attr);
}

fn check(seed: u64, steps: usize) {
    let run = Run::random(seed, steps);
    let mut dice = Dice(seed + 1000);
    check_that_attributes_change_with_everything(&run);
    check_log(&run);
    let tids: Vec<Tid> = run.states.iter().map(|(tid, _)| *tid).chain(run.between.iter().copied()).collect();
    for tid in &run.between {
        assert_eq!(told(&tree(&run.world.past(), ROOT, *tid)), told(run.at(*tid)), "nothing of it is seen as of {tid}");
    }
    let paths: Vec<Vec<u8>> = run
        .states
        .iter()
        .flat_map(|(_, tree)| tree.keys().filter(|path| !path.is_empty()).cloned())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    for _ in 0..30 {
        let (a, b) = (*dice.pick(&tids), *dice.pick(&tids));
        check_diff(&run, a, b);
        let path = dice.pick(&paths);
        check_diff_below(&run, a, b, path);
    }
    let directories = run.states.iter().flat_map(|(_, tree)| tree.values());
    let directories = directories.filter(|look| look.attr.firm.kind == Kind::Directory && look.object != ROOT);
    let directories: Vec<ObjectId> = directories.map(|look| look.object).collect::<BTreeSet<_>>().into_iter().collect();
    for _ in 0..5.min(directories.len()) {
        check_log_below(&run, *dice.pick(&directories));
    }
    for path in &paths {
        for at in [run.world.tid(), *dice.pick(&tids)] {
            match find(&run.world.past(), V, path, at) {
                Ok(_) => check_history(&run, path, at),
                Err(HistoryError::NeverThere { .. }) => {
                    let ever = run.states.iter().any(|(tid, tree)| *tid <= at && tree.contains_key(path));
                    assert!(!ever, "{} was there", path.escape_ascii());
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn random_pasts_are_told_as_they_were() {
    (0..40).for_each(|seed| check(seed, 60));
}
