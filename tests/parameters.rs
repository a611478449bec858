//! Every parameter type in every place, good and bad, on both databases; and text that would be SQL if it were pasted.

mod support;

use std::fmt::Write as _;

use support::{Answer, Postgres, Wharf};

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

fn postgres_config(database: &support::Database, endpoints: &str) -> String {
    format!("[database]\nurl = '{}'\n\n{endpoints}", database.url())
}

/// Both databases with the endpoints that `endpoints` makes for each.
fn on_both(endpoints: impl Fn(Database) -> String, test: impl Fn(&Wharf, Database)) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    test(&Wharf::start(&sqlite_config(&directory, &endpoints(Database::Sqlite))), Database::Sqlite);
    let database = Postgres::database();
    test(&Wharf::start(&postgres_config(&database, &endpoints(Database::Postgres))), Database::Postgres);
}

fn assert_bad(answer: &Answer, parameter: &str, what: &str) {
    assert_eq!(answer.status, 400, "{what}: {}", answer.text());
    assert_eq!(answer.header("Content-Type"), Some("application/problem+json"), "{what}");
    let problem = answer.json();
    assert_eq!(problem["parameter"], parameter, "{what}");
    assert!(problem["expected"].as_str().is_some_and(|text| !text.is_empty()), "{what}: {problem}");
    assert!(problem["received"].is_string(), "{what}: {problem}");
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
fn what_is_not_of_the_type_is_refused_with_its_name() {
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
                    // In a JSON body as a string, which no number and no boolean is.
                    let as_kind = if place == "body" { "text" } else { kind };
                    let answer = send(wharf, place, native, as_kind, text);
                    assert_bad(&answer, "x", &format!("{kind} {text:?} in the {place}"));
                }
            }
        }
    });
}

#[test]
fn with_tiny_http_parameters_are_the_same() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let config = sqlite_config(&directory, &echoes(Database::Sqlite));
    let wharf = Wharf::start_with(&config, &[], &[("WHARF_SERVER_CONNECTOR", "tiny_http")]);
    for place in PLACES {
        assert_eq!(send(&wharf, place, "bigint", "int", "42").text(), "42", "{place}");
        assert_bad(&send(&wharf, place, "bigint", "text", "4x2"), "x", place);
    }
}

#[test]
fn arrays_are_repeated_in_queries_and_forms_and_arrays_in_json() {
    let endpoints = |database| {
        let sql = |native: &str| match database {
            Database::Postgres => format!("select cast(:x as {native}[]) as x"),
            Database::Sqlite => "select :x as x".to_owned(),
        };
        let mut config = String::new();
        for (kind, native) in [("int", "bigint"), ("text", "text"), ("date", "date")] {
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
        // SQLite gets an array as JSON text, for json_each.
        let value = |json: &str| match database {
            Database::Postgres => json.to_owned(),
            Database::Sqlite => serde_json::to_string(json).expect("a string is JSON"),
        };
        let form = [("Content-Type", "application/x-www-form-urlencoded")];
        assert_eq!(wharf.get("/int/query?x=1&y=0&x=-2").text(), value("[1,-2]"));
        assert_eq!(wharf.json("POST", "/int/body", r#"{"x":[1,-2]}"#).text(), value("[1,-2]"));
        assert_eq!(wharf.request("PUT", "/int/form", &form, "x=1&x=-2").text(), value("[1,-2]"));
        let awkward = r#"["a,b","{}","\"\\","NULL",""]"#;
        assert_bad(
            &wharf.json("POST", "/text/body", &format!(r#"{{"x":{awkward}}}"#)),
            "x",
            "too many items",
        );
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
        assert_bad(&wharf.get("/int/query?x=1&x=b"), "x", "a bad item");
    });
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
                ("note", r#"{"count":1,"word":"ab","note":"\u0000"}"#),
            ] {
                assert_bad(&wharf.json("POST", "/checked", body), parameter, body);
            }
        },
    );
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
        },
    );
}

#[test]
fn missing_and_repeated_parameters_are_refused() {
    on_both(echoes, |wharf, _| {
        assert_bad(&wharf.get("/query/bigint"), "x", "missing in the query");
        assert_bad(&wharf.get("/query/bigint?x=1&x=2"), "x", "twice in the query");
        assert_bad(&wharf.get("/header/bigint"), "x", "missing in the header");
        let twice = wharf.request("GET", "/header/bigint", &[("X-Value", "1"), ("x-value", "2")], "");
        assert_bad(&twice, "x", "twice in the header");
        assert_bad(&wharf.get("/path/text/%ff"), "x", "not UTF-8");
    });
}

#[test]
fn numbers_beyond_the_columns_range_are_the_clients_mistake() {
    let database = Postgres::database();
    let config = "
        [endpoint.small]
        route   = 'GET /small/{x}'
        params  = { x = 'int' }
        sql     = 'select cast(:x as smallint) as x'
        returns = 'value'
        [endpoint.medium]
        route   = 'GET /medium/{x}'
        params  = { x = 'int' }
        sql     = 'select cast(:x as integer) as x'
        returns = 'value'";
    let wharf = Wharf::start(&postgres_config(&database, config));
    assert_eq!(wharf.get("/small/-32768").text(), "-32768");
    assert_eq!(wharf.get("/medium/2147483647").text(), "2147483647");
    assert_bad(&wharf.get("/small/32768"), "x", "smallint");
    assert_bad(&wharf.get("/medium/2147483648"), "x", "integer");
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
    for wharf in [
        Wharf::start(&sqlite_config(&directory, &endpoints(Database::Sqlite))),
        Wharf::start(&postgres_config(&database, &endpoints(Database::Postgres))),
    ] {
        for attempt in attempts {
            for place in PLACES {
                if place == "header" && !attempt.is_ascii() {
                    continue;
                }
                let answer = send(&wharf, place, "text", "text", attempt);
                assert_eq!(answer.status, 200, "{attempt} in the {place}: {}", answer.text());
                assert_eq!(answer.json(), attempt, "in the {place}");
                // A number never becomes anything else either.
                assert_bad(&send(&wharf, place, "bigint", "text", attempt), "x", attempt);
            }
            assert_eq!(wharf.get("/victims").text(), r#"[{"name":"still here"}]"#, "after {attempt}");
        }
    }
}
