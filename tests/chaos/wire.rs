//! Just enough of MQTT 3.1.1 to see what is published and acknowledged.

pub enum Packet {
    Publish { topic: String, id: u16, payload: Vec<u8> },
    PubAck(u16),
}

/// Puts packets together from the pieces of a stream.
#[derive(Default)]
pub struct Reader(Vec<u8>);

impl Reader {
    pub fn take(&mut self, bytes: &[u8]) -> Vec<Packet> {
        self.0.extend_from_slice(bytes);
        let mut packets = Vec::new();
        let mut start = 0;
        while let Some((header, length)) = lengths(&self.0[start..])
            && let Some(body) = self.0.get(start + header..start + header + length)
        {
            packets.extend(parse(self.0[start], body));
            start += header + length;
        }
        self.0.drain(..start);
        packets
    }
}

/// Bytes of the fixed header, and of what follows it.
fn lengths(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for at in 0..4 {
        let byte = *bytes.get(1 + at)?;
        length |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((2 + at, length));
        }
    }
    panic!("a packet with a length of five bytes");
}

fn parse(kind: u8, body: &[u8]) -> Option<Packet> {
    let u16_at = |at: usize| Some(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]));
    match kind >> 4 {
        3 => {
            let topic_end = 2 + usize::from(u16_at(0)?);
            let topic = String::from_utf8(body.get(2..topic_end)?.to_vec()).ok()?;
            let qos = kind >> 1 & 3;
            let (id, from) =
                if qos > 0 { (u16_at(topic_end)?, topic_end + 2) } else { (0, topic_end) };
            Some(Packet::Publish { topic, id, payload: body.get(from..)?.to_vec() })
        }
        4 => Some(Packet::PubAck(u16_at(0)?)),
        _ => None,
    }
}
