//! Folders in memory: streams go in, states come out; files are damaged, processes die.

use gavel_backup::head::{FolderHead, Protection};
use gavel_backup::keep::Keep;
use gavel_backup::memory::MemoryFolder;
use gavel_backup::prune::prune;
use gavel_backup::verify::verify;
use gavel_backup::view::BackupView;
use gavel_backup::{Backup, BackupError, Creator, Keys, Kind, Name, Repository};
use gavel_mirror::{Decoder, Encoder, Frame, Header, Row, StepHead, Totals};
use gavel_types::{BlobId, Class, ClusterId, Key, MirrorSource, ObjectId, Selection, Tid, Timestamp, VolumeId};
use gavel_wire::{Attr, Content, Dirent, Extent, Firm, Record};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const SOURCE: MirrorSource = MirrorSource { cluster: ClusterId([7; 16]), volume: VolumeId(3), made: Tid(5) };
type State = BTreeMap<Key, Record>;

fn keys(sealed: bool) -> Option<Keys> {
    sealed.then(|| Keys::new(&[9; 32], &[1; 16]))
}

fn begin(folder: MemoryFolder, sealed: bool) -> Repository<MemoryFolder> {
    let keys = keys(sealed);
    let protection = keys.as_ref().map_or(Protection::None, |keys| Protection::KeyFile { check: keys.check() });
    Repository::begin(folder, &FolderHead { id: [1; 16], protection }, keys).expect("a folder is begun")
}

fn attr(kind: gavel_wire::Kind, size: u64) -> Record {
    let firm = Firm {
        kind,
        mode: 0o644,
        uid: 1,
        gid: 2,
        rdev: 0,
        parent: ObjectId::ROOT,
        birth: Timestamp::default(),
        class: Class::VOLUME,
    };
    let time = Timestamp { secs: size as i64, nanos: 1 };
    Record::Attr(Attr { firm, nlink: 1, size, allocated: size, atime: time, mtime: time, ctime: time })
}

fn blob(number: u64) -> Vec<u8> {
    number.to_be_bytes().repeat(4096)
}

/// A file of one blob: its rows.
fn file(object: u64, content: u64) -> Vec<(Key, Record)> {
    let (volume, id, bytes) = (SOURCE.volume, ObjectId(object), blob(content));
    let len = bytes.len() as u64;
    let content = Content::Blob { id: BlobId::of(&bytes), blob_len: len as u32, offset: 0 };
    let dirent = Record::Dirent(Dirent { object: id, kind: gavel_wire::Kind::File });
    vec![
        (Key::attr(volume, id), attr(gavel_wire::Kind::File, len)),
        (Key::extent(volume, id, len), Record::Extent(Extent { len, content })),
        (Key::xattr(volume, id, b"user.colour"), Record::Xattr(object.to_be_bytes().into())),
        (Key::dirent(volume, ObjectId::ROOT, format!("secret name {object}").as_bytes()), dirent),
    ]
}

/// The state with these files.
fn state(files: &BTreeMap<u64, u64>) -> State {
    let root = (Key::attr(SOURCE.volume, ObjectId::ROOT), attr(gavel_wire::Kind::Directory, files.len() as u64));
    files.iter().flat_map(|(object, content)| file(*object, *content)).chain([root]).collect()
}

