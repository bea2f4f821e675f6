// SPDX-License-Identifier: Apache-2.0
//! Messages to executors, on their way to the wire.
//!
//! A launch names every output that its stage reads, so its inputs grow with the tasks of the input stages, and every
//! task of the consuming stage gets the same. They are encoded once, when the input stage has finished, and appended
//! to the rest of the launch as they are: in protobuf the fields of a message may come in any order.
//!
//! ```text
//!  SchedulerMessage   │ key 2 │ length │ Launch without inputs │ input │ input │ …
//!  input              │ key 5 │ length │ StageInput │              encoded once per producing stage
//! ```

use ballista_proto as proto;
use prost::Message;
use prost::bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use proto::scheduler_message::Message as ToExecutor;

/// Number of `SchedulerMessage.launch`.
const LAUNCH: u32 = 2;
/// Number of `Launch.inputs`.
const INPUTS: u32 = 5;

/// Where the outputs of a finished stage are, encoded as one of `Launch.inputs`. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EncodedInput(Bytes);

impl EncodedInput {
    pub(crate) fn new(input: &proto::StageInput) -> Self {
        let mut buffer = BytesMut::with_capacity(input.encoded_len() + 16);
        prost::encoding::message::encode(INPUTS, input, &mut buffer);
        Self(buffer.freeze())
    }
}

/// A message to an executor.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// Anything but a launch.
    Message(ToExecutor),
    /// A launch, whose own inputs are empty.
    Launch(proto::Launch, Vec<EncodedInput>),
}

impl Outgoing {
    /// Appends the message in its wire form, that of [`proto::SchedulerMessage`].
    pub(crate) fn encode(self, buffer: &mut impl BufMut) {
        match self {
            Self::Message(message) => message.encode(buffer),
            Self::Launch(launch, inputs) => {
                let length = launch.encoded_len() + inputs.iter().map(|input| input.0.len()).sum::<usize>();
                encode_key(LAUNCH, WireType::LengthDelimited, buffer);
                encode_varint(length as u64, buffer);
                launch.encode_raw(buffer);
                inputs.iter().for_each(|input| buffer.put_slice(&input.0));
            }
        }
    }

    /// Bytes that [`Self::encode`] appends.
    pub(crate) fn encoded_len(&self) -> usize {
        match self {
            Self::Message(message) => message.encoded_len(),
            Self::Launch(launch, inputs) => {
                let length = launch.encoded_len() + inputs.iter().map(|input| input.0.len()).sum::<usize>();
                key_len(LAUNCH) + encoded_len_varint(length as u64) + length
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launch_reads_as_if_it_had_been_encoded_in_one_piece() {
        let source = proto::InputSource { bucket_rows: vec![1, 2, 3], ..Default::default() };
        let inputs: Vec<_> =
            (0..3).map(|stage| proto::StageInput { stage, sources: vec![source.clone(); 2] }).collect();
        let head = proto::Launch { partitions: vec![4, 5], is_final: true, ..Default::default() };
        let outgoing = Outgoing::Launch(head.clone(), inputs.iter().map(EncodedInput::new).collect());
        let (mut bytes, length) = (BytesMut::new(), outgoing.encoded_len());
        outgoing.encode(&mut bytes);
        assert_eq!(bytes.len(), length);
        let whole = ToExecutor::Launch(proto::Launch { inputs, ..head });
        assert_eq!(proto::SchedulerMessage::decode(bytes.freeze()).unwrap().message, Some(whole));
    }

    #[test]
    fn other_messages_are_as_they_were() {
        let message = ToExecutor::Ack(proto::StatusAck { sequence: 7 });
        let mut bytes = BytesMut::new();
        let outgoing = Outgoing::Message(message.clone());
        assert_eq!(outgoing.encoded_len(), proto::SchedulerMessage { message: Some(message.clone()) }.encoded_len());
        outgoing.encode(&mut bytes);
        assert_eq!(proto::SchedulerMessage::decode(bytes.freeze()).unwrap().message, Some(message));
    }
}
