//! The bytes of files, as docs/formats/backup.md has them. If one of these fails, the version must change.

use gavel_backup::file::{VERSION, to_bytes};
use gavel_backup::head::{FolderHead, New, Protection};
use gavel_backup::memory::MemoryFolder;
use gavel_backup::tree::{Builder, VOLUME, record_bytes, row_key};
use gavel_backup::{Backup, Counts, Keys, Kind, Name, Repository};
use gavel_types::{ClusterId, Key, MirrorSource, ObjectId, Selection, Tid, VolumeId};
use gavel_wire::Record;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn folder(protection: Protection, keys: Option<Keys>) -> Repository<MemoryFolder> {
    let head = FolderHead { id: [0xab; 16], protection };
    Repository::begin(MemoryFolder::default(), &head, keys).expect("a folder is begun")
}

fn keys() -> Keys {
    Keys::new(b"a secret of some length", &[0xab; 16])
}

fn backup() -> Backup {
    Backup {
        source: MirrorSource { cluster: ClusterId([0x11; 16]), volume: VolumeId(2), made: Tid(3) },
        name: "main".into(),
        tid: Tid(0x18c4),
        base: Tid(0x17),
        root: Some([0x22; 32]),
        counts: Counts { files: 1, directories: 2, others: 3, bytes: 400, rows: 5 },
        new: New { rows: 6, files: 7, bytes: 800 },
        made_ns: 9,
        selection: Selection::default(),
    }
}

#[test]
fn golden_bytes_of_plain_files() {
    assert_eq!(VERSION, 2);
    let repository = folder(Protection::None, None);
    repository.store(Kind::Blob, b"bytes of a file", false).expect("stored");
    repository.add(&backup()).expect("added");
    let files = repository.folder().files();
    let found: Vec<String> = files.iter().map(|(name, bytes)| format!("{name} {}", hex(bytes))).collect();
    assert_eq!(found, PLAIN);
    assert_eq!(files[&Name::Backup(Tid(0x18c4))], to_bytes(Name::Backup(Tid(0x18c4)), None, &backup().to_content()));
    assert_eq!(repository.backup(Tid(0x18c4)).expect("it is there"), backup());
}

#[test]
fn golden_bytes_of_sealed_files() {
    let keys = keys();
    let repository = folder(Protection::KeyFile { check: keys.check() }, Some(keys));
    repository.store(Kind::Blob, b"bytes of a file", false).expect("stored");
    let files = repository.folder().files();
    let found: Vec<String> = files.iter().map(|(name, bytes)| format!("{name} {}", hex(bytes))).collect();
    assert_eq!(found, SEALED);
    let phrase = Protection::Passphrase { salt: [1; 16], memory_kib: 65_536, passes: 3, check: [2; 16] };
    let head = FolderHead { id: [0; 16], protection: phrase };
    let repository = Repository::begin(MemoryFolder::default(), &head, None);
    assert!(repository.is_err(), "a folder is begun with its keys");
}

#[test]
fn golden_bytes_of_a_tree() {
    let repository = folder(Protection::None, None);
    let mut builder = Builder::new(&repository, false);
    for number in 0..3000u64 {
        let key = Key::xattr(VOLUME, ObjectId(16 + number / 4), format!("user.{number:06}").as_bytes());
        builder.row(&row_key(&key), &record_bytes(&Record::Xattr(vec![number as u8; 100].into()))).expect("a row");
    }
    let root = builder.finish().expect("a tree").expect("a root");
    let files = repository.folder().files();
    let nodes = files.iter().filter(|(name, _)| name.kind() == Kind::Node);
    let lens: Vec<usize> = nodes.map(|(_, bytes)| bytes.len()).collect();
    assert_eq!((hex(&root), lens), (TREE.0.to_owned(), TREE.1.to_vec()));
}

const PLAIN: [&str; 3] = [
    "gavel-backup 474156454c42414b020000abababababababababababababababab00192e5d4be049b8d84040be84aaee2bf2",
    "backups/00000000000018c4 474156454c42414b020100111111111111111111111111111111110203046d61696ec431170122222222222222222222222222222222222222222222222222222222222222220102039003050607a00609000067dcff7c410940f0a9444bf77bfcdd47",
    "blobs/cb/832f7d034417fd010643e5965ffa525a4140a61e5f15105deaf6e9f182e52b 474156454c42414b0203006279746573206f6620612066696c65759f50005bf1424b63f64a45374155d7",
];
const SEALED: [&str; 2] = [
    "gavel-backup 474156454c42414b020000abababababababababababababababab01313fafb6556e7d6942aedf478a92a0545290e67746a513e1c3bfd39303b06e28",
    "blobs/b2/71779b7612ebb33737fb43904b5861a3484c7016f6bd4fbcb220b6a60ba735 474156454c42414b0203016656bcc1ba35c329193838c0afaae8d1910a875046700e8183dc1ab5df184d3146a184fc71b1738a713277021ae4b29ae96f5232b340394314a31d49ad0334",
];
const TREE: (&str, &[usize]) = (
    "cb0653b6520b8a2b86891342c8a0106c28c86b10cb52cc4ac086d1710263b52b",
    &[168631, 77170, 23893, 415, 358, 18346, 98713],
);
