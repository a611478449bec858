//! MySQL's logins and error codes, which no server here has, and packets that no server should send.

mod codes;
mod hostile;
mod logins;
mod packets;
mod server;
