//! The master file table: a file of file records, whose first record says where it is itself.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use blockdev::{BlockDevice, Error, ErrorKind, Result, fields::slice};

use super::{
    boot::Geometry,
    kept::{Kept, Weight},
    list::List,
    record::{Attribute, Record, Reference, kind},
    runs::{Extents, Home},
};

/// Memory for pieces of the table and for parts of run lists, in bytes.
const PIECES_MAX: u64 = 16 << 20;
const PARTS_MAX: u64 = 8 << 20;

/// Bytes of the table that are read at once: files that were made together are together in it.
const PIECE: u64 = 16 << 10;

/// Runs that the table itself may have.
const RUNS_MAX: usize = 1 << 20;

/// Records of which there is a copy in `$MFTMirr`, at the least.
const MIRRORED: u64 = 4;

/// The clusters of a volume.
pub struct Clusters {
    /// The volume.
    pub device: Arc<dyn BlockDevice>,
    /// How it is divided.
    pub geometry: Geometry,
}

impl Clusters {
    /// Fills `buf` with what is from byte `offset` on in the content that `extents` says the place of.
    pub fn read(&self, extents: &Extents, offset: u64, buf: &mut [u8]) -> Result<()> {
        let shift = self.geometry.cluster_shift;
        let (mut rest, mut at) = (buf, offset);
        while !rest.is_empty() {
            let within = at & (self.geometry.cluster() - 1);
            let (lcn, clusters) = extents.at(at >> shift)?;
            let run = clusters.saturating_mul(self.geometry.cluster()) - within;
            let n = usize::try_from(run).unwrap_or(usize::MAX).min(rest.len());
            let (dest, tail) = rest.split_at_mut(n);
            match lcn {
                Some(lcn) => self.read_at(dest, self.geometry.byte_of(lcn) + within)?,
                None => dest.fill(0),
            }
            at += n as u64;
            rest = tail;
        }
        Ok(())
    }

    /// Fills `buf` with what is at byte `offset` of the volume.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let n = self.device.read_at(buf, offset)?;
        if n < buf.len() {
            return Err(Error::damaged(format!("byte {offset} lies behind the end of the volume, which was cut off")));
        }
        Ok(())
    }
}

impl Clusters {
    /// The record `number`, which is at byte `offset` of the volume.
    fn record(&self, number: u64, offset: u64) -> Result<Record> {
        let mut bytes = vec![0; self.geometry.record as usize];
        self.read_at(&mut bytes, offset)?;
        Record::parse(number, bytes)
    }

    /// The table's first record, at byte `offset` of the volume; the first part of the table's run list; and its size.
    fn start(&self, offset: u64) -> Result<(Record, Extents, u64)> {
        let record = self.record(0, offset)?;
        let is_start = |a: &Attribute<'_>| a.kind() == kind::DATA && a.name().is_empty() && !a.is_resident();
        let data = record.attributes().find(|a| is_start(a) && a.lowest_vcn() == 0);
        let data = data.ok_or_else(|| Error::damaged("NTFS file record 0 is not that of the master file table"))?;
        let extents = Extents::decode(data.pairs(), 0, self.geometry.clusters)?;
        let [_, size, initialized] = data.sizes();
        Ok((record, extents, size.min(initialized)))
    }
}

/// Some records of the table as they are stored.
struct Piece(Vec<u8>);

impl Weight for Piece {
    fn bytes(&self) -> usize {
        self.0.len()
    }
}

/// The master file table of a volume.
pub struct Mft {
    /// The volume.
    pub clusters: Clusters,
    extents: Extents,
    /// How many records there are.
    len: u64,
    pieces: Kept<u64, Piece>,
    parts: Kept<(u64, u16), Extents>,
    mirror_was_used: AtomicBool,
    /// Why a part of it is not known.
    incomplete: Option<Error>,
}

impl Mft {
    /// That of the volume `device`, which is divided as `geometry` says.
    pub fn open(device: &Arc<dyn BlockDevice>, geometry: Geometry) -> Result<Self> {
        let clusters = Clusters { device: Arc::clone(device), geometry };
        let mirror_was_used = AtomicBool::new(false);
        let start = clusters.start(geometry.byte_of(geometry.mft)).or_else(|e| {
            mirror_was_used.store(true, Ordering::Relaxed);
            clusters.start(geometry.mirror_at(0)?).map_err(|_| e)
        });
        let (first, extents, size) = start?;
        let mut mft = Self {
            clusters,
            extents,
            len: size / u64::from(geometry.record),
            pieces: Kept::new(PIECES_MAX),
            parts: Kept::new(PARTS_MAX),
            mirror_was_used,
            incomplete: None,
        };
        mft.incomplete = mft.extend(&first).err();
        Ok(mft)
    }

