//! PostgreSQL's extended hash functions, seed 0.
//!
//! Source of the algorithm: PostgreSQL's `src/common/hashfn.c` (Bob Jenkins' lookup3, as PostgreSQL varies it),
//! `src/backend/access/hash/hashfunc.c` and `hash_numeric_extended` in `numeric.c`. These hashes are stable over
//! PostgreSQL's versions and platforms, because hash partitioning stores rows by them. Words are little-endian:
//! that is what every supported platform has, and what makes the hash of bytes the same everywhere.

/// The seed that all of Howdah's hashes use: none.
const INITIAL: u32 = 0x9e37_79b9_u32.wrapping_add(3_923_095);

/// Hash of a sequence of bytes: `hash_bytes_extended(bytes, 0)`.
#[must_use]
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    // PostgreSQL's lengths are 32 bits wide; a value is never longer than 1 GiB.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let initial = INITIAL.wrapping_add(length);
    let (mut a, mut b, mut c) = (initial, initial, initial);
    let mut blocks = bytes.chunks_exact(12);
    for block in &mut blocks {
        a = a.wrapping_add(word(block, 0));
        b = b.wrapping_add(word(block, 4));
        c = c.wrapping_add(word(block, 8));
        (a, b, c) = mix(a, b, c);
    }
    // The lowest byte of the last word is left to the length: its three bytes sit one place higher.
    let mut tail = [0u8; 12];
    for (place, byte) in blocks.remainder().iter().enumerate() {
        tail[if place < 8 { place } else { place + 1 }] = *byte;
    }
    a = a.wrapping_add(word(&tail, 0));
    b = b.wrapping_add(word(&tail, 4));
    c = c.wrapping_add(word(&tail, 8));
    finish(a, b, c)
}

/// Hash of one 32-bit word: `hash_bytes_uint32_extended(word, 0)`.
#[must_use]
pub fn hash_u32(word: u32) -> u64 {
    let initial = INITIAL.wrapping_add(4);
    finish(initial.wrapping_add(word), initial, initial)
}

/// Hash of an integer of any width: `hashint8extended`, which equals `hashint4extended` and
/// `hashint2extended` wherever the value fits those types.
#[must_use]
pub fn hash_integer(value: i64) -> u64 {
    let bytes = value.to_le_bytes();
    let (low, high) = (word(&bytes, 0), word(&bytes, 4));
    hash_u32(low ^ if value >= 0 { high } else { !high })
}

/// Hash of a finite numeric: `hash_numeric_extended`. The sign does not count (PostgreSQL's own choice).
///
/// `digits` are in base 10000, most significant first; `weight` is the power of 10000 of the first one.
#[must_use]
pub fn hash_numeric(digits: &[u16], weight: i64) -> u64 {
    let Some(first) = digits.iter().position(|digit| *digit != 0) else {
        return u64::MAX; // zero: the seed minus one
    };
    let end = digits
        .iter()
        .rposition(|digit| *digit != 0)
        .map_or(first, |last| last + 1);
    let bytes: Vec<u8> = digits[first..end]
        .iter()
        .flat_map(|digit| digit.to_le_bytes())
        .collect();
    let weight = weight.wrapping_sub(i64::try_from(first).unwrap_or(i64::MAX));
    hash_bytes(&bytes) ^ u64::from_le_bytes(weight.to_le_bytes())
}

/// Hash of a numeric that is NaN or infinite: the seed.
pub const HASH_NUMERIC_SPECIAL: u64 = 0;

/// The little-endian word at a place in the bytes.
fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn mix(mut a: u32, mut b: u32, mut c: u32) -> (u32, u32, u32) {
    a = a.wrapping_sub(c) ^ c.rotate_left(4);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(6);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(8);
    b = b.wrapping_add(a);
    a = a.wrapping_sub(c) ^ c.rotate_left(16);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(19);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(4);
    b = b.wrapping_add(a);
    (a, b, c)
}

fn finish(mut a: u32, mut b: u32, mut c: u32) -> u64 {
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    c = (c ^ b).wrapping_sub(b.rotate_left(24));
    (u64::from(b) << 32) | u64::from(c)
}
