//! Text that cannot be taken for markup, and numbers that are always numbers.

use std::fmt::{self, Display, Write as _};

/// Escaped text, for use between tags and within quotes.
pub(super) struct Text<'t>(pub(super) &'t str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                '\t' | '\n' => f.write_char(c)?,
                // XML cannot contain these characters.
                _ if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => f.write_char('\u{fffd}')?,
                _ => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// A coordinate in a drawing, to a tenth: finer than any screen shows.
pub(super) struct Place(pub(super) f64);

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = (self.0 * 10.0).round() + 0.0;
        let tenths = if tenths.is_finite() { tenths } else { 0.0 };
        write!(f, "{}", tenths / 10.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_never_markup() {
        let text = "<script>alert(\"x\" + 'y')</script> & \u{1b}[1m\u{0} µ";
        assert_eq!(
            Text(text).to_string(),
            "&lt;script&gt;alert(&quot;x&quot; + &#39;y&#39;)&lt;/script&gt; &amp; \u{fffd}[1m\u{fffd} µ"
        );
    }

    #[test]
    fn a_place_is_always_a_number() {
        for (place, text) in
            [(1.0, "1"), (12.34, "12.3"), (-0.01, "0"), (f64::NAN, "0"), (f64::INFINITY, "0")]
        {
            assert_eq!(Place(place).to_string(), text);
        }
    }
}
