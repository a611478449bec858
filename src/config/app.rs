//! `[app]`: the settings of the program that embeds the server, in the same file.
//!
//! Main thread. This file keeps the section; `reading.rs` reads it.

mod reading;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{Source, Span};

/// The section's values, with the text that messages point into.
#[derive(Clone, Default)]
pub(super) struct App(Option<Arc<Section>>);

struct Section {
    source: Source,
    /// Where its name stands.
    name: Span,
    /// The texts in which variables stood, by where they begin.
    expanded: BTreeMap<usize, String>,
    /// The values without their places.
    values: toml::Value,
}

impl PartialEq for App {
    fn eq(&self, other: &Self) -> bool {
        let values = |app: &Self| app.0.as_ref().map(|section| section.values.clone());
        values(self) == values(other)
    }
}

/// Without its values, among which a password may be.
impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").finish_non_exhaustive()
    }
}
