//! The knee: the smallest size whose throughput equals that of any other, within a tolerance and with confidence.
//!
//! Any thread. The decision rests on the comparisons in `candidates` alone; the scalability law has no part in it.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::candidates::{Bound, Candidates, Limits, ratio, reach, usable};
use super::measurement::{Measurements, REPETITIONS_MIN, Size};
use super::statistics::{ConfidenceInterval, real};

/// The conclusion from the measurements: the size to take, or the reason for its absence.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Throughput does not grow past this size.
    Knee(Knee),
    /// The smallest allowed size already has as much throughput as any.
    Flat(Knee),
    /// Throughput still grows at the largest size that the database or the user allows. A knee, if there is one, lies
    /// beyond it.
    AtLargest(Knee),
    /// No size meets the objective.
    NoneMeets {
        /// The size that comes closest.
        closest: usize,
        /// Its p99.
        p99: Duration,
    },
    /// The measurements do not decide.
    CannotTell(CannotTell),
}

/// The size to take, and its figures.
#[derive(Clone, Debug, PartialEq)]
pub struct Knee {
    /// The size to take: the smallest that is shown to be enough.
    pub size: usize,
    /// The range of the knee: every smaller size is shown to be too small, or to miss the objective.
    pub band: RangeInclusive<usize>,
    /// From `size` up to this size throughput is the same, within the tolerance and as far as was measured.
    pub flat_to: usize,
    /// Of the sizes that meet the objective, the one with the highest mean.
    pub best: usize,
    /// The throughput at `size`, in requests a second, with a confidence of 95 %.
    pub throughput: ConfidenceInterval,
    /// The throughput at `size` in parts of the best, with a confidence of 95 %; from 1 to 1 where `size` is the best.
    pub of_best: ConfidenceInterval,
    /// The median of the repetitions' p99 at `size`.
    pub p99: Duration,
    /// The fastest size, where it misses the objective and is faster than `size` by more than the tolerance.
    pub missed: Option<usize>,
}

/// Why the measurements do not decide.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum CannotTell {
    /// No size was measured often enough, or no size answered anything.
    TooFew {
        /// How many repetitions a size needs.
        needed: usize,
    },
    /// Repetitions differ by so much that sizes cannot be told apart.
    TooNoisy {
        /// The sizes that the knee may be among.
        band: RangeInclusive<usize>,
        /// The standard deviation of a repetition, in parts of its throughput.
        noise: f64,
        /// About how many repetitions of each size would be enough.
        needed: usize,
    },
    /// Repetitions differ by little, but the time was too short for as many sizes or repetitions as it takes.
    TooShort {
        /// The sizes that the knee may be among.
        band: RangeInclusive<usize>,
    },
    /// Throughput still grows at the largest size that was measured, and larger sizes are allowed.
    StillGrowing {
        /// That size.
        size: usize,
        /// Whether the size is the largest that was to be tried. If not, the time was too short for larger sizes.
        is_default: bool,
    },
}

/// Says which size to take.
pub fn decide(measurements: &Measurements, limits: Limits) -> Outcome {
    let sizes = usable(measurements);
    let candidates = Candidates::of(&sizes, limits);
    let Some(best) = candidates.best() else {
        let closest = sizes.iter().min_by_key(|size| size.p99);
        return closest.map_or(Outcome::CannotTell(CannotTell::TooFew { needed: REPETITIONS_MIN }), |size| {
            Outcome::NoneMeets { closest: size.size, p99: size.p99 }
        });
    };
    let lowest = candidates.lowest(&sizes);
    let undecided = |to: usize| {
        let noise = measurements.noise().unwrap_or(f64::INFINITY);
        let needed = repetitions_needed(noise, limits);
        let band = lowest..=to.max(lowest);
        let had = sizes.iter().filter(|size| band.contains(&size.size)).map(|size| size.repetitions).max();
        // Where as many repetitions as the noise asks for do not decide, it is sizes that are missing.
        Outcome::CannotTell(if needed > had.unwrap_or_default() {
            CannotTell::TooNoisy { band, noise, needed }
        } else {
            CannotTell::TooShort { band }
        })
    };
    let Some(chosen) = candidates.chosen().filter(|chosen| candidates.is_known(chosen)) else {
        let last = candidates.all.iter().rfind(|size| !candidates.is_too_small(size));
        return undecided(last.unwrap_or(best).size);
    };
    // A size with too few repetitions cannot be chosen. Its measurements may still contradict the conclusion.
    let hardly_measured = measurements.sizes().iter().rev().find(|size| {
        size.repetitions < REPETITIONS_MIN
            && size.throughput * (1.0 - limits.tolerance) > chosen.throughput
            && size.meets_objective()
    });
    if let Some(size) = hardly_measured {
        return Outcome::CannotTell(CannotTell::TooShort { band: lowest..=size.size.max(chosen.size) });
    }
    if chosen.size - lowest > 1 && chosen.size >= 2 * lowest {
        return undecided(chosen.size);
    }
    let last = candidates.all.last().unwrap_or(best);
    // Larger sizes exist that miss the objective, or that left requests without any good answer.
    let is_above = |size: &Size| size.size > last.size && size.repetitions >= REPETITIONS_MIN;
    let cut_off = measurements.sizes().iter().any(is_above);
    if !cut_off && candidates.grows(chosen, last) {
        if !candidates.is_known(last) {
            return undecided(last.size);
        }
        let begun = measurements.sizes().last().map_or(last.size, |size| size.size);
        if begun > last.size {
            // Rows for larger sizes are there, but with too few repetitions.
            return Outcome::CannotTell(CannotTell::TooShort { band: lowest.max(chosen.size)..=begun });
        }
        let is_largest = last.size >= limits.largest;
        if !is_largest || limits.bound == Bound::Default {
            return Outcome::CannotTell(CannotTell::StillGrowing { size: last.size, is_default: is_largest });
        }
        return Outcome::AtLargest(candidates.knee(last, lowest.max(chosen.size), &sizes));
    }
    let knee = candidates.knee(chosen, lowest, &sizes);
    if chosen.size == limits.smallest { Outcome::Flat(knee) } else { Outcome::Knee(knee) }
}

