//! A case: the bytes to send, the answers that must come back, and the connection's state afterwards.

use http::StatusCode;

/// Stands in the expected content for the id of an answer.
pub(crate) const ID: &str = "0123456789abcdef";

/// The answer's `date` is compared as this.
pub(crate) const DATE: &str = "DATE";

/// Cases that belong together.
pub(crate) struct Theme {
    pub(crate) title: &'static str,
    pub(crate) cases: Vec<Case>,
}

/// One row of the table.
pub(crate) struct Case {
    pub(crate) name: String,
    /// Number and section, as in `9112 3.2`.
    pub(crate) rfc: &'static str,
    /// Bytes, and the answers to them that a client waits for before it sends what comes next.
    pub(crate) steps: Vec<(Vec<u8>, Vec<Answer>)>,
    pub(crate) end: End,
    pub(crate) tiny_http: TinyHttp,
}

/// The connection's state after the last answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The connection serves the next request.
    Open,
    /// The server closes the connection, and its answer has said so.
    Closed,
    /// The message is not complete: nothing is answered, and when the client ends it, the server closes (RFC 9112 section 8).
    Incomplete,
}

/// What tiny_http does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TinyHttp {
    /// The same statuses, bodies and end.
    Same,
    /// Something else; the words are those of [`tiny_http::outcome`](super::tiny_http::outcome).
    Instead(&'static str),
}

/// One response.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content: Content,
    allow: Option<&'static str>,
    /// An HTTP/1.0 client is told that the connection stays open.
    kept: bool,
    /// It may be missing, and is when the request is sent whole.
    pub(crate) optional: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Neither content nor a type of it.
    None,
    /// `text/plain` that is exactly this.
    Text(Vec<u8>),
    /// A problem whose status and title are right and whose detail is not empty (RFC 9457 section 3.1).
    Problem,
    /// The head of what a `GET` would be answered: this text.
    HeadOfText(Vec<u8>),
    /// The head of what a `GET` would be answered: a problem.
    HeadOfProblem,
    /// The handler gave content, and the server does not send it because the status allows none.
    Withheld,
}

impl Answer {
    const fn new(status: u16, content: Content) -> Self {
        Self { status, content, allow: None, kept: false, optional: false }
    }

    /// With this `Allow`.
    pub(crate) fn allow(self, methods: &'static str) -> Self {
        Self { allow: Some(methods), ..self }
    }

    /// Adds `connection: keep-alive`, which answers to HTTP/1.0 clients carry.
    pub(crate) fn kept(self) -> Self {
        Self { kept: true, ..self }
    }

    /// Whether bytes follow the head.
    pub(crate) fn has_content(&self) -> bool {
        matches!(self.content, Content::Text(_) | Content::Problem)
    }

    /// The exact bytes of its head. `length` is that of a problem, which depends on its words. `close`: it is the last.
    pub(crate) fn head(&self, length: usize, close: bool) -> Vec<u8> {
        let status = StatusCode::from_u16(self.status).expect("a status of the table");
        let reason = status.canonical_reason().expect("a status that is known");
        let mut lines = vec![format!("HTTP/1.1 {} {reason}", self.status)];
        if self.status != 100 {
            let (content_type, length) = match &self.content {
                Content::None => (None, None),
                Content::Withheld => (Some("text/plain; charset=utf-8"), None),
                Content::Text(text) | Content::HeadOfText(text) => {
                    (Some("text/plain; charset=utf-8"), Some(text.len()))
                }
                Content::Problem | Content::HeadOfProblem => (Some("application/problem+json"), Some(length)),
            };
            lines.extend(content_type.map(|value| format!("content-type: {value}")));
            lines.extend(length.map(|value| format!("content-length: {value}")));
            lines.extend(self.allow.map(|methods| format!("allow: {methods}")));
            lines.push(format!("x-request-id: {ID}"));
            match (close, self.kept) {
                (true, _) => lines.push("connection: close".into()),
                (false, true) => lines.push("connection: keep-alive".into()),
                (false, false) => {}
            }
            lines.push(format!("date: {DATE}"));
        }
        (lines.join("\r\n") + "\r\n\r\n").into_bytes()
    }
}

