//! Percent-encoding in paths (RFC 3986 sections 2.1 and 6.2.2). Any thread.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The path in its normal form, in which equal paths have equal texts. Letters, digits, `-`, `.`, `_` and `~` are not encoded there, and
/// characters beyond ASCII are. Encoded bytes have capital hexadecimal digits.
pub(crate) fn normal_path(path: &str) -> Cow<'_, str> {
    if path.is_ascii() && memchr::memchr(b'%', path.as_bytes()).is_none() {
        return Cow::Borrowed(path);
    }
    let mut normal = String::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while !rest.is_empty() {
        let unit = Unit::first(rest);
        if unit.is_escaped {
            push_escaped(&mut normal, unit.byte);
        } else {
            normal.push(char::from(unit.byte));
        }
        rest = &rest[unit.sent..];
    }
    Cow::Owned(normal)
}

/// The place in a path as it was sent that a place in its normal form stands for.
pub(crate) fn sent_offset(path: &str, normal: usize) -> usize {
    let (mut sent, mut at) = (0, 0);
    while at < normal && sent < path.len() {
        let unit = Unit::first(&path.as_bytes()[sent..]);
        sent += unit.sent;
        at += if unit.is_escaped { 3 } else { 1 };
    }
    sent
}

/// One byte of a path.
struct Unit {
    byte: u8,
    /// How many bytes stand for it in the path as it was sent.
    sent: usize,
    /// Whether the normal form has it encoded.
    is_escaped: bool,
}

impl Unit {
    /// The first byte of a path that is not empty.
    fn first(path: &[u8]) -> Self {
        let escaped = if path[0] == b'%' { path.get(1..3).and_then(byte_of) } else { None };
        match escaped {
            Some(byte) => {
                let is_escaped = !(byte.is_ascii_alphanumeric() || b"-._~".contains(&byte));
                Self { byte, sent: 3, is_escaped }
            }
            None => Self { byte: path[0], sent: 1, is_escaped: !path[0].is_ascii() },
        }
    }
}

fn byte_of(digits: &[u8]) -> Option<u8> {
    let [high, low] = *digits else { return None };
    let [high, low] = [high, low].map(|digit| char::from(digit).to_digit(16));
    u8::try_from(high? * 16 + low?).ok()
}

fn push_escaped(text: &mut String, byte: u8) {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    text.extend(['%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
}

/// The text that a part of a path stands for. Where that is no UTF-8, the part as it is.
pub(crate) fn unescaped(part: &str) -> Cow<'_, str> {
    percent_decode_str(part).decode_utf8().unwrap_or(Cow::Borrowed(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_paths_have_one_normal_form() {
        for (path, normal) in [
            ("/a", "/a"),
            ("/%7Ex/%41%2d%2E%5F", "/~x/A-._"),
            ("/a%2fb%3Fc", "/a%2Fb%3Fc"),
            ("/gr\u{f6}\u{df}e", "/gr%C3%B6%C3%9Fe"),
            ("/gr%c3%b6%C3%9fe", "/gr%C3%B6%C3%9Fe"),
            ("/%", "/%"),
            ("/%4", "/%4"),
            ("/%zz%4\u{f6}", "/%zz%4%C3%B6"),
            ("/%%41", "/%A"),
            ("/{name}/{*rest}", "/{name}/{*rest}"),
        ] {
            assert_eq!(normal_path(path), normal, "{path}");
        }
    }

    #[test]
    fn a_place_in_the_normal_form_is_found_in_the_path_as_it_was_sent() {
        let path = "/%7Ex/%c3%b6/a%2fb";
        let normal = normal_path(path);
        assert_eq!(normal, "/~x/%C3%B6/a%2Fb");
        for part in ["/~x", "%C3%B6", "a%2Fb"] {
            let at = normal.find(part).expect("it is there");
            let sent = &path[sent_offset(path, at)..sent_offset(path, at + part.len())];
            assert_eq!(normal_path(sent), part);
        }
        assert_eq!(sent_offset(path, normal.len()), path.len());
    }

    #[test]
    fn a_part_stands_for_a_text() {
        assert_eq!(unescaped("Ada%20L"), "Ada L");
        assert_eq!(unescaped("a%2Fb+c"), "a/b+c");
        assert_eq!(unescaped("%ff"), "%ff");
    }
}
