// SPDX-License-Identifier: Apache-2.0
//! Signed tickets: what a consumer may read, as an opaque value that only this cluster can make.
//!
//! A ticket names (incarnation, outputs, buckets) and never a path. It is signed with HMAC-SHA256 under the cluster's
//! ticket key, which executors receive from the scheduler when they register. The end client gets finished tickets
//! and never the key. A ticket with a wrong signature is refused before anything of it is decoded.

use std::fmt;

use ballista_proto as proto;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use prost::Message;
use sha2::Sha256;

use crate::error::{ExchangeError, Result};
use crate::wire::Ticket;

/// The cluster's secret for tickets. Does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketKey([u8; 32]);

impl TicketKey {
    /// A fresh random key.
    pub fn random() -> Self {
        let mut secret = [0; 32];
        rand::fill(&mut secret);
        Self(secret)
    }

    /// The key that the scheduler sent: exactly 32 bytes.
    pub fn from_bytes(secret: &[u8]) -> Result<Self> {
        let secret = secret.try_into().map_err(|_| ExchangeError::Protocol("a ticket key has 32 bytes".into()))?;
        Ok(Self(secret))
    }

    /// The secret, to be sent to executors over an authenticated connection only.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Encodes and signs a ticket: the bytes for a Flight `DoGet`.
    pub fn sign(&self, ticket: &proto::Ticket) -> Bytes {
        let ticket = ticket.encode_to_vec();
        let mut mac = self.mac();
        mac.update(&ticket);
        let signature = mac.finalize().into_bytes().to_vec();
        proto::SignedTicket { ticket: ticket.into(), signature: signature.into() }.encode_to_vec().into()
    }

    /// Checks the signature, in constant time, and then the content.
    pub fn verify(&self, signed: &[u8]) -> Result<Ticket> {
        let malformed = |_| ExchangeError::Ticket("malformed".into());
        let signed = proto::SignedTicket::decode(signed).map_err(malformed)?;
        let mut mac = self.mac();
        mac.update(&signed.ticket);
        mac.verify_slice(&signed.signature).map_err(|_| ExchangeError::Ticket("wrong signature".into()))?;
        let ticket = proto::Ticket::decode(&signed.ticket[..]).map_err(malformed)?;
        Ticket::from_proto(&ticket).map_err(|error| ExchangeError::Ticket(error.to_string()))
    }

    fn mac(&self) -> Hmac<Sha256> {
        Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length")
    }
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKey(secret)")
    }
}

#[cfg(test)]
mod tests {
    use ballista_core::{Incarnation, JobId, StageId, TaskId, TaskKey};

    use super::*;

    fn ticket() -> Ticket {
        let key = TaskKey {
            job: JobId::new("job").unwrap(),
            stage: StageId(1),
            stage_attempt: 0,
            task: TaskId(2),
            attempt: 0,
        };
        Ticket::result(Incarnation(7), key)
    }

    #[test]
    fn a_signed_ticket_comes_back() {
        let key = TicketKey::random();
        assert_eq!(key.verify(&key.sign(&ticket().to_proto())).unwrap(), ticket());
    }

    #[test]
    fn any_changed_bit_is_refused() {
        let key = TicketKey::random();
        let signed = key.sign(&ticket().to_proto());
        for bit in 0..signed.len() * 8 {
            let mut forged = signed.to_vec();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(key.verify(&forged), Err(ExchangeError::Ticket(_))), "bit {bit}");
        }
        assert!(TicketKey::random().verify(&signed).is_err());
        assert!(key.verify(&[]).is_err());
    }

    #[test]
    fn ids_that_could_become_paths_are_refused_even_if_signed() {
        let key = TicketKey::random();
        let mut evil = ticket().to_proto();
        evil.outputs[0].job = "../../etc".into();
        assert!(key.verify(&key.sign(&evil)).is_err());
    }

    #[test]
    fn the_secret_does_not_print() {
        let key = TicketKey::from_bytes(&[0x41; 32]).unwrap();
        assert_eq!(format!("{key:?}"), "TicketKey(secret)");
    }
}
