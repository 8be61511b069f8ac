//! An inode as the log has it: the core in the byte order of the machine, and forks as they are in memory.
//!
//! The order of fields is that of the disk. A tree's root is in memory a block like others; on the disk it has a header
//! of four bytes, and its pointers begin elsewhere. ("Inode Updates".)

use blockdev::fields::{be16, be64, le16, le32, le64, slice};

use crate::xfs::{inode::core_len, map::header_len};

/// Bytes of a description with 64-bit alignment; a 32-bit machine leaves out four.
const DESCRIPTION: usize = 56;

/// Bits of what an item has.
const CORE: u32 = 0x001;
const DATA_BYTES: u32 = 0x002 | 0x004; // the content itself, or extents
const DATA_ROOT: u32 = 0x008;
const DEVICE: u32 = 0x010;
const ATTR_BYTES: u32 = 0x040 | 0x080;
const ATTR_ROOT: u32 = 0x100;
const NEW_OWNER: u32 = 0x200 | 0x400;

/// Bits of `di_flags2`.
const BIGTIME: u64 = 0x8;

/// What an item says of itself.
pub struct Description {
    fields: u32,
    /// The inode.
    pub inode: u64,
    device: u32,
    /// Its buffer's address in units of 512 bytes.
    pub block: u64,
    /// Where the inode is in its buffer.
    pub offset: u32,
}

impl Description {
    /// That in the first region of an item; `None` when it is none.
    pub fn parse(region: &[u8]) -> Option<Self> {
        let at = if region.len() >= DESCRIPTION { 16 } else { 12 };
        (region.len() >= DESCRIPTION - 4).then(|| Self {
            fields: le32(region, 4),
            inode: le64(region, at),
            device: le32(region, at + 8),
            block: le64(region, at + 24),
            offset: le32(region, at + 36),
        })
    }

    /// Whether blocks of its extent tree get another owner: the end of an exchange of content.
    pub const fn changes_owner(&self) -> bool {
        self.fields & NEW_OWNER != 0
    }

    /// Puts what the item has into `inode`, the bytes of the inode; `region` gives its regions by their number. `false`
    /// when that makes no sense.
    pub fn apply(&self, v5: bool, lsn: u64, inode: &mut [u8], regions: &[Vec<u8>]) -> bool {
        let mut regions = regions.iter();
        let Some(core) = regions.next().filter(|core| self.fields & CORE != 0 && core_fits(core, v5)) else {
            return false;
        };
        put_core(inode, core, v5, lsn);
        let (start, end) = (core_len(v5), inode.len());
        let split = match usize::from(inode.get(82).copied().unwrap_or_default()) {
            0 => end,
            offset => (start + offset * 8).min(end),
        };
        if self.fields & DEVICE != 0 {
            put(inode, start, &self.device.to_be_bytes());
        }
        let forks = [(DATA_BYTES, DATA_ROOT, start..split), (ATTR_BYTES, ATTR_ROOT, split..end)];
        for (bytes, root, range) in forks {
            if self.fields & (bytes | root) == 0 {
                continue;
            }
            let (Some(fork), Some(region)) = (inode.get_mut(range), regions.next()) else { return false };
            if self.fields & root != 0 {
                if !put_root(fork, region, v5) {
                    return false;
                }
            } else {
                // Rounded up to four bytes.
                put(fork, 0, slice(region, 0, fork.len()));
            }
        }
        true
    }
}

/// Whether `core` is one, of the length that its version has.
fn core_fits(core: &[u8], v5: bool) -> bool {
    let len = if v5 { 176 } else { 96 };
    core.len() == len && le16(core, 0) == be16(b"IN", 0)
}

/// How often `core`, of version 1 or 2, was written; it wraps.
pub fn flushes(core: &[u8]) -> u16 {
    le16(core, 30)
}

/// Puts `core` into `inode` in the byte order of the disk.
fn put_core(inode: &mut [u8], core: &[u8], v5: bool, lsn: u64) {
    // Offsets and lengths of fields; between them, bytes are as they are.
    const COMMON: [(usize, usize); 19] = [
        (0, 2),
        (2, 2),
        (8, 4),
        (12, 4),
        (16, 4),
        (20, 2),
        (22, 2),
        (56, 8),
        (64, 8),
        (72, 4),
        (76, 4),
        (80, 2),
        (84, 4),
        (88, 2),
        (90, 2),
        (92, 4),
        (6, 2),
        (4, 1),
        (5, 1),
    ];
    const V5: [(usize, usize); 6] = [(24, 8), (104, 8), (120, 8), (128, 4), (152, 8), (112, 8)];
    let mut reversed = |at: usize, len: usize| {
        let mut bytes = slice(core, at, len).to_vec();
        bytes.reverse();
        put(inode, at, &bytes);
    };
    COMMON.iter().for_each(|(at, len)| reversed(*at, *len));
    reversed(82, 1);
    reversed(83, 1);
    let big = v5 && le64(core, 120) & BIGTIME != 0;
    let times: &[usize] = if v5 { &[32, 40, 48, 144] } else { &[32, 40, 48] };
    for at in times {
        if big {
            reversed(*at, 8);
        } else {
            reversed(*at, 4);
            reversed(*at + 4, 4);
        }
    }
    if v5 {
        V5.iter().for_each(|(at, len)| reversed(*at, *len));
        put(inode, 132, slice(core, 132, 12));
        put(inode, 160, slice(core, 160, 16));
        put(inode, 112, &lsn.to_be_bytes());
    } else {
        // The count of writes begins anew.
        put(inode, 24, &[0; 8]);
    }
}

/// Puts the root of a tree, a block as it is in memory, into `fork`.
fn put_root(fork: &mut [u8], block: &[u8], v5: bool) -> bool {
    let header = header_len(v5);
    let Some(room) = block.len().checked_sub(header).map(|len| len / 16) else { return false };
    let (level, count) = (be16(block, 4), usize::from(be16(block, 6)));
    let fork_room = fork.len().saturating_sub(4) / 16;
    if level == 0 || count > room || count > fork_room {
        return false;
    }
    put(fork, 0, &level.to_be_bytes());
    put(fork, 2, slice(block, 6, 2));
    put(fork, 4, slice(block, header, count * 8));
    put(fork, 4 + fork_room * 8, slice(block, header + room * 8, count * 8));
    true
}

/// Puts `bytes` at `at`, as far as there is room.
fn put(into: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(room) = into.get_mut(at..).and_then(|rest| rest.get_mut(..bytes.len())) {
        room.copy_from_slice(bytes);
    }
}

/// The sequence number of an inode of version 3 on the disk.
pub fn lsn_of(inode: &[u8]) -> u64 {
    be64(inode, 112)
}
