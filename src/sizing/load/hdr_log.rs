//! Writes the run as an `HdrHistogram` interval log, version 2. Tools such as `HistogramLogAnalyzer` and `hdr-plot`
//! read it.
//!
//! The thread that calls `run`. Each interval has a line for the latency, without a tag, and one for the service time,
//! with the tag `service`. Histograms count nanoseconds; the maximum beside them is in milliseconds, as Java's writer
//! has it.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hdrhistogram::serialization::{Serializer as _, V2DeflateSerializer};

use super::{Interval, Times};

/// Writes a log.
pub struct HdrLog<W> {
    writer: W,
    serializer: V2DeflateSerializer,
    bytes: Vec<u8>,
}

impl<W: Write> HdrLog<W> {
    /// Begins the log of a run that begins now.
    ///
    /// # Errors
    /// The log cannot be written.
    pub fn begin(mut writer: W) -> io::Result<Self> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        writeln!(writer, "#[Histogram log format version 1.3]")?;
        writeln!(writer, "#[StartTime: {now:.3} (seconds since epoch)]")?;
        writeln!(writer, "#[BaseTime: {now:.3} (seconds since epoch)]")?;
        // The legend is a comment, because not every reader knows a line of column names.
        writeln!(writer, "#StartTimestamp,Interval_Length,Interval_Max,Interval_Compressed_Histogram")?;
        Ok(Self { writer, serializer: V2DeflateSerializer::new(), bytes: Vec::new() })
    }

    /// Appends an interval.
    ///
    /// # Errors
    /// The log cannot be written.
    pub fn add(&mut self, interval: &Interval<'_>) -> io::Result<()> {
        let (from, length) = (interval.from, interval.to.saturating_sub(interval.from));
        self.line("", from, length, &interval.outcomes.latency)?;
        self.line("Tag=service,", from, length, &interval.outcomes.service)?;
        self.writer.flush()
    }

    fn line(&mut self, tag: &str, from: Duration, length: Duration, times: &Times) -> io::Result<()> {
        self.bytes.clear();
        self.serializer.serialize(times.histogram(), &mut self.bytes).map_err(io::Error::other)?;
        let (from, length) = (from.as_secs_f64(), length.as_secs_f64());
        let max_ms = times.max().as_secs_f64() * 1e3;
        let histogram = BASE64_STANDARD.encode(&self.bytes);
        writeln!(self.writer, "{tag}{from:.3},{length:.3},{max_ms:.3},{histogram}")
    }
}