/// About how many repetitions tell two sizes apart: with these, 1.7 standard errors of a difference (√(2/n) · noise)
/// fit into half of the tolerance.
fn repetitions_needed(noise: f64, limits: Limits) -> usize {
    let needed = 2.0 * (1.7 * noise / (limits.tolerance / 2.0)).powi(2);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is bounded and above zero"
    )]
    let needed = needed.clamp(real(REPETITIONS_MIN), 1e9).ceil() as usize;
    needed
}

impl Candidates {
    /// The figures of the size to take.
    fn knee(&self, size: &Size, lowest: usize, sizes: &[Size]) -> Knee {
        let best = self.best().unwrap_or(size);
        let flat = |other: &&Size| {
            // The flat range ends at a size that is more likely below the tolerance than not: by one standard error.
            let difference = ratio(other, best);
            difference.value + difference.error >= self.limits().margin()
        };
        let above = self.all.iter().filter(|other| other.size >= size.size);
        let flat_to = above.take_while(flat).last().map_or(size.size, |last| last.size);
        let fastest = sizes.iter().max_by(|one, other| one.throughput.total_cmp(&other.throughput));
        let missed =
            fastest.filter(|fast| !fast.meets_objective() && reach(size, fast).high < self.limits().margin());
        let same = ConfidenceInterval { low: 1.0, high: 1.0 };
        let of_best =
            if best.size == size.size { same } else { ratio(size, best).interval(0.95).map(f64::exp) };
        Knee {
            size: size.size,
            band: lowest..=size.size,
            flat_to,
            best: best.size,
            throughput: size.interval.unwrap_or(same),
            of_best,
            p99: size.p99,
            missed: missed.map(|size| size.size),
        }
    }
}

impl fmt::Display for Outcome {
    /// One or two plain sentences.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Knee(knee) | Self::Flat(knee) => {
                if knee.flat_to > knee.size {
                    write!(f, "flat from {} to {}, ", knee.size, knee.flat_to)?;
                }
                write!(f, "take {}", knee.size)?;
                knee.remarks(f)
            }
            Self::AtLargest(knee) => {
                write!(
                    f,
                    "still growing at {}, the largest size that is allowed: take {}",
                    knee.size, knee.size
                )
            }
            Self::NoneMeets { closest, p99 } => {
                write!(f, "no size meets the objective; {closest} comes closest, with a p99 of {p99:.1?}")
            }
            Self::CannotTell(reason) => write!(f, "cannot tell: {reason}"),
        }
    }
}

impl Knee {
    fn remarks(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.band.start() < self.band.end() {
            write!(f, " (the knee is between {} and {})", self.band.start(), self.band.end())?;
        }
        self.missed.map_or(Ok(()), |faster| write!(f, "; {faster} is faster, but misses the objective"))
    }
}

