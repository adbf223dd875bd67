//! Paths in addresses and in JSON: each name percent-encoded, slashes between them. Any bytes come through, and no character has a meaning of its own, neither
//! `/` nor `@`.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

/// What JavaScript's `encodeURIComponent` encodes, too, so that both sides write a name alike.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')');

/// One name.
pub fn encoded(name: &[u8]) -> String {
    percent_encode(name, ENCODED).to_string()
}

/// A path: its names, each encoded.
pub fn encoded_path(path: &[u8]) -> String {
    let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
    names.map(encoded).collect::<Vec<_>>().join("/")
}

/// The path of an encoded one; none if a name has a slash in it.
pub fn decoded_path(path: &str) -> Option<Vec<u8>> {
    let mut names = Vec::new();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let name: Vec<u8> = percent_decode_str(name).collect();
        if name.contains(&b'/') {
            return None;
        }
        names.push(name);
    }
    Some(names.join(&b'/'))
}

/// The path of one that is written as [`gavel_history::text::escaped`] writes it.
pub fn of_escaped(text: &str) -> Vec<u8> {
    let mut path = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("\\x") {
        path.extend_from_slice(before.as_bytes());
        let byte = behind.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        rest = match byte {
            Some(byte) => {
                path.push(byte);
                &behind[2..]
            }
            None => {
                path.extend_from_slice(b"\\x");
                behind
            }
        };
    }
    path.extend_from_slice(rest.as_bytes());
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_history::text::escaped;

    #[test]
    fn what_was_escaped_comes_back() {
        for path in [&b""[..], b"a/b c", b"x\\x41\\", b"\xff\n\xfe/\\", "bücher".as_bytes()] {
            assert_eq!(of_escaped(&escaped(path)), path, "{path:?}");
        }
        assert_eq!(of_escaped("\\xü\\x4"), "\\xü\\x4".as_bytes());
    }

    #[test]
    fn any_path_comes_through() {
        for path in [&b""[..], b"a", b"a/b c", b"50%/#?&", b"x@@2h/\xff\xfe", "bücher/ü".as_bytes(), b"<b>'\"/\n"] {
            assert_eq!(decoded_path(&encoded_path(path)).as_deref(), Some(path), "{path:?}");
        }
        assert_eq!(encoded_path(b"/a//b@@c/"), "a/b%40%40c");
    }

    #[test]
    fn a_slash_in_a_name_is_refused() {
        assert_eq!(decoded_path("a%2fb"), None);
        assert_eq!(decoded_path("a/%2F"), None);
    }
}
