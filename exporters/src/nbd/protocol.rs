//! Numbers and fixed structures of the protocol (`proto.md`, "Values" and the message layouts).
//!
//! Everything on the wire is big endian. Structures are `zerocopy` types, so that a message is read and written in
//! place.

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    big_endian::{U16, U32, U64},
};

/// Magic numbers.
pub mod magic {
    /// `NBDMAGIC`: the first bytes of a server.
    pub const INIT: u64 = u64::from_be_bytes(*b"NBDMAGIC");
    /// `IHAVEOPT`: newstyle negotiation, and each option.
    pub const OPTION: u64 = u64::from_be_bytes(*b"IHAVEOPT");
    /// A reply to an option.
    pub const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
    /// A compact request.
    pub const REQUEST: u32 = 0x2560_9513;
    /// An extended request.
    pub const EXTENDED_REQUEST: u32 = 0x21e4_1c71;
    /// A simple reply.
    pub const SIMPLE_REPLY: u32 = 0x6744_6698;
    /// A structured reply chunk.
    pub const STRUCTURED_REPLY: u32 = 0x668e_33ef;
    /// An extended reply chunk.
    pub const EXTENDED_REPLY: u32 = 0x6e8a_278c;
}

/// Handshake flags (16 bits, server) and client flags (32 bits) share their values.
pub mod handshake {
    /// Options are answered.
    pub const FIXED_NEWSTYLE: u16 = 1 << 0;
    /// No 124 zeros after the answer to `EXPORT_NAME`.
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// Options of the negotiation.
pub mod option {
    /// Choose an export, without an answer when that fails.
    pub const EXPORT_NAME: u32 = 1;
    /// Give up.
    pub const ABORT: u32 = 2;
    /// Name the exports.
    pub const LIST: u32 = 3;
    /// Encrypt from here on.
    pub const STARTTLS: u32 = 5;
    /// Tell about an export.
    pub const INFO: u32 = 6;
    /// Tell about an export and choose it.
    pub const GO: u32 = 7;
    /// Answer requests with structured replies.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// Name the metadata contexts of an export.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Choose metadata contexts of an export.
    pub const SET_META_CONTEXT: u32 = 10;
    /// Requests and replies with 64-bit lengths.
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Types of replies to options.
pub mod reply {
    /// Done.
    pub const ACK: u32 = 1;
    /// An export.
    pub const SERVER: u32 = 2;
    /// Something about an export.
    pub const INFO: u32 = 3;
    /// A metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// Unknown option.
    pub const ERR_UNSUP: u32 = ERROR | 1;
    /// Forbidden by the server's settings.
    pub const ERR_POLICY: u32 = ERROR | 2;
    /// Wrong data, or at the wrong time.
    pub const ERR_INVALID: u32 = ERROR | 3;
    /// Encryption comes first.
    pub const ERR_TLS_REQD: u32 = ERROR | 5;
    /// No such export.
    pub const ERR_UNKNOWN: u32 = ERROR | 6;
    /// The server is being shut down.
    pub const ERR_SHUTDOWN: u32 = ERROR | 7;
    /// Too much data.
    pub const ERR_TOO_BIG: u32 = ERROR | 9;
    /// Extended headers are in use, there is no way back.
    pub const ERR_EXT_HEADER_REQD: u32 = ERROR | 10;
    const ERROR: u32 = 1 << 31;
}

/// Types of information in replies to `INFO` and `GO`.
pub mod info {
    /// Size and transmission flags.
    pub const EXPORT: u16 = 0;
    /// Name.
    pub const NAME: u16 = 1;
    /// Description.
    pub const DESCRIPTION: u16 = 2;
    /// Block sizes.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags: what an export can do.
pub mod transmission {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// Nothing can be written.
    pub const READ_ONLY: u16 = 1 << 1;
    /// `FLUSH`.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// The flag FUA.
    pub const SEND_FUA: u16 = 1 << 3;
    /// `TRIM`.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// `WRITE_ZEROES` and the flag `NO_HOLE`.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// The flag DF.
    pub const SEND_DF: u16 = 1 << 7;
    /// A flush on one connection covers all.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// `CACHE`.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// The flag `FAST_ZERO`.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Types of requests.
pub mod command {
    /// Read.
    pub const READ: u16 = 0;
    /// Write.
    pub const WRITE: u16 = 1;
    /// Say goodbye.
    pub const DISC: u16 = 2;
    /// Make durable.
    pub const FLUSH: u16 = 3;
    /// No longer needed.
    pub const TRIM: u16 = 4;
    /// Will be needed.
    pub const CACHE: u16 = 5;
    /// Write zeros.
    pub const WRITE_ZEROES: u16 = 6;
    /// Tell about blocks.
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of requests.
pub mod flag {
    /// Durable before the reply.
    pub const FUA: u16 = 1 << 0;
    /// Zeros that keep their room.
    pub const NO_HOLE: u16 = 1 << 1;
    /// One content chunk.
    pub const DF: u16 = 1 << 2;
    /// One block status descriptor.
    pub const REQ_ONE: u16 = 1 << 3;
    /// Zeros only if that is quick.
    pub const FAST_ZERO: u16 = 1 << 4;
    /// The length is that of a payload.
    pub const PAYLOAD_LEN: u16 = 1 << 5;
}

/// The flag of the last chunk of a reply.
pub const REPLY_DONE: u16 = 1 << 0;

/// Types of reply chunks.
pub mod chunk {
    /// Nothing but the end.
    pub const NONE: u16 = 0;
    /// Bytes at an offset.
    pub const OFFSET_DATA: u16 = 1;
    /// Zeros at an offset.
    pub const OFFSET_HOLE: u16 = 2;
    /// Block status, 32 bit.
    pub const BLOCK_STATUS: u16 = 5;
    /// Block status, 64 bit.
    pub const BLOCK_STATUS_EXT: u16 = 6;
    /// The request failed.
    pub const ERROR: u16 = (1 << 15) | 1;
    /// The request failed at an offset.
    pub const ERROR_OFFSET: u16 = (1 << 15) | 2;
}

/// Flags of the context `base:allocation`.
pub mod state {
    /// Not stored.
    pub const HOLE: u32 = 1 << 0;
    /// Reads as zeros.
    pub const ZERO: u32 = 1 << 1;
}

/// The flag of the contexts of changed blocks.
pub const STATE_CHANGED: u32 = 1 << 0;

/// The longest string of the protocol ("Protocol phases": 4096 bytes).
pub const MAX_STRING: usize = 4096;

/// Why a request failed ("Error values").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    /// Not permitted.
    Perm = 1,
    /// The device failed.
    Io = 5,
    /// A request that makes no sense.
    Invalid = 22,
    /// No room, or past the end.
    NoSpace = 28,
    /// Longer than the server accepts.
    Overflow = 75,
    /// Not supported.
    NotSupported = 95,
    /// The server is being shut down.
    Shutdown = 108,
}

macro_rules! wire {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(C)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }
    };
}

wire! {
    /// What the server says first.
    Greeting { init: U64, option: U64, flags: U16, }
}
wire! {
    /// Head of an option; data of `length` bytes follows.
    OptionHead { magic: U64, option: U32, length: U32, }
}
wire! {
    /// Head of a reply to an option; data of `length` bytes follows.
    OptionReplyHead { magic: U64, option: U32, kind: U32, length: U32, }
}
wire! {
    /// Answer to `EXPORT_NAME`.
    ExportNameReply { size: U64, flags: U16, }
}
wire! {
    /// `NBD_INFO_EXPORT`.
    InfoExport { kind: U16, size: U64, flags: U16, }
}
wire! {
    /// `NBD_INFO_BLOCK_SIZE`.
    InfoBlockSize { kind: U16, minimum: U32, preferred: U32, maximum: U32, }
}
wire! {
    /// A compact request.
    CompactRequest { magic: U32, flags: U16, command: U16, cookie: U64, offset: U64, length: U32, }
}
wire! {
    /// An extended request.
    ExtendedRequest { magic: U32, flags: U16, command: U16, cookie: U64, offset: U64, length: U64, }
}
wire! {
    /// A simple reply.
    SimpleReply { magic: U32, error: U32, cookie: U64, }
}
wire! {
    /// Head of a structured reply chunk.
    StructuredHead { magic: U32, flags: U16, kind: U16, cookie: U64, length: U32, }
}
wire! {
    /// Head of an extended reply chunk.
    ExtendedHead { magic: U32, flags: U16, kind: U16, cookie: U64, offset: U64, length: U64, }
}
wire! {
    /// Payload of a hole chunk.
    Hole { offset: U64, length: U32, }
}
wire! {
    /// Start of the payload of an error chunk; the message follows.
    ErrorHead { error: U32, message_length: U16, }
}
wire! {
    /// A block status descriptor of a structured reply.
    Descriptor { length: U32, status: U32, }
}
wire! {
    /// A block status descriptor of an extended reply.
    ExtendedDescriptor { length: U64, status: U64, }
}
