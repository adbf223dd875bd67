//! What a text scan understands of Rust: comments, literals, tokens with their lines, and what is compiled for tests only.
//!
//! Limits, all on the side of the writer's honesty: it expands no macros, follows no `use ... as`, `include!` or
//! `#[path]`, and sees no calls that other crates make on our behalf. `cfg(test)` counts as "tests only" when `test` must
//! hold for the item to be there (`test` alone or in `all(...)`).

/// A word or a mark of the code, and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) text: &'a str,
    /// Counted from 1.
    pub(super) line: usize,
}

/// The text with comments and the insides of literals blanked; lines and lengths stay as they are.
pub(super) fn without_comments(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match &bytes[at..] {
            [b'/', b'/', ..] => line_end(&bytes, at),
            [b'/', b'*', ..] => block_comment_end(&bytes, at),
            [b'"', ..] => string_end(&bytes, at),
            [b'r' | b'b' | b'c', ..] if !continues_a_word(&bytes, at) => match raw_string_end(&bytes, at) {
                Some(end) => end,
                None => {
                    at += 1;
                    continue;
                }
            },
            [b'\'', ..] => match char_end(&bytes, at) {
                Some(end) => end,
                None => {
                    at += 1;
                    continue;
                }
            },
            _ => {
                at += 1;
                continue;
            }
        };
        for byte in &mut bytes[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    // Each literal and comment was blanked as a whole, so no character was cut in two.
    String::from_utf8_lossy(&bytes).into_owned()
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |length| at + length)
}

fn block_comment_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0;
    while at < bytes.len() {
        match &bytes[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn continues_a_word(bytes: &[u8], at: usize) -> bool {
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
}

/// The end of `r"..."`, `br#"..."#` and the like, if that is what begins here.
fn raw_string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let prefix = bytes[start..].iter().take_while(|byte| matches!(byte, b'r' | b'b' | b'c')).count();
    let raw = bytes[start..start + prefix].contains(&b'r');
    if !raw || prefix > 2 {
        return None;
    }
    let hashes = bytes[start + prefix..].iter().take_while(|byte| **byte == b'#').count();
    let quote = start + prefix + hashes;
    if bytes.get(quote) != Some(&b'"') {
        return None;
    }
    let closing = [&b"\""[..], &vec![b'#'; hashes]].concat();
    let inside = bytes[quote + 1..].windows(closing.len()).position(|window| window == closing);
    Some(inside.map_or(bytes.len(), |length| quote + 1 + length + closing.len()))
}

/// The end of a character literal; `None` for a lifetime.
fn char_end(bytes: &[u8], start: usize) -> Option<usize> {
    let inside = *bytes.get(start + 1)?;
    if inside == b'\\' {
        let end = bytes.get(start + 3..)?.iter().position(|byte| *byte == b'\'')?;
        return Some(start + 3 + end + 1);
    }
    let length = match inside {
        0..0x80 => 1,
        0x80..0xe0 => 2,
        0xe0..0xf0 => 3,
        0xf0.. => 4,
    };
    (bytes.get(start + 1 + length) == Some(&b'\'')).then_some(start + length + 2)
}

/// The words and marks of a text without comments; `::` is one mark.
pub(super) fn tokens(text: &str) -> Vec<Token<'_>> {
    let bytes = text.as_bytes();
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || !byte.is_ascii();
    let (mut at, mut line) = (0, 1);
    let mut found = Vec::new();
    while at < bytes.len() {
        let length = match bytes[at] {
            b'\n' => {
                line += 1;
                at += 1;
                continue;
            }
            byte if byte.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            byte if is_word(&byte) => bytes[at..].iter().take_while(|byte| is_word(byte)).count(),
            b':' if bytes.get(at + 1) == Some(&b':') => 2,
            _ => 1,
        };
        found.push(Token { text: &text[at..at + length], line });
        at += length;
    }
    found
}

/// A text's tokens with what is compiled for tests only taken out, and the names of the modules in other files that are
/// for tests only.
pub(super) struct Production<'a> {
    pub(super) tokens: Vec<Token<'a>>,
    pub(super) test_modules: Vec<&'a str>,
}

