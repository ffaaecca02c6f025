//! The program: hands the command line over and turns what comes back into an exit code.

use std::error::Error as StdError;
use std::io::Write as _;
use std::process::ExitCode;

use mimalloc::MiMalloc;
use towpath::{cli, config, postgres};

/// A send or a receive is some dozens of small allocations: the system's allocator took a seventh of a node's
/// time.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Something failed while running.
const FAILED: u8 = 1;
/// The command line or the configuration is wrong; clap exits with the same code.
const USAGE: u8 = 2;
/// Something must be installed first.
const ENVIRONMENT_MISSING: u8 = 3;

fn main() -> ExitCode {
    let Err(error) = cli::run(&mut std::io::stdout()) else {
        return ExitCode::SUCCESS;
    };
    let mut text = format!("error: {error}\n");
    for cause in error.chain().skip(1) {
        text.push_str(&format!("  cause: {cause}\n"));
    }
    // Nothing is left to say it to where stderr is closed.
    let _unwritten = std::io::stderr().write_all(text.as_bytes());
    ExitCode::from(exit_code(&error))
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let is_missing = |cause: &(dyn StdError + 'static)| {
        let postgres = cause.downcast_ref::<postgres::Error>();
        postgres.is_some_and(postgres::Error::environment_missing)
    };
    if let Some(exit) = error.downcast_ref::<cli::Exit>() {
        exit.code
    } else if error.chain().any(is_missing) {
        ENVIRONMENT_MISSING
    } else if error
        .chain()
        .any(|cause| cause.is::<config::Error>() || cause.is::<cli::Usage>())
    {
        USAGE
    } else {
        FAILED
    }
}
