//! `/db` with axum and mysql_async's pool, on MySQL or MariaDB.

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Json, Router, routing::get};
use mysql_async::prelude::Queryable;
use mysql_async::{Opts, OptsBuilder, Pool, PoolConstraints, PoolOpts};
use wharf_peers::{World, address, pool_size, variable};

async fn world(State(pool): State<Pool>) -> Result<Json<World>, StatusCode> {
    let refused = |_| StatusCode::SERVICE_UNAVAILABLE;
    let mut connection = pool.get_conn().await.map_err(refused)?;
    let sql = "select id, randomnumber from world where id = ?";
    let row: Option<(i64, i64)> =
        connection.exec_first(sql, (fastrand::i64(1..=10_000),)).await.map_err(refused)?;
    row.map(|(id, number)| Json(World::new(id, number))).ok_or(StatusCode::NOT_FOUND)
}

#[tokio::main]
async fn main() {
    let constraints = PoolConstraints::new(pool_size(), pool_size()).expect("a size");
    // By default a connection is reset at each return, which costs a round trip. These statements leave nothing.
    let pool = PoolOpts::new().with_constraints(constraints).with_reset_connection(false);
    let url = variable("MYSQL_URL", "mysql://root@127.0.0.1/hello_world".to_owned());
    // By default it changes to a Unix socket where the server has one.
    let options =
        OptsBuilder::from_opts(Opts::from_url(&url).expect("a URL")).pool_opts(pool).prefer_socket(false);
    let app = Router::new().route("/db", get(world)).with_state(Pool::new(options));
    let listener = tokio::net::TcpListener::bind(address()).await.expect("a free port");
    axum::serve(listener, app).await.expect("it serves");
}
