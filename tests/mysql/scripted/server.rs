//! A server that speaks as much of MySQL's protocol as a test needs, and says what its script says.
//!
//! It stands for servers that cannot be installed here: MySQL 5.7, 8.0 and 8.4, Percona, ProxySQL. It is written from the protocol's
//! documentation (<https://dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html>). It can also say what no server should:
//! packets that are cut, too long or out of order.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustls::crypto::ring::cipher_suite;
use rustls::{ServerConfig, ServerConnection};

use super::packets::{self as wire, Column, Mangle, Wire};
use crate::support::PATIENCE;

/// Stops when dropped.
pub(crate) struct Scripted {
    port: u16,
    shared: Arc<Shared>,
}

/// The reply to a statement.
type Answers = dyn Fn(&str) -> Option<Reply> + Send + Sync;

/// The properties of the server, and its replies.
pub(crate) struct Script {
    /// The version that it claims.
    pub(crate) version: &'static str,
    /// Capabilities that it does not have; see [`super::packets::capability`].
    pub(crate) without: u32,
    /// How a client proves its password.
    pub(crate) login: Login,
    /// Its TLS, if it has TLS.
    pub(crate) tls: Option<Arc<ServerConfig>>,
    /// The reply to a statement; `None` for the usual one: OK, or a row with the number 1.
    pub(crate) reply: Box<Answers>,
    /// The damage to the bytes of the session with this number, which begins at 0.
    pub(crate) mangle: Box<dyn Fn(usize) -> Mangle + Send + Sync>,
}

/// How a client proves its password.
#[derive(Clone, Copy)]
pub(crate) enum Login {
    /// `mysql_native_password`: any proof will do, because a real MariaDB examines it in other tests.
    Native,
    /// `caching_sha2_password` with this password, which the server knows already.
    FastSha2(&'static str),
    /// `caching_sha2_password` with this password, which the server asks for as it is.
    FullSha2(&'static str),
    /// The server asks for `caching_sha2_password` after it has announced `mysql_native_password`.
    SwitchToSha2(&'static str),
    /// The server asks for a plugin that nobody has.
    Unknown,
    /// `mysql_clear_password` with this password.
    Clear(&'static str),
}

/// The reply to a statement.
#[derive(Clone)]
pub(crate) enum Reply {
    /// It was done, and so many rows were matched.
    Done(u64),
    /// Rows.
    Rows(Vec<Column>, Vec<Vec<wire::Value>>),
    /// An error.
    Refused(u16, &'static str, &'static str),
    /// An error as soon as the statement is prepared.
    RefusedAtPrepare(u16, &'static str, &'static str),
    /// Rows that break off with an error.
    BreaksOff(Vec<Column>, Vec<Vec<wire::Value>>, u16, &'static str),
    /// Rows, and the same rows once more, which nobody has asked for.
    Twice(Vec<Column>, Vec<Vec<wire::Value>>),
    /// The connection ends instead.
    End,
    /// Nothing.
    Silence,
    /// This packet, whatever it is.
    Packet(Vec<u8>),
}

#[derive(Default)]
struct Shared {
    closed: AtomicBool,
    sessions: AtomicUsize,
    open: Mutex<Vec<TcpStream>>,
    /// The commands of all clients: the name of each command, and its text.
    asked: Mutex<Vec<String>>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            version: "8.0.36",
            without: 0,
            login: Login::Native,
            tls: None,
            reply: Box::new(|_| None),
            mangle: Box::new(|_| Mangle::Nothing),
        }
    }
}

impl Scripted {
    pub(crate) fn start(script: Script) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        let shared = Arc::<Shared>::default();
        let (accepting, script) = (Arc::clone(&shared), Arc::new(script));
        thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.closed.load(Ordering::SeqCst) {
                    break;
                }
                let (shared, script) = (Arc::clone(&accepting), Arc::clone(&script));
                let client = client.expect("a client that connected");
                thread::spawn(move || {
                    let number = shared.sessions.fetch_add(1, Ordering::SeqCst);
                    let copy = client.try_clone().expect("a descriptor");
                    lock(&shared.open).push(copy.try_clone().expect("a descriptor"));
                    // A client may leave at any moment, so an error of the socket says nothing about the test.
                    let _ = serve(client, number, &script, &shared);
                    // Shutdown fails when the connection has ended already.
                    let _ = copy.shutdown(Shutdown::Both);
                });
            }
        });
        Self { port, shared }
    }

    /// Its URL, with a user and a password.
    pub(crate) fn url(&self) -> String {
        format!("mysql://app:secret@127.0.0.1:{}/main", self.port)
    }

    /// How many sessions there were.
    pub(crate) fn sessions(&self) -> usize {
        self.shared.sessions.load(Ordering::SeqCst)
    }

    /// The commands so far, each by its name and its text.
    pub(crate) fn asked(&self) -> Vec<String> {
        lock(&self.shared.asked).clone()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts; its listener goes with it.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        for socket in lock(&self.shared.open).drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One session, from the greeting to its end.
fn serve(client: TcpStream, number: usize, script: &Script, shared: &Shared) -> io::Result<()> {
    client.set_nodelay(true)?;
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    let id = u32::try_from(number).unwrap_or(0) + 1;
    let mut session = Session {
        id,
        wire: Wire::new(client, (script.mangle)(number)),
        script,
        shared,
        prepared: HashMap::new(),
        deprecates_eof: false,
    };
    if session.login()? {
        while session.command()? {}
    }
    Ok(())
}

struct Session<'a> {
    /// The number by which it can be killed.
    id: u32,
    wire: Wire,
    script: &'a Script,
    shared: &'a Shared,
    prepared: HashMap<u32, String>,
    deprecates_eof: bool,
}

