//! The External Data Representation (RFC 4506): everything in units of four bytes, big endian.

/// Arguments that make no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Garbage;

/// Reads what a client sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], Garbage> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(Garbage)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Garbage> {
        let (taken, rest) = self.0.split_first_chunk::<4>().ok_or(Garbage)?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*taken))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Garbage> {
        let (taken, rest) = self.0.split_first_chunk::<8>().ok_or(Garbage)?;
        self.0 = rest;
        Ok(u64::from_be_bytes(*taken))
    }

    pub(super) fn bool(&mut self) -> Result<bool, Garbage> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Garbage),
        }
    }

    /// Bytes of a fixed length, a multiple of four.
    pub(super) fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Garbage> {
        const { assert!(N.is_multiple_of(4)) };
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Garbage)?;
        self.0 = rest;
        Ok(*taken)
    }

    /// Bytes of a variable length of at most `most`, with their padding.
    pub(super) fn opaque(&mut self, most: usize) -> Result<&'a [u8], Garbage> {
        let len = usize::try_from(self.u32()?).map_err(|_| Garbage)?;
        if len > most {
            return Err(Garbage);
        }
        let taken = self.take(len)?;
        self.take(padding(len))?;
        Ok(taken)
    }
}

const fn padding(len: usize) -> usize {
    len.wrapping_neg() & 3
}

/// Writes what a client is sent, one message behind the other.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    /// As long as it ever was: what was used before is not cleared again.
    buffer: Vec<u8>,
    len: usize,
}

impl Encoder {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Take back what was written behind `len`.
    pub(super) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }

    /// Give the memory back if it is more than `kept` bytes.
    pub(super) fn shrink(&mut self, kept: usize) {
        if self.buffer.len() > kept {
            self.buffer = Vec::new();
            self.len = 0;
        }
    }

    /// Room for `n` more bytes, with anything in it.
    fn room(&mut self, n: usize) -> &mut [u8] {
        let (start, end) = (self.len, self.len + n);
        if self.buffer.len() < end {
            self.buffer.resize(end.next_power_of_two(), 0);
        }
        self.len = end;
        self.buffer.get_mut(start..end).unwrap_or_default()
    }

    fn put(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
    }

    /// Bytes as they are.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        self.put(bytes);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.put(&value.to_be_bytes());
    }

    pub(super) fn bool(&mut self, value: bool) {
        self.u32(u32::from(value));
    }

    /// Bytes of a variable length.
    pub(super) fn opaque(&mut self, bytes: &[u8]) {
        self.opaque_room(bytes.len()).copy_from_slice(bytes);
    }

    /// `len` bytes of a variable length that the caller fills in.
    pub(super) fn opaque_room(&mut self, len: usize) -> &mut [u8] {
        self.u32(u32::try_from(len).unwrap_or(u32::MAX));
        let room = self.room(len + padding(len));
        let (bytes, rest) = room.split_at_mut(len);
        rest.fill(0);
        bytes
    }

    /// Make the padding of the `len` bytes of a variable length that were written last zeros: they were shortened.
    pub(super) fn clear_padding(&mut self, len: usize) {
        let start = self.len.saturating_sub(padding(len));
        if let Some(rest) = self.buffer.get_mut(start..self.len) {
            rest.fill(0);
        }
    }

    /// Overwrite the number at `at`.
    pub(super) fn set_u32(&mut self, at: usize, value: u32) {
        if let Some(place) = self.buffer.get_mut(at..at + 4) {
            place.copy_from_slice(&value.to_be_bytes());
        }
    }
}

/// Bytes that `len` bytes of a variable length take.
pub(super) const fn opaque_len(len: usize) -> usize {
    4 + len + padding(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut out = Encoder::default();
        out.u32(7);
        out.opaque(b"five!");
        out.u64(1 << 40);
        out.bool(true);
        assert_eq!(out.len(), 4 + opaque_len(5) + 8 + 4);
        let mut read = Decoder::new(out.bytes());
        assert_eq!(read.u32(), Ok(7));
        assert_eq!(read.opaque(5), Ok(&b"five!"[..]));
        assert_eq!(read.u64(), Ok(1 << 40));
        assert_eq!(read.u32(), Ok(1));
        assert_eq!(read.u32(), Err(Garbage));
    }

    #[test]
    fn lengths_are_not_believed() {
        for bytes in [&[0, 0, 0, 5, 1, 2, 3, 4, 5][..], &[0xff; 8], &[0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0], &[0, 0]] {
            assert_eq!(Decoder::new(bytes).opaque(8), Err(Garbage), "{bytes:?}");
        }
    }

    /// What was written before into the same memory is not sent as padding.
    #[test]
    fn padding_is_zeros() {
        let mut out = Encoder::default();
        out.u64(u64::MAX);
        out.truncate(0);
        out.opaque(b"x");
        assert_eq!(out.bytes(), [0, 0, 0, 1, b'x', 0, 0, 0]);
    }
}
