//! What becomes of a message, by its topic.

use super::Worker;
use crate::deploy::DeployEvent;
use crate::ledger::LedgerEvent;
use crate::mqtt::Message;
use crate::protocol::{self, ImagePart};
use tracing::{debug, info, trace, warn};

/// A message from this size on is decoded beside the loop's other work.
const LARGE_MESSAGE: usize = 1 << 20;

impl Worker {
    pub(super) fn on_message(&mut self, message: Message) {
        if message.payload.len() >= LARGE_MESSAGE {
            tokio::task::block_in_place(|| self.dispatch(message));
        } else {
            self.dispatch(message);
        }
    }

    fn dispatch(&mut self, Message { topic, payload, duplicate, retained, ack }: Message) {
        if payload.is_empty() {
            // What removes a retained message is itself passed on.
            debug!(topic, "an empty message");
        } else if retained {
            warn!(
                "a message that the broker retains on `{topic}` was dropped, because it comes again \
                 with each connection; remove it: `mosquitto_pub -r -n -t {topic}`, or publish an \
                 empty retained message there in another way"
            );
        } else if topic == self.topics.start() {
            match protocol::decode_start(&payload, &self.id, self.module_limit) {
                Ok(Some(request)) => return self.start(request, duplicate, ack),
                Ok(None) => debug!("a start for another worker"),
                Err(malformed) => {
                    return self.malformed_start(malformed, &payload, duplicate, ack);
                }
            }
        } else if topic == self.topics.stop() {
            match protocol::decode_stop(&payload, &self.id) {
                Ok(Some(id)) => {
                    // What it forgets is on the disk before the acknowledgement.
                    self.on_deploy(DeployEvent::Stop(id.clone()));
                    return self.on(LedgerEvent::Stop { id, ack });
                }
                Ok(None) => debug!("a stop for another worker"),
                Err(malformed) => warn!("a stop message was dropped: {malformed}"),
            }
        } else if topic == self.topics.invoke() {
            self.invoke(&payload);
        } else if topic == self.topics.image_parts() {
            self.image_part(&payload);
        } else {
            warn!(topic, "a message on a topic that was not subscribed to");
        }
        self.link.ack(ack);
    }

    /// All workers of the channel see the parts of all images.
    fn image_part(&self, payload: &[u8]) {
        let Some(images) = self.fetcher.images() else { return };
        match protocol::decode_image_part(payload, |name| images.wants(name)) {
            Ok(Some(ImagePart { name, index, total, bytes })) => {
                images.arrived(&name, index, total, bytes);
            }
            Ok(None) => trace!("a part of an image that no task here waits for"),
            Err(reason) => warn!("a part of an image was dropped: {reason}"),
        }
    }

    pub(super) fn ask_for_image(&self, name: &str) {
        info!(image = name, "asking the registry proxy for an image");
        let request = protocol::encode_image_request(name);
        drop(self.link.publish(&self.topics.image_requests(), request));
    }
}