    /// Finds the parts of its run list that are in records of the table itself. Each is where those before it say.
    fn extend(&mut self, first: &Record) -> Result<()> {
        let Some(list) = List::of(first, &self.clusters)? else { return Ok(()) };
        let parts = list.entries().filter(|e| e.kind() == kind::DATA && e.name().is_empty() && e.lowest_vcn() > 0);
        for listed in parts {
            let home =
                Home { record: listed.record(), base: Reference(0), kind: kind::DATA, instance: listed.instance() };
            let part = self.decode(&home, listed.lowest_vcn())?;
            self.extents.append(&part)?;
            if self.extents.len() > RUNS_MAX {
                return Err(Error::new(ErrorKind::Limit, format!("$MFT has more than {RUNS_MAX} runs")));
            }
        }
        Ok(())
    }

    /// What an operator should know of it.
    pub fn notes(&self) -> Vec<String> {
        let mirror = self.mirror_was_used.load(Ordering::Relaxed).then(|| {
            "The start of the master file table is damaged: its copy ($MFTMirr) is used. `chkdsk` repairs it."
                .to_owned()
        });
        let incomplete =
            self.incomplete.as_ref().map(|e| format!("A part of the master file table cannot be found: {e}."));
        mirror.into_iter().chain(incomplete).collect()
    }

    /// The record `number`, whether in use or not.
    pub fn record(&self, number: u64) -> Result<Record> {
        if number >= self.len {
            return Err(Error::damaged(format!("NTFS file record {number} of {} does not exist", self.len)));
        }
        let geometry = &self.clusters.geometry;
        let record = self.bytes(number).and_then(|bytes| Record::parse(number, bytes));
        match record {
            Err(e) if number < MIRRORED && e.kind() == ErrorKind::Damaged => {
                let copy = self.clusters.record(number, geometry.mirror_at(number)?).map_err(|_| e)?;
                self.mirror_was_used.store(true, Ordering::Relaxed);
                Ok(copy)
            }
            other => other,
        }
    }

    /// The stored bytes of record `number`.
    fn bytes(&self, number: u64) -> Result<Vec<u8>> {
        let (size, per_piece) = (u64::from(self.clusters.geometry.record), self.records_per_piece());
        let piece = self.pieces.get(&(number / per_piece), || self.piece(number / per_piece * per_piece, per_piece));
        let within = (number % per_piece * size) as usize;
        match piece {
            Ok(piece) => Ok(slice(&piece.0, within, size as usize).to_vec()),
            // Another record of the piece may be the one that cannot be read.
            Err(_) => {
                let alone = self.piece(number, 1).map(|piece| piece.0);
                alone.map_err(|e| e.context(format!("NTFS file record {number}")))
            }
        }
    }

    /// The bytes of `count` records from record `first` on.
    fn piece(&self, first: u64, count: u64) -> Result<Piece> {
        let size = u64::from(self.clusters.geometry.record);
        let mut bytes = vec![0; (count.min(self.len - first) * size) as usize];
        self.clusters.read(&self.extents, first * size, &mut bytes)?;
        Ok(Piece(bytes))
    }

    fn records_per_piece(&self) -> u64 {
        (PIECE / u64::from(self.clusters.geometry.record)).max(1)
    }

    /// The part of a run list that is at `home` and begins at cluster `first` of the content.
    pub fn part(&self, home: &Home, first: u64) -> Result<Arc<Extents>> {
        self.parts.get(&(home.record.number(), home.instance), || self.decode(home, first))
    }

    fn decode(&self, home: &Home, first: u64) -> Result<Extents> {
        let record = self.record(home.record.number())?;
        let part = record.part(home)?;
        if part.is_resident() || part.lowest_vcn() != first {
            return Err(Error::damaged(format!(
                "NTFS file record {}: its attribute {} does not go on at cluster {first}",
                record.number(),
                home.instance
            )));
        }
        let extents = Extents::decode(part.pairs(), first, self.clusters.geometry.clusters);
        extents.map_err(|e| e.context(format!("NTFS file record {}", record.number())))
    }
}
