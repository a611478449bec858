//! A line of text as a chart.

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Bars from zero to the highest value.
pub(super) fn sparkline(values: impl Iterator<Item = f64> + Clone) -> String {
    let highest = values.clone().fold(f64::MIN_POSITIVE, f64::max);
    values.map(|value| bar(value / highest)).collect()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is from 0 to 8, and saturates"
)]
fn bar(part: f64) -> char {
    BARS[((part * 8.0 + 1e-9) as usize).min(7)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_value_is_the_highest_bar() {
        let line = |values: &[f64]| sparkline(values.iter().copied());
        assert_eq!(line(&[0.0, 50.0, 100.0, 25.0]), "▁▅█▃");
        assert_eq!(line(&[0.0, 0.0]), "▁▁");
        assert_eq!(line(&[]), "");
    }
}
