//! Places text so that no two pieces overlap.

/// The approximate width of a text. A letter of a sans-serif font is a little more than half as wide as it is high.
pub(super) fn width(text: &str, font: f64) -> f64 {
    text.chars().map(|c| if matches!(c, '.' | ',' | ' ' | 'i' | 'l' | ':') { 0.3 } else { 0.58 }).sum::<f64>()
        * font
}

/// The approximate width of bold text.
pub(super) fn bold_width(text: &str, font: f64) -> f64 {
    width(text, font) * 1.14
}

/// Moves places apart until each has `room`, as little as possible, within the bounds and without changing their order.
pub(super) fn spread(places: &mut [f64], room: f64, low: f64, high: f64) {
    let mut order: Vec<usize> = (0..places.len()).collect();
    order.sort_by(|one, other| places[*one].total_cmp(&places[*other]));
    let mut least = low;
    for index in &order {
        places[*index] = places[*index].max(least);
        least = places[*index] + room;
    }
    let mut most = high;
    for index in order.iter().rev() {
        places[*index] = places[*index].min(most);
        most = places[*index] - room;
    }
}

/// Which labels of a row, centred at their places, have room beside the labels before them. The last label always
/// stays: it says how far the axis reaches.
pub(super) fn with_room(labels: &[(f64, f64)], gap: f64) -> Vec<bool> {
    let mut shown = vec![false; labels.len()];
    let last = labels.last().copied();
    let mut free = f64::NEG_INFINITY;
    for (index, (place, width)) in labels.iter().copied().enumerate() {
        let is_last = index + 1 == labels.len();
        let before_last = last.is_none_or(|(last, its)| place + width / 2.0 + gap <= last - its / 2.0);
        if place - width / 2.0 >= free && (is_last || before_last) {
            shown[index] = true;
            free = place + width / 2.0 + gap;
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_move_apart_and_stay_within() {
        let mut places = [50.0, 52.0, 10.0, 99.0, 98.0];
        spread(&mut places, 10.0, 0.0, 100.0);
        assert_eq!(places.map(f64::to_bits), [50.0, 60.0, 10.0, 100.0, 90.0].map(f64::to_bits));
        let mut places = [0.0, 0.0];
        spread(&mut places, 10.0, 5.0, 100.0);
        assert_eq!(places.map(f64::to_bits), [5.0, 15.0].map(f64::to_bits));
        spread(&mut [], 10.0, 0.0, 1.0);
    }

    #[test]
    fn ticks_without_room_have_no_label_but_the_last_one_has() {
        let labels = [(0.0, 10.0), (8.0, 10.0), (40.0, 10.0), (95.0, 10.0), (100.0, 10.0)];
        assert_eq!(with_room(&labels, 4.0), [true, false, true, false, true]);
        assert!(with_room(&[], 4.0).is_empty());
    }
}
