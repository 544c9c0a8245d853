//! As much of the protobuf wire format as SentencePiece's model file needs.
//!
//! ```text
//! message   field*
//! field     varint: number << 3 | wire type, then   0: varint   1: 8 bytes   2: varint length, bytes   5: 4 bytes
//! ```
//! Source: protobuf.dev, "Encoding". Groups (types 3 and 4) are refused; nothing writes them.

/// The value of one field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    Number(u64),
    Fixed32([u8; 4]),
    Fixed64,
    Bytes(&'a [u8]),
}

/// The fields of a message, in order: number and value, or the byte at which it is damaged.
#[derive(Debug, Clone)]
pub(super) struct Fields<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    pub fn new(message: &'a [u8]) -> Fields<'a> {
        Fields { message, at: 0 }
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let bytes = self.message.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(bytes)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.take(1)?.first()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let head = self.varint()?;
        let value = match head & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed64)?,
            2 => {
                let len = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(len)?)
            }
            5 => Value::Fixed32(self.take(4)?.try_into().ok()?),
            _ => return None,
        };
        Some((head >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), usize>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.message.len() {
            return None;
        }
        let start = self.at;
        let field = self.field();
        if field.is_none() {
            self.at = self.message.len();
        }
        Some(field.ok_or(start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_damage() {
        let check = |bytes: &[u8], want: &[Result<(u64, Value<'_>), usize>]| {
            assert_eq!(Fields::new(bytes).collect::<Vec<_>>(), want, "{bytes:02x?}");
        };
        check(&[0x08, 0x96, 0x01, 0x12, 0x01, b'a'], &[Ok((1, Value::Number(150))), Ok((2, Value::Bytes(b"a")))]);
        check(&[0x1d, 0, 0, 0x80, 0x3f], &[Ok((3, Value::Fixed32([0, 0, 0x80, 0x3f])))]);
        check(&[0x08, 1, 0x12, 5, 0], &[Ok((1, Value::Number(1))), Err(2)]);
        check(&[0x0b], &[Err(0)]);
        check(&[0xff; 12], &[Err(0)]);
        check(&[], &[]);
    }
}
