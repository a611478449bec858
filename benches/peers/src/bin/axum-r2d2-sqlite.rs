//! axum; r2d2 and rusqlite on tokio's blocking threads.

use axum::{Router, routing::get};
use rusqlite::Connection;
use wharf_peers::{address, answer, file, flags, pool_size, prepare, world};

struct Manager;

impl r2d2::ManageConnection for Manager {
    type Connection = Connection;
    type Error = rusqlite::Error;

    fn connect(&self) -> Result<Connection, rusqlite::Error> {
        let connection = Connection::open_with_flags(file(), flags())?;
        prepare(&connection)?;
        Ok(connection)
    }

    fn is_valid(&self, connection: &mut Connection) -> Result<(), rusqlite::Error> {
        connection.execute_batch("")
    }

    fn has_broken(&self, _: &mut Connection) -> bool {
        false
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let size = u32::try_from(pool_size())?;
    // Its check on every checkout is off, as in wharf.
    let pool = r2d2::Pool::builder().max_size(size).test_on_check_out(false).build(Manager)?;
    let db = async move || {
        let ask =
            move || -> Result<_, Box<dyn std::error::Error + Send + Sync>> { Ok(world(&*pool.get()?)?) };
        answer(tokio::task::spawn_blocking(ask).await.unwrap_or_else(|panicked| Err(panicked.into())))
    };
    let router = Router::new().route("/db", get(db)).route("/plaintext", get(async || "Hello, World!"));
    axum::serve(tokio::net::TcpListener::bind(address()).await?, router).await?;
    Ok(())
}
