//! The login: the server's greeting, TLS, and the client's answer by an authentication plugin.
//!
//! Owns [`Login`] and [`Facts`]. Runs on the thread that opens a session, and waits until the deadline at most. `LOAD DATA LOCAL`,
//! with which a server reads the client's files, is never agreed to.

use std::io;
use std::process;
use std::sync::Arc;
use std::time::Instant;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::auth::{Plugin, Reply, zero_ended};
use super::frames::{Frames, Stop, put_packet};
use super::packet::{EOF, ERR, Malformed, OK, Reader, capability, put_counted};
use super::refusal::ServerError;
use super::tls::Mode;

/// utf8mb4 with the collation that every version has. The session then asks for the server's default collation.
const UTF8MB4: u8 = 45;

/// The part of the capabilities that this client wants where the server has them. It does not want `LOCAL_FILES`.
const WANTED: u32 = capability::FOUND_ROWS
    | capability::TRANSACTIONS
    | capability::MULTI_RESULTS
    | capability::PS_MULTI_RESULTS
    | capability::CONNECT_ATTRS
    | capability::PLUGIN_AUTH
    | capability::PLUGIN_AUTH_LENENC
    | capability::SESSION_TRACK
    | capability::DEPRECATE_EOF;

/// The part without which the protocol here does not work. Servers have it since 2004.
const NEEDED: u32 = capability::PROTOCOL_41 | capability::SECURE_CONNECTION;

/// The name with which the client introduces itself, and the proof.
#[derive(Clone)]
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: Vec<u8>,
    pub(super) database: Option<String>,
    /// The application's name, which the server shows beside the session.
    pub(super) program: String,
    pub(super) mode: Mode,
    pub(super) tls: Arc<ClientConfig>,
    /// The name that the server's certificate must have. `None`: a Unix socket, which is not encrypted.
    pub(super) server_name: Option<ServerName<'static>>,
}

/// The facts that the greeting tells about the server and the session.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) version: String,
    /// The session's number, for `KILL`.
    pub(super) thread: u64,
    pub(super) capabilities: u32,
    /// MariaDB's own capabilities.
    pub(super) extended: u32,
}

impl Facts {
    pub(super) fn is_mariadb(&self) -> bool {
        self.version.contains("MariaDB")
    }

    /// Whether the version is this one of MariaDB or MySQL, or a later one.
    pub(super) fn is_at_least(&self, mariadb: (u32, u32), mysql: (u32, u32)) -> bool {
        // Servers of MariaDB put the version of an old MySQL before their own, for old replicas.
        let own = self.version.strip_prefix("5.5.5-").unwrap_or(&self.version);
        let mut numbers =
            own.split(|letter: char| !letter.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        version >= if self.is_mariadb() { mariadb } else { mysql }
    }

    pub(super) fn has(&self, capability: u32) -> bool {
        self.capabilities & capability != 0
    }
}

/// Why a login failed.
#[derive(Debug)]
pub(super) enum Failure {
    Refused(ServerError),
    Unreachable(io::Error),
    TimeUp,
    /// The server asks for something that the client does not do.
    NotPossible(String),
    /// The session has not taken its settings.
    Unusable(crate::database::Error),
}

impl From<Stop> for Failure {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::TimeUp => Self::TimeUp,
            Stop::Io(error) => Self::Unreachable(error),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Unreachable(error)
    }
}

impl From<Malformed> for Failure {
    fn from(_: Malformed) -> Self {
        Self::NotPossible("the server's greeting is not that of MySQL".to_owned())
    }
}

/// The server's greeting.
struct Greeting {
    facts: Facts,
    plugin: Vec<u8>,
    nonce: Vec<u8>,
}

