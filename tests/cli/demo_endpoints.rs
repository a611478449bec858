//! Each endpoint of the demo's configurations, over a real socket: SQLite, PostgreSQL and MariaDB answer the same bytes, and these
//! are what the CSV files say.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::LazyLock;

use crate::support::{Answer, Database, MariaDatabase, Mariadb, Postgres, Wharf};

/// A CSV's row by column.
type Row = HashMap<String, String>;

static FLIGHTS: LazyLock<Vec<Row>> = LazyLock::new(|| rows_of("flights"));

#[test]
fn the_fixed_answer() {
    let each = Each::start();
    assert_eq!(each.json("/hello"), r#"{"hello":"wharf"}"#);
}

#[test]
fn one_flight_by_its_id() {
    let each = Each::start();
    let columns =
        "id day scheduled carrier flight tailnum origin dest dep_delay arr_delay air_time distance cancelled";
    let cancelled = FLIGHTS.iter().position(|flight| flight["cancelled"] == "1").unwrap();
    for flight in [&FLIGHTS[0], &FLIGHTS[cancelled], &FLIGHTS[FLIGHTS.len() - 1]] {
        assert_eq!(each.json(&format!("/flights/{}", flight["id"])), object(flight, columns));
    }
    each.refuses(404, "/flights/27005");
    let refused = each.refuses(400, "/flights/0");
    assert!(refused.text().contains("id"), "{}", refused.text());
    each.refuses(400, "/flights/one");
}

#[test]
fn flights_by_optional_filters_and_in_pages() {
    let each = Each::start();
    let columns = "id day scheduled carrier flight origin dest dep_delay cancelled";
    let expect = |path: &str, filter: &dyn Fn(&Row) -> bool, skip: usize, limit: usize| {
        let flights = FLIGHTS.iter().filter(|flight| filter(flight)).skip(skip).take(limit);
        let expected = array(flights.map(|flight| object(flight, columns)));
        assert_eq!(each.json(path), expected, "{path}");
    };
    expect("/flights", &|_| true, 0, 20);
    expect("/flights?limit=3&offset=27002", &|_| true, 27_002, 3);
    expect("/flights?offset=27004", &|_| true, 27_004, 0);
    expect("/flights?carrier=UA&limit=500", &|flight| flight["carrier"] == "UA", 0, 500);
    expect("/flights?cancelled=true&limit=100&offset=450", &|flight| flight["cancelled"] == "1", 450, 100);
    expect("/flights?cancelled=false", &|flight| flight["cancelled"] == "0", 0, 20);
    expect("/flights?min_delay=300&limit=500", &|flight| number(flight, "dep_delay") >= Some(300), 0, 500);
    let one_day = |flight: &Row| flight["day"] == "2013-01-15" && flight["carrier"] == "B6";
    expect("/flights?day=2013-01-15&carrier=B6&limit=500", &one_day, 0, 500);
    for refused in
        ["limit=0", "limit=501", "offset=-1", "day=2013-02-01", "day=today", "cancelled=yes", "carrier=ua"]
    {
        each.refuses(400, &format!("/flights?{refused}"));
    }
}

#[test]
fn a_number_by_itself() {
    let each = Each::start();
    let of_day = FLIGHTS.iter().filter(|flight| flight["day"] == "2013-01-31").count();
    assert_eq!(each.json("/flights/count"), "27004");
    assert_eq!(each.json("/flights/count?day=2013-01-31"), of_day.to_string());
}

#[test]
fn flights_of_a_route() {
    let each = Each::start();
    let expect = |path: &str, carrier: &str, limit: usize| {
        let flights = FLIGHTS
            .iter()
            .filter(|flight| flight["origin"] == "JFK" && flight["dest"] == "SFO")
            .filter(|flight| flight["carrier"].starts_with(carrier));
        let columns = "id day scheduled carrier flight dep_delay arr_delay";
        let expected = array(flights.take(limit).map(|flight| object(flight, columns)));
        assert_eq!(each.json(path), expected, "{path}");
    };
    expect("/routes/JFK/SFO/flights", "", 20);
    expect("/routes/JFK/SFO/flights?carrier=VX&limit=500", "VX", 500);
    assert_eq!(each.json("/routes/SFO/JFK/flights"), "[]");
    each.refuses(400, "/routes/jfk/SFO/flights");
}

#[test]
fn the_busiest_routes() {
    let each = Each::start();
    let mut routes: BTreeMap<(&str, &str), (i64, usize)> = BTreeMap::new();
    for flight in FLIGHTS.iter() {
        let distance = number(flight, "distance").unwrap();
        let route = routes.entry((&flight["origin"], &flight["dest"])).or_insert((distance, 0));
        *route = (route.0.min(distance), route.1 + 1);
    }
    let mut routes: Vec<_> = routes.into_iter().collect();
    routes.sort_by_key(|(_, (_, departures))| Reverse(*departures));
    let objects: Vec<String> = routes
        .iter()
        .map(|((origin, dest), (distance, departures))| {
            format!(
                r#"{{"origin":"{origin}","dest":"{dest}","distance":{distance},"departures":{departures}}}"#
            )
        })
        .collect();
    assert_eq!(each.json("/routes"), array(objects.iter().take(10).cloned()));
    assert_eq!(each.json("/routes?limit=300"), array(objects.into_iter()));
}

#[test]
fn every_airport_with_exact_coordinates() {
    let each = Each::start();
    for airport in rows_of("airports").iter().step_by(97) {
        let columns = "faa name lat lon alt tz tzone";
        assert_eq!(each.json(&format!("/airports/{}", airport["faa"])), object(airport, columns));
    }
    each.refuses(404, "/airports/ZZZ");
    each.refuses(400, "/airports/jfk");
}

#[test]
fn a_departures_board() {
    let each = Each::start();
    let airports: HashMap<String, Row> =
        rows_of("airports").into_iter().map(|airport| (airport["faa"].clone(), airport)).collect();
    let mut flights: Vec<&Row> = FLIGHTS
        .iter()
        .filter(|flight| flight["origin"] == "JFK")
        .filter(|flight| {
            ("2013-01-15T11:00:00Z".."2013-01-15T14:00:00Z").contains(&flight["scheduled"].as_str())
        })
        .collect();
    flights.sort_by_key(|flight| (&flight["scheduled"], number(flight, "id")));
    assert!(flights.iter().any(|flight| !airports.contains_key(&flight["dest"])), "one airport is unknown");
    let expected = array(flights.into_iter().map(|flight| {
        let mut row = flight.clone();
        let name = airports.get(&flight["dest"]).map_or("", |airport| &airport["name"]);
        row.insert("airport".to_owned(), name.to_owned());
        object(&row, "scheduled carrier flight dest airport dep_delay cancelled")
    }));
    let path = "/airports/JFK/departures?from=2013-01-15T11:00:00Z&to=2013-01-15T14:00:00Z";
    assert_eq!(each.json(path), expected);
    let path = "/airports/JFK/departures?from=2013-01-15T06:00:00-05:00&to=2013-01-15T15:00:00%2B01:00";
    assert_eq!(each.json(path), expected);
    each.refuses(400, "/airports/JFK/departures?from=2013-01-15T11:00:00Z");
}

#[test]
fn delays_by_carrier() {
    let each = Each::start();
    for (path, minutes) in [("/carriers/delays", 15), ("/carriers/delays?minutes=60", 60)] {
        let mut carriers: Vec<(usize, String)> = rows_of("airlines")
            .iter()
            .filter_map(|airline| {
                let flights: Vec<_> =
                    FLIGHTS.iter().filter(|flight| flight["carrier"] == airline["carrier"]).collect();
                (!flights.is_empty()).then(|| carrier_delays(airline, &flights, minutes))
            })
            .collect();
        // The file is in the order of the carriers, and the sort keeps it.
        carriers.sort_by_key(|(late, _)| Reverse(*late));
        assert_eq!(each.json(path), array(carriers.into_iter().map(|(_, object)| object)), "{path}");
    }
}

#[test]
fn planes_of_a_manufacturer() {
    let each = Each::start();
    let planes = rows_of("planes");
    let expect = |path: &str, manufacturer: &str, seats: i64, engine: &str, limit: usize| {
        let mut planes: Vec<&Row> = planes
            .iter()
            .filter(|plane| plane["manufacturer"] == manufacturer && number(plane, "seats") >= Some(seats))
            .filter(|plane| engine.is_empty() || plane["engine"] == engine)
            .collect();
        planes.sort_by_key(|plane| (Reverse(number(plane, "year")), &plane["tailnum"]));
        let columns = "tailnum year manufacturer model engine seats speed";
        let expected = array(planes.into_iter().take(limit).map(|plane| object(plane, columns)));
        assert_eq!(each.json(path), expected, "{path}");
    };
    expect("/planes?manufacturer=boeing", "BOEING", 0, "", 20);
    expect("/planes?manufacturer=EMBRAER&limit=500", "EMBRAER", 0, "", 500);
    expect(
        "/planes?manufacturer=BOEING&min_seats=300&engine=Turbo-jet&limit=500",
        "BOEING",
        300,
        "Turbo-jet",
        500,
    );
    expect("/planes?manufacturer=CESSNA&engine=Reciprocating&limit=500", "CESSNA", 0, "Reciprocating", 500);
    assert_eq!(each.json("/planes?manufacturer=BOEING'%20or%20'1'%3D'1"), "[]");
    each.refuses(400, "/planes");
    each.refuses(400, "/planes?manufacturer=BOEING&engine=Steam");
}

#[test]
fn a_note_from_its_first_word_to_its_end() {
    let each = Each::start();
    assert_eq!(each.json("/flights/7/notes"), "[]");
    let headers = [("Content-Type", "application/json"), ("X-Author", "Ada")];
    let said = r#"{"body":"late \"again\", says 'Ada'; drop table note; -- ☕"}"#;
    let added = each.request("POST", "/flights/7/notes", &headers, said);
    let note = r#""author":"Ada","body":"late \"again\", says 'Ada'; drop table note; -- ☕","done":false"#;
    assert_eq!((added.status, added.text()), (201, &*format!(r#"{{"id":1,"flight_id":7,{note}}}"#)));
    let added = each.request("POST", "/flights/7/notes", &headers[..1], r#"{"body":"second"}"#);
    let second = r#""author":"anonymous","body":"second","done":false"#;
    assert_eq!((added.status, added.text()), (201, &*format!(r#"{{"id":2,"flight_id":7,{second}}}"#)));
    assert_eq!(each.json("/flights/7/notes"), format!(r#"[{{"id":1,{note}}},{{"id":2,{second}}}]"#));

    let changed = each.request("PUT", "/notes/2", &headers, r#"{"body":"2nd","done":true}"#);
    let now = r#"{"id":2,"flight_id":7,"author":"anonymous","body":"2nd","done":true}"#;
    assert_eq!((changed.status, changed.text()), (200, now));
    let deleted = each.request("DELETE", "/notes/1", &[], "");
    assert_eq!((deleted.status, deleted.text()), (204, ""));
    assert_eq!(each.request("DELETE", "/notes/1", &[], "").status, 404);
    assert_eq!(each.request("PUT", "/notes/1", &headers, r#"{"body":"x","done":true}"#).status, 404);
    assert_eq!(each.json("/flights/7/notes"), r#"[{"id":2,"author":"anonymous","body":"2nd","done":true}]"#);

    let missing_flight = each.request("POST", "/flights/27005/notes", &headers, r#"{"body":"where?"}"#);
    assert_eq!(missing_flight.status, 409);
    for bad in [r#"{"body":""}"#, r#"{"body":1}"#, "{}", "[]", "{"] {
        assert_eq!(each.request("POST", "/flights/7/notes", &headers, bad).status, 400, "{bad}");
    }
}

#[test]
fn a_transfer_happens_whole_or_not_at_all() {
    const UNTOUCHED: &str = concat!(
        r#"[{"id":1,"owner":"Ada","balance":1000},{"id":2,"owner":"Grace","balance":500},"#,
        r#"{"id":3,"owner":"Edsger","balance":250},{"id":4,"owner":"Barbara","balance":0}]"#,
    );
    let each = Each::start();
    assert_eq!(each.json("/accounts"), UNTOUCHED);
    let transfer = |src: i64, dst: i64, amount: i64| {
        let body = format!(r#"{{"src":{src},"dst":{dst},"amount":{amount}}}"#);
        each.request("POST", "/transfers", &[("Content-Type", "application/json")], &body)
    };
    for (src, dst, amount, detail) in [
        (2, 4, 501, "insufficient funds"),
        (99, 4, 1, "insufficient funds"),
        // The first step succeeds here, and must be undone.
        (1, 99, 10, "no such account to transfer to"),
        (1, 1, 10, "no such account to transfer to"),
    ] {
        let refused = transfer(src, dst, amount);
        assert_eq!(refused.status, 409, "{}", refused.text());
        assert_eq!(refused.json()["detail"], detail);
        assert_eq!(each.json("/accounts"), UNTOUCHED);
    }
    assert_eq!(transfer(1, 2, 0).status, 400);
    let done = transfer(1, 4, 1000);
    let accounts = r#"[{"id":1,"owner":"Ada","balance":0},{"id":4,"owner":"Barbara","balance":1000}]"#;
    assert_eq!((done.status, done.text()), (200, accounts));
}

#[test]
fn a_second_start_keeps_the_data() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("kept.db").display());
    let config = config("wharf.toml");
    let first = Wharf::start_with(&config, &["--database", &url], &[]);
    assert_eq!(first.json("PUT", "/notes/1", r#"{"body":"x","done":true}"#).status, 404);
    assert_eq!(first.json("POST", "/flights/1/notes", r#"{"body":"kept"}"#).status, 201);
    first.signal("TERM");
    assert_eq!(first.wait().code, Some(0));
    let second = Wharf::start_with(&config, &["--database", &url], &[]);
    assert!(second.get("/flights/1/notes").text().contains("kept"));
}

#[test]
fn the_configurations_declare_the_same_endpoints() {
    let endpoints = |name: &str| {
        let config = config(name);
        let start = config.find("# A fixed answer").expect("the endpoints start there");
        config[start..].to_owned()
    };
    assert_eq!(endpoints("wharf.toml"), endpoints("postgres.toml"));
    // MySQL's SQL differs in places. The routes, the parameters and their rules are the same.
    let face = |name: &str| -> Vec<String> {
        let config: toml::Table = endpoints(name).parse().expect("TOML");
        let endpoints = config["endpoint"].as_table().expect("a table");
        endpoints
            .iter()
            .map(|(name, it)| format!("{name} {:?} {:?}", it.get("route"), it.get("params")))
            .collect()
    };
    assert_eq!(face("wharf.toml"), face("mysql.toml"));
}

/// The demo on each database.
struct Each {
    sqlite: Wharf,
    postgres: Wharf,
    mariadb: Wharf,
}

impl Each {
    fn start() -> Self {
        let database = filled_postgres();
        let port = Postgres::shared().port().to_string();
        let environment = [("PGHOST", "127.0.0.1"), ("PGPORT", &*port), ("PGDATABASE", database.name())];
        let mariadb = filled_mariadb().url();
        Self {
            sqlite: Wharf::start(&config("wharf.toml")),
            postgres: Wharf::start_with(&config("postgres.toml"), &[], &environment),
            mariadb: Wharf::start_with(&config("mysql.toml"), &["--database", &mariadb], &[]),
        }
    }

    /// Asks each; the answer that they agree on. Of problems only the status must agree.
    fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let one = self.sqlite.request(method, path, headers, body);
        for (name, other) in [("PostgreSQL", &self.postgres), ("MariaDB", &self.mariadb)] {
            let other = other.request(method, path, headers, body);
            let texts = || format!("{method} {path}\n{}\n{name}: {}", one.text(), other.text());
            assert_eq!(one.status, other.status, "{}", texts());
            assert_eq!(one.header("Content-Type"), other.header("Content-Type"), "{}", texts());
            if one.status < 400 {
                assert_eq!(one.text(), other.text(), "{}", texts());
            } else {
                assert_eq!(one.header("Content-Type"), Some("application/problem+json"), "{}", texts());
            }
        }
        one
    }

    /// The JSON that each answers to a GET.
    fn json(&self, path: &str) -> String {
        let answer = self.request("GET", path, &[], "");
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert_eq!(answer.header("Content-Type"), Some("application/json"), "{path}");
        answer.text().to_owned()
    }

    fn refuses(&self, status: u16, path: &str) -> Answer {
        let answer = self.request("GET", path, &[], "");
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        answer
    }
}

/// A database with the demo data, copied from one that `wharf demo` filled.
fn filled_postgres() -> Database {
    static FILLED: LazyLock<Database> = LazyLock::new(|| {
        let database = Postgres::database();
        let exit = Wharf::run("", &["demo", "--database", &database.url()], &[]);
        assert_eq!(exit.code, Some(0), "{}{}", exit.stdout, exit.stderr);
        database
    });
    Postgres::database_like(&FILLED)
}

/// The same on MariaDB.
fn filled_mariadb() -> MariaDatabase {
    static FILLED: LazyLock<MariaDatabase> = LazyLock::new(|| {
        let database = Mariadb::database();
        let exit = Wharf::run("", &["demo", "--database", &database.url()], &[]);
        assert_eq!(exit.code, Some(0), "{}{}", exit.stdout, exit.stderr);
        database
    });
    Mariadb::database_like(&FILLED)
}

fn config(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)).unwrap()
}

fn rows_of(table: &str) -> Vec<Row> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("config/demo/{table}.csv"));
    let mut rows: Vec<Row> =
        csv::Reader::from_path(path).unwrap().deserialize().collect::<Result<_, _>>().unwrap();
    // The file has it as SQLite writes it, the answers as RFC 3339 does.
    for scheduled in rows.iter_mut().filter_map(|row| row.get_mut("scheduled")) {
        *scheduled = scheduled.replace(' ', "T") + "Z";
    }
    rows
}

fn number(row: &Row, column: &str) -> Option<i64> {
    row[column].parse().ok()
}

/// How many flights were late, and the carrier's object in the answer.
fn carrier_delays(airline: &Row, flights: &[&Row], minutes: i64) -> (usize, String) {
    let delays: Vec<i64> = flights.iter().filter_map(|flight| number(flight, "dep_delay")).collect();
    let late = delays.iter().filter(|delay| **delay >= minutes).count();
    #[expect(clippy::cast_precision_loss, reason = "a month of one carrier's minutes")]
    let mean = delays.iter().sum::<i64>() as f64 / delays.len() as f64;
    let object = format!(
        r#"{{"carrier":"{}","name":"{}","flights":{},"cancelled":{},"late":{late},"worst_delay":{},"mean_delay":{mean}}}"#,
        airline["carrier"],
        airline["name"],
        flights.len(),
        flights.iter().filter(|flight| flight["cancelled"] == "1").count(),
        delays.iter().max().unwrap(),
    );
    (late, object)
}

/// A row's columns as the JSON object that wharf writes.
fn object(row: &Row, columns: &str) -> String {
    let member = |column| format!(r#""{column}":{}"#, json(column, &row[column]));
    format!("{{{}}}", columns.split(' ').map(member).collect::<Vec<_>>().join(","))
}

fn array(objects: impl Iterator<Item = String>) -> String {
    format!("[{}]", objects.collect::<Vec<_>>().join(","))
}

fn json(column: &str, value: &str) -> String {
    match column {
        _ if value.is_empty() => "null".to_owned(),
        "cancelled" => (value == "1").to_string(),
        "lat" | "lon" => value.parse::<f64>().unwrap().to_string(),
        "id" | "flight" | "dep_delay" | "arr_delay" | "air_time" | "distance" | "alt" | "tz" | "year"
        | "seats" | "speed" => value.to_owned(),
        _ => serde_json::to_string(value).unwrap(),
    }
}
