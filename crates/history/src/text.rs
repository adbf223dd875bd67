//! Paths as text that people and programs can read.

use std::fmt::Write;

/// A path or a name as text. Bytes that are not UTF-8, control characters and backslashes are written as `\xNN`, so that no two paths look alike.
pub fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            if char == '\\' || char.is_control() {
                let mut utf8 = [0; 4];
                char.encode_utf8(&mut utf8).bytes().for_each(|byte| hex(&mut text, byte));
            } else {
                text.push(char);
            }
        }
        chunk.invalid().iter().for_each(|byte| hex(&mut text, *byte));
    }
    text
}

fn hex(text: &mut String, byte: u8) {
    let _ = write!(text, "\\x{byte:02x}");
}

/// A name behind a directory's path.
pub fn joined(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory {
        [] => name.to_vec(),
        directory => [directory, b"/", name].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_paths_look_alike() {
        assert_eq!(escaped("bücher/a b".as_bytes()), "bücher/a b");
        assert_eq!(escaped(b"a\nb\\\xff\xc3"), "a\\x0ab\\x5c\\xff\\xc3");
        assert_ne!(escaped(b"\\x0a"), escaped(b"\n"));
        assert_eq!(joined(b"", b"a"), b"a");
        assert_eq!(joined(b"a", b"b"), b"a/b");
    }
}
