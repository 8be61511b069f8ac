//! What writes, where nothing can be written: it is refused without a look at its arguments.

use super::{
    super::{
        protocol::{Status, nfs},
        rpc::Refusal,
    },
    Work,
};

/// Words without meaning behind the status of a failure: attributes before and after of each directory or file that would
/// have changed (`wcc_data`: two), and attributes of one that would not (`post_op_attr`: one). None is there.
const fn empty_words(procedure: u32) -> Option<usize> {
    Some(match procedure {
        nfs::SETATTR | nfs::WRITE | nfs::COMMIT => 2,
        nfs::CREATE | nfs::MKDIR | nfs::SYMLINK | nfs::MKNOD | nfs::REMOVE | nfs::RMDIR => 2,
        nfs::RENAME => 4,
        nfs::LINK => 3,
        _ => return None,
    })
}

impl Work<'_> {
    /// Refuse to write; other procedures there are not.
    pub(super) fn refuse(&mut self, procedure: u32) -> Result<(), Refusal> {
        let words = empty_words(procedure).ok_or(Refusal::Procedure)?;
        self.status(Status::ReadOnly);
        (0..words).for_each(|_| self.out.bool(false));
        Ok(())
    }
}