/// A client's packet with its login.
struct Hello {
    capabilities: u32,
    proof: Vec<u8>,
    plugin: String,
}

/// 20 bytes without a zero, as the protocol wants it.
const NONCE: &[u8; 20] = b"abcdefghijklmnopqrst";

impl Session<'_> {
    /// Whether the client is in.
    fn login(&mut self) -> io::Result<bool> {
        use wire::capability::{ALL, DEPRECATE_EOF, TLS};
        let announced = match self.script.login {
            Login::FastSha2(_) | Login::FullSha2(_) => "caching_sha2_password",
            _ => "mysql_native_password",
        };
        let offered = (ALL & !self.script.without) | if self.script.tls.is_some() { TLS } else { 0 };
        self.wire.send(&wire::greeting(self.script.version, self.id, NONCE, offered, announced))?;
        let mut packet = self.wire.receive()?;
        if let (Some(tls), 32) = (&self.script.tls, packet.len()) {
            let session = ServerConnection::new(Arc::clone(tls)).expect("the configuration has no mistake");
            self.wire.encrypt(session);
            packet = self.wire.receive()?;
        }
        let Some(hello) = Hello::read(&packet) else { return Ok(false) };
        self.deprecates_eof = hello.capabilities & offered & DEPRECATE_EOF != 0;
        let proved = match self.script.login {
            Login::Native => true,
            Login::FastSha2(password) | Login::FullSha2(password) => {
                let proof = if hello.plugin == "caching_sha2_password" {
                    hello.proof
                } else {
                    self.switch("caching_sha2_password")?
                };
                self.sha2(password, &proof, matches!(self.script.login, Login::FastSha2(_)))?
            }
            Login::SwitchToSha2(password) => {
                let proof = self.switch("caching_sha2_password")?;
                self.sha2(password, &proof, true)?
            }
            Login::Clear(password) => {
                let said = self.switch("mysql_clear_password")?;
                said.strip_suffix(b"\0") == Some(password.as_bytes())
            }
            Login::Unknown => {
                self.switch("authentication_by_smoke")?;
                false
            }
        };
        if !proved {
            self.wire.send(&wire::error(1045, "28000", "Access denied for user 'app'@'localhost'"))?;
            return Ok(false);
        }
        self.wire.send(&wire::ok(0, 0))?;
        Ok(true)
    }

    fn switch(&mut self, plugin: &str) -> io::Result<Vec<u8>> {
        let mut packet = vec![0xfe];
        packet.extend_from_slice(plugin.as_bytes());
        packet.push(0);
        packet.extend_from_slice(NONCE);
        packet.push(0);
        self.wire.send(&packet)?;
        self.wire.receive()
    }

    fn sha2(&mut self, password: &str, proof: &[u8], fast: bool) -> io::Result<bool> {
        if fast {
            let proved = proof == sha2_proof(password.as_bytes());
            if proved {
                self.wire.send(&[1, 3])?;
            }
            return Ok(proved);
        }
        self.wire.send(&[1, 4])?;
        // In clear where there is TLS. A client without TLS may ask for a key, which this server does not have.
        let said = self.wire.receive()?;
        Ok(self.wire.is_encrypted() && said.strip_suffix(b"\0") == Some(password.as_bytes()))
    }

    /// One command. Whether the session goes on.
    fn command(&mut self) -> io::Result<bool> {
        const QUIT: u8 = 0x01;
        const QUERY: u8 = 0x03;
        const PREPARE: u8 = 0x16;
        const EXECUTE: u8 = 0x17;
        const LONG_DATA: u8 = 0x18;
        const CLOSE: u8 = 0x19;
        let packet = self.wire.receive()?;
        let (command, rest) = packet.split_first().map_or((QUIT, &[][..]), |(first, rest)| (*first, rest));
        // The comment behind a statement names its endpoint.
        let text = || {
            let text = String::from_utf8_lossy(rest);
            text.split("/*").next().unwrap_or_default().trim_end().to_owned()
        };
        match command {
            QUIT => {
                self.note("quit");
                Ok(false)
            }
            QUERY => {
                let text = text();
                self.note(&format!("query {text}"));
                self.query(&text)
            }
            PREPARE => {
                let text = text();
                self.note(&format!("prepare {text}"));
                self.prepare(text)
            }
            EXECUTE => {
                let id = rest.get(..4).map_or(0, |id| u32::from_le_bytes([id[0], id[1], id[2], id[3]]));
                let last = self.prepared.keys().max().copied().unwrap_or(0);
                let id = if id == u32::MAX { last } else { id };
                let Some(sql) = self.prepared.get(&id).cloned() else {
                    self.wire.send(&wire::error(1243, "HY000", "Unknown prepared statement handler"))?;
                    return Ok(true);
                };
                self.note(&format!("execute {sql}"));
                let reply = self.reply(&sql);
                self.say(reply, true, false)
            }
            LONG_DATA => Ok(true),
            CLOSE => {
                let id = rest.get(..4).map_or(0, |id| u32::from_le_bytes([id[0], id[1], id[2], id[3]]));
                self.prepared.remove(&id);
                self.note("close");
                Ok(true)
            }
            other => {
                self.note(match other {
                    0x0e => "ping",
                    0x1f => "reset",
                    _ => "other",
                });
                if other == 0x1f {
                    self.prepared.clear();
                }
                self.wire.send(&wire::ok(0, 0))?;
                Ok(true)
            }
        }
    }

    fn note(&self, what: &str) {
        lock(&self.shared.asked).push(what.to_owned());
    }

    fn reply(&self, sql: &str) -> Reply {
        let usual = || {
            let begin = sql.trim_start().to_ascii_lowercase();
            if begin.starts_with("select connection_id()") {
                self.facts(&begin)
            } else if begin.starts_with("show status") {
                Reply::Rows(["Variable_name", "Value"].map(Column::text).to_vec(), Vec::new())
            } else if begin.starts_with("select") || begin.starts_with("show") {
                Reply::Rows(vec![Column::number("n")], vec![vec![wire::Value::Number(1)]])
            } else {
                Reply::Done(1)
            }
        };
        (self.script.reply)(sql).unwrap_or_else(usual)
    }

    /// The facts that a new session asks for, all of them texts.
    fn facts(&self, sql: &str) -> Reply {
        let id = self.id.to_string();
        let names = sql.trim_start_matches("select").split(',').map(str::trim);
        let value = |name| match name {
            "connection_id()" => &*id,
            "@@max_allowed_packet" => "67108864",
            "@@max_prepared_stmt_count" => "16382",
            "@@sql_mode" => "STRICT_TRANS_TABLES",
            _ => "",
        };
        let row: Vec<_> = names.map(|name| wire::Value::Text(value(name).as_bytes().to_vec())).collect();
        Reply::Rows(vec![Column::text("fact"); row.len()], vec![row])
    }

    /// Several statements may be sent in one text.
    fn query(&mut self, text: &str) -> io::Result<bool> {
        let mut statements = text.split(';').map(str::trim).filter(|text| !text.is_empty()).peekable();
        while let Some(statement) = statements.next() {
            let reply = self.reply(statement);
            let fails = matches!(reply, Reply::Refused(..) | Reply::RefusedAtPrepare(..));
            if !self.say(reply, false, statements.peek().is_some())? {
                return Ok(false);
            }
            if fails {
                break;
            }
        }
        Ok(true)
    }

    fn prepare(&mut self, sql: String) -> io::Result<bool> {
        let id = u32::try_from(self.prepared.len()).unwrap_or(0) + 1;
        let params = sql.matches('?').count();
        let columns = match self.reply(&sql) {
            Reply::RefusedAtPrepare(code, state, message) => {
                self.wire.send(&wire::error(code, state, message))?;
                return Ok(true);
            }
            Reply::Rows(columns, _) | Reply::Twice(columns, _) | Reply::BreaksOff(columns, ..) => columns,
            _ => Vec::new(),
        };
        self.prepared.insert(id, sql);
        self.wire.send(&wire::prepared(id, columns.len(), params))?;
        for _ in 0..params {
            self.wire.send(&Column::text("?").definition())?;
        }
        if params > 0 && !self.deprecates_eof {
            self.wire.send(&wire::eof(0))?;
        }
        for column in &columns {
            self.wire.send(&column.definition())?;
        }
        if !columns.is_empty() && !self.deprecates_eof {
            self.wire.send(&wire::eof(0))?;
        }
        Ok(true)
    }

    fn say(&mut self, reply: Reply, binary: bool, more: bool) -> io::Result<bool> {
        /// `SERVER_MORE_RESULTS_EXISTS`
        const MORE: u16 = 8;
        let status = if more { MORE } else { 0 };
        match reply {
            Reply::Done(count) => self.wire.send(&wire::ok(count, status))?,
            Reply::Refused(code, state, message) | Reply::RefusedAtPrepare(code, state, message) => {
                self.wire.send(&wire::error(code, state, message))?;
            }
            Reply::Rows(columns, rows) => {
                self.rows(&columns, &rows, binary)?;
                self.end_of_rows(status)?;
            }
            Reply::Twice(columns, rows) => {
                for _ in 0..2 {
                    self.rows(&columns, &rows, binary)?;
                    self.end_of_rows(status)?;
                }
            }
            Reply::BreaksOff(columns, rows, code, message) => {
                self.rows(&columns, &rows, binary)?;
                self.wire.send(&wire::error(code, "HY000", message))?;
            }
            Reply::Packet(packet) => self.wire.send(&packet)?,
            Reply::Silence => {}
            Reply::End => return Ok(false),
        }
        Ok(true)
    }

    fn rows(&mut self, columns: &[Column], rows: &[Vec<wire::Value>], binary: bool) -> io::Result<()> {
        self.wire.send(&wire::length(columns.len() as u64))?;
        for column in columns {
            self.wire.send(&column.definition())?;
        }
        if !self.deprecates_eof {
            self.wire.send(&wire::eof(0))?;
        }
        for row in rows {
            self.wire.send(&if binary { wire::binary_row(row) } else { wire::text_row(row) })?;
        }
        Ok(())
    }

    fn end_of_rows(&mut self, status: u16) -> io::Result<()> {
        if self.deprecates_eof {
            let mut packet = wire::ok(0, status);
            packet[0] = 0xfe;
            return self.wire.send(&packet);
        }
        self.wire.send(&wire::eof(status))
    }
}

