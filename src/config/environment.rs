//! The environment: variables, secrets in files, base directories. Nothing else reads it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::tree::Origin;
use super::{Error, read};

/// The environment as it was when the process asked.
pub struct Environment(pub(super) BTreeMap<String, OsString>);

impl Environment {
    /// This process's environment.
    pub fn current() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .collect()
    }

    /// A variable's text; an empty one counts as not set.
    ///
    /// # Errors
    /// Its value is not UTF-8.
    pub fn text(&self, variable: &str) -> Result<Option<&str>, Error> {
        let Some(value) = self.0.get(variable).filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        let text = value.to_str().ok_or_else(|| Error::NotText {
            variable: variable.to_owned(),
        })?;
        Ok(Some(text))
    }

    /// A secret: the variable, or what is in the file that `<variable>_FILE` names.
    pub(super) fn secret(&self, variable: &str) -> Result<Option<(String, Origin)>, Error> {
        let by_file = format!("{variable}_FILE");
        match (self.text(variable)?, self.text(&by_file)?) {
            (Some(_), Some(_)) => Err(Error::SetTwice {
                variable: variable.to_owned(),
            }),
            (Some(value), None) => Ok(Some((
                value.to_owned(),
                Origin::Variable(variable.to_owned()),
            ))),
            (None, Some(path)) => {
                let text = read(Path::new(path))?;
                Ok(Some((
                    text.trim_end().to_owned(),
                    Origin::Variable(by_file),
                )))
            }
            (None, None) => Ok(None),
        }
    }

    /// An XDG base directory: its variable when absolute (others are invalid by the
    /// specification), else a directory under the home.
    pub(super) fn base_directory(&self, variable: &str, under_home: &str) -> Option<PathBuf> {
        let absolute = |name: &str| {
            let path = PathBuf::from(self.0.get(name)?);
            path.is_absolute().then_some(path)
        };
        absolute(variable).or_else(|| Some(absolute("HOME")?.join(under_home)))
    }
}

impl FromIterator<(String, OsString)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, OsString)>>(variables: I) -> Self {
        Self(variables.into_iter().collect())
    }
}

/// The token that client commands present, where `TOWPATH_TOKEN` gives one.
///
/// # Errors
/// It is not UTF-8.
pub fn client_token() -> Result<Option<String>, Error> {
    let environment = Environment::current();
    Ok(environment.text("TOWPATH_TOKEN")?.map(str::to_owned))
}

/// The server that client commands talk to, where `TOWPATH_URL` names one.
///
/// # Errors
/// It is not UTF-8.
pub fn client_url() -> Result<Option<String>, Error> {
    let environment = Environment::current();
    Ok(environment.text("TOWPATH_URL")?.map(str::to_owned))
}

/// Where client commands keep what the user gave names to.
pub fn client_directory() -> Option<PathBuf> {
    let directory = Environment::current().base_directory("XDG_CONFIG_HOME", ".config")?;
    Some(directory.join("towpath"))
}

/// Whether the user wants no colours: `NO_COLOR` is set to anything, as <https://no-color.org> has it.
pub fn is_colour_forbidden() -> bool {
    let environment = Environment::current();
    environment
        .0
        .get("NO_COLOR")
        .is_some_and(|value| !value.is_empty())
}

/// Where programs are looked for: `PATH`.
pub fn search_path() -> Option<OsString> {
    Environment::current().0.remove("PATH")
}
