//! `towpath context`: servers by name. A file of the user's own holds their URLs and where their
//! tokens are, never the tokens themselves.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, ensure};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::http::Server;
use super::output::{Column, Form, Listing, note, text};
use crate::config;

pub(super) const EXAMPLES: &str = "\
Examples:
  towpath context add local --url http://127.0.0.1:9324
  towpath context add shop --url http://queue.internal:9324 --token-file shop.token --use
  towpath context ls
  towpath context use local
  towpath context rm shop";

/// The file of a user's contexts.
const FILE: &str = "contexts.toml";

#[derive(Subcommand)]
pub(super) enum Command {
    /// Name a server, or change what the name stands for
    #[command(after_help = "\
Examples:
  towpath context add local --url http://127.0.0.1:9324
  towpath context add shop --url http://queue.internal:9324 --token-file shop.token --use")]
    Add(Add),
    /// Let commands talk to a server unless they say otherwise
    #[command(after_help = "\
Example:
  towpath context use local")]
    Use {
        /// Its name
        name: String,
    },
    /// List the servers that have names
    #[command(after_help = "\
Examples:
  towpath context ls
  towpath context ls -o json")]
    Ls {
        #[command(flatten)]
        form: Form,
    },
    /// Forget a name
    #[command(after_help = "\
Example:
  towpath context rm shop")]
    Rm {
        /// Its name
        name: String,
    },
}

#[derive(Args)]
pub(super) struct Add {
    /// The name
    name: String,
    /// Where the server is
    #[arg(long)]
    url: Server,
    #[arg(
        long,
        value_name = "FILE",
        help = "File that holds the token [default: TOWPATH_TOKEN, else admin.token in the data directory]"
    )]
    token_file: Option<PathBuf>,
    /// Use it from now on
    #[arg(long = "use")]
    is_used: bool,
}

/// A server with a name.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Context {
    url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) token_file: Option<PathBuf>,
}

impl Context {
    /// # Errors
    /// The file was written by somebody else.
    pub(super) fn server(&self) -> anyhow::Result<Server> {
        self.url
            .parse()
            .map_err(|rule: String| anyhow!("the context's URL {} is not valid: {rule}", self.url))
    }
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contexts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
}

const LISTING: Listing = Listing {
    columns: &[
        Column {
            title: "NAME",
            cell: |item| text(&item["name"]),
        },
        Column {
            title: "URL",
            cell: |item| text(&item["url"]),
        },
        Column {
            title: "TOKEN FILE",
            cell: |item| text(&item["token_file"]),
        },
        Column {
            title: "IN USE",
            cell: |item| text(&item["in_use"]),
        },
    ],
    name: "name",
    none: "no server has a name; give one with `towpath context add`",
};

/// The context that is named, else the one in use.
///
/// # Errors
/// There is none of that name, or the file cannot be read.
pub(super) fn in_use(name: Option<&str>) -> anyhow::Result<Option<Context>> {
    let Some(path) = file() else {
        ensure!(name.is_none(), "{}", no_home());
        return Ok(None);
    };
    let contexts = read(&path)?;
    match name.or(contexts.current.as_deref()) {
        Some(name) => contexts.get(name).cloned().map(Some),
        None => Ok(None),
    }
}

impl Contexts {
    fn get(&self, name: &str) -> anyhow::Result<&Context> {
        self.contexts.get(name).with_context(|| {
            format!("there is no context {name:?}; `towpath context ls` lists those that are")
        })
    }
}

pub(super) fn run(command: Command, out: &mut dyn Write) -> anyhow::Result<()> {
    let path = file().with_context(no_home)?;
    let mut contexts = read(&path)?;
    match command {
        Command::Add(add) => {
            let absolute = |file: PathBuf| std::path::absolute(&file);
            let token_file = add.token_file.map(absolute).transpose();
            let context = Context {
                url: add.url.to_string(),
                token_file: token_file.context("there is no working directory")?,
            };
            if add.is_used || contexts.contexts.is_empty() {
                contexts.current = Some(add.name.clone());
            }
            contexts.contexts.insert(add.name, context);
        }
        Command::Use { name } => {
            contexts.get(&name)?;
            contexts.current = Some(name);
        }
        Command::Rm { name } => {
            contexts.get(&name)?;
            contexts.contexts.remove(&name);
            if contexts.current.as_ref() == Some(&name) {
                contexts.current = None;
                note("no context is in use now");
            }
        }
        Command::Ls { form } => return ls(&contexts, form, out),
    }
    write(&path, &contexts)
}

fn ls(contexts: &Contexts, form: Form, out: &mut dyn Write) -> anyhow::Result<()> {
    let item = |(name, context): (&String, &Context)| -> Value {
        let in_use = contexts.current.as_ref() == Some(name);
        let mut item = json!({ "name": name, "url": context.url });
        if let Some(file) = &context.token_file {
            item["token_file"] = file.display().to_string().into();
        }
        item["in_use"] = in_use.into();
        item
    };
    let items: Vec<_> = contexts.contexts.iter().map(item).collect();
    LISTING.print(out, form.format(), &items)
}

fn no_home() -> String {
    "no place for contexts: neither XDG_CONFIG_HOME nor HOME is an absolute path".to_owned()
}

fn file() -> Option<PathBuf> {
    Some(config::client_directory()?.join(FILE))
}

fn read(path: &Path) -> anyhow::Result<Contexts> {
    match fs::read_to_string(path) {
        Ok(text) => {
            toml::from_str(&text).with_context(|| format!("{} is not valid", path.display()))
        }
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(Contexts::default())
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Replaces the file as a whole, so that a crash leaves the old one or the new one.
fn write(path: &Path, contexts: &Contexts) -> anyhow::Result<()> {
    let unwritable = || format!("cannot write {}", path.display());
    let directory = path.parent().with_context(unwritable)?;
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(directory).with_context(unwritable)?;
    let fresh = path.with_extension(format!("toml.{}", std::process::id()));
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&fresh).with_context(unwritable)?;
    file.write_all(toml::to_string(contexts)?.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&fresh, path))
        .with_context(unwritable)
}
