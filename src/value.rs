//! A parameter's value: what a client sent, checked against the type that the configuration declares.
//!
//! Pure values, any thread. Knows no HTTP and no database: `config` keeps defaults as values, `endpoint` makes them from
//! requests, `database` binds them.

/// What a parameter may be declared as (`type = "int"`, `type = "int[]"`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A single value.
    One(Scalar),
    /// An array of values (`"int[]"`): repeated in a query or form (`?id=1&id=2`), an array in JSON.
    Many(Scalar),
}

/// The type of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// A 64-bit signed integer.
    Int,
    /// A finite 64-bit float.
    Float,
    /// Unicode text without NUL.
    Text,
    /// `true` or `false`.
    Bool,
    /// A UUID in its hyphenated form.
    Uuid,
    /// A calendar date, `2013-01-31`.
    Date,
    /// RFC 3339, with an offset or without.
    Timestamp,
    /// Any JSON document.
    Json,
    /// Bytes, base64 on the wire.
    Bytes,
}

/// One value, ready to bind. The variants from `Uuid` to `Json` hold their canonical text.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// SQL's null: an optional parameter that was not sent.
    Null,
    /// See [`Scalar::Bool`].
    Bool(bool),
    /// See [`Scalar::Int`].
    Int(i64),
    /// See [`Scalar::Float`].
    Float(f64),
    /// See [`Scalar::Text`].
    Text(String),
    /// Lower-case, hyphenated.
    Uuid(String),
    /// `YYYY-MM-DD`.
    Date(String),
    /// With an offset: in UTC, `2013-01-01T10:00:00Z`; without: `2013-01-01T10:00:00`.
    Timestamp(String),
    /// The document as the client wrote it.
    Json(String),
    /// Decoded.
    Bytes(Vec<u8>),
    /// Values of one scalar type, never nested.
    Array(Scalar, Vec<Value>),
}
