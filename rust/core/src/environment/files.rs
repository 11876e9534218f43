//! Files and directories: private modes, atomic replacement, syncs, and errors by their cause.

use std::fs::{DirBuilder, File, FileType, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::corrupt;
use crate::{Error, ErrorKind, Result};

/// Something of a file's name that is no regular file.
#[derive(Debug, thiserror::Error)]
#[error("it is {0}, not a regular file")]
struct Irregular(&'static str);

/// Opens a file of ours: never through a link, and nothing that could block or act when it is opened.
pub(crate) fn open_regular(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let check = |kind: FileType| match irregular(kind) {
        None => Ok(()),
        Some(what) => Err(io::Error::other(Irregular(what))),
    };
    // Before it is opened: that alone has effects on a device. The flags keep out what gets the
    // name in between.
    match std::fs::symlink_metadata(path) {
        Ok(metadata) => check(metadata.file_type())?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = options.custom_flags(flags.bits() as i32).open(path)?;
    check(file.metadata()?.file_type())?;
    Ok(file)
}

/// Refuses a file that somebody else opens by its name, as LMDB does; it need not be there.
pub(crate) fn refuse_irregular(path: &Path) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) => match irregular(metadata.file_type()) {
            None => Ok(()),
            Some(what) => Err(io_error("open", path, &io::Error::other(Irregular(what)))),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_error("look at", path, &error)),
    }
}

fn irregular(kind: FileType) -> Option<&'static str> {
    if kind.is_file() {
        None
    } else if kind.is_symlink() {
        Some("a symbolic link")
    } else if kind.is_dir() {
        Some("a directory")
    } else if kind.is_fifo() {
        Some("a named pipe")
    } else if kind.is_socket() {
        Some("a socket")
    } else {
        Some("a device")
    }
}

/// Kind and text for what the operating system refused on `path`.
pub(crate) fn io_error(action: &str, path: &Path, error: &io::Error) -> Error {
    if error.get_ref().is_some_and(|inner| inner.is::<Irregular>()) {
        return corrupt(format!(
            "cannot {action} {}: {error}; remove it, or restore a backup",
            path.display()
        ));
    }
    let kind = io_kind(error);
    let advice = match kind {
        ErrorKind::StoreFull => "; free space on the disk and open the store again",
        ErrorKind::StoreReadOnly => {
            "; make it writable for this user, or open the store with read_only"
        }
        _ => "",
    };
    Error::new(kind, format!("cannot {action} {}: {error}{advice}", path.display()))
}

/// The kind of an I/O error by its number.
pub(crate) fn io_kind(error: &io::Error) -> ErrorKind {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => ErrorKind::StoreFull,
        Some(Errno::ROFS | Errno::ACCESS | Errno::PERM) => ErrorKind::StoreReadOnly,
        _ => ErrorKind::Io,
    }
}

/// Makes the entries of a directory durable (a rename or creation is not, before this).
pub(crate) fn sync_directory(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| io_error("sync the directory", path, &error))
}

/// Makes the bytes of a file durable.
pub(crate) fn sync_file(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|error| io_error("sync", path, &error))
}

/// A directory that only its owner may enter.
pub(crate) fn create_private_directory(path: &Path) -> Result<()> {
    DirBuilder::new()
        .mode(0o700)
        .create(path)
        .map_err(|error| io_error("create the directory", path, &error))
}

/// Takes everybody else's rights to a directory away.
pub(crate) fn make_private(path: &Path) -> io::Result<()> {
    let mut permissions = std::fs::metadata(path)?.permissions();
    if permissions.mode() & 0o077 != 0 {
        permissions.set_mode(permissions.mode() & !0o077);
        std::fs::set_permissions(path, permissions)?;
    }
    Ok(())
}

/// Creates a file that only its owner may read, in the place of what has its name.
pub(crate) fn create_private_file(path: &Path) -> Result<File> {
    // Not emptied: by another name it may be somebody else's file.
    remove(path)?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| io_error("create", path, &error))
}

/// Writes a private file and syncs it.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = create_private_file(path)?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(|error| io_error("write", path, &error))
}

/// Removes a file or a whole directory of ours; it is no error if it is gone.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let outcome = match std::fs::symlink_metadata(path) {
        Err(error) => Err(error),
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
    };
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", path, &error))
        }
        _ => Ok(()),
    }
}

/// True if the file could not grow by much: LMDB reports a write that was cut short by a full disk
/// as an I/O error, so the cause must be looked for.
pub(crate) fn is_full_around(path: &Path) -> bool {
    const LITTLE: u64 = 1 << 20;
    let disk = rustix::fs::statvfs(path)
        .is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) < LITTLE);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize).current;
    let length = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    disk || limit.is_some_and(|limit| limit < length.saturating_add(LITTLE))
}

/// True if something has this name.
pub(crate) fn exists(path: &Path) -> Result<bool> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error("look at", path, &error)),
    }
}

/// Refuses file systems whose locks and syncs other machines do not see.
pub(crate) fn refuse_network_filesystem(path: &Path) -> Result<()> {
    let statistics = rustix::fs::statfs(path)
        .map_err(|error| io_error("ask for the file system of", path, &error.into()))?;
    match network_filesystem(statistics.f_type as u64) {
        None => Ok(()),
        Some(name) => Err(Error::new(
            ErrorKind::StoreNetworkFilesystem,
            format!(
                "{} lies on the network file system {name}, where locks, memory maps and syncs do \
                 not hold across machines; use a local disk",
                path.display()
            ),
        )),
    }
}

/// The name of a network or cluster file system by its magic number (statfs(2)). FUSE and 9p are
/// not here: both also carry local file systems, and sandboxes report 9p for their root.
fn network_filesystem(magic: u64) -> Option<&'static str> {
    Some(match magic & 0xFFFF_FFFF {
        0x6969 => "NFS",
        0x517B => "SMB",
        0xFF53_4D42 => "CIFS",
        0xFE53_4D42 => "SMB2",
        0x5346_414F | 0x6B41_4653 => "AFS",
        0x00C3_6400 => "Ceph",
        0x7375_7245 => "Coda",
        0x564C => "NCP",
        0x0BD0_0BD0 => "Lustre",
        0x4750_4653 => "GPFS",
        0x1983_0326 => "BeeGFS",
        0x7461_636F => "OCFS2",
        0x0116_1970 => "GFS2",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_filesystems_are_known_by_magic() {
        for magic in [0x6969, 0x517B, 0xFF53_4D42, 0xFE53_4D42, 0xFFFF_FFFF_FF53_4D42] {
            assert!(network_filesystem(magic).is_some(), "{magic:#x}");
        }
        // ext4, tmpfs, xfs, btrfs, overlayfs, FUSE, 9p
        for magic in
            [0xEF53, 0x0102_1994, 0x5846_5342, 0x9123_683E, 0x794C_7630, 0x6573_5546, 0x0102_1997]
        {
            assert_eq!(network_filesystem(magic), None, "{magic:#x}");
        }
        let here = std::env::current_dir().unwrap();
        refuse_network_filesystem(&here).unwrap();
    }

    #[test]
    fn errors_are_told_apart_by_number() {
        let kind = |errno: Errno| io_kind(&io::Error::from_raw_os_error(errno.raw_os_error()));
        assert_eq!(kind(Errno::NOSPC), ErrorKind::StoreFull);
        assert_eq!(kind(Errno::DQUOT), ErrorKind::StoreFull);
        assert_eq!(kind(Errno::ROFS), ErrorKind::StoreReadOnly);
        assert_eq!(kind(Errno::IO), ErrorKind::Io);
    }
}
