//! `towpath token`: asks a running server for a token, with the administrator's own.

use std::io::{ErrorKind, IsTerminal as _, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use hyper::Method;
use serde::Deserialize;
use serde_json::json;

use super::{Settings, Target, block_on};
use crate::app::ADMIN_TOKEN_FILE;
use crate::config::{self, Config, Override};

pub(super) const EXAMPLES: &str = "\
Examples:
  towpath token
  towpath token --subject shop --scope \"send receive delete\" --lifetime 8h
  (umask 077; echo \"Authorization: Bearer $(towpath token)\" > my.header)
  curl -H @my.header http://127.0.0.1:9324/v1/queues

The administrator's token is taken from TOWPATH_TOKEN, else from admin.token in the data directory.
Scopes: read_metadata, configure, send, receive, delete, purge, administer.";

#[derive(Args)]
pub(super) struct Arguments {
    /// Who the token is for, as logs will name them
    #[arg(long, default_value = "developer")]
    subject: String,
    /// Rights, separated by spaces [default: all that an application needs]
    #[arg(long)]
    scope: Option<String>,
    /// How long it is valid, such as 1h [default: the server's, a day]
    #[arg(long, value_parser = humantime::parse_duration)]
    lifetime: Option<Duration>,
    #[command(flatten)]
    administrator: Administrator,
}

/// Which server to talk to, and where its administrator's token is.
#[derive(Args)]
pub(super) struct Administrator {
    #[command(flatten)]
    pub(super) target: Target,
    #[arg(
        long,
        value_name = "DIRECTORY",
        help = "The server's data directory [env: TOWPATH_DATA_DIR]"
    )]
    data_dir: Option<String>,
}

impl Administrator {
    /// The server's configuration as far as this machine knows it, with one more setting.
    ///
    /// # Errors
    /// The configuration is not valid.
    pub(super) fn config(&self, set: Option<Override>) -> Result<Config, config::Error> {
        let settings = Settings {
            config: self.target.config.clone(),
            data_dir: self.data_dir.clone(),
            listen: None,
            database_url: None,
            set: Vec::new(),
        };
        let mut overrides = settings.overrides();
        overrides.set.extend(set);
        Ok(Config::load(&overrides)?.config)
    }

    /// The administrator's token.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub(super) fn token(&self) -> anyhow::Result<String> {
        if let Some(token) = config::client_token()? {
            return Ok(token);
        }
        token_in(&self.config(None)?.data.dir)
    }
}

/// The administrator's token of the server with this data directory.
///
/// # Errors
/// There is none, or it cannot be read.
pub(super) fn token_in(data_dir: &Path) -> anyhow::Result<String> {
    let path = data_dir.join(ADMIN_TOKEN_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => bail!(
            "no administrator's token: {} does not exist; start a server with `towpath serve`, \
                 name its data directory with --data-dir, or set TOWPATH_TOKEN",
            path.display()
        ),
        Err(error) => Err(error).with_context(|| {
            format!(
                "cannot read the administrator's token from {}; run this as the server's user, \
                     or set TOWPATH_TOKEN",
                path.display()
            )
        }),
    }
}

#[derive(Deserialize)]
struct Issued {
    token: String,
    expires_at: String,
}

/// Prints the token alone on `out`, so that a shell can take it.
pub(super) fn run(arguments: Arguments, out: &mut impl Write) -> anyhow::Result<()> {
    let token = arguments.administrator.token()?;
    let mut request = json!({ "subject": arguments.subject });
    if let Some(lifetime) = arguments.lifetime {
        request["lifetime_seconds"] = lifetime.as_secs().into();
    }
    if let Some(scope) = arguments.scope {
        request["scope"] = scope.into();
    }
    let server = arguments.administrator.target.server()?;
    let call = server.call(Method::POST, "/v1/tokens", Some(&token), Some(&request));
    let issued: Issued = block_on(call)?.json()?;
    writeln!(out, "{}", issued.token)?;
    let mut notes = std::io::stderr();
    if notes.is_terminal() {
        writeln!(notes, "valid until {}", issued.expires_at)?;
    }
    Ok(())
}
