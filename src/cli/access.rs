//! Which server a command talks to, and by which token.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use super::client::Client;
use super::context::{self, Context};
use super::http::Server;
use super::{Settings, token};
use crate::config::{self, Config};
use crate::domain::limits::MAX_TOKEN_BYTES;

/// Which server to talk to, and by which token.
#[derive(Args)]
pub(super) struct Access {
    #[arg(
        long,
        value_name = "URL",
        help_heading = "Server",
        help = "Where the server is [env: TOWPATH_URL] [default: the context's, else where one of this configuration listens]"
    )]
    url: Option<Server>,
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "Server",
        help = "File that holds the token [env: the token itself, TOWPATH_TOKEN] [default: the context's, else admin.token in the data directory]"
    )]
    token_file: Option<PathBuf>,
    #[arg(
        long,
        value_name = "NAME",
        help_heading = "Server",
        help = "A server that `towpath context add` named [default: the one in use]"
    )]
    context: Option<String>,
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "Server",
        help = "The server's configuration file [env: TOWPATH_CONFIG]"
    )]
    config: Option<PathBuf>,
    #[arg(
        long,
        value_name = "DIRECTORY",
        help_heading = "Server",
        help = "The server's data directory [env: TOWPATH_DATA_DIR]"
    )]
    data_dir: Option<String>,
}

/// A server, a token, and who said so.
pub(super) struct Found {
    pub(super) server: Server,
    /// The token, or why there is none.
    pub(super) token: anyhow::Result<String>,
    /// Where the token is from.
    pub(super) token_origin: String,
}

impl Access {
    /// A client of the server.
    ///
    /// # Errors
    /// What was given is not valid, or there is no token.
    pub(super) fn client(&self) -> anyhow::Result<Client> {
        let found = self.find()?;
        Ok(Client::new(found.server, Some(found.token?)))
    }

    /// The server and the token, as far as there is one.
    ///
    /// # Errors
    /// What was given is not valid.
    pub(super) fn find(&self) -> anyhow::Result<Found> {
        let context = context::in_use(self.context.as_deref())?;
        let server = self.server(context.as_ref())?;
        let (token, token_origin) = self.token(context.as_ref());
        Ok(Found {
            server,
            token,
            token_origin,
        })
    }

    /// A flag wins over the named context, that one over the variable, which wins over the context
    /// in use.
    fn server(&self, context: Option<&Context>) -> anyhow::Result<Server> {
        if let Some(url) = &self.url {
            return Ok(url.clone());
        }
        let variable = config::client_url()?.filter(|_| self.context.is_none());
        if let Some(url) = variable {
            return Ok(url.parse().map_err(|rule| config::Error::Invalid {
                setting: url,
                origin: "environment variable TOWPATH_URL".to_owned(),
                rule,
            })?);
        }
        if let Some(context) = context {
            return context.server();
        }
        let listen = self.configuration()?.server.listen;
        Ok(Server::at(crate::app::reachable(listen)))
    }

    fn token(&self, context: Option<&Context>) -> (anyhow::Result<String>, String) {
        let file = |path: &Path| (token_in_file(path), format!("file {}", path.display()));
        if let Some(path) = &self.token_file {
            return file(path);
        }
        let variable = match config::client_token() {
            Ok(token) => token.filter(|_| self.context.is_none()),
            Err(error) => return (Err(error.into()), String::new()),
        };
        if let Some(token) = variable {
            return (Ok(token), "environment variable TOWPATH_TOKEN".to_owned());
        }
        if let Some(path) = context.and_then(|context| context.token_file.as_deref()) {
            return file(path);
        }
        match self.configuration() {
            Ok(config) => {
                let dir = &config.data.dir;
                let origin = format!("data directory {}", dir.display());
                (token::token_in(dir), origin)
            }
            Err(error) => (Err(error.into()), String::new()),
        }
    }

    fn configuration(&self) -> Result<Config, config::Error> {
        let settings = Settings {
            config: self.config.clone(),
            data_dir: self.data_dir.clone(),
            listen: None,
            database_url: None,
            set: Vec::new(),
        };
        Ok(Config::load(&settings.overrides())?.config)
    }
}

/// A token from a file, alone or as the header that curl reads.
fn token_in_file(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read a token from {}", path.display()))?;
    let text = text.trim();
    let token = text.strip_prefix("Authorization: Bearer ").unwrap_or(text);
    anyhow::ensure!(
        !token.is_empty() && token.len() <= MAX_TOKEN_BYTES && !token.contains(char::is_whitespace),
        "{} holds no token: one line without spaces is expected",
        path.display()
    );
    Ok(token.to_owned())
}
