//! axum and deadpool-sqlite, which runs each connection's work on tokio's blocking threads.

use axum::{Router, routing::get};
use deadpool_sqlite::{Config, Hook, HookError, Pool, PoolConfig, Runtime};
use wharf_peers::{World, address, answer, file, pool_size, prepare, world};

async fn ask(pool: &Pool) -> Result<World, Box<dyn std::error::Error + Send + Sync>> {
    let connection = pool.get().await?;
    Ok(connection.interact(|connection| world(connection)).await.map_err(|error| error.to_string())??)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut config = Config::new(file());
    config.pool = Some(PoolConfig::new(pool_size()));
    let prepared = Hook::async_fn(|connection, _| {
        Box::pin(async move {
            let prepared = connection.interact(|connection| prepare(connection)).await;
            let prepared = prepared.map_err(|error| HookError::message(error.to_string()))?;
            prepared.map_err(HookError::Backend)
        })
    });
    let pool = config.builder(Runtime::Tokio1)?.post_create(prepared).build()?;
    let db = async move || answer(ask(&pool).await);
    let router = Router::new().route("/db", get(db)).route("/plaintext", get(async || "Hello, World!"));
    axum::serve(tokio::net::TcpListener::bind(address()).await?, router).await?;
    Ok(())
}
