//! Percent-encoding in paths (RFC 3986 sections 2.1 and 6.2.2). Any thread.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The path in its normal form, in which equal paths have equal texts: letters, digits, `-`, `.`, `_` and `~` are not encoded, other
/// characters beyond ASCII are, and encoded ones have capital hexadecimal digits.
pub(crate) fn normal_path(path: &str) -> Cow<'_, str> {
    if path.is_ascii() && memchr::memchr(b'%', path.as_bytes()).is_none() {
        return Cow::Borrowed(path);
    }
    let mut normal = String::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, after @ ..] = rest {
        let escaped = if *first == b'%' { after.get(..2).and_then(byte_of) } else { None };
        match escaped {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                normal.push(char::from(byte));
            }
            Some(byte) => push_escaped(&mut normal, byte),
            None if first.is_ascii() => normal.push(char::from(*first)),
            None => push_escaped(&mut normal, *first),
        }
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    Cow::Owned(normal)
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
    fn a_part_stands_for_a_text() {
        assert_eq!(unescaped("Ada%20L"), "Ada L");
        assert_eq!(unescaped("a%2Fb+c"), "a/b+c");
        assert_eq!(unescaped("%ff"), "%ff");
    }
}
