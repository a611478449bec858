//! Whether every request is accounted for: what clients have sent is what the server says became of it.

use anyhow::Context as _;

/// The counts in the line that wharf logs at its end.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Accounting {
    /// Those that were read.
    pub(crate) requests: u64,
    pub(crate) answered: u64,
    /// With the reason of each.
    pub(crate) refused: Vec<(String, u64)>,
    pub(crate) abandoned: u64,
    /// Panics of handlers, which are among the answered.
    pub(crate) panics: u64,
}

impl Accounting {
    /// Finds the line in a log.
    ///
    /// # Errors
    /// When it is not there, or says what is not known here.
    pub(crate) fn of_log(log: &str) -> anyhow::Result<Self> {
        let line = log.lines().find_map(|line| line.split_once("stopped: "));
        let (_, counts) = line.context("the server did not log its counts")?;
        let mut accounting = Self::default();
        for part in counts.split(", ") {
            let (count, what) = part.split_once(' ').context("a count and what it counts")?;
            let count = count.parse().with_context(|| format!("{part:?} is no count"))?;
            match what {
                "requests" => accounting.requests = count,
                "answered" => accounting.answered = count,
                "abandoned by clients" => accounting.abandoned = count,
                "handler panics" => accounting.panics = count,
                _ if what.starts_with("connections closed") => {}
                _ => match what.strip_prefix("refused (").and_then(|reason| reason.strip_suffix(')')) {
                    Some(reason) => accounting.refused.push((reason.to_owned(), count)),
                    None => log_unknown(part),
                },
            }
        }
        Ok(accounting)
    }

    /// The requests that came to an end.
    pub(crate) fn total(&self) -> u64 {
        self.answered + self.refused.iter().map(|(_, count)| count).sum::<u64>() + self.abandoned
    }

    /// As one sentence, beside what the clients have sent.
    pub(crate) fn describe(&self, sent: u64) -> String {
        let refused = self.refused.iter().map(|(reason, count)| format!("{count} refused ({reason})"));
        let parts: Vec<String> = std::iter::once(format!("{} answered", self.answered))
            .chain(refused)
            .chain([format!("{} abandoned by their clients", self.abandoned)])
            .collect();
        format!(
            "{sent} requests sent; {} read, {} accounted for: {}",
            self.requests,
            self.total(),
            parts.join(" + ")
        )
    }
}

/// A count that is not about requests; the sum shows if it is.
fn log_unknown(part: &str) {
    eprintln!("overload: the server also counted {part:?}");
}
