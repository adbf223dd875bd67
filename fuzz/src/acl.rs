//! Access control lists, as programs hand them in.

use gavel_fs::acl::Acl;

/// Parses `bytes`, and goes through what is done with lists.
///
/// # Panics
/// If something panics, or a list that was accepted does not survive being written and read again.
pub fn run(bytes: &[u8]) -> bool {
    let Ok(parsed) = Acl::parse(bytes) else { return false };
    if let Some(acl) = parsed {
        let again = Acl::parse(&acl.encode());
        assert_eq!(again, Ok(Some(acl.clone())));
        let _ = acl.is_equivalent_to_mode();
        let (granted, _) = acl.inherit(0o6777);
        assert_eq!(granted & !0o7777, 0);
        assert_eq!(acl.with_mode(0o640).mode_bits(), 0o640);
    }
    true
}

/// No list, one that says what a mode says, and one with everything.
pub fn seeds() -> Vec<Vec<u8>> {
    const NOBODY: u32 = u32::MAX;
    let plain: &[(u16, u16, u32)] = &[(0x01, 7, NOBODY), (0x04, 5, NOBODY), (0x20, 4, NOBODY)];
    let full: &[(u16, u16, u32)] = &[
        (0x01, 7, NOBODY),
        (0x02, 6, 1000),
        (0x02, 0, 1001),
        (0x04, 5, NOBODY),
        (0x08, 4, 100),
        (0x10, 7, NOBODY),
        (0x20, 0, NOBODY),
    ];
    [&[], plain, full].map(list).into()
}

fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}
