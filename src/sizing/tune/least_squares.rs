//! Least squares for three coefficients that are not negative.
//!
//! Any thread; numbers in, numbers out.

/// One equation of a least-squares problem.
pub(super) struct Row {
    /// The factors of the coefficients.
    pub(super) terms: [f64; 3],
    /// The value that the sum should have.
    pub(super) target: f64,
    /// The weight of the squared error.
    pub(super) weight: f64,
}

/// Least squares with coefficients that are not negative, the first of them above zero.
///
/// The solution has some coefficients at zero and is the plain least-squares solution for the others. The second and
/// the third coefficient may each be zero, which makes four cases, so each case is tried. For many coefficients Lawson
/// and Hanson's algorithm finds the same solution.
pub(super) fn not_negative(rows: &[Row]) -> Option<[f64; 3]> {
    let used = [[true, false, false], [true, true, false], [true, false, true], [true, true, true]];
    let solutions = used.into_iter().filter_map(|used| solve(rows, used));
    let valid = solutions.filter(|found| found[0] > 0.0 && found.iter().all(|x| *x >= 0.0 && x.is_finite()));
    let cost = |found: &[f64; 3]| -> f64 {
        rows.iter().map(|row| row.weight * (dot(found, &row.terms) - row.target).powi(2)).sum()
    };
    valid.min_by(|one, other| cost(one).total_cmp(&cost(other)))
}

/// Plain least squares with some of the terms, by the normal equations and Cholesky's decomposition. The terms are
/// first scaled to the same length, because N(N − 1) is a thousand times as large as 1.
fn solve(rows: &[Row], used: [bool; 3]) -> Option<[f64; 3]> {
    let mut scale = [0.0; 3];
    for (index, scale) in scale.iter_mut().enumerate() {
        let square: f64 = rows.iter().map(|row| row.weight * row.terms[index].powi(2)).sum();
        // A term that is zero in all rows, such as N − 1 at size 1 alone, cannot be used.
        *scale = if used[index] && square > 0.0 { 1.0 / square.sqrt() } else { 0.0 };
    }
    let scaled = |row: &Row, index: usize| row.terms[index] * scale[index];
    let mut lower = [[0.0; 3]; 3];
    let mut found = [0.0; 3];
    for i in 0..3 {
        let mut target: f64 = rows.iter().map(|row| row.weight * scaled(row, i) * row.target).sum();
        for j in 0..=i {
            let mut sum: f64 = rows.iter().map(|row| row.weight * scaled(row, i) * scaled(row, j)).sum();
            sum -= (0..j).map(|k| lower[i][k] * lower[j][k]).sum::<f64>();
            lower[i][j] = match (i == j, scale[i] > 0.0) {
                // An unused term keeps its coefficient at zero.
                (true, false) => 1.0,
                (true, true) if sum <= 1e-12 => return None,
                (true, true) => sum.sqrt(),
                (false, _) => sum / lower[j][j],
            };
        }
        target -= (0..i).map(|k| lower[i][k] * found[k]).sum::<f64>();
        found[i] = target / lower[i][i];
    }
    for i in (0..3).rev() {
        let above: f64 = (i + 1..3).map(|k| lower[k][i] * found[k]).sum();
        found[i] = (found[i] - above) / lower[i][i];
    }
    Some([found[0] * scale[0], found[1] * scale[1], found[2] * scale[2]])
}

pub(super) fn dot(one: &[f64; 3], other: &[f64; 3]) -> f64 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::statistics::normal;
    use super::*;

    fn cost(rows: &[Row], x: &[f64; 3]) -> f64 {
        rows.iter().map(|row| row.weight * (dot(x, &row.terms) - row.target).powi(2)).sum()
    }

    proptest! {
        #[test]
        fn no_other_coefficients_fit_better(seed: u64) {
            let mut random = fastrand::Rng::with_seed(seed);
            let rows: Vec<Row> = [1.0, 2.0, 4.0, 8.0, 12.0, 32.0]
                .map(|x| Row {
                    terms: [1.0, x - 1.0, x * (x - 1.0)],
                    target: 3.0 * random.f64(),
                    weight: 1.0 + random.f64(),
                })
                .into();
            let found = not_negative(&rows).expect("there is a solution");
            for _ in 0..300 {
                let near = found.map(|x| {
                    (x * (1.0 + 0.2 * normal(&mut random)) + 1e-4 * normal(&mut random)).max(0.0)
                });
                prop_assert!(cost(&rows, &near) >= cost(&rows, &found) - 1e-9, "{near:?} {found:?}");
            }
        }
    }

    #[test]
    fn a_coefficient_without_rows_is_zero_or_has_no_solution() {
        assert_eq!(not_negative(&[]), None);
        let row = |target| Row { terms: [1.0, 0.0, 0.0], target, weight: 1.0 };
        let [mean, others @ ..] = not_negative(&[row(2.0), row(4.0)]).expect("there is a solution");
        assert!((mean - 3.0).abs() < 1e-9 && others == [0.0, 0.0]);
        assert_eq!(not_negative(&[row(-2.0)]), None, "the first has to be above zero");
    }
}
