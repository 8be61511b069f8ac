//! Maps that are lists of block numbers: twelve in the inode, then blocks full of them, blocks full of such blocks, and
//! once more. A number of 0 is a hole of all that it would map. There are no checksums.

use std::ops::Range;

use blockdev::{Result, fields::le32};

use super::map::{Origin, Window};

/// Numbers of blocks of content in the inode.
const DIRECT: u64 = 12;

/// The window around `block` of the file `origin`.
///
/// # Errors
///
/// When a number on the way cannot be one.
pub fn window(origin: &Origin<'_>, block: u64) -> Result<Window> {
    if block < DIRECT {
        return table(origin, origin.root, 0..DIRECT);
    }
    let per_table = origin.volume.block_size() / 4;
    let (mut start, mut len) = (DIRECT, per_table);
    for level in 0..3 {
        if block - start < len {
            let top = le32(origin.root, (DIRECT as usize + level) * 4);
            return below(origin, top, start..start + len, block);
        }
        start += len;
        // Below 2^42: there are at most 16,384 numbers in a table.
        len *= per_table;
    }
    Ok(Window::new(start..u64::MAX))
}

/// The window around `block` in the tree of tables that begins with block `number` and maps `range`.
fn below(origin: &Origin<'_>, mut number: u32, mut range: Range<u64>, block: u64) -> Result<Window> {
    let per_table = origin.volume.block_size() / 4;
    loop {
        if number == 0 {
            return Ok(Window::new(range));
        }
        if !origin.volume.has_blocks(number.into(), 1) {
            return Err(origin.damaged(format_args!("its map is said to go on in block {number}")));
        }
        let bytes = origin.volume.block(number.into(), |_| Ok(()))?;
        let len = range.end - range.start;
        if len <= per_table {
            return table(origin, &bytes, range);
        }
        let each = len / per_table;
        let index = (block - range.start) / each;
        number = le32(&bytes, index as usize * 4);
        range.start += index * each;
        range.end = range.start + each;
    }
}

/// What a table of numbers of blocks of content says of `range`.
fn table(origin: &Origin<'_>, bytes: &[u8], range: Range<u64>) -> Result<Window> {
    let mut window = Window::new(range.clone());
    for (block, number) in range.zip(bytes.as_chunks::<4>().0) {
        let number = u64::from(u32::from_le_bytes(*number));
        if number == 0 {
            continue;
        }
        if !origin.volume.has_blocks(number, 1) {
            return Err(origin.damaged(format_args!("its block {block} is said to be block {number}")));
        }
        window.push(block, 1, number);
    }
    Ok(window)
}
