//! Fuzzes the requests of NBD clients, with replies of each form. Records of ten bytes become requests, so that the
//! fuzzer need not find the magic numbers; what follows the last one is sent as it is.
//!
//!     cargo xtask fuzz nbd_requests

#![no_main]

mod nbd_client;

fn option(said: &mut Vec<u8>, number: u32, data: &[u8]) {
    said.extend_from_slice(b"IHAVEOPT");
    said.extend_from_slice(&number.to_be_bytes());
    said.extend_from_slice(&(data.len() as u32).to_be_bytes());
    said.extend_from_slice(data);
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((&form, records)) = data.split_first() else { return };
    let mut said = 3_u32.to_be_bytes().to_vec();
    let extended = form % 3 == 2;
    if form % 3 > 0 {
        option(&mut said, if extended { 11 } else { 8 }, b"");
        // The contexts of the default export.
        let contexts: [&[u8]; 2] = [b"base:allocation", b"x-revenant:changed"];
        let mut chosen = vec![0, 0, 0, 0, 0, 0, 0, 2];
        for name in contexts {
            chosen.extend_from_slice(&(name.len() as u32).to_be_bytes());
            chosen.extend_from_slice(name);
        }
        option(&mut said, 10, &chosen);
    }
    option(&mut said, 7, &[0; 6]);
    let (records, tail) = records.as_chunks::<10>();
    for &[command, flags, payload, offset @ .., a, b, c] in records {
        let length = u32::from_be_bytes([0, a, b, c]);
        let offset = u64::from(u32::from_be_bytes(offset));
        said.extend_from_slice(if extended { b"\x21\xe4\x1c\x71" } else { b"\x25\x60\x95\x13" });
        said.extend_from_slice(&[0, flags, 0, command % 9]);
        said.extend_from_slice(b"a cookie");
        said.extend_from_slice(&offset.to_be_bytes());
        if extended {
            said.extend_from_slice(&[0; 4]);
        }
        said.extend_from_slice(&length.to_be_bytes());
        let payload_follows = command % 9 == 1 || (extended && flags & 1 << 5 != 0);
        if payload_follows && payload % 8 != 0 {
            said.resize(said.len() + length as usize, payload);
        }
    }
    said.extend_from_slice(tail);
    nbd_client::run(said);
});