/// Takes out every item with `#[cfg(test)]`.
pub(super) fn production<'a>(tokens: &[Token<'a>]) -> Production<'a> {
    let mut kept = Production { tokens: Vec::new(), test_modules: Vec::new() };
    let mut at = 0;
    while at < tokens.len() {
        let Some(attribute_end) = test_attribute_end(tokens, at) else {
            kept.tokens.push(tokens[at]);
            at += 1;
            continue;
        };
        let end = item_end(tokens, attribute_end);
        let item = &tokens[attribute_end..end];
        if let Some(name) = item.windows(3).find(|w| w[0].text == "mod" && w[2].text == ";").map(|w| w[1].text) {
            kept.test_modules.push(name);
        }
        at = end;
    }
    kept
}

/// The end of the attribute that begins at `at`, if it is one that requires `test`.
fn test_attribute_end(tokens: &[Token<'_>], at: usize) -> Option<usize> {
    let [hash, bracket, cfg, open, ..] = &tokens[at..] else { return None };
    if (hash.text, bracket.text, cfg.text, open.text) != ("#", "[", "cfg", "(") {
        return None;
    }
    let end = closing(tokens, at + 1)? + 1;
    let mut inside = &tokens[at + 4..end - 2];
    if let [all, _, rest @ ..] = inside
        && all.text == "all"
    {
        inside = rest;
    }
    let mut depth = 0_i32;
    let mut alone = true;
    for (index, token) in inside.iter().enumerate() {
        match token.text {
            "(" => depth += 1,
            ")" => depth -= 1,
            "test" if depth == 0 && alone && !matches!(inside.get(index + 1), Some(next) if next.text == "=") => {
                return Some(end);
            }
            _ => {}
        }
        alone = token.text == ",";
    }
    None
}

/// The end of the item that begins at `at`: after its `;`, or after its body.
fn item_end(tokens: &[Token<'_>], mut at: usize) -> usize {
    while at < tokens.len() {
        match tokens[at].text {
            ";" | "," => return at + 1,
            "{" => return closing(tokens, at).map_or(tokens.len(), |end| end + 1),
            "(" | "[" => at = closing(tokens, at).unwrap_or(tokens.len()) + 1,
            // The end of what the item stands in: a field or variant without a comma.
            "}" | ")" => return at,
            _ => at += 1,
        }
    }
    tokens.len()
}

/// Where the bracket that opens at `at` closes.
fn closing(tokens: &[Token<'_>], at: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (offset, token) in tokens[at..].iter().enumerate() {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at + offset);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let bare = without_comments(text);
        let all = tokens(&bare);
        production(&all).tokens.iter().map(|token| token.text.to_owned()).collect()
    }

    #[test]
    fn comments_and_literals_are_blank_and_lines_stay() {
        let text =
            "a // std::fs\n/* b /* c */ d */ e \"std::net \\\" x\" f r#\"std::env \" \"# g 'x' h '\\'' i b\"t\" 'l j";
        assert_eq!(words(text).join(" "), "a e f g h i b ' l j");
        let bare = without_comments("/*\n\n*/ last");
        assert_eq!(tokens(&bare)[0], Token { text: "last", line: 3 });
    }

    #[test]
    fn lifetimes_are_not_characters() {
        assert_eq!(words("fn f<'a>(x: &'a str) { 'a' }").join(" "), "fn f < ' a > ( x : & ' a str ) { }");
    }

    #[test]
    fn test_only_items_go_and_others_stay() {
        assert_eq!(words("#[cfg(test)] mod tests { use x; fn f() {} } fn kept() {}").join(" "), "fn kept ( ) { }");
        assert_eq!(words("#[cfg(all(test, unix))]\n#[allow(x)] fn gone(a: [u8; 2]) {} kept").join(" "), "kept");
        assert_eq!(words("#[cfg(test)] use std::fs; kept").join(" "), "kept");
        for stays in
            ["#[cfg(not(test))] fn kept() {}", "#[cfg(any(test, sim))] fn kept() {}", "#[cfg(testing)] fn kept() {}"]
        {
            assert!(words(stays).contains(&"kept".to_owned()), "{stays}");
        }
    }

    #[test]
    fn test_modules_in_files_are_named() {
        let bare = without_comments("#[cfg(test)]\nmod model;\nmod real;");
        let all = tokens(&bare);
        assert_eq!(production(&all).test_modules, ["model"]);
    }
}
