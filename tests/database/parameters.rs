//! Every parameter type in every place, good and bad, on both databases; and text that would be SQL if it were pasted.

use std::fmt::Write as _;

use crate::support::{Answer, Postgres, Wharf};

/// Type, what PostgreSQL calls it, what is sent, and what comes back from PostgreSQL and from SQLite.
const GOOD: [(&str, &str, &str, &str, &str); 14] = [
    ("int", "bigint", "42", "42", "42"),
    ("int", "bigint", "-9223372036854775808", "-9223372036854775808", "-9223372036854775808"),
    ("float", "double precision", "1.5", "1.5", "1.5"),
    ("float", "double precision", "-2e3", "-2000", "-2000"),
    ("text", "text", "a'b\"c\\d %&=+ü€", r#""a'b\"c\\d %&=+ü€""#, r#""a'b\"c\\d %&=+ü€""#),
    ("bool", "boolean", "true", "true", "1"),
    ("bool", "boolean", "false", "false", "0"),
    (
        "uuid",
        "uuid",
        "01234567-89AB-cdef-0123-456789abcdef",
        r#""01234567-89ab-cdef-0123-456789abcdef""#,
        r#""01234567-89ab-cdef-0123-456789abcdef""#,
    ),
    ("date", "date", "2012-02-29", r#""2012-02-29""#, r#""2012-02-29""#),
    (
        "timestamp",
        "timestamptz",
        "2013-01-31T12:00:00+02:00",
        r#""2013-01-31T10:00:00Z""#,
        r#""2013-01-31 10:00:00""#,
    ),
    ("timestamp", "timestamp", "2013-01-31T12:00:00", r#""2013-01-31T12:00:00""#, r#""2013-01-31 12:00:00""#),
    ("json", "json", r#"{"a":[1,null]}"#, r#"{"a":[1,null]}"#, r#""{\"a\":[1,null]}""#),
    ("bytes", "bytea", "AAEC/w==", r#""AAEC/w==""#, r#""AAEC/w==""#),
    ("bytes", "bytea", "", r#""""#, r#""""#),
];

const BAD: [(&str, &[&str]); 8] = [
    ("int", &["abc", "1.5", "+1", "01", "9223372036854775808", "", " 1", "1;drop"]),
    ("float", &["x", "NaN", "inf", "", "1e999", "0x10"]),
    ("bool", &["1", "yes", "TRUE", ""]),
    ("uuid", &["123", "0123456789abcdef0123456789abcdef", "01234567-89ab-cdef-0123-456789abcdeg"]),
    ("date", &["2013-02-30", "2013-1-1", "today", ""]),
    ("timestamp", &["yesterday", "2013-01-31", "2013-01-31T25:00:00Z", ""]),
    ("json", &["{", "", "{a:1}"]),
    ("bytes", &["*", "AAE", "AAEC_w=="]),
];

const PLACES: [&str; 5] = ["path", "query", "header", "body", "form"];

#[derive(Clone, Copy, PartialEq)]
enum Database {
    Postgres,
    Sqlite,
}

/// An endpoint for each type and place that answers what it was sent.
fn echoes(database: Database) -> String {
    let mut config = String::new();
    let mut known = Vec::new();
    for (kind, native, ..) in GOOD {
        if known.contains(&(kind, native)) {
            continue;
        }
        known.push((kind, native));
        let sql = match database {
            Database::Postgres => format!("select cast(:x as {native}) as x"),
            Database::Sqlite => "select :x as x".to_owned(),
        };
        let slug = native.replace(' ', "_");
        for place in PLACES {
            let method = if ["body", "form"].contains(&place) { "POST" } else { "GET" };
            let segment = if place == "path" { "/{x}" } else { "" };
            let wire_name = if place == "header" { r#", as = "X-Value""# } else { "" };
            write!(
                config,
                "[endpoint.{place}_{slug}]\nroute = '{method} /{place}/{slug}{segment}'\nsql = '{sql}'\nreturns = 'value'\n\
                 params = {{ x = {{ in = '{place}', type = '{kind}'{wire_name} }} }}\n\n"
            )
            .expect("a String takes all");
        }
    }
    config
}

fn percent(text: &str) -> String {
    text.bytes().fold(String::new(), |encoded, byte| encoded + &format!("%{byte:02X}"))
}

/// Sends a text as the parameter of an echo. A body has it as the JSON that `kind` has there.
fn send(wharf: &Wharf, place: &str, native: &str, kind: &str, text: &str) -> Answer {
    let slug = native.replace(' ', "_");
    let quoted = serde_json::to_string(text).expect("a string is JSON");
    match place {
        "path" => wharf.get(&format!("/path/{slug}/{}", percent(text))),
        "query" => wharf.get(&format!("/query/{slug}?x={}", percent(text))),
        "header" => wharf.request("GET", &format!("/header/{slug}"), &[("X-Value", text)], ""),
        "body" => {
            let raw = ["int", "float", "bool", "json"].contains(&kind);
            let member = if raw { text } else { &quoted };
            wharf.json("POST", &format!("/body/{slug}"), &format!(r#"{{"x":{member}}}"#))
        }
        _ => {
            let headers = [("Content-Type", "application/x-www-form-urlencoded")];
            wharf.request("POST", &format!("/form/{slug}"), &headers, &format!("x={}", percent(text)))
        }
    }
}

fn sqlite_config(directory: &tempfile::TempDir, endpoints: &str) -> String {
    format!("[database]\nurl = 'sqlite:{}'\n\n{endpoints}", directory.path().join("test.db").display())
}

fn postgres_config(database: &crate::support::Database, endpoints: &str) -> String {
    format!("[database]\nurl = '{}'\n\n{endpoints}", database.url())
}

/// Both databases behind both connectors, with the endpoints that `endpoints` makes for each database.
fn on_both(endpoints: impl Fn(Database) -> String, test: impl Fn(&Wharf, Database)) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let sqlite = sqlite_config(&directory, &endpoints(Database::Sqlite));
    let database = Postgres::database();
    let postgres = postgres_config(&database, &endpoints(Database::Postgres));
    for connector in ["native", "tiny_http"] {
        let connector = [("WHARF_SERVER_CONNECTOR", connector)];
        test(&Wharf::start_with(&sqlite, &[], &connector), Database::Sqlite);
        test(&Wharf::start_with(&postgres, &[], &connector), Database::Postgres);
    }
}

/// The name by which the client sends an echo's parameter.
fn name_in(place: &str) -> &'static str {
    if place == "header" { "X-Value" } else { "x" }
}

fn assert_bad(answer: &Answer, parameter: &str, what: &str) {
    assert_eq!(answer.status, 400, "{what}: {}", answer.text());
    assert_eq!(answer.header("Content-Type"), Some("application/problem+json"), "{what}");
    let problem = answer.json();
    assert_eq!(problem["parameter"], parameter, "{what}");
    assert!(problem["expected"].as_str().is_some_and(|text| !text.is_empty()), "{what}: {problem}");
    assert!(problem["request_id"].is_string(), "{what}: {problem}");
    // No header is echoed.
    let is_told = problem["received"].is_string();
    assert!(is_told || parameter == "X-Value", "{what}: {problem}");
}

fn assert_bad_as(answer: &Answer, parameter: &str, expected: &str, received: &str) {
    let what = format!("{expected}, {received}");
    assert_bad(answer, parameter, &what);
    let problem = answer.json();
    assert_eq!(
        (problem["expected"].as_str(), problem["received"].as_str()),
        (Some(expected), Some(received))
    );
    let detail = format!("parameter {parameter}: expected {expected}, received {received}");
    assert_eq!(problem["detail"], detail);
}

/// A problem does not repeat the value of a header.
fn assert_bad_header(answer: &Answer, expected: &str) {
    assert_bad(answer, "X-Value", expected);
    let problem = answer.json();
    assert_eq!(problem["detail"], format!("parameter X-Value: expected {expected}"));
    assert_eq!((&problem["expected"], &problem["received"]), (&expected.into(), &serde_json::Value::Null));
}

#[test]
fn every_type_comes_through_every_place() {
    on_both(echoes, |wharf, database| {
        for (kind, native, sent, postgres, sqlite) in GOOD {
            for place in PLACES {
                // A path's segment is never empty, and a header's value is ASCII here.
                if (place == "path" && sent.is_empty()) || (place == "header" && !sent.is_ascii()) {
                    continue;
                }
                let answer = send(wharf, place, native, kind, sent);
                let expected = if database == Database::Postgres { postgres } else { sqlite };
                assert_eq!((answer.status, answer.text()), (200, expected), "{kind} {sent:?} in the {place}");
            }
        }
    });
}

#[test]
fn a_value_of_another_type_is_refused_with_the_parameters_name() {
    on_both(echoes, |wharf, _| {
        for (kind, bad) in BAD {
            let native = GOOD.iter().find(|good| good.0 == kind).expect("every type is good somehow").1;
            for text in bad {
                for place in PLACES {
                    // Bad JSON in a body is a bad body, not a bad member; a segment is never empty; headers are trimmed.
                    let json_member = place == "body" && kind == "json";
                    if json_member
                        || (place == "path" && text.is_empty())
                        || (place == "header" && text.starts_with(' '))
                    {
                        continue;
                    }
                    // In a JSON body the value is sent as a string, which is neither a number nor a boolean.
                    let as_kind = if place == "body" { "text" } else { kind };
                    let answer = send(wharf, place, native, as_kind, text);
                    assert_bad(&answer, name_in(place), &format!("{kind} {text:?} in the {place}"));
                }
            }
        }
    });
}

/// An array's item type, what PostgreSQL calls it, two items as they are sent, and the array as each database has it: SQLite
/// gets JSON text, for `json_each`.
const ARRAYS: [(&str, &str, [&str; 2], &str, &str); 9] = [
    ("int", "bigint", ["1", "-2"], "[1,-2]", "[1,-2]"),
    ("float", "double precision", ["0.5", "-2e3"], "[0.5,-2000]", "[0.5,-2000]"),
    ("text", "text", ["a", "b c"], r#"["a","b c"]"#, r#"["a","b c"]"#),
    ("bool", "boolean", ["true", "false"], "[true,false]", "[true,false]"),
    (
        "uuid",
        "uuid",
        ["01234567-89AB-cdef-0123-456789abcdef", "00000000-0000-0000-0000-000000000000"],
        r#"["01234567-89ab-cdef-0123-456789abcdef","00000000-0000-0000-0000-000000000000"]"#,
        r#"["01234567-89ab-cdef-0123-456789abcdef","00000000-0000-0000-0000-000000000000"]"#,
    ),
    (
        "date",
        "date",
        ["2012-02-29", "0001-01-01"],
        r#"["2012-02-29","0001-01-01"]"#,
        r#"["2012-02-29","0001-01-01"]"#,
    ),
    (
        "timestamp",
        "timestamptz",
        ["2013-01-31T12:00:00+02:00", "2013-01-31T12:00:00.5"],
        r#"["2013-01-31T10:00:00Z","2013-01-31T12:00:00.5Z"]"#,
        r#"["2013-01-31 10:00:00","2013-01-31 12:00:00.5"]"#,
    ),
    ("json", "jsonb", ["[]", "null"], "[[],null]", "[[],null]"),
    ("bytes", "bytea", ["AAEC/w==", ""], r#"["AAEC/w==",""]"#, r#"["AAEC/w==",""]"#),
];

#[test]
fn arrays_are_repeated_in_queries_and_forms_and_arrays_in_json() {
    let endpoints = |database| {
        let sql = |native: &str| match database {
            Database::Postgres => format!("select cast(:x as {native}[]) as x"),
            Database::Sqlite => "select :x as x".to_owned(),
        };
        let mut config = String::new();
        for (kind, native, ..) in ARRAYS {
            for (place, method) in [("query", "GET"), ("body", "POST"), ("form", "PUT")] {
                write!(
                    config,
                    "[endpoint.{place}_{kind}]\nroute = '{method} /{kind}/{place}'\nsql = '{}'\nreturns = 'value'\n\
                     params = {{ x = {{ in = '{place}', type = '{kind}[]', max_items = 3 }} }}\n\n",
                    sql(native)
                )
                .expect("a String takes all");
            }
        }
        config
    };
    on_both(endpoints, |wharf, database| {
        let value = |json: &str| match database {
            Database::Postgres => json.to_owned(),
            Database::Sqlite => serde_json::to_string(json).expect("a string is JSON"),
        };
        for (kind, _, items, postgres, sqlite) in ARRAYS {
            let expected = value(if database == Database::Postgres { postgres } else { sqlite });
            let [query, body, form] = send_items(wharf, kind, &items);
            for (place, answer) in [("query", query), ("body", body), ("form", form)] {
                assert_eq!((answer.status, answer.text()), (200, &*expected), "{kind} in the {place}");
            }
            let bad = BAD.iter().find(|bad| bad.0 == kind).map_or("\0", |bad| bad.1[0]);
            let [query, body, form] = send_items(wharf, kind, &[items[0], bad]);
            assert_bad(&query, "x", &format!("{bad:?} in the query"));
            assert_bad(&form, "x", &format!("{bad:?} in the form"));
            // Bad JSON makes the whole body bad.
            assert_eq!(body.status, 400, "{bad:?} in the body: {}", body.text());
        }
        let awkward = r#"["a,b","{}","\"\\","NULL",""]"#;
        let many = wharf.json("POST", "/text/body", &format!(r#"{{"x":{awkward}}}"#));
        assert_bad_as(&many, "x", "at most 3 items", "5 items");
        for item in ["a,b", "{}", r#""\"#, "NULL", "", "'; drop table x"] {
            let json = serde_json::to_string(&[item]).expect("an array is JSON");
            assert_eq!(wharf.json("POST", "/text/body", &format!(r#"{{"x":{json}}}"#)).text(), value(&json));
        }
        assert_eq!(wharf.json("POST", "/date/body", r#"{"x":[]}"#).text(), value("[]"));
        for bad in
            [r#"{"x":1}"#, r#"{"x":[1,"2"]}"#, r#"{"x":[[1]]}"#, r#"{"x":[null]}"#, r#"{"x":[1,2,3,4]}"#]
        {
            assert_bad(&wharf.json("POST", "/int/body", bad), "x", bad);
        }
    });
}

/// Sends an array in the query, the JSON body and the form.
fn send_items(wharf: &Wharf, kind: &str, items: &[&str]) -> [Answer; 3] {
    let pairs: Vec<_> = items.iter().map(|item| format!("x={}", percent(item))).collect();
    let pairs = pairs.join("&");
    let raw = ["int", "float", "bool", "json"].contains(&kind);
    let quoted = |item: &&str| serde_json::to_string(item).expect("a string is JSON");
    let members: Vec<_> =
        items.iter().map(|item| if raw { (*item).to_owned() } else { quoted(item) }).collect();
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    [
        wharf.get(&format!("/{kind}/query?y=0&{pairs}")),
        wharf.json("POST", &format!("/{kind}/body"), &format!(r#"{{"x":[{}]}}"#, members.join(","))),
        wharf.request("PUT", &format!("/{kind}/form"), &form, &pairs),
    ]
}

#[test]
fn a_refusal_says_what_was_expected_and_what_came() {
    on_both(echoes, |wharf, _| {
        let cut = format!("\"{}…\"", "9".repeat(60));
        for (path, expected, received) in [
            ("/query/bigint?x=4x2", "a 64-bit integer", r#""4x2""#),
            ("/path/bigint/4%222", "a 64-bit integer", r#""4\"2""#),
            (&format!("/path/bigint/{}", "9".repeat(100)), "a 64-bit integer", &cut),
            ("/query/uuid?x=%20", "a UUID such as 01234567-89ab-cdef-0123-456789abcdef", r#"" ""#),
            ("/query/date?x=2013-02-30", "a date such as 2013-01-31", r#""2013-02-30""#),
            ("/query/bool?x", "true or false", r#""""#),
            ("/query/bool", "bool as \"x\" in the query", "nothing"),
            ("/header/bool", "bool as \"X-Value\" in the header", "nothing"),
            ("/query/text?x=a%00", "text without NUL", r#""a\0""#),
            ("/query/bigint?x=1&x=2", "int, once", r#""1, 2""#),
        ] {
            let slug = path.replace("/bool", "/boolean");
            let place = path.split('/').nth(1).expect("a place");
            assert_bad_as(&wharf.get(&slug), name_in(place), expected, received);
        }
        for (body, expected, received) in [
            (r#"{"x":"1"}"#, "a 64-bit integer", r#""1""#),
            (r#"{"x":1.0}"#, "a 64-bit integer", "1.0"),
            (r#"{"x":null}"#, "a 64-bit integer", "null"),
            (r#"{"x":[1]}"#, "a 64-bit integer", "[1]"),
            (r#"{"X":1}"#, "int as \"x\" in the JSON body", "nothing"),
            (r#"{"x":1,"\u0078":2}"#, "int, once", r#""1, 2""#),
        ] {
            assert_bad_as(&wharf.json("POST", "/body/bigint", body), "x", expected, received);
        }
        let form = |body| {
            wharf.request(
                "POST",
                "/form/bigint",
                &[("Content-Type", "application/x-www-form-urlencoded")],
                body,
            )
        };
        assert_bad_as(&form("y=1"), "x", "int as \"x\" in the form", "nothing");
        assert_bad_as(&form("x=1&x=1"), "x", "int, once", r#""1, 1""#);
    });
}

#[test]
fn a_value_that_is_not_percent_encoded_utf_8_is_refused_and_not_repaired() {
    on_both(echoes, |wharf, _| {
        let expected = "UTF-8, percent-encoded";
        for (sent, received) in
            [("%ff", r#""%ff""#), ("%", r#""%""#), ("a%4", r#""a%4""#), ("%zz", r#""%zz""#)]
        {
            assert_bad_as(&wharf.get(&format!("/query/text?x={sent}")), "x", expected, received);
            let form = [("Content-Type", "application/x-www-form-urlencoded")];
            assert_bad_as(
                &wharf.request("POST", "/form/text", &form, &format!("x={sent}")),
                "x",
                expected,
                received,
            );
            assert_bad_as(&wharf.get(&format!("/path/text/{sent}")), "x", expected, received);
        }
        // A plus is a space in a query, and a plus in a path. Names are encoded too, and other parameters are ignored.
        assert_eq!(wharf.get("/query/text?%78=a+b%2B&y=%ff&%ff=1").text(), r#""a b+""#);
        assert_eq!(wharf.get("/path/text/a+b%2F").text(), r#""a+b/""#);
        let answer = wharf.json("POST", "/body/text", r#"{"x":"\ud800"}"#);
        assert_bad(&answer, "x", "half a surrogate pair");
    });
    let directory = tempfile::tempdir().expect("a temporary directory");
    let wharf = Wharf::start(&sqlite_config(&directory, &echoes(Database::Sqlite)));
    let send = |body: &[u8]| {
        let mut client = wharf.connect();
        client.send(body);
        client.answer()
    };
    let header = |value: &[u8]| {
        send(&[b"GET /header/text HTTP/1.1\r\nHost: h\r\nX-Value: ", value, b"\r\n\r\n"].concat())
    };
    assert_eq!(header("ü€".as_bytes()).text(), r#""ü€""#);
    assert_bad_header(&header(b"\xfc"), "UTF-8");
    let head =
        b"POST /body/text HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n";
    let latin = send(&[&head[..], b"{\"x\":\"\xfc\"}"].concat());
    assert_eq!(latin.status, 400, "{}", latin.text());
}

const CHECKED: &str = "
[endpoint.checked]
route   = 'POST /checked'
sql     = '''select cast(:count as integer) as count, cast(:word as text) as word, cast(:note as text) as note,
             cast(:size as integer) as size'''
returns = 'one'
[endpoint.checked.params]
count = { in = 'body', type = 'int', min = 1, max = 10 }
word  = { in = 'body', type = 'text', min_len = 2, max_len = 4, pattern = '[a-zü]+' }
note  = { in = 'body', type = 'text', optional = true }
size  = { in = 'body', type = 'int', default = 7, one_of = [7, 9] }
";

#[test]
fn optional_is_null_and_default_is_a_value() {
    on_both(
        |_| CHECKED.to_owned(),
        |wharf, _| {
            let answer = wharf.json("POST", "/checked", r#"{"count":1,"word":"üü","ignored":1}"#);
            assert_eq!(answer.text(), r#"{"count":1,"word":"üü","note":null,"size":7}"#);
            let answer = wharf.json("POST", "/checked", r#"{"count":10,"word":"abcd","note":null,"size":9}"#);
            assert_eq!(answer.text(), r#"{"count":10,"word":"abcd","note":null,"size":9}"#);
        },
    );
}

#[test]
fn every_check_is_made() {
    on_both(
        |_| CHECKED.to_owned(),
        |wharf, _| {
            for (parameter, body) in [
                ("count", r#"{"word":"ab"}"#),
                ("count", r#"{"count":0,"word":"ab"}"#),
                ("count", r#"{"count":11,"word":"ab"}"#),
                ("count", r#"{"count":null,"word":"ab"}"#),
                ("word", r#"{"count":1,"word":"a"}"#),
                ("word", r#"{"count":1,"word":"abcde"}"#),
                ("word", r#"{"count":1,"word":"ab1"}"#),
                ("word", r#"{"count":1,"word":"ab\n"}"#),
                ("size", r#"{"count":1,"word":"ab","size":8}"#),
                ("size", r#"{"count":1,"word":"ab","size":null}"#),
                ("note", r#"{"count":1,"word":"ab","note":"\u0000"}"#),
            ] {
                assert_bad(&wharf.json("POST", "/checked", body), parameter, body);
            }
        },
    );
}

#[test]
fn each_check_says_what_passes() {
    const CHECKS: [(&str, &str, &str, &str, &str); 12] = [
        ("type = 'int', min = -1", "-1", "-2", "at least -1", "-2"),
        ("type = 'int', max = 5", "5", "6", "at most 5", "6"),
        ("type = 'int', one_of = [1, 3]", "3", "2", "one of 1, 3", "2"),
        ("type = 'float', min = 0.5", "0.5", "0.4999", "at least 0.5", "0.4999"),
        ("type = 'float', max = 1e3", "1000", "1000.5", "at most 1000", "1000.5"),
        ("type = 'date', min = 2013-01-01", "2013-01-01", "2012-12-31", "at least 2013-01-01", "2012-12-31"),
        (
            "type = 'timestamp', max = 2013-01-01T00:00:00Z",
            "2013-01-01T01:00:00+01:00",
            "2013-01-01T00:00:00.001Z",
            "at most 2013-01-01T00:00:00Z",
            "2013-01-01T00:00:00.001Z",
        ),
        ("type = 'text', min_len = 2", "üü", "ü", "a length of at least 2", "ü"),
        ("type = 'text', max_len = 2", "üü", "üüü", "a length of at most 2", "üüü"),
        ("type = 'text', pattern = 'a|b+'", "bb", "ab", "text that matches a|b+", "ab"),
        ("type = 'text', one_of = ['a', 'b']", "b", "B", "one of a, b", "B"),
        ("type = 'bytes', max_len = 1", "AA==", "AAA=", "a length of at most 1", "2 bytes"),
    ];
    let endpoints = |database| {
        let mut config = String::new();
        for (index, (declared, ..)) in CHECKS.iter().enumerate() {
            let kind = declared.split('\'').nth(1).expect("a declaration begins with its type");
            let sql = match database {
                Database::Sqlite => "select 1 where :x is not null".to_owned(),
                Database::Postgres => {
                    let native = GOOD.iter().find(|good| good.0 == kind).expect("every type is there").1;
                    format!("select 1 where cast(:x as {native}) is not null")
                }
            };
            write!(
                config,
                "[endpoint.check_{index}]\nroute = 'GET /{index}'\nsql = '{sql}'\nparams.x = {{ {declared} }}\n\n"
            )
            .expect("a String takes all");
        }
        config
    };
    on_both(endpoints, |wharf, _| {
        for (index, (declared, good, bad, expected, received)) in CHECKS.into_iter().enumerate() {
            let send = |text| wharf.get(&format!("/{index}?x={}", percent(text)));
            assert_eq!(send(good).status, 200, "{declared}: {}", send(good).text());
            assert_bad_as(&send(bad), "x", expected, &format!("{received:?}"));
        }
    });
}

#[test]
fn a_parameter_may_be_left_out_of_every_place_when_it_says_so() {
    let endpoints = |_| {
        let mut config = String::new();
        for (place, method) in [("query", "GET"), ("header", "PUT"), ("body", "POST"), ("form", "PATCH")] {
            write!(
                config,
                "[endpoint.{place}]\nroute = '{method} /'\nreturns = 'one'\n\
                 sql = 'select cast(:a as text) as a, cast(:b as text) as b'\n\
                 params.a = {{ in = '{place}', type = 'text', optional = true }}\n\
                 params.b = {{ in = '{place}', type = 'text', default = 'd' }}\n\n"
            )
            .expect("a String takes all");
        }
        config
    };
    on_both(endpoints, |wharf, _| {
        let form = [("Content-Type", "application/x-www-form-urlencoded")];
        for (left_out, sent) in [
            (wharf.get("/"), wharf.get("/?a=&b=x")),
            (wharf.request("PUT", "/", &[], ""), wharf.request("PUT", "/", &[("A", ""), ("B", "x")], "")),
            (wharf.json("POST", "/", "{}"), wharf.json("POST", "/", r#"{"a":"","b":"x"}"#)),
            (wharf.request("PATCH", "/", &form, ""), wharf.request("PATCH", "/", &form, "a=&b=x")),
        ] {
            assert_eq!(left_out.text(), r#"{"a":null,"b":"d"}"#);
            assert_eq!(sent.text(), r#"{"a":"","b":"x"}"#);
        }
    });
}

#[test]
fn a_name_that_is_no_parameter_is_refused_if_the_endpoint_is_strict() {
    let endpoint = |database: Database| {
        let integer = if database == Database::Postgres { "cast(:n as bigint)" } else { ":n" };
        format!(
            "{}[endpoint.q]\nroute = 'GET /q'\nstrict = true\nsql = 'select {integer} as n'\nreturns = 'value'\n\
             params = {{ n = {{ type = 'int', default = 1 }} }}\n\
             [endpoint.f]\nroute = 'POST /f'\nstrict = true\nsql = 'select {integer} as n'\nreturns = 'value'\n\
             params = {{ n = {{ type = 'int', in = 'form' }} }}\n",
            CHECKED.replace("sql  ", "strict = true\nsql  ")
        )
    };
    let assert_unknown = |answer: &Answer, name: &str, expected: &str| {
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert_eq!(
            (&answer.json()["parameter"], &answer.json()["expected"]),
            (&name.into(), &expected.into())
        );
    };
    on_both(endpoint, |wharf, _| {
        assert_eq!(wharf.get("/q?n=7").text(), "7");
        assert_eq!(wharf.get("/q?").text(), "1");
        assert_unknown(&wharf.get("/q?m=7"), "m", "only n");
        assert_unknown(&wharf.get(&format!("/q?n=7&{}", "m".repeat(300))), &"m".repeat(100), "only n");
        let form = |body: &str| {
            wharf.request("POST", "/f", &[("Content-Type", "application/x-www-form-urlencoded")], body)
        };
        assert_eq!(form("n=7").text(), "7");
        assert_unknown(&form("n=7&m=8"), "m", "only n");
        assert_eq!(wharf.json("POST", "/checked", r#"{"count":1,"word":"ab"}"#).status, 200);
        let answer = wharf.json("POST", "/checked", r#"{"count":1,"word":"ab","other":2}"#);
        assert_unknown(&answer, "other", "only count, word, note, size");
        assert_unknown(
            &wharf.json("POST", "/checked?count=1", r#"{"count":1,"word":"ab"}"#),
            "count",
            "none",
        );
    });
}

#[test]
fn a_body_of_another_kind_is_refused() {
    on_both(
        |_| CHECKED.to_owned(),
        |wharf, _| {
            for body in ["[]", "1", "\"x\"", "{", "{\"count\":1,}", "{} {}"] {
                let answer = wharf.json("POST", "/checked", body);
                assert_eq!(answer.status, 400, "{body}: {}", answer.text());
                assert!(answer.text().contains("JSON object"), "{}", answer.text());
            }
            let answer = wharf.request("POST", "/checked", &[("Content-Type", "text/plain")], "{}");
            assert_eq!(answer.status, 415, "{}", answer.text());
            assert_eq!(answer.json()["expected"], "application/json");
            for fine in ["Application/JSON; charset=utf-8", "application/merge-patch+json", "a/b+JSON;x=y"] {
                let headers = [("Content-Type", fine), ("Content-Encoding", "Identity")];
                let answer = wharf.request("POST", "/checked", &headers, r#"{"count":1,"word":"ab"}"#);
                assert_eq!(answer.status, 200, "{fine}: {}", answer.text());
            }
            for other in ["application/xml+jso", "+json", "application/json-seq", "text/plain; a=b+json"] {
                let answer = wharf.request("POST", "/checked", &[("Content-Type", other)], r#"{"count":1}"#);
                assert_eq!(answer.status, 415, "{other}: {}", answer.text());
            }
            for coding in ["gzip", "identity, br", "x"] {
                let headers = [("Content-Type", "application/json"), ("Content-Encoding", coding)];
                let answer = wharf.request("POST", "/checked", &headers, "\u{1f}\u{8b}");
                assert_eq!(answer.status, 415, "{coding}: {}", answer.text());
                assert_eq!(answer.header("Accept-Encoding"), Some("identity"));
                assert!(answer.text().contains("must not be compressed"), "{}", answer.text());
            }
        },
    );
    on_both(echoes, |wharf, _| {
        let answer = wharf.json("POST", "/form/text", r#"{"x":"a"}"#);
        assert_eq!(answer.status, 415, "{}", answer.text());
        assert_eq!(answer.json()["expected"], "application/x-www-form-urlencoded");
        assert_eq!(answer.json()["received"], serde_json::Value::Null, "no header is echoed");
    });
}

#[test]
fn a_parameter_is_called_by_the_name_that_the_client_uses() {
    let endpoint = |database: Database| {
        let cast = if database == Database::Postgres { "cast(:depart as smallint)" } else { ":depart" };
        format!(
            "[endpoint.a]\nroute = 'GET /a/{{code}}'\nsql = 'select {cast}, cast(:airport as integer)'\n\
             params = {{ depart = {{ type = 'int', as = 'from', min = 1 }}, airport = {{ type = 'int', as = 'code' }} }}\n"
        )
    };
    on_both(endpoint, |wharf, database| {
        assert_bad_as(&wharf.get("/a/1"), "from", "int as \"from\" in the query", "nothing");
        assert_bad_as(&wharf.get("/a/1?from=x"), "from", "a 64-bit integer", r#""x""#);
        assert_bad_as(&wharf.get("/a/1?from=0"), "from", "at least 1", r#""0""#);
        assert_bad_as(&wharf.get("/a/x?from=1"), "code", "a 64-bit integer", r#""x""#);
        if database == Database::Postgres {
            // The statement's `smallint` cannot hold this value, and the database finds that out later than the
            // parameter's check.
            let answer = wharf.get("/a/1?from=40000");
            assert_bad_as(&answer, "from", "an integer from -32768 to 32767", "40000");
        }
    });
}

#[test]
fn a_header_that_comes_twice_is_refused() {
    on_both(echoes, |wharf, _| {
        let twice = wharf.request("GET", "/header/bigint", &[("X-Value", "1"), ("x-value", "2")], "");
        assert_bad_header(&twice, "int, once");
    });
}

#[test]
fn numbers_beyond_the_columns_range_are_the_clients_mistake() {
    let integers = |low, high| format!("an integer from {low} to {high}");
    let (small, medium) = (integers(-32_768_i64, 32_767_i64), integers(-2_147_483_648, 2_147_483_647));
    let real = "a number that 32 bits can hold".to_owned();
    let cases = [
        ("int", "smallint", "-32768", "32768", &small),
        ("int", "integer", "2147483647", "-2147483649", &medium),
        ("int[]", "smallint[]", "32767", "-32769", &small),
        ("int[]", "integer[]", "-2147483648", "2147483648", &medium),
        ("float", "real", "1.5", "1e39", &real),
        ("float", "real", "0", "1e-50", &real),
        ("float[]", "real[]", "1.5", "-1e39", &real),
    ];
    let mut config = String::new();
    for (index, (kind, native, ..)) in cases.iter().enumerate() {
        write!(
            config,
            "[endpoint.e{index}]\nroute = 'GET /{index}'\nsql = 'select cast(:x as {native}) as x'\nreturns = 'value'\n\
             params.x = '{kind}'\n\n"
        )
        .expect("a String takes all");
    }
    let database = Postgres::database();
    let wharf = Wharf::start(&postgres_config(&database, &config));
    for (index, (kind, native, good, bad, expected)) in cases.into_iter().enumerate() {
        let json = if kind.ends_with("[]") { format!("[{good}]") } else { good.to_owned() };
        assert_eq!(wharf.get(&format!("/{index}?x={good}")).text(), json, "{native}");
        let answer = wharf.get(&format!("/{index}?x={bad}"));
        assert_bad(&answer, "x", native);
        assert_eq!(answer.json()["expected"], **expected, "{native}");
        let received: f64 =
            answer.json()["received"].as_str().and_then(|text| text.parse().ok()).expect("a number");
        assert_eq!(received.to_string(), bad.parse::<f64>().expect("a number").to_string());
    }
}

#[test]
fn sql_in_a_parameter_is_data() {
    let attempts = [
        "'; drop table victim; --",
        "' or '1'='1",
        "1); delete from victim; select (1",
        "$$; drop table victim; $$",
        "\\'; drop table victim; --",
        "\u{2019}; drop table victim; --",
        ":x :name $1 ?1 @x",
        "/* */ -- \" ` [",
        "0x27; exec",
    ];
    let endpoints = |database| {
        echoes(database) + "[endpoint.victims]\nroute = 'GET /victims'\nsql = 'select name from victim'\n"
    };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let schema = "create table victim (name text); insert into victim values ('still here')";
    let file = rusqlite::Connection::open(directory.path().join("test.db")).expect("SQLite opens");
    file.execute_batch(schema).expect("the table is made");
    let database = Postgres::database();
    database.psql(schema);
    let long = format!("'); drop table victim; --{}", " x".repeat(3_000));
    for wharf in [
        Wharf::start(&sqlite_config(&directory, &endpoints(Database::Sqlite))),
        Wharf::start(&postgres_config(&database, &endpoints(Database::Postgres))),
        Wharf::start_with(
            &postgres_config(&database, &endpoints(Database::Postgres)),
            &[],
            &[
                ("WHARF_SERVER_CONNECTOR", "tiny_http"),
                ("WHARF_HTTP_MAX_TARGET_BYTES", "1MiB"),
                ("WHARF_HTTP_MAX_HEAD_BYTES", "1MiB"),
            ],
        ),
    ] {
        for place in ["path", "query", "body", "form"] {
            let cut = send(&wharf, place, "text", "text", "'; drop table victim; --\0");
            assert_bad(&cut, name_in(place), &format!("a NUL in the {place}"));
        }
        for place in ["header", "body", "form"] {
            assert_eq!(send(&wharf, place, "text", "text", &long).json(), *long, "in the {place}");
        }
        for attempt in attempts {
            for place in PLACES {
                if place == "header" && !attempt.is_ascii() {
                    continue;
                }
                let answer = send(&wharf, place, "text", "text", attempt);
                assert_eq!(answer.status, 200, "{attempt} in the {place}: {}", answer.text());
                assert_eq!(answer.json(), attempt, "in the {place}");
                // A parameter of another type refuses the attempt.
                for native in
                    ["bigint", "double_precision", "boolean", "uuid", "date", "timestamptz", "bytea"]
                {
                    assert_bad(&send(&wharf, place, native, "text", attempt), name_in(place), attempt);
                }
                let document = serde_json::json!({ attempt: [attempt] }).to_string();
                let answer = send(&wharf, place, "json", "json", &document);
                let returned = answer.json();
                let returned = returned.as_str().map_or_else(|| returned.to_string(), str::to_owned);
                assert_eq!(returned, document, "in the {place}");
            }
            assert_eq!(wharf.get("/victims").text(), r#"[{"name":"still here"}]"#, "after {attempt}");
        }
    }
}