/// The stream from one state to another, as the sender makes it.
fn stream(from: (Tid, &State), to: (Tid, &State)) -> Vec<Frame> {
    let (name, partial, selection) = ("main".into(), None, Selection::default());
    let header = Header { source: SOURCE, name, from: from.0, partial, to: Some(to.0), selection };
    let mut objects: BTreeMap<ObjectId, Vec<Row>> = BTreeMap::new();
    let keys: BTreeSet<&Key> = from.1.keys().chain(to.1.keys()).collect();
    for key in keys {
        let (old, new) = (from.1.get(key), to.1.get(key));
        if old != new {
            objects.entry(key.object()).or_default().push(Row { key: key.clone(), record: new.cloned() });
        }
    }
    let named: BTreeSet<BlobId> = from.1.values().filter_map(Record::blob).collect();
    let (mut frames, mut totals) = (vec![Frame::Header(header)], Totals::default());
    frames.push(Frame::Step(StepHead { from: from.0, to: to.0, single: false, author: None }));
    for (object, mut rows) in objects {
        let key = Key::attr(SOURCE.volume, object);
        rows.retain(|row| row.key != key);
        match (from.1.get(&key), to.1.get(&key)) {
            (_, Some(new)) => rows.insert(0, Row { key, record: Some(new.clone()) }),
            (Some(old), None) => {
                rows.insert(0, Row { key: key.clone(), record: Some(old.clone()) });
                rows.push(Row { key, record: None });
            }
            (None, None) => {}
        }
        for id in rows.iter().filter_map(|row| row.record.as_ref()?.blob()).filter(|id| !named.contains(id)) {
            let bytes = (0..1000).map(blob).find(|bytes| BlobId::of(bytes) == id).expect("a blob of ours");
            totals.blobs += 1;
            frames.push(Frame::Blob(bytes));
        }
        totals.rows += rows.len() as u64;
        frames.push(Frame::Rows(rows));
    }
    frames.extend([Frame::StepEnd(totals), Frame::End(to.0)]);
    if totals.rows == 0 {
        frames.drain(1..3);
    }
    // What a stream may not be is not tested with.
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
    frames.iter().for_each(|frame| decoder.push(&encoder.write(frame)));
    std::iter::from_fn(|| decoder.read().expect("the stream is in order")).collect()
}

/// Adds a backup of a state.
fn add(
    repository: &Repository<MemoryFolder>,
    base: Option<(&Backup, &State)>,
    to: (Tid, &State),
) -> Result<Backup, BackupError> {
    let nothing = State::new();
    let from = base.map_or((Tid::ZERO, &nothing), |(base, state)| (base.tid, state));
    let mut creator = Creator::new(repository, base.map(|(base, _)| base.clone()));
    stream(from, to).into_iter().try_for_each(|frame| creator.take(frame))?;
    creator.finish(99)
}

/// The rows of a backup, as a stream for a mirror has them; all blobs are there.
fn rows(repository: &Repository<MemoryFolder>, tid: Tid) -> State {
    let backup = repository.backup(tid).expect("the backup is there");
    let (mut state, mut blobs, mut decoder, mut encoder) =
        (State::new(), BTreeSet::new(), Decoder::new(), Encoder::new());
    let sent = gavel_backup::send::send(repository, &backup, |frame| {
        decoder.push(&encoder.write(&frame));
        Ok::<(), BackupError>(())
    });
    sent.expect("the backup is sent");
    while let Some(frame) = decoder.read().expect("a stream") {
        match frame {
            Frame::Blob(bytes) => drop(blobs.insert(BlobId::of(&bytes))),
            Frame::Rows(rows) => state.extend(rows.into_iter().filter_map(|row| Some((row.key, row.record?)))),
            _ => {}
        }
    }
    assert!(decoder.finish().is_ok() && state.values().filter_map(Record::blob).all(|id| blobs.contains(&id)));
    state
}

fn is_good(repository: &Repository<MemoryFolder>) -> bool {
    verify(repository, &mut |_| {}).expect("damage is told, not an error").is_good()
}

/// States, each by its files: what they are, by their content.
fn histories() -> impl Strategy<Value = Vec<BTreeMap<u64, u64>>> {
    prop::collection::vec(prop::collection::btree_map(16u64..60, 0u64..40, 0..20), 1..6)
}

fn tid(number: usize) -> Tid {
    Tid(1000 + number as u64 * 10)
}

