//! The form of answers: HEAD, statuses without content, Allow, problems.

use super::super::case::{Case, case, closed, empty, head_of, head_of_problem, ok, open, problem, withheld};
use super::{NEXT, join, line};

pub(super) fn cases() -> Vec<Case> {
    [heads(), without_content(), methods(), problems()].into_iter().flatten().collect()
}

/// The request, and then another one, which shows that no content came between their answers.
fn then_next(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    join([bytes.as_ref(), NEXT])
}

fn heads() -> Vec<Case> {
    let row = |name, rfc, path: &str, answer| {
        case(name, rfc, then_next(line(format!("HEAD {path} HTTP/1.1"))), open([answer, ok("/path/next?")]))
    };
    vec![
        row("HEAD has the length and no content", "9110 9.3.2", "/immediate", head_of("immediate")),
        row("HEAD answered by a worker", "9110 9.3.2", "/path/abc", head_of("/path/abc?")),
        row("HEAD where nothing is", "9110 9.3.2", "/nowhere", head_of_problem(404)),
        row(
            "HEAD where GET is not allowed",
            "9110 9.3.2",
            "/echo",
            head_of_problem(405).allow("POST, OPTIONS"),
        ),
        case(
            "HEAD in HTTP/1.0",
            "9110 9.3.2",
            "HEAD /immediate HTTP/1.0\r\n\r\n",
            closed([head_of("immediate")]),
        ),
    ]
}

fn without_content() -> Vec<Case> {
    let row = |name, rfc, request: &str, answer| {
        case(name, rfc, then_next(line(request)), open([answer, ok("/path/next?")]))
    };
    vec![
        row("204 has neither content nor length", "9110 8.6", "GET /none HTTP/1.1", withheld(204))
            .instead("204 with a length, 200, open"),
        row("304 has no content", "9110 15.4.5", "GET /unchanged HTTP/1.1", withheld(304))
            .instead("304 with a length, 200, open"),
        row("204 for HEAD", "9110 8.6", "HEAD /none HTTP/1.1", withheld(204))
            .instead("204 with a length, 200, open"),
        case("204 that closes", "9110 8.6", "GET /none HTTP/1.0\r\n\r\n", closed([withheld(204)]))
            .instead("204 with a length, closed"),
        case("304 that closes", "9110 15.4.5", "GET /unchanged HTTP/1.0\r\n\r\n", closed([withheld(304)]))
            .instead("304 with a length, closed"),
    ]
}

fn methods() -> Vec<Case> {
    let row = |name, rfc, request: &str, answer| case(name, rfc, line(request), open([answer]));
    vec![
        row(
            "405 has Allow",
            "9110 15.5.6",
            "DELETE /immediate HTTP/1.1",
            problem(405).allow("GET, HEAD, OPTIONS"),
        ),
        row(
            "OPTIONS has Allow",
            "9110 9.3.7",
            "OPTIONS /immediate HTTP/1.1",
            empty(204).allow("GET, HEAD, OPTIONS"),
        )
        .instead("204 with a length, open"),
        row(
            "OPTIONS of what has no GET",
            "9110 9.3.7",
            "OPTIONS /echo HTTP/1.1",
            empty(204).allow("POST, OPTIONS"),
        )
        .instead("204 with a length, open"),
        row("OPTIONS where nothing is", "9110 9.3.7", "OPTIONS /nowhere HTTP/1.1", problem(404)),
        case(
            "TRACE is not answered with what was sent",
            "9110 9.3.8",
            "TRACE /immediate HTTP/1.1\r\nHost: h\r\nCookie: secret\r\n\r\n",
            open([problem(405).allow("GET, HEAD, OPTIONS")]),
        ),
        row("PATCH", "9110 15.5.6", "PATCH /echo HTTP/1.1", problem(405).allow("POST, OPTIONS")),
    ]
}

fn problems() -> Vec<Case> {
    let row = |name, rfc, request: &str, status| case(name, rfc, line(request), open([problem(status)]));
    vec![
        row("404 is a problem with its status and title", "9457 3.1", "GET /nowhere HTTP/1.1", 404),
        row("501 is a problem too", "9457 3.1", "BREW /nowhere HTTP/1.1", 501),
        case(
            "a problem whatever the client accepts",
            "9110 12.5.1",
            "GET /nowhere HTTP/1.1\r\nHost: h\r\nAccept: image/png\r\n\r\n",
            open([problem(404)]),
        ),
    ]
}
