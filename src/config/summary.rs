//! A summary of the configuration at the start of a server: its sizes and its limits in force, in one line each.

use super::Config;
use super::setting::{show_bytes, show_time};

impl Config {
    /// `10 workers, queue of 1024 for at most 1s, pool of 10 sessions`.
    pub fn sizes(&self) -> String {
        let pool = match self.database.url {
            Some(_) => format!("pool of {} sessions", self.database.maximum_pool_size),
            None => "no pool".to_owned(),
        };
        let (workers, length, wait) = (self.workers(), self.queue.max_length, self.queue.max_wait);
        format!("{workers} workers, queue of {length} for at most {}, {pool}", show_time(wait))
    }

    /// `10000 connections, heads of 16KiB, bodies of 1MiB, 10s for a request, 50ms in the queue when it lasts`.
    pub fn limits(&self) -> String {
        let (http, deadline) = (&self.http, show_time(self.server.deadline));
        let (head, body) = (show_bytes(http.max_head_bytes), show_bytes(http.max_body_bytes));
        let (connections, target) = (http.max_connections, show_time(self.queue.target));
        format!(
            "{connections} connections, heads of {head}, bodies of {body}, {deadline} for a request, \
             {target} in the queue when it lasts"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_limits_are_those_in_force() {
        let mut config = Config::default();
        config.server.workers = Some(3);
        assert_eq!(config.sizes(), "3 workers, queue of 1024 for at most 1s, no pool");
        config.database.url = Some("sqlite:x".to_owned());
        assert!(config.sizes().ends_with(", pool of 10 sessions"));
        let limits = "10000 connections, heads of 16KiB, bodies of 1MiB, 10s for a request, \
            50ms in the queue when it lasts";
        assert_eq!(config.limits(), limits);
    }
}
