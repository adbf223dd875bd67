//! Contents that leave memory while a transaction goes on are the same contents.

use super::*;
use crate::transaction::spill::SPILL_FROM_BYTES;

type Blobs = BTreeMap<BlobId, bytes::Bytes>;

fn bytes_of(view: &dyn View, object: ObjectId, blobs: &Blobs) -> Vec<u8> {
    let Some(Version { record: Record::Attr(attr), .. }) = view.get(&Key::attr(V, object)).unwrap() else {
        return Vec::new();
    };
    let mut bytes = vec![0; attr.size as usize];
    for (key, version) in view.scan(&KeyRange::extents_behind(V, object, 0), usize::MAX).unwrap() {
        let (KeyParts::Extent { end }, Record::Extent(extent)) = (key.parts(), version.record) else { continue };
        let content = match &extent.content {
            Content::Inline(inline) => inline.to_vec(),
            Content::Zeros => vec![0; extent.len as usize],
            Content::Blob { id, blob_len, offset } => {
                assert_eq!(blobs[id].len(), *blob_len as usize);
                blobs[id][*offset as usize..*offset as usize + extent.len as usize].to_vec()
            }
        };
        for (at, byte) in ((end - extent.len)..).zip(content) {
            // Room may be reserved behind the end.
            if let Some(place) = bytes.get_mut(at as usize) {
                *place = byte;
            }
        }
    }
    bytes
}

fn spill(transaction: &mut Transaction, blobs: &mut Blobs) {
    blobs.extend(transaction.spill().into_iter().map(|blob| (BlobId::of(&blob), blob)));
    assert_eq!(transaction.weighed, transaction.weigh(&[], &BTreeSet::new()));
}

#[test]
fn what_was_written_in_small_pieces_is_one_extent_of_a_blob() {
    let mut base = Base::new();
    let old = file(&mut base, "old", 20);
    let write = |object, offset, append, byte, len| TreeRequest::Write {
        object,
        offset,
        append,
        data: vec![byte; len],
        kill_suidgid: false,
    };
    base.operate(&write(old, 0, false, 1, 1000), ObjectId(21)).unwrap();
    let mut transaction = Transaction::new(V, base.tid);
    created(&mut transaction, &base, "new", 30);
    created(&mut transaction, &base, "tiny", 31);
    let (new, tiny) = (ObjectId(30), ObjectId(31));
    for byte in 0..200 {
        run(&mut transaction, &base, &write(new, 0, true, byte, 1000), ObjectId(40)).unwrap();
    }
    run(&mut transaction, &base, &write(tiny, 0, true, 9, 10), ObjectId(40)).unwrap();
    for offset in [100, 300, 500] {
        run(&mut transaction, &base, &write(old, offset, false, 2, 100), ObjectId(40)).unwrap();
    }
    let mut blobs = Blobs::new();
    let all = |transaction: &Transaction, blobs: &Blobs| {
        let view = Layered::new(&base, transaction.layer().clone());
        [new, tiny, old].map(|object| bytes_of(&view, object, blobs))
    };
    let before = all(&transaction, &blobs);
    let (changes, made_bytes) = (transaction.changes(), transaction.made_bytes());
    assert!(transaction.spill_if_due().is_empty(), "so few bytes stay where they are");
    spill(&mut transaction, &mut blobs);
    assert_eq!(all(&transaction, &blobs), before);
    let view = Layered::new(&base, transaction.layer().clone());
    assert_eq!(view.scan(&KeyRange::extents_behind(V, new, 0), 1000).unwrap().len(), 1, "200 pieces side by side");
    assert_eq!((transaction.inline_bytes(), changes - transaction.changes()), (10, 199), "ten bytes are not worth it");
    assert!(transaction.made_bytes() < made_bytes - 199 * 100);
    // It goes on, and is committed.
    run(&mut transaction, &base, &write(new, 500, false, 3, 2000), ObjectId(40)).unwrap();
    spill(&mut transaction, &mut blobs);
    let (last, folded) = (all(&transaction, &blobs), transaction.fold(&base).unwrap());
    let mut after = base.clone();
    after.commit(&folded.plan);
    assert_eq!([new, tiny, old].map(|object| bytes_of(&after, object, &blobs)), last);
}

#[test]
fn many_bytes_in_small_pieces_do_not_fill_a_transaction() {
    let base = Base::new();
    let mut transaction = Transaction::new(V, base.tid);
    created(&mut transaction, &base, "large", 30);
    let object = ObjectId(30);
    let (mut blobs, mut stored) = (0, 0);
    for number in 0..6 * 1024u64 {
        let data = number.to_le_bytes().repeat(2 * 1024);
        let write = TreeRequest::Write { object, offset: 0, append: true, data, kill_suidgid: false };
        run(&mut transaction, &base, &write, ObjectId(40)).unwrap();
        for blob in transaction.spill_if_due() {
            blobs += 1;
            stored += blob.len();
        }
        assert!(transaction.inline_bytes() <= SPILL_FROM_BYTES);
    }
    assert_eq!((blobs, stored), (96, 96 * 1024 * 1024), "96 MiB; 64 MiB is what memory may hold of them");
    assert!(transaction.changes() < 200, "{}", transaction.changes());
}

#[test]
fn random_writes_show_the_same_whether_they_are_spilled_or_not() {
    for seed in 0..40 {
        let mut dice = Dice(seed + 1);
        let mut base = Base::new();
        let objects = [file(&mut base, "old", 20), ObjectId(30), ObjectId(31)];
        let first = TreeRequest::Write {
            object: objects[0],
            offset: 0,
            append: false,
            data: vec![7; 900],
            kill_suidgid: false,
        };
        base.operate(&first, ObjectId(21)).unwrap();
        let mut plain = Transaction::new(V, base.tid);
        created(&mut plain, &base, "a", 30);
        created(&mut plain, &base, "b", 31);
        let (mut spilling, mut blobs) = (plain.clone(), Blobs::new());
        for _ in 0..60 {
            let object = objects[dice.roll(3) as usize];
            let (offset, len) = (dice.roll(2000), 1 + dice.roll(300));
            let request = match dice.roll(6) {
                0 => {
                    let set = SetAttr { size: Some(offset), ..SetAttr::default() };
                    TreeRequest::Operation(Operation::Setattr { object, set })
                }
                1 => TreeRequest::Operation(Operation::Fallocate { object, offset, len, how: Allocate::PunchHole }),
                how => {
                    let data = vec![dice.roll(250) as u8; len as usize];
                    TreeRequest::Write { object, offset, append: how < 4, data, kill_suidgid: false }
                }
            };
            let did = [&mut plain, &mut spilling].map(|one| run(one, &base, &request, ObjectId(40)));
            assert_eq!(did[0], did[1], "{request:?}");
            if dice.roll(5) == 0 {
                spill(&mut spilling, &mut blobs);
            }
            let [a, b] = [&plain, &spilling].map(|one| {
                let view = Layered::new(&base, one.layer().clone());
                objects.map(|object| bytes_of(&view, object, &blobs))
            });
            assert!(a == b, "seed {seed}: {request:?}");
        }
        let [a, b] = [&plain, &spilling].map(|one| {
            let mut after = base.clone();
            after.commit(&one.fold(&base).unwrap().plan);
            objects.map(|object| bytes_of(&after, object, &blobs))
        });
        assert!(a == b, "seed {seed}: committed");
    }
}
