//! Layers of settings merged as TOML tables and deserialized once, so that every key can be set
//! from every layer by construction: names of variables are derived from the default tree.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Config, Environment, Error, read};

const DEFAULTS: &str = include_str!("../config.default.toml");

/// Keys whose values are never shown.
const SECRETS: [&str; 1] = ["database.url"];

/// How the names of our variables begin.
const PREFIX: &str = "TOWPATH_";

/// Variables with our prefix that are not keys: client commands read them.
const CLIENT_VARIABLES: [&str; 3] = ["TOWPATH_CONFIG", "TOWPATH_TOKEN", "TOWPATH_URL"];

/// How alike an unknown key must be to a known one to be offered instead (Jaro-Winkler, 0 to 1).
const ALIKE: f64 = 0.85;

/// The same for variables, by the letters that differ (0 to 1): their names all begin alike.
const ALIKE_VARIABLE: f64 = 0.8;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    Default,
    File(PathBuf),
    Variable(String),
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::File(path) => write!(formatter, "file {}", path.display()),
            Self::Variable(name) => write!(formatter, "environment variable {name}"),
            Self::Flag(flag) => write!(formatter, "flag {flag}"),
        }
    }
}

/// The default tree and what was laid over it: exactly two levels, `section.key`.
pub(super) struct Tree {
    defaults: Table,
    values: Table,
    origins: BTreeMap<String, Origin>,
}

impl Tree {
    pub(super) fn defaults() -> Self {
        let defaults: Table = DEFAULTS.parse().expect("the embedded default is TOML");
        Self {
            values: defaults.clone(),
            defaults,
            origins: BTreeMap::new(),
        }
    }

    /// Every key, in the order of the default file.
    pub(super) fn keys(&self) -> Vec<String> {
        let sections = self.defaults.iter();
        sections
            .flat_map(|(section, keys)| {
                let keys = keys.as_table().expect("the default tree has sections");
                keys.keys().map(move |key| format!("{section}.{key}"))
            })
            .collect()
    }

    pub(super) fn value(&self, key: &str) -> &Value {
        find(&self.values, key).expect("a known key has a value")
    }

    pub(super) fn origin(&self, key: &str) -> &Origin {
        self.origins.get(key).unwrap_or(&Origin::Default)
    }

    pub(super) fn set(&mut self, key: &str, value: Value, origin: Origin) -> Result<(), Error> {
        let Some(slot) = find_mut(&mut self.values, key) else {
            return Err(self.unknown(key, &origin));
        };
        *slot = value;
        self.origins.insert(key.to_owned(), origin);
        Ok(())
    }

    /// Sets a key from a flag's or variable's text, read as the type of the default. Text that
    /// does not read as that type stays text, so that deserializing reports it with the rest.
    pub(super) fn set_text(&mut self, key: &str, text: &str, origin: Origin) -> Result<(), Error> {
        let as_text = || Value::String(text.to_owned());
        let value = match find(&self.defaults, key) {
            Some(Value::Integer(_)) => text.parse().map_or_else(|_| as_text(), Value::Integer),
            Some(Value::Boolean(_)) => text.parse().map_or_else(|_| as_text(), Value::Boolean),
            Some(Value::Array(_)) => {
                let items = text.split(',').map(str::trim);
                let items = items.filter(|item| !item.is_empty());
                Value::Array(items.map(|item| Value::String(item.to_owned())).collect())
            }
            _ => as_text(),
        };
        self.set(key, value, origin)
    }

