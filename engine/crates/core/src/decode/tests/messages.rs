//! Messages: one row each, poisoned ones among good ones.

use base64::Engine;

use super::*;
use crate::batch::Reject;

fn payloads<'a>(messages: &[(u32, &'a [u8])]) -> Vec<Payload<'a>> {
    messages
        .iter()
        .map(|(relative_offset, bytes)| Payload { bytes: Some(bytes), relative_offset: *relative_offset, clock_us: NOW_US })
        .collect()
}

#[test]
fn a_poisoned_message_is_rejected_at_its_place_and_the_others_are_kept() {
    let messages: [(u32, &[u8]); 7] = [
        (0, b"{\"k\":\"a\",\"t\":1}"),
        (3, b"{\"k\":\"b\",\"t\":"),
        (4, b" {\"k\":\"c\",\n\"t\":2} \n"),
        (5, b""),
        (8, b"\x00\x00\x00\x00\x07\xfe"),
        (9, b"{\"k\":\"d\",\"t\":3} {}"),
        (11, b"{\"k\":\"e\",\"t\":4}"),
    ];
    let batch = decoder().decode_messages(&payloads(&messages), 20).unwrap();
    assert_eq!(
        (batch.time_us.clone(), batch.relative_offset.clone(), batch.span),
        (vec![1000, 2000, 4000], Some(vec![0, 4, 11]), 20)
    );
    let told: Vec<(u32, &str, &str)> =
        batch.rejects.iter().map(|reject| (reject.relative_offset, &*reject.reason, &*reject.text)).collect();
    assert_eq!(told[0].0, 3);
    assert!(told[0].1.starts_with("malformed JSON: "));
    assert_eq!(told[1], (5, "the message is empty", ""));
    assert_eq!(told[2], (8, "not valid UTF-8 at byte 5 of the row", "base64:AAAAAAf+"));
    assert_eq!((told[3].0, told[3].2), (9, "{\"k\":\"d\",\"t\":3} {}"));
}

#[test]
fn without_holes_and_rejects_no_offsets_are_written_down() {
    let messages: [(u32, &[u8]); 2] = [(0, b"{\"k\":\"a\",\"t\":1}"), (1, b"{\"k\":\"b\",\"t\":2}")];
    let batch = decoder().decode_messages(&payloads(&messages), 2).unwrap();
    assert!(batch.relative_offset.is_none());
    let batch = decoder().decode_messages(&payloads(&messages[1..]), 2).unwrap();
    assert_eq!(batch.relative_offset, Some(vec![1]));
    let none = decoder().decode_messages(&[], 5).unwrap();
    assert_eq!((none.rows(), none.rejects.len(), none.span), (0, 0, 5));
}

#[test]
fn what_is_kept_of_a_binary_message_is_bounded_and_whole_base64() {
    let long = vec![0xff; 100_000];
    let batch = decoder().decode_messages(&payloads(&[(0, &long)]), 1).unwrap();
    let Reject { text, .. } = &batch.rejects[0];
    assert!(text.len() <= MAX_REJECTED_TEXT_BYTES);
    let kept = base64::engine::general_purpose::STANDARD.decode(text.strip_prefix(BASE64_MARK).unwrap()).unwrap();
    assert_eq!(kept, vec![0xff; 3066]);
}
