//! Secrets, read where the job says when the engine starts. They are in no log, error or normalised job.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use streamjob_core::config::SecretRef;
use streamjob_core::{Error, Result};

use crate::os::explain;

/// A secret may have this many bytes: a key with its chain of certificates is far below.
pub const MAX_SECRET_BYTES: usize = 64 << 10;

/// A value that is shown nowhere: `Debug` gives asterisks, and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Reads the secret of the job's member `member` (such as `spec.sources.in.kafka.sasl.password`) from its environment
    /// variable or file. A line break at the end of a file is cut off.
    ///
    /// # Errors
    /// `user` if it is not there, empty, too long or no UTF-8; the error names the place, never the value.
    pub fn read(reference: &SecretRef, member: &str) -> Result<Secret> {
        let text = match reference {
            SecretRef::Env(name) => from_environment(name),
            SecretRef::File(path) => from_file(Path::new(path)),
        };
        text.map(Secret).map_err(|error| error.context(member))
    }

    /// The secret itself, for whoever sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(***)")
    }
}

fn from_environment(name: &str) -> Result<String> {
    match std::env::var(name) {
        Ok(text) => checked(text, &format!("the environment variable {name}")),
        Err(std::env::VarError::NotPresent) => {
            Err(Error::user(format!("the environment variable {name} is not set; set it where the engine is started")))
        }
        Err(std::env::VarError::NotUnicode(_)) => Err(Error::user(format!("the environment variable {name} is not UTF-8 text"))),
    }
}

fn from_file(path: &Path) -> Result<String> {
    let doing = "reading the secret from";
    let file = File::open(path).map_err(|error| explain(doing, path, error))?;
    let mut bytes = Vec::new();
    file.take(MAX_SECRET_BYTES as u64 + 2).read_to_end(&mut bytes).map_err(|error| explain(doing, path, error))?;
    let what = format!("the file {}", path.display());
    let mut text = String::from_utf8(bytes).map_err(|_| Error::user(format!("{what} is not UTF-8 text")))?;
    text.truncate(text.trim_end_matches(['\n', '\r']).len());
    checked(text, &what)
}

fn checked(text: String, what: &str) -> Result<String> {
    match text.len() {
        0 => Err(Error::user(format!("{what} is empty; put the secret there"))),
        length if length > MAX_SECRET_BYTES => {
            Err(Error::user(format!("{what} is longer than {MAX_SECRET_BYTES} bytes; a secret is shorter, check the name")))
        }
        _ => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_file(content: &[u8]) -> Result<Secret> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("secret");
        std::fs::write(&path, content).expect("a writable folder");
        Secret::read(&SecretRef::File(path.to_str().expect("UTF-8").to_owned()), "spec.x.password")
    }

    #[test]
    fn a_file_gives_its_text_without_the_last_line_break() {
        assert_eq!(of_file(b"s3 cret\n").expect("a secret").expose(), "s3 cret");
        assert_eq!(of_file(b"two\nlines\r\n").expect("a secret").expose(), "two\nlines");
        assert_eq!(of_file(&[b'x'; MAX_SECRET_BYTES]).expect("a secret").expose().len(), MAX_SECRET_BYTES);
    }

    #[test]
    fn an_environment_variable_is_read() {
        let path = SecretRef::Env("PATH".to_owned());
        assert_eq!(Secret::read(&path, "spec.x").expect("set everywhere").expose(), std::env::var("PATH").expect("set"));
    }

    #[test]
    fn what_is_not_there_is_named_and_never_shown() {
        let message = |result: Result<Secret>| result.expect_err("no secret").message().to_owned();
        let missing = SecretRef::Env("STREAMJOB_TEST_NOT_SET".to_owned());
        assert!(message(Secret::read(&missing, "spec.x.password")).starts_with("spec.x.password: the environment variable"));
        let missing = SecretRef::File("/nowhere/secret".to_owned());
        assert!(message(Secret::read(&missing, "spec.x.password")).contains("/nowhere/secret: it does not exist"));
        assert!(message(of_file(b"\n")).contains("is empty"));
        assert!(message(of_file(&[b'x'; MAX_SECRET_BYTES + 1])).contains("longer than"));
        assert!(message(of_file(b"\xff\xfe")).contains("not UTF-8"));
        assert!(!format!("{:?}", of_file(b"s3cret").expect("a secret")).contains("s3cret"));
    }
}
