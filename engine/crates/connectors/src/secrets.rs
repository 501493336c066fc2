//! Secrets: read when the process starts, from where the job says that they are, and shown nowhere.

use std::fmt;

use streamjob_core::config::SecretRefConfig;
use streamjob_core::{Error, Result};

/// The longest secret that is read from a file, bytes: a larger file is a mistake.
pub const MAX_SECRET_BYTES: u64 = 64 << 10;

/// A secret's value. Neither `Debug` nor `Display` shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The value, for whoever hands it to a server.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

/// Reads a secret. `place` is where the job asks for it.
///
/// # Errors
/// `user` if it is not there, empty or no text; the value is in no message.
pub fn resolve(place: &str, reference: &SecretRefConfig) -> Result<Secret> {
    let (origin, value) = match reference {
        SecretRefConfig::Env(name) => (format!("the environment variable {name}"), from_env(name)),
        SecretRefConfig::File(path) => (format!("the file {path}"), from_file(path)),
    };
    let value = value.map_err(|why| Error::user(format!("{place}: {origin} {why}; put the secret there before the start")))?;
    match value.trim_end_matches(['\r', '\n']) {
        "" => Err(Error::user(format!("{place}: {origin} is empty; put the secret there before the start"))),
        text => Ok(Secret(text.to_owned())),
    }
}

fn from_env(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|error| match error {
        std::env::VarError::NotPresent => "is not set".to_owned(),
        std::env::VarError::NotUnicode(_) => "holds no UTF-8 text".to_owned(),
    })
}

fn from_file(path: &str) -> Result<String, String> {
    let size = std::fs::metadata(path).map_err(|error| format!("can't be read: {error}"))?.len();
    if size > MAX_SECRET_BYTES {
        return Err(format!("has {size} bytes, more than the {MAX_SECRET_BYTES} of a secret"));
    }
    std::fs::read_to_string(path).map_err(|error| format!("can't be read: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_gives_its_text_without_the_last_line_break() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(b" se cret \r\n").expect("written");
        let reference = SecretRefConfig::File(file.path().display().to_string());
        let secret = resolve("sinks.a", &reference).expect("there");
        assert_eq!(secret.reveal(), " se cret ");
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }

    #[test]
    fn what_is_missing_is_named() {
        let missing = resolve("spec.x", &SecretRefConfig::Env("STREAMJOB_TEST_NOT_SET".into())).expect_err("not set");
        assert_eq!(
            missing.message(),
            "spec.x: the environment variable STREAMJOB_TEST_NOT_SET is not set; put the secret there before the start"
        );
        let file = tempfile::NamedTempFile::new().expect("a file");
        let empty = resolve("spec.x", &SecretRefConfig::File(file.path().display().to_string())).expect_err("empty");
        assert!(empty.message().contains("is empty"), "{empty}");
    }
}
