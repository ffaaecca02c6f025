//! Message ids: a UUID that only this cluster can read.
//!
//! An id is the message's position under a keyed permutation, so that it can be found without an
//! index, says nothing to others about a queue's rate, and cannot be guessed.

use aes::Aes128;
use aes::cipher::{BlockCipherEncrypt as _, KeyInit as _};
use uuid::Uuid;

use super::lane::{LaneId, Position};

/// Half of the 122 bits that a UUID version 8 leaves free (RFC 9562, section 5.8).
const HALF_BITS: u32 = 61;
const HALF_MASK: u128 = (1 << HALF_BITS) - 1;
/// Four rounds make a Feistel network a strong pseudo-random permutation (Luby and Rackoff, 1988).
const ROUNDS: u8 = 4;
const SEQ_BITS: u32 = 41;
const SALT_BITS: u32 = 24;

/// The key of the permutation: made once per cluster, kept in the database.
#[derive(Clone)]
pub struct IdKey(Aes128);

impl std::fmt::Debug for IdKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IdKey(..)")
    }
}

impl IdKey {
    /// Bytes of a key.
    pub const BYTES: usize = 16;

    /// A key from its bytes.
    pub fn new(key: &[u8; Self::BYTES]) -> Self {
        Self(Aes128::new(key.into()))
    }

    /// The id of the message at a position.
    pub fn seal(&self, position: Position) -> Uuid {
        let plain = (u128::from(position.lane.raw().unsigned_abs()) << (SEQ_BITS + SALT_BITS))
            | (u128::from(position.seq.unsigned_abs()) << SALT_BITS)
            | u128::from(position.salt & Position::SALT_MASK);
        let (mut left, mut right) = (plain >> HALF_BITS, plain & HALF_MASK);
        for round in 0..ROUNDS {
            (left, right) = (right, left ^ self.round(round, right));
        }
        spread((left << HALF_BITS) | right)
    }

    /// The position that an id names, or `None` when it was not made with this key. Whether a
    /// message is there, and with that salt, is for the store to say.
    pub fn open(&self, id: Uuid) -> Option<Position> {
        let sealed = gather(id)?;
        let (mut left, mut right) = (sealed >> HALF_BITS, sealed & HALF_MASK);
        for round in (0..ROUNDS).rev() {
            (left, right) = (right ^ self.round(round, left), left);
        }
        let plain = (left << HALF_BITS) | right;
        let lane = i64::try_from(plain >> (SEQ_BITS + SALT_BITS)).ok()?;
        let seq = i64::try_from((plain >> SALT_BITS) & ((1 << SEQ_BITS) - 1)).ok()?;
        let salt = u32::try_from(plain & ((1 << SALT_BITS) - 1)).ok()?;
        Some(Position {
            lane: LaneId::from_raw(lane)?,
            seq,
            salt,
        })
    }

    fn round(&self, round: u8, half: u128) -> u128 {
        let mut block = ((u128::from(round) << 120) | half).to_be_bytes().into();
        self.0.encrypt_block(&mut block);
        u128::from_be_bytes(block.into()) & HALF_MASK
    }
}

/// Lays 122 bits around the version (8) and variant (binary 10) of a UUID.
fn spread(bits: u128) -> Uuid {
    let a = bits >> 74;
    let b = (bits >> 62) & 0xfff;
    let c = bits & ((1 << 62) - 1);
    Uuid::from_u128((a << 80) | (8 << 76) | (b << 64) | (0b10 << 62) | c)
}

fn gather(id: Uuid) -> Option<u128> {
    let raw = id.as_u128();
    if (raw >> 76) & 0xf != 8 || (raw >> 62) & 0b11 != 0b10 {
        return None;
    }
    Some(((raw >> 80) << 74) | (((raw >> 64) & 0xfff) << 62) | (raw & ((1 << 62) - 1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::lane::{Class, QueueId, Writer};
    use proptest::prelude::*;

    fn key() -> IdKey {
        IdKey::new(&[7; IdKey::BYTES])
    }

    proptest! {
        #[test]
        fn an_id_opens_to_its_position(
            queue in 1..=i32::MAX, class: u8, writer: u8,
            seq in 0..=Position::MAX_SEQ, salt in 0..=Position::SALT_MASK,
        ) {
            let queue = QueueId::new(queue).unwrap();
            let position = Position { lane: LaneId::new(queue, Class(class), Writer(writer)), seq, salt };
            let id = key().seal(position);
            prop_assert_eq!(id.get_version_num(), 8);
            prop_assert_eq!(id.get_variant(), uuid::Variant::RFC4122);
            prop_assert_eq!(key().open(id), Some(position));
        }

        #[test]
        fn a_foreign_uuid_never_panics(raw: u128) {
            let _position = key().open(Uuid::from_u128(raw));
        }
    }

    #[test]
    fn neighbours_have_unlike_ids() {
        let lane = LaneId::new(QueueId::new(1).unwrap(), Class::READY, Writer(0));
        let id = |seq| key().seal(Position { lane, seq, salt: 0 }).as_u128();
        let changed = (id(1) ^ id(2)).count_ones();
        assert!((30..95).contains(&changed), "{changed} of 122 bits differ");
    }
}