impl fmt::Display for CannotTell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFew { needed } => write!(f, "no size was measured {needed} times with answers"),
            Self::TooNoisy { band, noise, needed } => {
                let (from, to, noise) = (band.start(), band.end(), noise * 100.0);
                let digits = usize::from(noise < 9.5);
                write!(
                    f,
                    "repetitions vary by {noise:.digits$} %, so sizes from {from} to {to} look alike; "
                )?;
                write!(f, "it would take about {needed} repetitions of each")
            }
            Self::TooShort { band } if band.start() == band.end() => {
                write!(f, "the time was too short to measure {} often enough", band.start())
            }
            Self::TooShort { band } => {
                let (from, to) = (band.start(), band.end());
                write!(f, "the time was too short to tell sizes from {from} to {to} apart")
            }
            Self::StillGrowing { size, is_default } => {
                write!(f, "throughput still grows at {size}, ")?;
                f.write_str(if *is_default {
                    "the largest size that is tried by default; larger ones may give more"
                } else {
                    "and the time was too short for larger sizes"
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::measurement::Measurement;
    use super::*;

    /// Sizes with their throughput and p99 in milliseconds, each measured four times with noise of about 1 %. The objective is
    /// 50 ms.
    fn measured(sizes: &[(usize, f64, u64)]) -> Measurements {
        let repeat = |(size, throughput, p99): &(usize, f64, u64)| {
            let (size, throughput, p99) = (*size, *throughput, Duration::from_millis(*p99));
            [(0, 0.99), (1, 1.0), (2, 1.01), (3, 1.0)].map(|(round, factor)| Measurement {
                size,
                round: if size % 2 == 0 { round } else { 3 - round },
                throughput: throughput * factor,
                p50: p99 / 2,
                p99,
                at_once: 1.0,
                meets_objective: p99 < Duration::from_millis(50),
            })
        };
        sizes.iter().flat_map(repeat).collect()
    }

    fn said(sizes: &[(usize, f64, u64)], largest: usize) -> String {
        decide(&measured(sizes), Limits::up_to(largest)).to_string()
    }

    #[test]
    fn the_knee_is_the_smallest_size_that_is_enough() {
        let sizes =
            [(1, 100.0, 9), (4, 400.0, 9), (5, 500.0, 9), (6, 600.0, 9), (8, 602.0, 9), (20, 598.0, 9)];
        let Outcome::Knee(knee) = decide(&measured(&sizes), Limits::up_to(20)) else { panic!("a knee") };
        assert_eq!((knee.size, knee.band, knee.flat_to, knee.best, knee.missed), (6, 6..=6, 20, 8, None));
        assert!(knee.throughput.contains(600.0) && knee.of_best.contains(600.0 / 602.0));
        assert_eq!(knee.p99, Duration::from_millis(9));
        assert_eq!(said(&sizes, 20), "flat from 6 to 20, take 6");
    }

    #[test]
    fn a_size_that_was_not_measured_may_be_the_knee() {
        let sizes = [(1, 100.0, 9), (2, 200.0, 9), (4, 400.0, 9), (8, 602.0, 9), (16, 600.0, 9)];
        assert_eq!(said(&sizes, 16), "flat from 8 to 16, take 8 (the knee is between 5 and 8)");
    }

    #[test]
    fn a_fall_in_throughput_ends_the_flat_range() {
        let sizes =
            [(4, 400.0, 9), (5, 500.0, 9), (6, 600.0, 9), (8, 590.0, 9), (16, 500.0, 9), (32, 400.0, 9)];
        assert_eq!(said(&sizes, 32), "flat from 6 to 8, take 6");
    }

    #[test]
    fn the_smallest_and_the_largest_size_are_not_called_knees() {
        let flat = [(1, 100.0, 9), (2, 101.0, 9), (4, 99.0, 9)];
        assert!(matches!(decide(&measured(&flat), Limits::up_to(4)), Outcome::Flat(_)));
        assert_eq!(said(&flat, 4), "flat from 1 to 4, take 1");
        let grows = [(1, 100.0, 9), (2, 200.0, 9), (4, 390.0, 9)];
        assert_eq!(said(&grows, 4), "still growing at 4, the largest size that is allowed: take 4");
        assert_eq!(said(&grows[..1], 1), "still growing at 1, the largest size that is allowed: take 1");
    }

    #[test]
    fn growth_up_to_a_size_that_only_a_default_or_the_time_bounds_is_not_known() {
        let grows = measured(&[(1, 100.0, 9), (2, 200.0, 9), (4, 390.0, 9)]);
        let default = Limits { bound: Bound::Default, ..Limits::up_to(4) };
        for (limits, is_default, words) in [
            (default, true, "the largest size that is tried by default; larger ones may give more"),
            (Limits::up_to(97), false, "and the time was too short for larger sizes"),
        ] {
            let outcome = decide(&grows, limits);
            let expected = CannotTell::StillGrowing { size: 4, is_default };
            assert_eq!(outcome, Outcome::CannotTell(expected));
            assert_eq!(outcome.to_string(), format!("cannot tell: throughput still grows at 4, {words}"));
        }
    }

    #[test]
    fn rows_with_too_few_repetitions_are_not_contradicted() {
        // The run ended in its third round: it had "still growing at 4" above rows for 8 and 16.
        let mut cut = measured(&[(1, 100.0, 9), (2, 200.0, 9), (4, 390.0, 9)]);
        for (size, throughput) in [(8, 780.0), (16, 800.0)] {
            let all = measured(&[(size, throughput, 9)]);
            all.of(size)[..2].iter().for_each(|one| cut.push(*one));
        }
        let short = CannotTell::TooShort { band: 3..=16 };
        assert_eq!(decide(&cut, Limits::up_to(16)), Outcome::CannotTell(short));
        // A flat range is not claimed either while a larger size looks faster.
        let mut flat = measured(&[(1, 100.0, 9), (2, 101.0, 9), (4, 99.0, 9)]);
        flat.push(measured(&[(8, 300.0, 9)]).of(8)[0]);
        let said = decide(&flat, Limits::up_to(8)).to_string();
        assert_eq!(said, "cannot tell: the time was too short to tell sizes from 1 to 8 apart");
    }

    #[test]
    fn few_steady_repetitions_are_not_called_noise() {
        // Three repetitions that vary by a tenth of a percent, and a gap from 4 to 16 that the time did not close.
        let steady = |(size, throughput): (usize, f64)| {
            [0.999, 1.0, 1.001].map(|factor| Measurement {
                throughput: throughput * factor,
                ..measured(&[(size, 1.0, 9)]).of(size)[0]
            })
        };
        let all: Measurements = [(1, 100.0), (2, 200.0), (4, 400.0), (16, 900.0), (32, 900.0)]
            .into_iter()
            .flat_map(steady)
            .collect();
        let said = decide(&all, Limits::up_to(32)).to_string();
        assert_eq!(said, "cannot tell: the time was too short to tell sizes from 5 to 16 apart");
    }

    #[test]
    fn a_size_that_misses_the_objective_is_not_taken() {
        let sizes = [(1, 100.0, 9), (2, 200.0, 30), (4, 400.0, 60), (8, 800.0, 90)];
        assert_eq!(said(&sizes, 8), "take 2; 8 is faster, but misses the objective");
        let slow = [(1, 100.0, 80), (2, 200.0, 70), (4, 200.0, 90)];
        let refused = [(1, 100.0, 9), (2, 200.0, 9), (4, 400.0, 9), (8, 0.0, 9)];
        assert_eq!(
            said(&refused, 8),
            "take 4 (the knee is between 3 and 4)",
            "8 answers nothing, so throughput does not grow up to it"
        );
        assert_eq!(said(&slow, 4), "no size meets the objective; 2 comes closest, with a p99 of 70.0ms");
    }

    #[test]
    fn too_few_measurements_decide_nothing() {
        let few = Outcome::CannotTell(CannotTell::TooFew { needed: 3 });
        assert_eq!(decide(&Measurements::default(), Limits::up_to(4)), few);
        let all: Measurements = measured(&[(1, 100.0, 9)]).of(1)[..2].iter().copied().collect();
        assert_eq!(decide(&all, Limits::up_to(4)), few);
        assert_eq!(decide(&measured(&[(1, 0.0, 9), (2, 0.0, 9)]), Limits::up_to(4)), few);
        assert_eq!(few.to_string(), "cannot tell: no size was measured 3 times with answers");
    }

    #[test]
    fn noise_is_named_as_the_reason_with_the_repetitions_needed() {
        let all: Measurements = [1, 2, 4]
            .into_iter()
            .flat_map(|size| [60.0, 100.0, 140.0].map(|x| (size, x)))
            .map(|(size, x)| Measurement { throughput: x, ..measured(&[(size, 1.0, 9)]).of(size)[0] })
            .collect();
        let said = decide(&all, Limits::up_to(4)).to_string();
        assert!(said.starts_with("cannot tell: repetitions vary by 4"), "{said}");
        assert!(said.contains("sizes from 1 to 4 look alike; it would take about 1"), "{said}");
        let noisy = CannotTell::TooNoisy { band: 1..=4, noise: 0.004, needed: 9 };
        assert!(noisy.to_string().starts_with("repetitions vary by 0.4 %,"), "{noisy}");
    }
}
