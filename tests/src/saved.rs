//! A folder as it was, in memory, to be put back as often as a test spoils it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// All files and links below one folder.
#[derive(Debug)]
pub struct Saved {
    root: PathBuf,
    entries: BTreeMap<PathBuf, Entry>,
}

#[derive(Debug)]
enum Entry {
    Folder,
    Link(PathBuf),
    File(u32, Vec<u8>),
}

impl Saved {
    /// What is below `root` now.
    #[track_caller]
    pub fn of(root: &Path) -> Self {
        let mut saved = Self { root: root.to_owned(), entries: BTreeMap::new() };
        saved.read(root);
        saved
    }

    /// The bytes of the file called `name`, as they were.
    #[track_caller]
    pub fn bytes(&self, name: &str) -> &[u8] {
        match self.entries.get(Path::new(name)) {
            Some(Entry::File(_, bytes)) => bytes,
            _ => panic!("there is no file `{name}`"),
        }
    }

    /// The names of the files below `folder`, from the root.
    pub fn files(&self, folder: &str) -> Vec<String> {
        let files = self.entries.iter().filter(|(_, entry)| matches!(entry, Entry::File(..)));
        let names = files.map(|(path, _)| path.display().to_string());
        names.filter(|name| name.starts_with(folder)).collect()
    }

    /// Makes it what it was, and nothing else.
    #[track_caller]
    pub fn put_back(&self) {
        fs::remove_dir_all(&self.root).expect("a folder can be removed");
        fs::create_dir(&self.root).expect("a folder can be made");
        // In order: folders come before what is in them.
        for (path, entry) in &self.entries {
            let path = self.root.join(path);
            match entry {
                Entry::Folder => fs::create_dir(path).expect("a folder can be made"),
                Entry::Link(target) => symlink(target, path).expect("a link can be made"),
                Entry::File(mode, bytes) => {
                    fs::write(&path, bytes).expect("a file can be written");
                    fs::set_permissions(path, fs::Permissions::from_mode(*mode)).expect("a mode can be set");
                }
            }
        }
    }

    fn read(&mut self, folder: &Path) {
        for entry in fs::read_dir(folder).expect("a folder can be read") {
            let path = entry.expect("a folder can be read").path();
            let metadata = path.symlink_metadata().expect("an entry is there");
            let name = path.strip_prefix(&self.root).expect("an entry lies below its root").to_owned();
            let entry = if metadata.is_dir() {
                Entry::Folder
            } else if metadata.is_symlink() {
                Entry::Link(fs::read_link(&path).expect("a link can be read"))
            } else {
                let bytes = fs::read(&path).expect("a file can be read");
                Entry::File(metadata.permissions().mode() & 0o7777, bytes)
            };
            let is_folder = matches!(entry, Entry::Folder);
            self.entries.insert(name, entry);
            if is_folder {
                self.read(&path);
            }
        }
    }
}