impl Hello {
    fn read(packet: &[u8]) -> Option<Self> {
        use wire::capability::WITH_DATABASE;
        let capabilities = u32::from_le_bytes(packet.get(..4)?.try_into().ok()?);
        let mut rest = packet.get(32..)?;
        let _user = text(&mut rest)?;
        // A proof is shorter than 251 bytes, so its length is one byte in either form.
        let (length, after) = rest.split_first()?;
        let proof = after.get(..usize::from(*length))?.to_vec();
        rest = after.get(usize::from(*length)..)?;
        if capabilities & WITH_DATABASE != 0 {
            let _database = text(&mut rest)?;
        }
        let plugin = text(&mut rest).unwrap_or_default();
        Some(Self { capabilities, proof, plugin })
    }
}

/// Text up to a zero.
fn text(rest: &mut &[u8]) -> Option<String> {
    let end = rest.iter().position(|byte| *byte == 0)?;
    let text = String::from_utf8_lossy(&rest[..end]).into_owned();
    *rest = &rest[end + 1..];
    Some(text)
}

/// `caching_sha2_password`: the hash of the password, hidden by a hash of its hash's hash and the nonce.
fn sha2_proof(password: &[u8]) -> Vec<u8> {
    let hash = |parts: &[&[u8]]| sha256(&parts.concat());
    let first = hash(&[password]);
    let second = hash(&[&hash(&[&first]), NONCE]);
    first.iter().zip(second).map(|(one, other)| one ^ other).collect()
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    let suite = cipher_suite::TLS13_AES_128_GCM_SHA256.tls13().expect("it is a suite of TLS 1.3");
    suite.common.hash_provider.hash(bytes).as_ref().to_vec()
}