impl Greeting {
    fn read(packet: &[u8]) -> Result<Self, Failure> {
        const VERSION: u8 = 10;
        let mut reader = Reader(packet);
        match reader.u8()? {
            VERSION => {}
            ERR => return Err(Failure::Refused(ServerError::read(packet, ""))),
            other => {
                let reason = format!("the server greets with version {other} of the protocol, expected 10");
                return Err(Failure::NotPossible(reason));
            }
        }
        let version = String::from_utf8_lossy(reader.until_zero()).into_owned();
        let thread = reader.u32()?.into();
        let mut nonce = reader.bytes(8)?.to_vec();
        reader.u8()?;
        let lower = reader.u16()?;
        let _charset_and_status = reader.bytes(3)?;
        let upper = reader.u16()?;
        let capabilities = u32::from(lower) | u32::from(upper) << 16;
        let nonce_length = usize::from(reader.u8()?);
        let _reserved = reader.bytes(6)?;
        let extended = reader.u32()?;
        // MySQL has zeros in this place.
        let extended = if capabilities & capability::MYSQL == 0 { extended } else { 0 };
        let rest = nonce_length.saturating_sub(8).max(13).min(reader.0.len());
        nonce.extend_from_slice(reader.bytes(rest)?);
        nonce.pop_if(|last| *last == 0);
        let plugin = match reader.until_zero() {
            b"" => b"mysql_native_password".to_vec(),
            plugin => plugin.to_vec(),
        };
        Ok(Self { facts: Facts { version, thread, capabilities, extended }, plugin, nonce })
    }
}

impl Login {
    /// Logs in on a new connection.
    pub(super) fn run(&self, frames: &mut Frames, until: Instant) -> Result<Facts, Failure> {
        frames.expect(0);
        let packet = frames.packet(until)?;
        let greeting = Greeting::read(frames.body(&packet))?;
        let mut facts = greeting.facts;
        if !facts.has(capability::PROTOCOL_41) || !facts.has(capability::SECURE_CONNECTION) {
            return Err(Failure::NotPossible(format!("the server {} is too old", facts.version)));
        }
        let offered = facts.capabilities;
        facts.capabilities = NEEDED | offered & WANTED;
        if self.database.is_some() {
            facts.capabilities |= capability::CONNECT_WITH_DB;
        }
        // Only a client without this bit may send MariaDB's own.
        if offered & capability::MYSQL != 0 {
            facts.capabilities |= capability::MYSQL;
        }
        facts.extended &= capability::EXTENDED_TYPES | capability::CACHE_METADATA;
        self.encrypt(frames, &mut facts, offered, until)?;
        let plugin = Plugin::named(&greeting.plugin).unwrap_or(Plugin::Native);
        // A secret is sent only when the server asks for it behind the greeting, and over TLS.
        let plugin = if plugin == Plugin::Clear { Plugin::Native } else { plugin };
        let Reply::Bytes(reply) = plugin.reply(&self.password, &greeting.nonce) else {
            return Err(Failure::NotPossible("the server asks for the password at once".to_owned()));
        };
        let mut out = Vec::new();
        put(&mut out, frames.next_number(), |out| self.put_introduction(out, &facts, plugin, &reply));
        frames.send(&out, until)?;
        frames.expect(frames.next_number().wrapping_add(1));
        self.prove(frames, plugin, until)?;
        Ok(facts)
    }

    /// Encrypts the connection, if the mode and the server want that.
    fn encrypt(
        &self,
        frames: &mut Frames,
        facts: &mut Facts,
        offered: u32,
        until: Instant,
    ) -> Result<(), Failure> {
        let is_offered = offered & capability::SSL != 0;
        let Some(name) = self.server_name.as_ref().filter(|_| self.mode != Mode::Disabled) else {
            return Ok(());
        };
        if !is_offered && self.mode == Mode::Preferred {
            return Ok(());
        }
        if !is_offered {
            let reason = "the server offers no TLS, and ssl-mode asks for it".to_owned();
            return Err(Failure::NotPossible(reason));
        }
        if frames.has_unread() {
            // Somebody between the two could have written it.
            let reason = "the server sent something between its greeting and TLS".to_owned();
            return Err(Failure::NotPossible(reason));
        }
        facts.capabilities |= capability::SSL;
        let mut out = Vec::new();
        put(&mut out, frames.next_number(), |out| put_head(out, facts));
        frames.send(&out, until)?;
        frames.expect(frames.next_number().wrapping_add(1));
        frames.channel.begin_tls(&self.tls, name.clone())?;
        while !frames.channel.shake_hands()? {
            if !frames.channel.socket().wait(until) && Instant::now() >= until {
                return Err(Failure::TimeUp);
            }
        }
        Ok(())
    }

