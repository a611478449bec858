//! What no server here says by itself: MySQL's logins and error codes, and packets that no server should send.

mod codes;
mod hostile;
mod logins;
mod packets;
mod server;
