use super::*;
use crate::disk::SimDisk;
use proptest::prelude::*;

fn spots(count: u64) -> BTreeMap<BlobId, Spot> {
    let spot = |number: u64| Spot { offset: 512 + 128 * number, length: number as u32 };
    (0..count).map(|number| (BlobId::of(&number.to_le_bytes()), spot(number))).collect()
}

fn contents(spots: &BTreeMap<BlobId, Spot>) -> Contents<'_> {
    Contents { sequence: 5, data_end: 99_968, lost_bytes: 3, fill_bytes: 7, spots }
}

/// If this fails, the format has changed: give it a new `VERSION`; indexes of the old one are made anew.
#[test]
fn golden_bytes_of_an_index() {
    let spots = spots(2);
    let (bytes, _) = encode(&contents(&spots));
    assert_eq!(bytes.len(), 2 * BLOCK_BYTES);
    assert_eq!(VERSION, 2);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let all = BlobId::of(&bytes).to_string();
    let (header, entry) = (hex(&bytes[..72]), hex(&bytes[BLOCK_BYTES..BLOCK_BYTES + ENTRY_BYTES]));
    let golden_header = "474156454c4249580200000000020000\
                         05000000000000008086010000000000\
                         02000000000000000100000000000000\
                         030000000000000039058774389aee2c\
                         0700000000000000";
    assert_eq!(header, golden_header);
    let golden_entry = "1a0d12016999e47689dae5744d2b8c19\
                        03faf7ca2886a658150083100ef2c8ee\
                        80020000000000000100000000000000";
    assert_eq!(entry, golden_entry);
    assert_eq!(all, "43b0503b4aa6447e7fde954c5a1520d520067982fe336bdde8c34002d591f0f4");
}

#[test]
fn an_index_finds_what_it_lists_and_little_else() {
    let disk = SimDisk::new(1).mount().unwrap();
    let spots = spots(3000);
    let written = write(&disk, &contents(&spots)).unwrap();
    let loaded = load(&disk, 5).unwrap().unwrap();
    let handles = Handles::default();
    for sealed in [&written, &loaded] {
        for (id, spot) in &spots {
            assert!(sealed.may_have(*id));
            assert_eq!(sealed.find(&disk, &handles, *id).unwrap(), Some(*spot));
        }
        let others: Vec<BlobId> = (0..20_000u32).map(|number| BlobId::of(&number.to_be_bytes()[1..])).collect();
        let passed = others.iter().filter(|id| sealed.may_have(**id)).count();
        assert!(passed < 20_000 / 100, "{passed} of 20000 misses would read the index");
        assert!(others.iter().all(|id| sealed.find(&disk, &handles, *id).unwrap().is_none()));
        let memory_bits = 64 * (sealed.fences.len() + sealed.filter.len());
        assert!(memory_bits <= INDEX_MEMORY_BITS_MAX * spots.len(), "{memory_bits}");
    }
    assert_eq!((loaded.entries, loaded.data_end, loaded.lost_bytes), (3000, 99_968, 3));
}

#[test]
fn names_that_share_their_first_64_bits_are_found_across_blocks() {
    let disk = SimDisk::new(1).mount().unwrap();
    let id = |number: u16| {
        let mut bytes = [7; 32];
        bytes[30..].copy_from_slice(&number.to_be_bytes());
        BlobId(bytes)
    };
    let spots = (0..400u16).map(|number| (id(2 * number), Spot { offset: 512, length: u32::from(number) })).collect();
    let sealed = write(&disk, &contents(&spots)).unwrap();
    let handles = Handles::default();
    for number in 0..800 {
        let expected = number % 2 == 0;
        assert_eq!(sealed.find(&disk, &handles, id(number)).unwrap().is_some(), expected, "{number}");
    }
}

#[test]
fn an_index_of_no_blobs_has_none() {
    let disk = SimDisk::new(1).mount().unwrap();
    let spots = BTreeMap::new();
    let sealed = write(&disk, &contents(&spots)).unwrap();
    assert!(!sealed.may_have(BlobId::of(b"x")));
    assert_eq!(sealed.find(&disk, &Handles::default(), BlobId::of(b"x")).unwrap(), None);
    assert_eq!(load(&disk, 5).unwrap().unwrap().entries, 0);
}

proptest! {
    #[test]
    fn decoders_take_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..5000), count: u32) {
        let mut header = [0; HEADER_BYTES];
        header[..bytes.len().min(HEADER_BYTES)].copy_from_slice(&bytes[..bytes.len().min(HEADER_BYTES)]);
        let _ = Header::decode(&header);
        // With good checksums too: what a checksum covers is still not trusted.
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let sum = crc_fast::crc64_nvme(&header[..HEADER_SUM_AT]);
        header[HEADER_SUM_AT..].copy_from_slice(&sum.to_le_bytes());
        let _ = Header::decode(&header);
        let mut block = [0; BLOCK_BYTES];
        block[..bytes.len().min(BLOCK_BYTES)].copy_from_slice(&bytes[..bytes.len().min(BLOCK_BYTES)]);
        block[BLOCK_BYTES - 16..BLOCK_BYTES - 12].copy_from_slice(&count.to_le_bytes());
        let sum = block_sum(&block, 1, 2);
        block[BLOCK_BYTES - 8..].copy_from_slice(&sum.to_le_bytes());
        let _ = decode_block(&block, 1, 2);
    }

    #[test]
    fn any_bytes_as_an_index_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let disk = SimDisk::new(1);
        disk.tamper(&index_name(5), Some(&bytes));
        prop_assert!(load(&disk.mount().unwrap(), 5).unwrap().is_none());
    }
}
