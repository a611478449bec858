//! Errors as `application/problem+json` (RFC 9457). Only this file makes their body.

use http::StatusCode;
use serde_json::{Map, Value};

use super::Response;

/// A problem of the generic type. `title` is the status's phrase, and `detail` says what was wrong with this request.
/// `more` has extension members (RFC 9457 section 3.2). A `type` among them makes it another problem, and a `title`
/// replaces the phrase. The sender of the answer adds the id of the request.
pub fn problem(status: StatusCode, detail: &str, more: &[(&str, &str)]) -> Response {
    let mut members = Map::new();
    members.insert("title".into(), status.canonical_reason().unwrap_or("Error").into());
    members.insert("status".into(), status.as_u16().into());
    members.insert("detail".into(), detail.into());
    members.extend(more.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))));
    let is_named = members.contains_key("request_id");
    let response = Response::new(status, "application/problem+json", Value::Object(members).to_string());
    if is_named { response } else { response.unnamed_problem() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_status_detail_and_more() {
        let response = problem(StatusCode::BAD_REQUEST, "a \"quote\"", &[("parameter", "id")]);
        let body: Value = serde_json::from_slice(response.body()).expect("JSON");
        assert_eq!(body["title"], "Bad Request");
        assert_eq!(body["status"], 400);
        assert_eq!(body["detail"], "a \"quote\"");
        assert_eq!(body["parameter"], "id");
    }

    #[test]
    fn a_problem_names_its_request_once() {
        let named = |mut response: Response| {
            response.name_request("");
            response.name_request("a-1");
            response.name_request("a-2");
            String::from_utf8(response.body().to_vec()).expect("JSON")
        };
        let body = named(problem(StatusCode::NOT_FOUND, "nothing", &[]));
        assert_eq!(serde_json::from_str::<Value>(&body).expect("JSON")["request_id"], "a-1");
        assert_eq!(body.matches("request_id").count(), 1);
        let own = named(problem(StatusCode::NOT_FOUND, "nothing", &[("request_id", "mine")]));
        assert!(own.contains("mine") && !own.contains("a-1"), "{own}");
        assert_eq!(named(problem(StatusCode::OK, "", &[]).with_body("{}")), "{}", "it is none any more");
        assert_eq!(named(Response::json("{}")), "{}");
    }
}
