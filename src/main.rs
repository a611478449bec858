//! The `wharf` command; see `src/cli/`.

use std::process::ExitCode;

fn main() -> ExitCode {
    wharf::cli::main()
}