/// A folder with a backup of each state.
fn filled(sealed: bool, history: &[BTreeMap<u64, u64>]) -> (Repository<MemoryFolder>, Vec<State>) {
    let repository = begin(MemoryFolder::default(), sealed);
    let states: Vec<State> = history.iter().map(state).collect();
    let mut last: Option<Backup> = None;
    for (number, now) in states.iter().enumerate() {
        let base = last.as_ref().map(|last| (last, &states[number - 1]));
        last = Some(add(&repository, base, (tid(number), now)).expect("a backup is added"));
    }
    (repository, states)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn each_backup_is_what_the_volume_was(history in histories(), sealed: bool) {
        let (repository, states) = filled(sealed, &history);
        for (number, state) in states.iter().enumerate() {
            prop_assert_eq!(&rows(&repository, tid(number)), state);
            let counts = repository.backup(tid(number)).unwrap().counts;
            prop_assert_eq!((counts.files, counts.rows), (history[number].len() as u64, state.len() as u64));
            prop_assert_eq!(counts.bytes, 32768 * counts.files);
        }
        let verified = verify(&repository, &mut |_| {}).unwrap();
        prop_assert!(verified.is_good(), "{verified:?}");
        // A whole copy of what is there adds nothing but the backup itself.
        let before = repository.new_files().files;
        let last = states.len() - 1;
        add(&repository, None, (tid(last + 1), &states[last])).unwrap();
        prop_assert_eq!(repository.new_files().files, before);
    }

    #[test]
    fn what_is_pruned_leaves_the_others_whole(history in histories(), kept in 1usize..4, sealed: bool) {
        let (repository, states) = filled(sealed, &history);
        let tids = repository.tids().unwrap();
        let keep = Keep::Last(kept).of(&tids);
        let rehearsed = prune(&repository, &keep, true).unwrap();
        prop_assert_eq!(repository.tids().unwrap(), tids);
        let pruned = prune(&repository, &keep, false).unwrap();
        prop_assert_eq!(&rehearsed, &pruned);
        for (number, state) in states.iter().enumerate().filter(|(number, _)| keep.contains(&tid(*number))) {
            prop_assert_eq!(&rows(&repository, tid(number)), state);
        }
        prop_assert!(is_good(&repository));
        // Just what they need is left.
        let fresh = begin(MemoryFolder::default(), sealed);
        for (number, state) in states.iter().enumerate().filter(|(number, _)| keep.contains(&tid(*number))) {
            add(&fresh, None, (tid(number), state)).unwrap();
        }
        // A branch that names one node only was stored, and is no root.
        prune(&fresh, &keep, false).unwrap();
        let left = |repository: &Repository<MemoryFolder>| -> Vec<Name> {
            repository.folder().files().into_keys().filter(|name| name.kind() != Kind::Folder).collect()
        };
        prop_assert_eq!(left(&repository), left(&fresh));
        prop_assert_eq!(prune(&repository, &keep, false).unwrap().files, 0);
    }

    #[test]
    fn bytes_of_anybody_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = FolderHead::from_content(&bytes);
        let _ = Backup::from_content(Tid(1), &bytes);
        prop_assert!(gavel_backup::file::from_bytes(Name::Blob([0; 32]), None, &bytes).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn killed_at_any_moment_it_leaves_whole_backups(
        history in histories(), changes in 0u64..14, survives in prop::collection::vec(any::<bool>(), 64), pruning: bool,
    ) {
        let (repository, states) = filled(false, &history);
        let (before, last) = (repository.tids().unwrap(), states.len() - 1);
        let next = state(&BTreeMap::from([(16, 1), (17, 41), (18, 42)]));
        let keep = Keep::Last(1).of(&before);
        repository.folder().die_after(changes);
        let done = if pruning {
            prune(&repository, &keep, false).is_ok()
        } else {
            let base = repository.backup(tid(last)).unwrap();
            add(&repository, Some((&base, &states[last])), (tid(last + 1), &next)).is_ok()
        };
        // What was not durable when the machine died is there or not, whatever came first.
        let mut chances = survives.iter().cycle().copied();
        let folder = repository.folder().crashed(|| done || chances.next().unwrap_or_default());
        let again = Repository::open(folder, None).unwrap();
        let after = again.tids().unwrap();
        let wanted: Vec<Tid> = if pruning { keep.into_iter().collect() } else { before.iter().copied().chain([tid(last + 1)]).collect() };
        prop_assert!(after == wanted || !done && (pruning || after == before), "{before:?} became {after:?}");
        prop_assert!(after.iter().all(|tid| before.contains(tid) || wanted.contains(tid)) && after.contains(&tid(last)));
        prop_assert!(is_good(&again));
        let base = again.backup(tid(last)).unwrap();
        add(&again, Some((&base, &states[last])), (tid(last + 2), &next)).unwrap();
        prop_assert_eq!(rows(&again, tid(last + 2)), next);
        prune(&again, &BTreeSet::from([tid(last + 2)]), false).unwrap();
        prop_assert!(is_good(&again));
    }
}

fn three() -> (Vec<BTreeMap<u64, u64>>, Vec<Tid>) {
    let history = vec![
        BTreeMap::from([(16, 1), (17, 2), (18, 3)]),
        BTreeMap::from([(16, 1), (17, 4), (19, 5)]),
        BTreeMap::from([(16, 6), (17, 4)]),
    ];
    (history, vec![tid(0), tid(1), tid(2)])
}

#[test]
fn each_flipped_bit_and_each_missing_file_is_found_with_the_backups_that_it_spoils() {
    for sealed in [false, true] {
        let (history, tids) = three();
        let (repository, states) = filled(sealed, &history);
        for (name, bytes) in repository.folder().files() {
            let uses = |number: &usize| -> bool {
                match name {
                    Name::Backup(tid) => tid == tids[*number],
                    Name::Blob(_) => {
                        states[*number].values().filter_map(Record::blob).any(|id| repository.blob(id) == name)
                    }
                    Name::Node(_) => repository
                        .backup(tids[*number])
                        .unwrap()
                        .root
                        .is_some_and(|root| repository.node(&root) == name),
                    Name::Folder => true,
                }
            };
            let spoiled: Vec<Tid> = (0..3).filter(uses).map(|number| tids[number]).collect();
            assert!(!spoiled.is_empty(), "nobody needs {name}");
            let step = (bytes.len() / 40).max(1);
            let flipped = (0..bytes.len()).step_by(step).map(|at| {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << (at % 8);
                Some(flipped)
            });
            let cut = (0..bytes.len()).step_by(step).map(|len| Some(bytes[..len].to_vec()));
            for damaged in flipped.chain(cut).chain([None, Some([&bytes[..], b"x"].concat())]) {
                repository.folder().put(name, damaged.clone());
                if name == Name::Folder {
                    assert!(Repository::open(repository.folder().clone(), keys(sealed)).is_err());
                } else if damaged.is_some() || name.kind() != Kind::Backup {
                    let verified = verify(&repository, &mut |_| {}).expect("damage is told, not an error");
                    let found = verified.damaged.get(&name).unwrap_or_else(|| panic!("{name} is taken for good"));
                    assert_eq!((&found.backups, verified.damaged.len()), (&spoiled, 1), "{name}");
                }
                repository.folder().put(name, Some(bytes.clone()));
            }
        }
    }
}

#[test]
fn another_files_content_under_a_name_is_found() {
    for sealed in [false, true] {
        let (repository, _) = filled(sealed, &three().0);
        let blobs: Vec<_> =
            repository.folder().files().into_iter().filter(|(name, _)| name.kind() == Kind::Blob).collect();
        repository.folder().put(blobs[0].0, Some(blobs[1].1.clone()));
        assert_eq!(verify(&repository, &mut |_| {}).unwrap().damaged.len(), 1);
    }
}

#[test]
fn a_whole_copy_heals_what_the_volume_still_has() {
    let (history, tids) = three();
    let (repository, states) = filled(false, &history);
    let files = repository.folder().files();
    for (name, bytes) in files.iter().filter(|(name, _)| !matches!(name.kind(), Kind::Folder | Kind::Backup)) {
        repository.folder().put(*name, Some(bytes[..bytes.len() - 1].to_vec()));
    }
    assert_eq!(verify(&repository, &mut |_| {}).unwrap().spoiled().len(), 3);
    add(&repository, None, (tids[2], &states[2])).unwrap();
    assert_eq!(verify(&repository, &mut |_| {}).unwrap().spoiled().into_iter().collect::<Vec<_>>(), tids[..2]);
    assert_eq!(rows(&repository, tids[2]), states[2]);
}

#[test]
fn what_the_source_takes_to_be_there_and_is_not_is_found_when_a_backup_is_made() {
    let repository = begin(MemoryFolder::default(), false);
    let first = state(&BTreeMap::from([(16, 1), (17, 2)]));
    let base = add(&repository, None, (tid(0), &first)).unwrap();
    let gone = repository.blob(BlobId::of(&blob(1)));
    repository.folder().put(gone, None);
    // Another file of the same bytes: they are not sent again.
    let second = state(&BTreeMap::from([(16, 1), (17, 2), (18, 1)]));
    let made = add(&repository, Some((&base, &first)), (tid(1), &second));
    assert!(matches!(made, Err(BackupError::Incomplete { file }) if file == gone), "{made:?}");
    assert_eq!(repository.tids().unwrap(), [tid(0)]);
}

#[test]
fn nothing_is_removed_if_a_backup_that_stays_is_damaged() {
    let (history, tids) = three();
    let (repository, _) = filled(false, &history);
    let root = repository.backup(tids[2]).unwrap().root.unwrap();
    repository.folder().put(repository.node(&root), None);
    let files = repository.folder().files();
    let pruned = prune(&repository, &Keep::Last(1).of(&tids), false);
    assert!(matches!(pruned, Err(BackupError::Missing(_))), "{pruned:?}");
    assert_eq!(repository.folder().files(), files);
    prune(&repository, &BTreeSet::from([tids[1]]), false).expect("the damaged one goes");
    assert!(is_good(&repository));
}

#[test]
fn without_the_key_nothing_is_read_and_no_name_shows() {
    let (repository, states) = filled(true, &three().0);
    let folder = repository.folder().clone();
    let open = |keys| Repository::open(folder.clone(), keys).map(drop);
    assert!(matches!(open(None), Err(BackupError::NeedsKey(_))));
    assert!(matches!(open(Some(Keys::new(&[8; 32], &[1; 16]))), Err(BackupError::WrongKey)));
    assert!(open(keys(true)).is_ok());
    let plain = begin(MemoryFolder::default(), false).folder().clone();
    assert!(matches!(Repository::open(plain, keys(true)).map(drop), Err(BackupError::NotEncrypted)));
    let shows =
        |text: &[u8]| folder.files().values().any(|bytes| bytes.windows(text.len()).any(|window| window == text));
    let hash = states[0].values().find_map(Record::blob).expect("a blob").0;
    for text in [&b"secret name"[..], b"main", b"user.colour", &blob(1)[..64], &hash, &SOURCE.cluster.0] {
        assert!(!shows(text), "{}", text.escape_ascii());
    }
    assert!(shows(b"GAVELBAK"));
    assert!(!folder.files().contains_key(&Name::Blob(hash)));
}

#[test]
fn files_and_directories_are_found_by_their_names() {
    let (repository, _) = filled(true, &three().0);
    let backup = repository.backup(tid(1)).unwrap();
    let view = BackupView::new(&repository, &backup);
    let names: BTreeSet<Vec<u8>> =
        view.entries(ObjectId::ROOT, None).unwrap().into_iter().map(|entry| entry.name).collect();
    let wanted = [16, 17, 19].map(|object| format!("secret name {object}").into_bytes());
    assert_eq!(names, BTreeSet::from(wanted));
    let found = view.lookup(ObjectId::ROOT, b"secret name 19").unwrap().expect("it is there");
    assert_eq!(found.object, ObjectId(19));
    assert_eq!(view.lookup(ObjectId::ROOT, b"secret name 18").unwrap(), None);
    let mut extents = Vec::new();
    view.extents(found.object, |start, extent| {
        extents.push((start, extent.len));
        Ok::<(), BackupError>(())
    })
    .unwrap();
    assert_eq!(extents, [(0, 32768)]);
}
