//! What all methods of packing here have in common: references to bytes that were unpacked before.

/// Repeats the `length` bytes that are `distance` before `at`, at `at`, and gives the place behind. `None` where there
/// are none, or no room.
pub fn repeat(out: &mut [u8], at: usize, distance: usize, length: usize) -> Option<usize> {
    let (from, end) = (at.checked_sub(distance)?, at.checked_add(length)?);
    if distance == 0 || end > out.len() {
        return None;
    }
    if distance >= length {
        out.copy_within(from..from + length, at);
    } else if distance == 1 {
        let byte = *out.get(from)?;
        out.get_mut(at..end)?.fill(byte);
    } else {
        // The period is repeated: each copy doubles what can be copied at once.
        let mut done = at;
        while done < end {
            let n = (done - from).min(end - done);
            out.copy_within(from..from + n, done);
            done += n;
        }
    }
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_byte_by_byte() {
        for distance in 1..20 {
            for length in 0..40 {
                let mut out: Vec<u8> = (0..60).collect();
                let mut expected = out.clone();
                for i in 20..20 + length {
                    expected[i] = expected[i - distance];
                }
                assert_eq!(repeat(&mut out, 20, distance, length), Some(20 + length));
                assert_eq!(out, expected, "{distance} {length}");
            }
        }
        for (at, distance, length) in [(5, 6, 1), (5, 0, 1), (5, 1, 56), (5, 1, usize::MAX)] {
            assert_eq!(repeat(&mut [0; 60], at, distance, length), None);
        }
    }
}
