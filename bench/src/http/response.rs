//! Just enough of HTTP/1.1 to count answers.

use memchr::memmem;

/// One answer of the server.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Bytes of head and body.
    pub len: usize,
    /// `accepted` and `rejected` of a 202 answer's body.
    pub accepted: u64,
    pub rejected: u64,
}

/// The first answer in `bytes`; `None` while it is incomplete.
pub fn parse(bytes: &[u8]) -> Result<Option<Response>, String> {
    let Some(end) = memmem::find(bytes, b"\r\n\r\n") else { return Ok(None) };
    let head = &bytes[..end];
    let status = head.get(9..12).filter(|_| head.starts_with(b"HTTP/1.")).and_then(number).ok_or("the answer is no HTTP/1.1")?;
    let status = status as u16;
    let body_len = match content_length(head) {
        Some(len) => len as usize,
        None if matches!(status, 204 | 304) => 0,
        None => return Err("the answer has no Content-Length".to_owned()),
    };
    let len = end + 4 + body_len;
    let Some(body) = bytes.get(end + 4..len) else { return Ok(None) };
    let (accepted, rejected) =
        if status == 202 { (member(body, "\"accepted\":"), member(body, "\"rejected\":")) } else { (0, 0) };
    Ok(Some(Response { status, len, accepted, rejected }))
}

/// The value of Content-Length, in a head without its last line end.
pub fn content_length(head: &[u8]) -> Option<u64> {
    const NAME: &[u8] = b"content-length:";
    for line_end in memchr::memchr_iter(b'\n', head) {
        let line = &head[line_end + 1..];
        if line.len() > NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME) {
            return number(line[NAME.len()..].trim_ascii_start());
        }
    }
    None
}

fn member(body: &[u8], name: &str) -> u64 {
    let value = memmem::find(body, name.as_bytes()).map(|at| body[at + name.len()..].trim_ascii_start());
    value.and_then(number).unwrap_or(0)
}

/// The digits that the text begins with.
fn number(text: &[u8]) -> Option<u64> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&text[..digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] =
        b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\ncontent-length: 43\r\n\r\n{\"accepted\":998,\"rejected\": 2,\"errors\":[]}\nHTTP";

    #[test]
    fn an_answer_is_counted_and_its_end_found() {
        let expected = Response { status: 202, len: ANSWER.len() - 4, accepted: 998, rejected: 2 };
        assert_eq!(parse(ANSWER), Ok(Some(expected)));
        for cut in 0..ANSWER.len() - 4 {
            assert_eq!(parse(&ANSWER[..cut]), Ok(None), "{cut}");
        }
    }

    #[test]
    fn other_answers() {
        let busy = parse(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length:0\r\nRetry-After: 1\r\n\r\n").unwrap().unwrap();
        assert_eq!((busy.status, busy.accepted), (503, 0));
        assert!(parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        assert!(parse(b"SSH-2.0\r\n\r\n").is_err());
    }
}
