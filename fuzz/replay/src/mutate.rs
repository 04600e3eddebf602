//! Inputs near those of a corpus, always the same for the same target.

/// The longest input that is made, bytes.
const LONGEST: usize = 256 << 10;

/// Numbers at which arithmetic goes wrong.
const EDGES: [u64; 12] = [
    0,
    1,
    7,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ff00_0000,
    0xffff_ffff_ffff_ffff,
];

/// Makes inputs. The state is that of `xorshift64*` (Vigna, "An experimental exploration of Marsaglia's xorshift
/// generators, scrambled", 2016); never 0.
#[derive(Clone, Debug)]
pub struct Mutator {
    state: u64,
}

impl Mutator {
    /// Seeded by the target's name (FNV-1a).
    #[must_use]
    pub fn new(target: &str) -> Mutator {
        let seed = target.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Mutator { state: seed | 1 }
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`; 0 where that is 0.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 16).unwrap_or(0) % bound.max(1)
    }

    /// One of the inputs, changed in one to six places.
    pub fn mutation(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = inputs[self.below(inputs.len())].clone();
        for _ in 0..=self.below(6) {
            let other = &inputs[self.below(inputs.len())];
            self.change(&mut bytes, other);
        }
        bytes.truncate(LONGEST);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(bytes.len() + 1);
        match self.below(8) {
            0 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << (self.next() % 8);
                }
            }
            1 => {
                let random = self.next().to_le_bytes()[0];
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = random;
                }
            }
            2 => self.write_number(bytes, at),
            3 => {
                let count = self.below(16).min(bytes.len() - at);
                bytes.drain(at..at + count);
            }
            4 => bytes.truncate(at),
            5 => {
                let piece = self.piece(&bytes.clone());
                bytes.splice(at..at, piece);
            }
            6 => {
                let piece = self.piece(other);
                bytes.splice(at..at, piece);
            }
            _ => {
                let piece = self.piece(other);
                let end = (at + piece.len()).min(bytes.len());
                bytes.splice(at..end, piece);
            }
        }
    }

    /// Some bytes out of `source`.
    fn piece(&mut self, source: &[u8]) -> Vec<u8> {
        let from = self.below(source.len() + 1);
        let longest = if self.below(4) == 0 { source.len() } else { 32 };
        let count = self.below(longest + 1).min(source.len() - from);
        source[from..from + count].to_vec()
    }

    /// An edge, or a number near one, in 1, 2, 4 or 8 bytes of either order.
    fn write_number(&mut self, bytes: &mut [u8], at: usize) {
        let near = EDGES[self.below(EDGES.len())]
            .wrapping_add(self.next() % 5)
            .wrapping_sub(2);
        let width = 1usize << self.below(4);
        let big = near.to_be_bytes();
        let little = near.to_le_bytes();
        let number = if self.below(2) == 0 {
            &big[8 - width..]
        } else {
            &little[..width]
        };
        for (to, from) in bytes.iter_mut().skip(at).zip(number) {
            *to = *from;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_gets_the_same_inputs_every_time_and_they_differ() {
        let inputs = [b"one input of a corpus".to_vec(), b"and another".to_vec()];
        let made = |target: &str| {
            let mut mutator = Mutator::new(target);
            (0..200).map(|_| mutator.mutation(&inputs)).collect::<Vec<_>>()
        };
        let first = made("a");
        assert_eq!(first, made("a"));
        assert_ne!(first, made("b"));
        let distinct: std::collections::BTreeSet<_> = first.iter().collect();
        assert!(distinct.len() > 150, "only {} inputs differ", distinct.len());
        assert!(first.iter().any(|input| !inputs.contains(input)));
    }
}