/// 200 with this text.
pub(crate) fn ok(text: impl Into<Vec<u8>>) -> Answer {
    Answer::new(200, Content::Text(text.into()))
}

/// The answer to `HEAD` where `GET` has this text.
pub(crate) fn head_of(text: &str) -> Answer {
    Answer::new(200, Content::HeadOfText(text.into()))
}

/// The answer to `HEAD` where `GET` has a problem.
pub(crate) fn head_of_problem(status: u16) -> Answer {
    Answer::new(status, Content::HeadOfProblem)
}

/// A problem.
pub(crate) fn problem(status: u16) -> Answer {
    Answer::new(status, Content::Problem)
}

/// An answer of a status without content.
pub(crate) fn empty(status: u16) -> Answer {
    Answer::new(status, Content::None)
}

/// A status that has no content, though the handler gave some.
pub(crate) fn withheld(status: u16) -> Answer {
    Answer::new(status, Content::Withheld)
}

/// `100 Continue`.
pub(crate) fn proceed() -> Answer {
    Answer::new(100, Content::None)
}

/// `100 Continue`, unless the body is there already (RFC 9110 section 10.1.1).
pub(crate) fn proceed_unless_sent() -> Answer {
    Answer { optional: true, ..proceed() }
}

/// Answers and then an end.
pub(crate) struct Outcome(Vec<Answer>, End);

/// These answers, and the connection stays.
pub(crate) fn open(answers: impl Into<Vec<Answer>>) -> Outcome {
    Outcome(answers.into(), End::Open)
}

/// These answers, and the connection is closed with the last.
pub(crate) fn closed(answers: impl Into<Vec<Answer>>) -> Outcome {
    Outcome(answers.into(), End::Closed)
}

/// A problem of this status, and the connection is closed.
pub(crate) fn refused(status: u16) -> Outcome {
    closed([problem(status)])
}

/// Nothing, because the message is not complete.
pub(crate) fn incomplete() -> Outcome {
    Outcome(Vec::new(), End::Incomplete)
}

/// A row: what it is about, what decides it, the bytes, and what comes back.
pub(crate) fn case(
    name: impl Into<String>,
    rfc: &'static str,
    bytes: impl Into<Vec<u8>>,
    Outcome(answers, end): Outcome,
) -> Case {
    Case { name: name.into(), rfc, steps: vec![(bytes.into(), answers)], end, tiny_http: TinyHttp::Same }
}

impl Case {
    /// Before the bytes of the row come these, and their answers.
    pub(crate) fn after(mut self, bytes: impl Into<Vec<u8>>, answers: impl Into<Vec<Answer>>) -> Self {
        self.steps.insert(0, (bytes.into(), answers.into()));
        self
    }

    /// Sets the outcome on tiny_http, where it differs.
    pub(crate) fn instead(self, words: &'static str) -> Self {
        Self { tiny_http: TinyHttp::Instead(words), ..self }
    }

    /// The expected outcome in words: the statuses and the end.
    pub(crate) fn expected(&self) -> String {
        let answers = self.answers().map(|answer| answer.status.to_string());
        describe(answers.collect(), self.end)
    }

    /// The expected outcome on tiny_http in words.
    pub(crate) fn on_tiny_http(&self) -> String {
        match self.tiny_http {
            TinyHttp::Same => self.expected(),
            TinyHttp::Instead(words) => words.to_owned(),
        }
    }

    /// All that must come back.
    pub(crate) fn answers(&self) -> impl Iterator<Item = &Answer> {
        self.steps.iter().flat_map(|(_, answers)| answers).filter(|answer| !answer.optional)
    }
}

/// `400, closed`.
pub(crate) fn describe(mut words: Vec<String>, end: End) -> String {
    match end {
        End::Open => words.push("open".into()),
        End::Closed => words.push("closed".into()),
        End::Incomplete => words.push("no answer".into()),
    }
    words.join(", ")
}
