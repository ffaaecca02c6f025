//! Receipt handles: the proof that one delivery of one message was handed out.
//!
//! A handle names the lease behind a delivery and is sealed with a MAC, so that a forged one is
//! refused before any SQL runs and a genuine one needs no look-up to be resolved.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::lane::{LaneId, Position, SubscriptionId};
use super::limits;

const VERSION: u8 = 1;
const MAC_BYTES: usize = 16;
const FIELD_BYTES: usize = 37;
const HANDLE_BYTES: usize = FIELD_BYTES + MAC_BYTES;

/// The key that seals handles: made once per cluster, kept in the database.
#[derive(Clone)]
pub struct ReceiptKey {
    id: u8,
    mac: Hmac<Sha256>,
}

impl std::fmt::Debug for ReceiptKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReceiptKey({}, ..)", self.id)
    }
}

/// What a handle says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Where the message is. `position.seq` is the message's own number.
    pub position: Position,
    /// Whose delivery it was.
    pub subscription: SubscriptionId,
    /// The subscription's epoch at the delivery; a seek makes older ones stale.
    pub epoch: i32,
    /// The lease's token: the newest one belongs to the message's holder.
    pub token: i32,
    /// How many messages the lease covers, 1 to 62.
    pub lease_size: u8,
    /// Which of them this one is, from 0: the lease begins at `position.seq - lease_index`.
    pub lease_index: u8,
    /// Whether the message had come here from another queue.
    pub moved: bool,
}

impl ReceiptKey {
    /// Bytes of a key.
    pub const BYTES: usize = 32;

    /// A key from its number and its bytes.
    pub fn new(id: u8, key: &[u8; Self::BYTES]) -> Self {
        let mac = Hmac::new_from_slice(key).expect("HMAC takes keys of any length");
        Self { id, mac }
    }

    /// The handle that proves a delivery: 71 characters of unpadded base64url.
    pub fn seal(&self, receipt: &Receipt) -> String {
        let mut bytes = [0; HANDLE_BYTES];
        let (fields, mac) = bytes.split_at_mut(FIELD_BYTES);
        fields[0] = VERSION;
        fields[1] = self.id;
        fields[2..10].copy_from_slice(&receipt.position.lane.raw().to_be_bytes());
        fields[10..18].copy_from_slice(&receipt.position.seq.to_be_bytes());
        fields[18..22].copy_from_slice(&receipt.position.salt.to_be_bytes());
        fields[22..26].copy_from_slice(&receipt.subscription.0.to_be_bytes());
        fields[26..30].copy_from_slice(&receipt.epoch.to_be_bytes());
        fields[30..34].copy_from_slice(&receipt.token.to_be_bytes());
        fields[34] = receipt.lease_size;
        fields[35] = receipt.lease_index;
        fields[36] = u8::from(receipt.moved);
        mac.copy_from_slice(&self.mac(fields));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What a handle says, or `None` when it was not sealed with this key.
    pub fn open(&self, handle: &str) -> Option<Receipt> {
        if handle.len() > limits::MAX_RECEIPT_HANDLE {
            return None;
        }
        let bytes: [u8; HANDLE_BYTES] = URL_SAFE_NO_PAD.decode(handle).ok()?.try_into().ok()?;
        let (fields, mac) = bytes.split_at(FIELD_BYTES);
        let genuine = bool::from(subtle::ConstantTimeEq::ct_eq(&self.mac(fields)[..], mac));
        if !genuine || fields[0] != VERSION || fields[1] != self.id {
            return None;
        }
        Some(Receipt {
            position: Position {
                lane: LaneId::from_raw(i64::from_be_bytes(part(fields, 2)))?,
                seq: i64::from_be_bytes(part(fields, 10)),
                salt: u32::from_be_bytes(part(fields, 18)),
            },
            subscription: SubscriptionId(i32::from_be_bytes(part(fields, 22))),
            epoch: i32::from_be_bytes(part(fields, 26)),
            token: i32::from_be_bytes(part(fields, 30)),
            lease_size: fields[34],
            lease_index: fields[35],
            moved: fields[36] != 0,
        })
    }

    fn mac(&self, fields: &[u8]) -> [u8; MAC_BYTES] {
        let full = self
            .mac
            .clone()
            .chain_update(fields)
            .finalize()
            .into_bytes();
        part(&full, 0)
    }
}

/// The `N` bytes of a field that begins at `at`.
fn part<const N: usize>(fields: &[u8], at: usize) -> [u8; N] {
    fields[at..at + N]
        .try_into()
        .expect("the handle's layout has fixed lengths")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::lane::{Class, QueueId, Writer};
    use proptest::prelude::*;

    fn key() -> ReceiptKey {
        ReceiptKey::new(1, &[9; ReceiptKey::BYTES])
    }

    prop_compose! {
        fn receipts()(
            queue in 1..=i32::MAX, class: u8, writer: u8, seq in 0..=Position::MAX_SEQ,
            salt in 0..=Position::SALT_MASK, epoch: i32, token: i32,
            lease_size: u8, lease_index: u8, moved: bool,
        ) -> Receipt {
            let lane = LaneId::new(QueueId::new(queue).unwrap(), Class(class), Writer(writer));
            Receipt {
                position: Position { lane, seq, salt },
                subscription: SubscriptionId::QUEUE,
                epoch, token, lease_size, lease_index, moved,
            }
        }
    }

    proptest! {
        #[test]
        fn a_handle_opens_to_its_receipt(receipt in receipts()) {
            let handle = key().seal(&receipt);
            prop_assert_eq!(handle.len(), 71);
            prop_assert_eq!(key().open(&handle), Some(receipt));
        }

        #[test]
        fn another_key_or_key_number_opens_nothing(receipt in receipts()) {
            let handle = key().seal(&receipt);
            prop_assert_eq!(ReceiptKey::new(1, &[8; 32]).open(&handle), None);
            prop_assert_eq!(ReceiptKey::new(2, &[9; 32]).open(&handle), None);
        }

        #[test]
        fn any_text_is_opened_without_a_panic(text in ".{0,200}") {
            prop_assert_eq!(key().open(&text), None);
        }
    }

    #[test]
    fn a_flip_of_any_bit_is_refused() {
        let lane = LaneId::new(QueueId::new(3).unwrap(), Class::READY, Writer(1));
        let handle = key().seal(&Receipt {
            position: Position {
                lane,
                seq: 5,
                salt: 6,
            },
            subscription: SubscriptionId::QUEUE,
            epoch: 0,
            token: 77,
            lease_size: 1,
            lease_index: 0,
            moved: false,
        });
        let bytes = URL_SAFE_NO_PAD.decode(handle).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut forged = bytes.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                key().open(&URL_SAFE_NO_PAD.encode(forged)),
                None,
                "bit {bit}"
            );
        }
    }
}
