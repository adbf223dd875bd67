//! Files of folders of backups. Their checksums and names are good, so that what lies behind must stand arbitrary values as well.

use gavel_backup::head::{FolderHead, Protection};
use gavel_backup::memory::MemoryFolder;
use gavel_backup::prune::prune;
use gavel_backup::tree::node::Node;
use gavel_backup::tree::{Builder, Changes, VOLUME, change, record_bytes, row_key};
use gavel_backup::verify::verify;
use gavel_backup::view::BackupView;
use gavel_backup::{Backup, BackupError, Counts, Kind, Name, New, Repository, file};
use gavel_types::{ClusterId, Key, MirrorSource, ObjectId, Tid, VolumeId};
use gavel_wire::{Dirent, Record};
use std::collections::BTreeSet;

const FILE: u8 = 0;
const FOLDER: u8 = 1;
const BACKUP: u8 = 2;
const NODE: u8 = 3;
const TID: Tid = Tid(7);

/// Reads what is behind the first byte as what that says: a whole file, or the content of one.
///
/// # Panics
/// If something panics, or a backup that was accepted is not written as it was read.
pub fn run(bytes: &[u8]) -> bool {
    let Some((kind, bytes)) = bytes.split_first() else { return false };
    match kind % 4 {
        FILE => file::from_bytes(Name::Backup(TID), None, bytes).is_ok(),
        FOLDER => FolderHead::from_content(bytes).is_ok(),
        BACKUP => match Backup::from_content(TID, bytes) {
            Ok(backup) => {
                let again = Backup::from_content(TID, &backup.to_content());
                assert!(again.is_ok_and(|again| again == backup), "it is read as something else");
                true
            }
            Err(_) => false,
        },
        _ => node(bytes),
    }
}

/// A folder with one backup, whose root is this.
fn node(bytes: &[u8]) -> bool {
    if bytes.len() > file::CONTENT_BYTES_MAX {
        return false;
    }
    let repository = folder();
    let root = repository.store(Kind::Node, bytes, false).expect("a folder in memory takes everything");
    let backup = Backup { root: Some(root), ..backup() };
    repository.add(&backup).expect("a folder in memory takes everything");
    let is_good = verify(&repository, &mut |_| {}).expect("damage is told, not an error").is_good();
    let _ = prune(&repository, &BTreeSet::from([TID]), true);
    let view = BackupView::new(&repository, &backup);
    let _ = view.entries(ObjectId::ROOT, None);
    let _ = view.extents(ObjectId(16), |_, _| Ok::<(), BackupError>(()));
    let _ = view.xattrs(ObjectId(16), |_, _| Ok::<(), BackupError>(()));
    let changes = Changes::from([(row_key(&Key::target(VOLUME, ObjectId(20))), None)]);
    let _ = change(&repository, (Some(root), Counts::default()), changes, false);
    is_good && Node::from_bytes(bytes).is_ok()
}

fn folder() -> Repository<MemoryFolder> {
    let head = FolderHead { id: [0; 16], protection: Protection::None };
    Repository::begin(MemoryFolder::default(), &head, None).expect("a folder in memory takes everything")
}

fn backup() -> Backup {
    Backup {
        source: MirrorSource { cluster: ClusterId([1; 16]), volume: VolumeId(3), made: Tid(5) },
        name: "main".into(),
        tid: TID,
        base: Tid(6),
        root: None,
        counts: Counts { files: 1, rows: 2, ..Counts::default() },
        new: New { rows: 1, files: 2, bytes: 3 },
        made_ns: 9,
        selection: gavel_types::Selection::default(),
    }
}

/// One of each.
pub fn seeds() -> Vec<Vec<u8>> {
    let repository = folder();
    let mut builder = Builder::new(&repository, false);
    let dirent = Record::Dirent(Dirent { object: ObjectId(16), kind: gavel_wire::Kind::File });
    let rows = [
        (Key::dirent(VOLUME, ObjectId::ROOT, b"name"), dirent),
        (Key::xattr(VOLUME, ObjectId(16), b"user.a"), Record::Xattr(b"value"[..].into())),
        (Key::target(VOLUME, ObjectId(20)), Record::Target(b"target"[..].into())),
    ];
    for (key, record) in rows {
        builder.row(&row_key(&key), &record_bytes(&record)).expect("a folder in memory takes everything");
    }
    let root = builder.finish().expect("a folder in memory takes everything").expect("there are rows");
    let node = repository.read(repository.node(&root)).expect("it was stored");
    let head = [&[FOLDER][..], &[0xab; 16], &[2], &[1; 16], &[0x80, 0x80, 4, 3], &[2; 16]].concat();
    let whole = file::to_bytes(Name::Backup(TID), None, &backup().to_content());
    let seed = |kind: u8, bytes: &[u8]| [&[kind][..], bytes].concat();
    vec![head, seed(FILE, &whole), seed(BACKUP, &backup().to_content()), seed(NODE, &node)]
}
