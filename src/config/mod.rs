//! The one configuration tree, and the only reader of the environment and of configuration files.
//!
//! `config.default.toml` is its documentation and names every key; what is read here becomes
//! validated types, and nothing else in the crate parses settings. `tree` lays file, environment
//! and flags over the defaults; `settings` is what comes out.

mod environment;
mod settings;
mod tree;

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use toml::Value;

pub use environment::{
    Environment, client_directory, client_token, client_url, is_colour_forbidden, search_path,
};
pub use settings::{
    Access, Broker, Config, Data, Database, DatabaseUrl, Log, LogFormat, Maintenance, Metrics,
    Server,
};
use tree::{Origin, Tree};

/// What the command line asks for.
#[derive(Clone, Default)]
pub struct Overrides {
    /// Configuration file; `None` reads the one that `TOWPATH_CONFIG` names, or the user's own if
    /// there is one.
    pub file: Option<PathBuf>,
    /// Settings, later ones winning.
    pub set: Vec<Override>,
}

/// One setting given by a flag.
#[derive(Clone)]
pub struct Override {
    /// `section.key`
    pub key: String,
    /// The value as typed.
    pub value: String,
    /// The flag, to name it in errors.
    pub flag: &'static str,
}

/// Why a configuration is refused. Secrets are never part of the text.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that was named cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML. The parser's own error is left out: it quotes the line, which may
    /// hold a secret.
    #[error("{} is not valid TOML: line {line}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// No such key.
    #[error("there is no setting `{key}` ({origin}); {hint}")]
    UnknownKey {
        /// What was asked for.
        key: String,
        /// By whom.
        origin: String,
        /// The nearest known key, or those of the section.
        hint: String,
    },
    /// A value of the wrong type, form or range.
    #[error("{setting} ({origin}) is not valid: {rule}")]
    Invalid {
        /// The key, and its value unless it is a secret.
        setting: String,
        /// Where the value came from.
        origin: String,
        /// What is wrong with it, what would be right, and the default as an example of the form.
        rule: String,
    },
    /// A variable is not UTF-8.
    #[error("the environment variable {variable} is not valid UTF-8")]
    NotText {
        /// Its name.
        variable: String,
    },
    /// A secret is given by a variable and by a file.
    #[error("{variable} and {variable}_FILE are both set; set only one of them")]
    SetTwice {
        /// The variable.
        variable: String,
    },
    /// A plain user has no home.
    #[error(
        "no place for data: HOME is not set to an absolute path; set TOWPATH_DATA_DIR or --data-dir"
    )]
    NoHome,
}

/// A configuration, and how it came about.
pub struct Loaded {
    /// What is in force.
    pub config: Config,
    /// What deserves a line in the log.
    pub warnings: Vec<String>,
    tree: Tree,
}

impl Loaded {
    /// The configuration in force as TOML, secrets masked, on request with each value's origin.
    pub fn show(&self, origin: bool) -> String {
        let mut text = String::new();
        let mut current = String::new();
        for key in self.tree.keys() {
            let (section, name) = key.split_once('.').expect("keys have a section");
            if section != current {
                let gap = if text.is_empty() { "" } else { "\n" };
                let _infallible = writeln!(text, "{gap}[{section}]");
                section.clone_into(&mut current);
            }
            let value = match (key.as_str(), &self.config.database.url) {
                ("database.url", Some(url)) => Value::String(url.masked()),
                _ => self.tree.value(&key).clone(),
            };
            let _infallible = write!(text, "{name} = {value}");
            if origin {
                let _infallible = write!(text, "  # {}", self.tree.origin(&key));
            }
            text.push('\n');
        }
        text
    }
}

impl Config {
    /// Reads defaults, file, environment and flags.
    ///
    /// # Errors
    /// [`Error`], naming the key, where its value came from and what would be right.
    pub fn load(flags: &Overrides) -> Result<Loaded, Error> {
        Self::load_from(flags, &Environment::current())
    }

    /// As [`Config::load`], with another environment than this process's.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_from(flags: &Overrides, environment: &Environment) -> Result<Loaded, Error> {
        let mut tree = Tree::defaults();
        if let Some(file) = configuration_file(flags, environment)? {
            tree.merge_file(&file)?;
        }
        tree.merge_environment(environment)?;
        for Override { key, value, flag } in &flags.set {
            tree.set_text(key, value, Origin::Flag(flag))?;
        }
        if tree.value("data.dir").as_str() == Some("") {
            let dir = default_data_dir(environment).ok_or(Error::NoHome)?;
            let dir = dir.to_string_lossy().into_owned();
            tree.set("data.dir", Value::String(dir), Origin::Default)?;
        }
        let mut config = tree.deserialize()?;
        config
            .check()
            .map_err(|refused| tree.invalid(refused.key, &refused.rule))?;
        config.data.dir = std::path::absolute(&config.data.dir).map_err(|source| Error::Read {
            path: config.data.dir.clone(),
            source,
        })?;
        let warnings = tree.unknown_variables(environment);
        Ok(Loaded {
            config,
            warnings,
            tree,
        })
    }
}

/// The file that was asked for, or the user's own where there is one.
fn configuration_file(
    flags: &Overrides,
    environment: &Environment,
) -> Result<Option<PathBuf>, Error> {
    let named = environment.text("TOWPATH_CONFIG")?.map(PathBuf::from);
    if let Some(file) = flags.file.clone().or(named) {
        return Ok(Some(file));
    }
    let Some(directory) = environment.base_directory("XDG_CONFIG_HOME", ".config") else {
        return Ok(None);
    };
    let file = directory.join("towpath/towpath.toml");
    match file.try_exists() {
        Ok(exists) => Ok(exists.then_some(file)),
        // A home that is none, such as /dev/null.
        Err(error) if error.kind() == ErrorKind::NotADirectory => Ok(None),
        Err(source) => Err(Error::Read { path: file, source }),
    }
}

fn default_data_dir(environment: &Environment) -> Option<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        // Below root's home the managed PostgreSQL, which runs as another user, could not reach it.
        return Some(PathBuf::from("/var/lib/towpath"));
    }
    let directory = environment.base_directory("XDG_DATA_HOME", ".local/share")?;
    Some(directory.join("towpath"))
}

fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}