    fn put_introduction(&self, out: &mut Vec<u8>, facts: &Facts, plugin: Plugin, reply: &[u8]) {
        put_head(out, facts);
        out.extend_from_slice(self.user.as_bytes());
        out.push(0);
        // A reply has at most 64 bytes, for which both forms of a length are the same.
        put_counted(out, reply);
        if let Some(database) = &self.database {
            out.extend_from_slice(database.as_bytes());
            out.push(0);
        }
        if facts.has(capability::PLUGIN_AUTH) {
            out.extend_from_slice(plugin.name().as_bytes());
            out.push(0);
        }
        if facts.has(capability::CONNECT_ATTRS) {
            let id = process::id().to_string();
            let mut attributes = Vec::new();
            for (name, value) in [
                ("_client_name", env!("CARGO_PKG_NAME")),
                ("_client_version", env!("CARGO_PKG_VERSION")),
                ("_pid", &id),
                ("program_name", &self.program),
            ] {
                put_counted(&mut attributes, name.as_bytes());
                put_counted(&mut attributes, value.as_bytes());
            }
            put_counted(out, &attributes);
        }
    }

    /// Answers the server until it accepts or refuses the user.
    fn prove(&self, frames: &mut Frames, mut plugin: Plugin, until: Instant) -> Result<(), Failure> {
        /// The server asks for more, or tells how it goes on.
        const MORE: u8 = 1;
        const FAST_DONE: u8 = 3;
        const WANTS_PASSWORD: u8 = 4;
        /// The most questions of a server. Plugins ask three at most, and a switch begins anew once.
        const QUESTIONS_MAX: usize = 8;
        for _ in 0..QUESTIONS_MAX {
            let packet = frames.packet(until)?;
            let packet = frames.body(&packet);
            let (first, rest) = packet.split_first().ok_or(Malformed)?;
            let reply = match *first {
                OK => return Ok(()),
                ERR => return Err(Failure::Refused(ServerError::read(packet, ""))),
                EOF => {
                    let mut reader = Reader(rest);
                    let name = reader.until_zero();
                    plugin = Plugin::named(name).ok_or_else(|| not_supported(name))?;
                    match plugin.reply(&self.password, reader.0) {
                        Reply::Bytes(bytes) => bytes,
                        Reply::Secret(secret) if frames.channel.is_encrypted() => secret,
                        Reply::Secret(_) => {
                            let name = plugin.name();
                            let reason = format!(
                                "the server asks for {name}, which needs TLS: give ssl-mode=REQUIRED"
                            );
                            return Err(Failure::NotPossible(reason));
                        }
                    }
                }
                MORE if plugin == Plugin::CachingSha2 && rest == [FAST_DONE] => continue,
                MORE if plugin == Plugin::CachingSha2 && rest == [WANTS_PASSWORD] => {
                    // A Unix socket leaves the machine as little as memory does.
                    if !frames.channel.is_encrypted() && self.server_name.is_some() {
                        let reason = "the server does not have the password's hash in memory and asks for the password, \
                                      which needs TLS: give ssl-mode=REQUIRED";
                        return Err(Failure::NotPossible(reason.to_owned()));
                    }
                    zero_ended(&self.password)
                }
                _ => {
                    let reason =
                        format!("the server goes on with {} in a way that is not known", plugin.name());
                    return Err(Failure::NotPossible(reason));
                }
            };
            let mut out = Vec::new();
            put(&mut out, frames.next_number(), |out| out.extend_from_slice(&reply));
            frames.send(&out, until)?;
            frames.expect(frames.next_number().wrapping_add(1));
        }
        Err(Failure::NotPossible("the server asks for more than any plugin does".to_owned()))
    }
}

fn not_supported(name: &[u8]) -> Failure {
    let name = if name.is_empty() {
        "the password form of MySQL before 4.1".into()
    } else {
        String::from_utf8_lossy(name)
    };
    let known = [Plugin::Native, Plugin::CachingSha2, Plugin::Ed25519, Plugin::Clear].map(Plugin::name);
    Failure::NotPossible(format!(
        "the user logs in by {name}, which is not supported; supported are {}",
        known.join(", ")
    ))
}

/// The part of the introduction that also asks for TLS.
fn put_head(out: &mut Vec<u8>, facts: &Facts) {
    /// A client's own limit, which servers do not look at.
    const PACKET_MAX: u32 = 1 << 30;
    out.extend_from_slice(&facts.capabilities.to_le_bytes());
    out.extend_from_slice(&PACKET_MAX.to_le_bytes());
    out.push(UTF8MB4);
    out.extend_from_slice(&[0; 19]);
    out.extend_from_slice(&facts.extended.to_le_bytes());
}

fn put(out: &mut Vec<u8>, number: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let written = put_packet(out, number, |out| {
        write(out);
        Ok::<_, std::convert::Infallible>(())
    });
    let Ok(_) = written;
}
