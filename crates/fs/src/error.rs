//! Why an operation has no result.

use gavel_wire::ViewError;

/// An error that the caller of the system call sees. The mount turns it into an errno.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FsError {
    /// No such name, object or position (ENOENT; ENXIO for [`FsError::NoData`]).
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken (EEXIST).
    #[error("file exists")]
    Exists,
    /// A directory was needed (ENOTDIR).
    #[error("not a directory")]
    NotDirectory,
    /// Anything but a directory was needed (EISDIR).
    #[error("is a directory")]
    IsDirectory,
    /// The directory has names in it (ENOTEMPTY).
    #[error("directory not empty")]
    NotEmpty,
    /// An argument makes no sense (EINVAL).
    #[error("invalid argument")]
    Invalid,
    /// A name is too long (ENAMETOOLONG).
    #[error("name too long")]
    NameTooLong,
    /// Too many names of one file (EMLINK).
    #[error("too many links")]
    TooManyLinks,
    /// The file would grow past its limit, or has too many holes to be reserved in one operation (EFBIG).
    #[error("file too large")]
    TooLarge,
    /// Not permitted whoever asks, or only to the owner (EPERM).
    #[error("operation not permitted")]
    NotPermitted,
    /// The permission bits forbid it (EACCES).
    #[error("permission denied")]
    AccessDenied,
    /// No such extended attribute (ENODATA).
    #[error("no such attribute")]
    NoAttribute,
    /// An extended attribute's value or list is too large (E2BIG on set, ENOSPC for the list bound).
    #[error("attribute too large")]
    AttributeTooLarge,
    /// No data or hole behind the offset (ENXIO).
    #[error("no data behind this offset")]
    NoData,
    /// Not for this kind of object, or not offered (EOPNOTSUPP).
    #[error("operation not supported")]
    NotSupported,
    /// The object is gone for good (ESTALE).
    #[error("the object has been removed")]
    Stale,
    /// A change of what is read-only, such as the past (EROFS).
    #[error("read-only")]
    ReadOnly,
    /// The path is nested too deeply to be checked (ELOOP).
    #[error("directories are nested too deeply")]
    TooDeep,
}

/// Why an operation has no [`Done`](crate::Done).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Stop {
    /// The answer is an error. It follows from what was read: it is as good as the view and its guards.
    #[error(transparent)]
    Error(#[from] FsError),
    /// A fresh object id is needed: run again with one in [`Cx::fresh`](crate::Cx).
    #[error("a fresh object id is needed")]
    NeedObjectId,
    /// The view could not be read.
    #[error(transparent)]
    View(#[from] ViewError),
}
