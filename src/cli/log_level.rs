//! How much the log says: `WHARF_LOG`, or else what the configuration says, which may change while the server runs.
//!
//! Main thread; `change` the admin listener's.

use log::LevelFilter;

/// Its value may have levels for single modules, which `log.level` has not.
const VARIABLE: &str = "WHARF_LOG";

/// Starts the log, before there is a configuration. What the logger itself lets through cannot change later, so without the
/// variable it lets everything through, and the level of the `log` crate decides.
pub(crate) fn start_log() {
    let filter = env_logger::Env::new().filter_or(VARIABLE, "trace");
    env_logger::Builder::from_env(filter).format_target(false).init();
    set(LevelFilter::Info);
}

/// Whether the variable decides, and the configuration does not.
pub(super) fn is_held() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// The same for who asks a server that runs; returns the level before.
pub(super) fn change(level: LevelFilter) -> Result<LevelFilter, String> {
    if is_held() {
        return Err(format!("the variable {VARIABLE} is set and decides"));
    }
    let before = log::max_level();
    set(level);
    Ok(before)
}

/// Logs what is as important as this, unless the variable decides.
pub(super) fn set(level: LevelFilter) {
    if !is_held() {
        log::set_max_level(level);
    }
}