    pub(super) fn merge_file(&mut self, path: &Path) -> Result<(), Error> {
        let text = read(path)?;
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            Error::Syntax {
                path: path.to_owned(),
                line: before.unwrap_or_default().matches('\n').count() + 1,
                message: error.message().to_owned(),
            }
        })?;
        for (section, keys) in table {
            let origin = Origin::File(path.to_owned());
            match keys {
                Value::Table(keys) if self.defaults.contains_key(&section) => {
                    for (key, value) in keys {
                        self.set(&format!("{section}.{key}"), value, origin.clone())?;
                    }
                }
                _ => return Err(self.unknown(&section, &origin)),
            }
        }
        Ok(())
    }

    pub(super) fn merge_environment(&mut self, environment: &Environment) -> Result<(), Error> {
        if let Some(port) = environment.text("PORT")? {
            self.set_port(port)?;
        }
        if let Some((url, origin)) = environment.secret("DATABASE_URL")? {
            self.set_text("database.url", &url, origin)?;
        }
        for key in self.keys() {
            let variable = variable(&key);
            if SECRETS.contains(&key.as_str()) {
                if let Some((value, origin)) = environment.secret(&variable)? {
                    self.set_text(&key, &value, origin)?;
                }
            } else if let Some(value) = environment.text(&variable)? {
                let value = value.to_owned();
                self.set_text(&key, &value, Origin::Variable(variable))?;
            }
        }
        Ok(())
    }

    /// `PORT` says nothing of the address, so the one set before it stays.
    fn set_port(&mut self, port: &str) -> Result<(), Error> {
        let listen = self.value("server.listen").as_str().unwrap_or_default();
        let listen = match (listen.parse::<SocketAddr>(), port.parse()) {
            (Ok(address), Ok(port)) => SocketAddr::new(address.ip(), port).to_string(),
            // Left as it is, it is refused with the name of the variable.
            _ => format!("{listen} with port {port}"),
        };
        let origin = Origin::Variable("PORT".to_owned());
        self.set("server.listen", Value::String(listen), origin)
    }

    pub(super) fn deserialize(&self) -> Result<Config, Error> {
        serde_path_to_error::deserialize(self.values.clone()).map_err(|error| {
            let path = error.path().to_string();
            // An entry of a list has an index behind the key.
            let key = path.split('[').next().unwrap_or_default();
            self.invalid(key, error.inner().message().trim())
        })
    }

    pub(super) fn invalid(&self, key: &str, rule: &str) -> Error {
        let setting = match find(&self.values, key) {
            Some(value) if !SECRETS.contains(&key) => format!("{key} = {value}"),
            _ => key.to_owned(),
        };
        let rule = match find(&self.defaults, key) {
            Some(default) => format!("{rule}; the default is {default}"),
            None => rule.to_owned(),
        };
        Error::Invalid {
            setting,
            origin: self.origin(key).to_string(),
            rule,
        }
    }

    fn unknown(&self, key: &str, origin: &Origin) -> Error {
        Error::UnknownKey {
            key: key.to_owned(),
            origin: origin.to_string(),
            hint: self.nearest(key),
        }
    }

    /// What somebody who wrote an unknown key may have meant.
    fn nearest(&self, key: &str) -> String {
        let (section, name) = key.split_once('.').unwrap_or(("", key));
        let mut keys = self.keys();
        let mut sections = Vec::from_iter(self.defaults.keys().map(String::as_str));
        let otherwise = if sections.contains(&section) {
            keys.retain(|known| {
                known
                    .split_once('.')
                    .is_some_and(|known| known.0 == section)
            });
            sections.clear();
            format!("[{section}] has {}", keys.join(", "))
        } else {
            format!("the sections are {}", sections.join(", "))
        };
        let keys = keys.iter().map(|known| {
            let (known_section, known_name) = known.split_once('.').unwrap_or_default();
            let other_section = !section.is_empty() && section != known_section;
            let likeness = if other_section {
                strsim::jaro_winkler(key, known)
            } else {
                strsim::jaro_winkler(name, known_name)
            };
            (likeness, known.clone())
        });
        let sections = sections
            .iter()
            .map(|known| (strsim::jaro_winkler(key, known), format!("[{known}]")));
        keys.chain(sections)
            .filter(|(likeness, _)| *likeness >= ALIKE)
            .max_by(|(one, _), (other, _)| one.total_cmp(other))
            .map_or(otherwise, |(_, known)| format!("did you mean `{known}`?"))
    }

    /// Variables with our prefix that set nothing. Orchestrators make some up (service links of
    /// Kubernetes), so they are no reason to refuse a start.
    pub(super) fn unknown_variables(&self, environment: &Environment) -> Vec<String> {
        let keys = self.keys();
        let known: Vec<String> = keys.iter().map(|key| variable(key)).collect();
        let secrets: Vec<String> = SECRETS.map(|key| variable(key) + "_FILE").into();
        environment
            .0
            .keys()
            .filter(|name| name.starts_with(PREFIX))
            .filter(|name| !known.contains(name) && !secrets.contains(name))
            .filter(|name| !CLIENT_VARIABLES.contains(&name.as_str()))
            .map(|name| {
                let known = known.iter().chain(&secrets).map(String::as_str);
                let meant = most_alike(name, known.chain(CLIENT_VARIABLES));
                let meant = meant.map_or(String::new(), |it| format!("; did you mean {it}?"));
                format!("the environment variable {name} sets nothing{meant}")
            })
            .collect()
    }
}

/// What somebody who wrote the name of a variable may have meant.
fn most_alike<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (strsim::normalized_levenshtein(name, known), known))
        .filter(|(likeness, _)| *likeness >= ALIKE_VARIABLE)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, known)| known)
}

/// The variable that sets a key.
fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_ascii_uppercase())
}

fn find<'a>(tree: &'a Table, key: &str) -> Option<&'a Value> {
    let (section, key) = key.split_once('.')?;
    tree.get(section)?.as_table()?.get(key)
}

fn find_mut<'a>(tree: &'a mut Table, key: &str) -> Option<&'a mut Value> {
    let (section, key) = key.split_once('.')?;
    tree.get_mut(section)?.as_table_mut()?.get_mut(key)
}
