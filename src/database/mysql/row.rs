//! Rows for handlers in Rust.
//!
//! Owns [`Row`]. Pure.

use std::sync::Arc;

use crate::base::value::Value;

/// A row of a statement that a handler ran.
///
/// Numbers are [`Value::Int`], also those of `bit` and `year`; one above the range of `i64` is [`Value::Text`], and so are decimals,
/// without any loss, and times of day. A `tinyint(1)` is [`Value::Bool`] if it is 0 or 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    names: Arc<[Box<str>]>,
    values: Vec<Value>,
}

impl Row {
    pub(super) fn new(names: &Arc<[Box<str>]>, values: Vec<Value>) -> Self {
        Self { names: Arc::clone(names), values }
    }

    /// The values, in the order of the columns.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// The value of the first column with this name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        let index = self.names.iter().position(|known| **known == *name)?;
        self.values.get(index)
    }
}
