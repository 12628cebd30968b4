//! What is wanted, back into the configuration file.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::DesiredState;

/// Why the file is not written.
#[derive(Debug, thiserror::Error)]
pub(in crate::control) enum NotSaved {
    /// Somebody else has changed it.
    #[error("{path} has been changed since the director read it", path = .0.display())]
    Overtaken(PathBuf),
    /// It cannot be read or written.
    #[error("cannot write {path}: {cause}", path = .path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        cause: io::Error,
    },
}

impl DesiredState {
    /// Writes what is wanted into the configuration file, whole or not at all; whether that
    /// changed it. What somebody else has written there meanwhile is lost only by `force`.
    pub(in crate::control) fn save(&mut self, force: bool) -> Result<bool, NotSaved> {
        let path = self.source.path.clone();
        let text = self.wanted.text();
        let unwritable = |cause| NotSaved::Unwritable { path: path.clone(), cause };
        let there = match fs::read_to_string(&path) {
            Ok(there) => Some(there),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => None,
            Err(cause) => return Err(unwritable(cause)),
        };
        let known = |there: &String| *there == self.source.text || *there == text;
        if !force && !there.as_ref().is_none_or(known) {
            return Err(NotSaved::Overtaken(path));
        }
        let changed = there.as_deref() != Some(&text);
        if changed {
            replace(&path, &text).map_err(unwritable)?;
        }
        self.source.text = text;
        Ok(changed)
    }
}

/// Puts a new file into the place of the old one, with its permissions.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    // Through a link, the file that it leads to.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let write = || {
        let mut file = File::create(&new)?;
        if let Ok(old) = fs::metadata(&path) {
            file.set_permissions(Permissions::clone(&old.permissions()))?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&new)))
}
